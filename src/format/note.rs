//! The engine's note about a message. It is stored as the first header of the message, with an empty name.
//! `docs/FORMAT.md` has the table under "Records".

use serde::{Deserialize, Serialize};

use super::{
    entity::{put_value, take_value},
    record::Headers,
    wire::Decoded,
};
use crate::ids::{Offset, Timestamp};

/// The history of a dead letter: its queue or subscription, its attempts, and the reason.
///
/// [`Delivery::dead_letter`](crate::Delivery::dead_letter) and
/// [`Browsed::dead_letter`](crate::Browsed::dead_letter) return it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The reason of the move.
    pub reason: String,
    /// The name of its queue. For a subscription, the names of the topic and of the subscription, with a slash
    /// between them.
    pub origin: String,
    /// Its offset there.
    pub offset: Offset,
    /// How often it was delivered there.
    pub attempts: u32,
    /// The time of the move.
    pub died: Timestamp,
    /// Whether it comes from a subscription.
    pub is_of_subscription: bool,
}

/// A note, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Note {
    DeadLetter(DeadLetter),
    /// The time to live in milliseconds, from the message's timestamp on.
    Lives(u64),
    /// Its life begins then, and lasts for so many milliseconds if that was said: it was redriven, or the
    /// clock was set before it was sent.
    Anew(Timestamp, Option<u64>),
    /// A dead letter whose life begins then, and not when it was moved by the time of day.
    DeadLetterFrom(DeadLetter, Timestamp),
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(&mut out, self);
        out
    }
}

/// What is noted about the life of a message: from when on it is counted, if not from its timestamp,
/// and for how many milliseconds it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    pub from: Option<Timestamp>,
    pub ms: Option<u64>,
}

impl Life {
    /// What is to be noted, if anything is.
    pub fn note(self) -> Option<Vec<u8>> {
        let note = match (self.from, self.ms) {
            (None, None) => return None,
            (None, Some(ms)) => Note::Lives(ms),
            (Some(from), ms) => Note::Anew(from, ms),
        };
        Some(note.encode())
    }

    /// The note of a message whose life begins anew.
    pub fn anew(self, now: Timestamp) -> Vec<u8> {
        Note::Anew(now, self.ms).encode()
    }

    pub fn of(headers: Headers<'_>) -> Decoded<Life> {
        Ok(match headers.note().map(take_value).transpose()? {
            Some(Note::Lives(ms)) => Life { from: None, ms: Some(ms) },
            Some(Note::Anew(_, ms)) if seeded!(LifeGoesOnWhenRedriven) => Life { from: None, ms },
            Some(Note::DeadLetter(_) | Note::DeadLetterFrom(..))
                if seeded!(LettersKeepTheirOldLife) =>
            {
                Life::default()
            }
            Some(Note::Anew(from, ms)) => Life { from: Some(from), ms },
            Some(Note::DeadLetter(letter)) => Life { from: Some(letter.died), ms: None },
            Some(Note::DeadLetterFrom(_, from)) => Life { from: Some(from), ms: None },
            None => Life::default(),
        })
    }
}

impl DeadLetter {
    /// The note of a letter whose life begins then, or else when it was moved.
    pub(crate) fn encode(self, begin: Option<Timestamp>) -> Vec<u8> {
        match begin {
            None => Note::DeadLetter(self).encode(),
            Some(begin) => Note::DeadLetterFrom(self, begin).encode(),
        }
    }

    /// What is noted about a message, if it is a dead letter.
    pub(crate) fn of(headers: Headers<'_>) -> Decoded<Option<DeadLetter>> {
        match headers.note().map(take_value).transpose()? {
            Some(Note::DeadLetter(letter) | Note::DeadLetterFrom(letter, _)) => Ok(Some(letter)),
            Some(Note::Lives(_) | Note::Anew(..)) | None => Ok(None),
        }
    }
}
