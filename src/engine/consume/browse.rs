//! Browsing: reads the messages of a queue without leasing them.

use std::{fmt, sync::Arc};

use super::{consumer::Consumer, due_times::DueTimes, getters::stored_message_getters};
use crate::{
    engine::core::errors::deleted,
    error::Result,
    format::{
        note::{DeadLetter, TimeToLive},
        record::Headers,
    },
    ids::{Offset, OffsetRange, Timestamp},
    message::Message,
    store::Stored,
};

/// A message that is looked at, and still belongs to whoever receives it.
pub struct Browsed {
    stored: Stored,
    attempts: u32,
    due: Timestamp,
    priority: u8,
}

impl Browsed {
    stored_message_getters!();

    /// Its priority, from 0 to 9.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// How often the message was tried so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The time before which the message is not delivered; `None` if it was never to wait. It may
    /// have passed.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        (self.due != Timestamp(0)).then_some(self.due)
    }

    /// Its time to live.
    pub(crate) fn time_to_live(&self) -> TimeToLive {
        self.stored.time_to_live()
    }
}

/// Its payload, key and headers, borrowed, to send it on. The message bears the time of its new
/// commit, unless [`Message::timestamp`] gives it that of this one.
impl<'a> From<&'a Browsed> for Message<'a> {
    fn from(browsed: &'a Browsed) -> Message<'a> {
        Message::borrowed(browsed.payload(), browsed.key(), browsed.headers())
    }
}

impl fmt::Debug for Browsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browsed")
            .field("offset", &self.offset())
            .field("attempts", &self.attempts)
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// The messages of a queue or a subscription that are not acked, in the order of their offsets. Messages on
/// lease and messages that wait are among them. It ends with what was sent when it began. A damaged message is
/// an error, and it goes on behind it.
///
/// Got from [`Queue::browse`](crate::Queue::browse) and
/// [`Subscription::browse`](crate::Subscription::browse).
#[derive(Debug)]
#[must_use = "it looks at nothing before it is iterated"]
pub struct Browse {
    consumer: Arc<Consumer>,
    range: OffsetRange,
    due_times: DueTimes,
}

/// The due times of this many spilled messages are read at once.
const DUE_TIMES_AT_ONCE: u64 = 1 << 16;

impl Browse {
    fn next_message(&mut self) -> Result<Option<Browsed>> {
        let (cursor, log) = (self.consumer.cursor(), self.consumer.log());
        let mut core = self.consumer.committer().lock_open("browse")?;
        let visible = core.visible();
        let view = core.store.view(cursor, log).ok_or_else(deleted)?;
        let next = view.acks.next_unacked(self.range);
        let is_visible =
            |offset| view.run(offset).map_or(view.is_moved(offset), |run| run.lsn < visible);
        let Some(offset) = next.filter(|offset| is_visible(*offset)) else {
            self.range.start = self.range.end;
            return Ok(None);
        };
        let (attempts, mut due) = (view.acks.attempts(offset), view.acks.due(offset));
        let is_spilled = view.acks.is_spilled(offset);
        let priority = view.acks.priority(offset);
        self.range.start = offset.next();
        let source = core.store.locate(log, offset)?;
        drop(core);
        if is_spilled {
            due = self.due_of(offset)?;
        }
        let stored = self.consumer.load(source, offset)?;
        Ok(Some(Browsed { stored, attempts, due, priority }))
    }

    /// When a spilled message is due.
    fn due_of(&mut self, offset: Offset) -> Result<Timestamp> {
        if !self.due_times.range.contains(offset) {
            let range = offset.to(Offset(offset.0 + DUE_TIMES_AT_ONCE));
            self.due_times = self.consumer.read_due_times(range)?;
        }
        if let Some(due) = self.due_times.due.get(&offset) {
            return Ok(*due);
        }
        let core = self.consumer.committer().lock_open("browse")?;
        let acks = core.store.acks(self.consumer.cursor()).ok_or_else(deleted)?;
        match &self.due_times.damage {
            Some(damage) if acks.is_spilled(offset) => Err(damage.again()),
            // The message has come back into memory meanwhile.
            _ => Ok(acks.due(offset)),
        }
    }
}

impl Iterator for Browse {
    type Item = Result<Browsed>;

    fn next(&mut self) -> Option<Result<Browsed>> {
        self.next_message().transpose()
    }
}

impl Consumer {
    pub fn browse(self: &Arc<Consumer>) -> Result<Browse> {
        let core = self.committer().lock_open("browse")?;
        let (_, end) = core.bounds(self.log())?;
        let floor = core.store.floor(self.cursor()).ok_or_else(deleted)?;
        let due_times = DueTimes::default();
        Ok(Browse { consumer: self.without_slot(), range: floor.to(end), due_times })
    }

    /// Browses from an offset on.
    #[cfg(feature = "cron")]
    pub fn browse_from(self: &Arc<Consumer>, from: Offset) -> Result<Browse> {
        let mut browse = self.browse()?;
        browse.range.start = browse.range.start.max(from);
        Ok(browse)
    }
}
