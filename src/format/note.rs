//! What the engine notes about a message: it is stored as its first header, under no name.
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
enum Note {
    DeadLetter(DeadLetter),
    /// So many milliseconds from its timestamp on.
    Lives(u64),
    /// It was redriven: its life begins then, and lasts for so many milliseconds if that was said.
    Anew(Timestamp, Option<u64>),
}

/// The note of a message that lives for so many milliseconds.
pub fn encode_life(ms: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_value(&mut out, &Note::Lives(ms));
    out
}

/// What is noted about the life of a message: from when on it is counted, if not from its timestamp,
/// and for how many milliseconds it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    pub from: Option<Timestamp>,
    pub ms: Option<u64>,
}

impl Life {
    /// The note of a message whose life begins anew.
    pub fn anew(self, now: Timestamp) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(&mut out, &Note::Anew(now, self.ms));
        out
    }

    pub fn of(headers: Headers<'_>) -> Decoded<Life> {
        Ok(match headers.note().map(take_value).transpose()? {
            Some(Note::Lives(ms)) => Life { from: None, ms: Some(ms) },
            Some(Note::Anew(_, ms)) if seeded!(LifeGoesOnWhenRedriven) => Life { from: None, ms },
            Some(Note::DeadLetter(_)) if seeded!(LettersKeepTheirOldLife) => Life::default(),
            Some(Note::Anew(from, ms)) => Life { from: Some(from), ms },
            Some(Note::DeadLetter(letter)) => Life { from: Some(letter.died), ms: None },
            None => Life::default(),
        })
    }
}

impl DeadLetter {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(&mut out, &Note::DeadLetter(self));
        out
    }

    /// What is noted about a message, if it is a dead letter.
    pub(crate) fn of(headers: Headers<'_>) -> Decoded<Option<DeadLetter>> {
        match headers.note().map(take_value).transpose()? {
            Some(Note::DeadLetter(letter)) => Ok(Some(letter)),
            Some(Note::Lives(_) | Note::Anew(..)) | None => Ok(None),
        }
    }
}
