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
    /// Its first death, if it died before: it was redriven, or it died once more among the dead letters.
    #[serde(skip)]
    pub first: Option<Box<DeadLetter>>,
    /// How many bytes of `origin` are the topic's name, if it says so.
    #[serde(skip)]
    pub(crate) topic_bytes: Option<usize>,
}

/// The origin of a letter of a subscription, as it is stored. Names may have slashes: where the one between them cannot be
/// told from others, the length of the topic's name follows.
pub fn stored_origin(topic: &str, subscription: &str) -> String {
    let origin = format!("{topic}/{subscription}");
    match origin.matches('/').count() > 1 || origin.contains('\0') {
        true => format!("{origin}\0{}", topic.len()),
        false => origin,
    }
}

impl DeadLetter {
    /// The letter with its origin as an application sees it.
    fn with_origin_read(mut self) -> DeadLetter {
        if let Some((origin, bytes)) = self.origin.rsplit_once('\0')
            && let Ok(bytes) = bytes.parse()
            && origin.as_bytes().get(bytes) == Some(&b'/')
            && self.is_of_subscription
        {
            (self.origin, self.topic_bytes) = (origin.to_owned(), Some(bytes));
        }
        self
    }

    /// The topic, if the letter comes from a subscription.
    ///
    /// `None`, too, if an early version has written the letter and a name has a slash: then it is not known where one name ends
    /// and the other begins. [`origin`](DeadLetter::origin) has both.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// let billing = created.subscription("billing").max_attempts(1).create()?;
    /// created.publish("order 1")?;
    /// billing.try_receive()?.expect("it was published").reject("no address")?;
    /// let dead = engine.queue("order.created.billing.dead").open()?;
    /// let letter = dead.try_receive()?.expect("it was rejected");
    /// let death = letter.dead_letter()?.expect("it is a dead letter");
    /// assert_eq!((death.topic(), death.subscription()), (Some("order.created"), Some("billing")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.names().filter(|_| self.is_of_subscription).map(|(topic, _)| topic)
    }

    /// The subscription, if the letter comes from one. See [`topic`](DeadLetter::topic).
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.names().filter(|_| self.is_of_subscription).map(|(_, subscription)| subscription)
    }

    /// The names of the topic and the subscription. `None` if they cannot be told apart for sure.
    pub(crate) fn names(&self) -> Option<(&str, &str)> {
        let at = match self.topic_bytes {
            Some(bytes) => bytes,
            // Older engines left the length out.
            None if self.origin.matches('/').count() == 1 => self.origin.find('/')?,
            None => return None,
        };
        Some((self.origin.get(..at)?, self.origin.get(at + 1..)?))
    }
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
    /// A dead letter that died before, or that has a time to live of its own. Its time to live among the dead
    /// letters begins at `from`. `own_ms` begins when it is redriven.
    DeadLetterWith {
        letter: DeadLetter,
        from: Timestamp,
        own_ms: Option<u64>,
        first: Option<DeadLetter>,
    },
    /// A dead letter that was redriven: its time to live, as in `Restarted`, and its first death.
    Redriven {
        from: Timestamp,
        own_ms: Option<u64>,
        first: DeadLetter,
    },
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

    pub fn of(headers: Headers<'_>) -> Decoded<TimeToLive> {
        Ok(match headers.note().map(take_value).transpose()? {
            Some(Note::TimeToLive(ms)) => TimeToLive { from: None, ms: Some(ms) },
            Some(Note::Restarted(_, ms) | Note::Redriven { own_ms: ms, .. })
                if seeded!(LifeGoesOnWhenRedriven) =>
            {
                TimeToLive { from: None, ms }
            }
            Some(Note::DeadLetter(_) | Note::DeadLetterFrom(..) | Note::DeadLetterWith { .. })
                if seeded!(LettersKeepTheirOldLife) =>
            {
                TimeToLive::default()
            }
            Some(Note::Restarted(from, ms) | Note::Redriven { from, own_ms: ms, .. }) => {
                TimeToLive { from: Some(from), ms }
            }
            Some(Note::DeadLetter(letter)) => TimeToLive { from: Some(letter.died), ms: None },
            Some(Note::DeadLetterFrom(_, from) | Note::DeadLetterWith { from, .. }) => {
                TimeToLive { from: Some(from), ms: None }
            }
            None => TimeToLive::default(),
        })
    }
}

/// The note of a dead letter without the time at which it moves.
#[derive(Clone, Debug)]
pub(crate) struct UndatedNote {
    letter: DeadLetter,
    own_ms: Option<u64>,
    first: Option<DeadLetter>,
}

impl UndatedNote {
    /// The note of a letter that moves at a time of day. Its time to live among the dead letters begins at `begin`, or else
    /// when it moves.
    pub(crate) fn encode(&self, died: Timestamp, begin: Option<Timestamp>) -> Vec<u8> {
        let UndatedNote { letter, own_ms, first } = self.clone();
        let letter = DeadLetter { died, ..letter };
        match begin {
            _ if first.is_some() || own_ms.is_some() => {
                let from = begin.unwrap_or(died);
                Note::DeadLetterWith { letter, from, own_ms, first }.encode()
            }
            None => Note::DeadLetter(letter).encode(),
            Some(begin) => Note::DeadLetterFrom(letter, begin).encode(),
        }
    }
}

impl DeadLetter {
    /// The note of a dead letter whose message has these headers until now.
    pub(crate) fn undated(self, headers: Headers<'_>) -> UndatedNote {
        // A note that cannot be read tells nothing.
        let before = headers.note().map(take_value).transpose().ok().flatten();
        let own_ms = before.as_ref().and_then(Note::own_ms);
        UndatedNote { letter: self, own_ms, first: before.and_then(Note::into_first) }
    }

    /// The dead letter in a message's note, if the message is one.
    pub(crate) fn of(headers: Headers<'_>) -> Decoded<Option<DeadLetter>> {
        Ok(match headers.note().map(take_value).transpose()? {
            Some(Note::DeadLetter(letter) | Note::DeadLetterFrom(letter, _)) => {
                Some(letter.with_origin_read())
            }
            Some(Note::DeadLetterWith { letter, first, .. }) => {
                let first = first.map(|it| Box::new(it.with_origin_read()));
                Some(DeadLetter { first, ..letter.with_origin_read() })
            }
            Some(Note::TimeToLive(_) | Note::Restarted(..) | Note::Redriven { .. }) | None => None,
        })
    }

    /// The note of a dead letter with these headers that is redriven: its own time to live begins again at `now`.
    pub(crate) fn redriven(headers: Headers<'_>, now: Timestamp) -> Decoded<Vec<u8>> {
        let note: Option<Note> = headers.note().map(take_value).transpose()?;
        let own_ms = note.as_ref().and_then(Note::own_ms);
        Ok(match note.and_then(Note::into_first) {
            Some(first) => Note::Redriven { from: now, own_ms, first }.encode(),
            None => Note::Restarted(now, own_ms).encode(),
        })
    }
}

impl Note {
    /// The time to live that the message has of its own.
    fn own_ms(&self) -> Option<u64> {
        match self {
            Note::TimeToLive(ms) => Some(*ms),
            Note::Restarted(_, own_ms)
            | Note::DeadLetterWith { own_ms, .. }
            | Note::Redriven { own_ms, .. } => *own_ms,
            Note::DeadLetter(_) | Note::DeadLetterFrom(..) => None,
        }
    }

    /// The first death of the message.
    fn into_first(self) -> Option<DeadLetter> {
        match self {
            Note::DeadLetter(letter) | Note::DeadLetterFrom(letter, _) => Some(letter),
            Note::DeadLetterWith { letter, first, .. } => Some(first.unwrap_or(letter)),
            Note::Redriven { first, .. } => Some(first),
            Note::TimeToLive(_) | Note::Restarted(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_tells_its_topic_from_its_subscription_whatever_their_names() {
        for (topic, subscription) in [
            ("orders", "shipping"),
            ("orders/eu", "shipping"),
            ("orders", "eu/shipping"),
            ("/", "/"),
            ("a", "b\u{0}1"),
            ("a\u{0}", "b/c\u{0}2"),
            ("é/é", "ü"),
        ] {
            let letter = DeadLetter {
                reason: String::new(),
                origin: stored_origin(topic, subscription),
                offset: Offset(0),
                attempts: 1,
                died: Timestamp(1),
                is_of_subscription: true,
                first: None,
                topic_bytes: None,
            };
            let letter = letter.with_origin_read();
            assert_eq!(letter.origin, format!("{topic}/{subscription}"));
            assert_eq!(letter.names(), Some((topic, subscription)));
        }
    }
}
