//! The engine's note about a message. It is stored as the message's first header, with an empty name.
//! `docs/FORMAT.md` has the table under "Records".

use serde::{Deserialize, Serialize};

use super::{
    entity::{put_value, take_value},
    record::Headers,
    wire::Decoded,
};
use crate::ids::{Offset, Timestamp};

/// What became of a message before it was moved to the dead letters.
///
/// Got from [`Delivery::dead_letter`](crate::Delivery::dead_letter) and
/// [`Browsed::dead_letter`](crate::Browsed::dead_letter).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Why it was moved.
    pub reason: String,
    /// The queue that it comes from; or the topic and the subscription, with a slash in between.
    pub origin: String,
    /// Its number there.
    pub offset: Offset,
    /// How often it was delivered there.
    pub attempts: u32,
    /// When it was moved.
    pub died: Timestamp,
    /// Whether it comes from a subscription.
    pub is_of_subscription: bool,
}

/// A note, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Note {
    DeadLetter(DeadLetter),
    /// The time to live in milliseconds, counted from the message's timestamp.
    TimeToLive(u64),
    /// The time at which the time to live begins, and its milliseconds, if it is limited. The message was
    /// redriven, or the clock was set before it was sent.
    Restarted(Timestamp, Option<u64>),
    /// A dead letter, and the time at which its time to live begins, because the clock was set before it was
    /// moved.
    DeadLetterFrom(DeadLetter, Timestamp),
}

impl Note {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(&mut out, self);
        out
    }
}

/// The time to live of a message: its begin, if that is not the message's timestamp, and its milliseconds, if it
/// is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeToLive {
    pub from: Option<Timestamp>,
    pub ms: Option<u64>,
}

impl TimeToLive {
    /// The note for it. `None` if there is nothing to note.
    pub fn note(self) -> Option<Vec<u8>> {
        let note = match (self.from, self.ms) {
            (None, None) => return None,
            (None, Some(ms)) => Note::TimeToLive(ms),
            (Some(from), ms) => Note::Restarted(from, ms),
        };
        Some(note.encode())
    }

    /// The note of a message whose time to live begins again at `now`.
    pub fn restarted(self, now: Timestamp) -> Vec<u8> {
        Note::Restarted(now, self.ms).encode()
    }

    pub fn of(headers: Headers<'_>) -> Decoded<TimeToLive> {
        Ok(match headers.note().map(take_value).transpose()? {
            Some(Note::TimeToLive(ms)) => TimeToLive { from: None, ms: Some(ms) },
            Some(Note::Restarted(_, ms)) if seeded!(LifeGoesOnWhenRedriven) => {
                TimeToLive { from: None, ms }
            }
            Some(Note::DeadLetter(_) | Note::DeadLetterFrom(..))
                if seeded!(LettersKeepTheirOldLife) =>
            {
                TimeToLive::default()
            }
            Some(Note::Restarted(from, ms)) => TimeToLive { from: Some(from), ms },
            Some(Note::DeadLetter(letter)) => TimeToLive { from: Some(letter.died), ms: None },
            Some(Note::DeadLetterFrom(_, from)) => TimeToLive { from: Some(from), ms: None },
            None => TimeToLive::default(),
        })
    }
}

impl DeadLetter {
    /// The note of a dead letter. Its time to live begins at `begin`, or else when it was moved.
    pub(crate) fn encode(self, begin: Option<Timestamp>) -> Vec<u8> {
        match begin {
            None => Note::DeadLetter(self).encode(),
            Some(begin) => Note::DeadLetterFrom(self, begin).encode(),
        }
    }

    /// The dead letter's origin in a message's note, if the message is a dead letter.
    pub(crate) fn of(headers: Headers<'_>) -> Decoded<Option<DeadLetter>> {
        match headers.note().map(take_value).transpose()? {
            Some(Note::DeadLetter(letter) | Note::DeadLetterFrom(letter, _)) => Ok(Some(letter)),
            Some(Note::TimeToLive(_) | Note::Restarted(..)) | None => Ok(None),
        }
    }
}
