//! Dead letters. One commit removes the message from its queue and appends it to the dead-letter queue. So the
//! message is always in exactly one of the two.

use super::consumption::Origin;
use crate::{
    format::{
        entity::DeadLetters,
        note::{DeadLetter, UndatedNote},
    },
    ids::{LogId, Now, Timestamp},
    message::Message,
    store::Stored,
};

/// The longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// The reason of a message whose last delivery was nacked without a reason.
pub const NACKED: &str = "its last delivery was nacked";

/// The reason of a message whose time to live is over.
pub const EXPIRED: &str = "its time to live is over";

/// The reason of a message whose last delivery was not settled.
pub const UNSETTLED: &str = "its last delivery was never settled: the handler gave it up, took \
                             longer than its lease, or took the process down";

/// A message that is to move to the dead letters.
#[derive(Clone, Copy, Debug)]
pub struct DeadMessage<'a> {
    pub stored: &'a Stored,
    pub attempts: u32,
    pub priority: u8,
    pub reason: &'a str,
}

/// A message that is about to arrive in the dead-letter queue.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    pub log: LogId,
    /// The message without a note.
    message: Message<'a>,
    note: UndatedNote,
}

impl Letter<'_> {
    pub fn into_owned(self) -> Letter<'static> {
        Letter { log: self.log, message: self.message.into_owned(), note: self.note }
    }

    /// The message in the form in which it arrives: with a note on its origin, its reason and the time. The commit that
    /// moves it asks for it: the clock may have been set since the letter was written.
    pub fn dated(&self, now: Now) -> Message<'_> {
        let note = self.note.encode(now.stamp, now.time_to_live_start(now.stamp));
        Message::from(&self.message).noting(note)
    }
}

impl<'a> DeadMessage<'a> {
    /// The letter for the dead-letter queue.
    pub fn letter(&self, from: &Origin, to: DeadLetters) -> Letter<'a> {
        let DeadMessage { stored, attempts, priority, reason } = *self;
        let note = DeadLetter {
            reason: cut(reason).to_owned(),
            origin: from.name.to_string(),
            offset: stored.offset,
            attempts,
            died: Timestamp(0),
            is_of_subscription: from.is_subscription,
            first: None,
            topic_bytes: None,
        };
        let message = Message::borrowed(stored.payload(), stored.key(), stored.headers())
            .with_subject(stored.subject())
            .timestamp(stored.timestamp())
            .priority(priority);
        Letter { log: to.queue.log(0), message, note: note.undated(stored.headers()) }
    }
}

/// Cuts a reason to the longest one that is kept, between characters.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "x".repeat(REASON_BYTES_MAX - 1) + "ü";
        assert_eq!(cut(&long).len(), REASON_BYTES_MAX - 1);
    }
}
