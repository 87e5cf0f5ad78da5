//! Looking at what is in a queue, without taking it; and taking it out without looking.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    consumer::Consumer,
    core::{Core, deleted},
    shared::Committing,
    timetable::Dues,
};
use crate::{
    error::Result,
    format::{
        note::{DeadLetter, Life},
        record::Headers,
    },
    ids::{Offset, OffsetRange, Timestamp},
    message::Message,
    store::{Op, Stored},
};

/// A message that is looked at, and still belongs to whoever receives it.
pub struct Browsed {
    stored: Stored,
    attempts: u32,
    due: Timestamp,
    priority: u8,
}

impl Browsed {
    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.stored.payload()
    }

    /// The key, if the message has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.stored.key()
    }

    /// The headers, in the order in which they were added.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.stored.headers()
    }

    /// The first header with a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().named(name)
    }

    /// When the message was committed, or what its sender has set.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.stored.timestamp()
    }

    /// The message's number in its queue or topic.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.stored.offset
    }

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

    /// What is noted about its life.
    pub(super) fn life(&self) -> Life {
        self.stored.life()
    }

    /// What is known of the message if it is a dead letter: where it comes from, and why it is here.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if what is noted about it cannot be read.
    pub fn dead_letter(&self) -> Result<Option<DeadLetter>> {
        self.stored.dead_letter()
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

/// The messages of a queue or a subscription that are not acked, in the order of their offsets:
/// those on lease and those that wait included. It goes up to what was sent when it began. A message
/// that is damaged is an error; it goes on behind it.
#[derive(Debug)]
#[must_use = "it looks at nothing before it is iterated"]
pub struct Browse {
    consumer: Arc<Consumer>,
    range: Range<Offset>,
    dues: Dues,
}

/// Of so many messages at once it is found out when they are due.
const DUES_AT_ONCE: u64 = 1 << 16;

impl Browse {
    fn look(&mut self) -> Result<Option<Browsed>> {
        let Consumer { cursor, log, .. } = *self.consumer;
        let mut core = self.consumer.shared().lock_open()?;
        let visible = core.visible();
        let view = core.store.view(cursor, log).ok_or_else(deleted)?;
        let next = view.acks.next_unacked(self.range.start.to(self.range.end));
        let is_visible =
            |offset| view.run(offset).map_or(view.is_moved(offset), |run| run.lsn < visible);
        let Some(offset) = next.filter(|offset| is_visible(*offset)) else {
            self.range.start = self.range.end;
            return Ok(None);
        };
        let (attempts, mut due) = (view.acks.attempts(offset), view.acks.due(offset));
        let is_shelved = view.acks.is_spilled(offset);
        let priority = view.acks.priority(offset);
        self.range.start = offset.next();
        let source = core.store.locate(log, offset)?;
        drop(core);
        if is_shelved {
            due = self.due_of(offset)?;
        }
        let (stored, block) = source.load(offset)?;
        if let Some(block) = block {
            self.consumer.shared().lock().store.remember(log, block);
        }
        Ok(Some(Browsed { stored, attempts, due, priority }))
    }
}

impl Browse {
    /// When a message is due of which the timetable says so.
    fn due_of(&mut self, offset: Offset) -> Result<Timestamp> {
        if !self.dues.of.contains(&offset.0) {
            let range = offset.0..offset.0 + DUES_AT_ONCE;
            self.dues = self.consumer.shelved_dues(range)?;
        }
        if let Some(due) = self.dues.dues.get(&offset) {
            return Ok(*due);
        }
        let core = self.consumer.shared().lock_open()?;
        let acks = core.store.acks(self.consumer.cursor).ok_or_else(deleted)?;
        match &self.dues.damage {
            Some(damage) if acks.is_spilled(offset) => Err(damage.again()),
            // It has come back meanwhile.
            _ => Ok(acks.due(offset)),
        }
    }
}

impl Iterator for Browse {
    type Item = Result<Browsed>;

    fn next(&mut self) -> Option<Result<Browsed>> {
        self.look().transpose()
    }
}

/// So many ranges are acked in one commit at most.
const RANGES_AT_ONCE: usize = 10_000;

impl Consumer {
    pub fn browse(self: &Arc<Consumer>) -> Result<Browse> {
        let core = self.shared().lock_open()?;
        let (_, end) = core.store.bounds(self.log).ok_or_else(deleted)?;
        let floor = core.store.floor(self.cursor).ok_or_else(deleted)?;
        let dues = Dues::default();
        Ok(Browse { consumer: self.aside(), range: floor..end, dues })
    }

    /// The same, from an offset on.
    #[cfg(feature = "cron")]
    pub fn browse_from(self: &Arc<Consumer>, from: Offset) -> Result<Browse> {
        let mut browse = self.browse()?;
        browse.range.start = browse.range.start.max(from);
        Ok(browse)
    }

    /// Deletes one message. `false` if it is not there.
    pub fn remove(&self, offset: Offset) -> Result<bool> {
        let shared = self.shared();
        let (cursor, mut was_last) = (self.cursor, false);
        let committed = shared.transact(|core| {
            let (_, end) = core.store.bounds(self.log).ok_or_else(deleted)?;
            let acks = core.store.acks(cursor).ok_or_else(deleted)?;
            if offset >= end || acks.is_acked(offset) {
                // Whoever is told that it is gone relies on it.
                return Ok(Committing::Done(false, core.store.journal.tail()));
            }
            let (due, was_shelved) = (acks.due(offset), acks.is_spilled(offset));
            let outcome =
                core.commit(&[Op::Ack { cursor, offsets: &[offset] }], shared.now_plain())?;
            let committing = Committing::of(outcome, || true);
            if matches!(committing, Committing::Done(..)) {
                core.consumption(cursor)?.deliveries.forget_one(offset, due);
                core.note_deleted(cursor);
                was_last = was_shelved && core.shelved(cursor) == 0;
            }
            Ok(committing)
        })?;
        if was_last {
            // The message is gone, however this goes; and it would be done when they are due.
            let _ = self.clear_timetable();
        }
        shared.complete(committed, self.durability)
    }

    /// Deletes all messages but those on lease, and says how many they were.
    pub fn purge(&self) -> Result<u64> {
        let shared = self.shared();
        let end = shared.lock_open()?.store.bounds(self.log).ok_or_else(deleted)?.1;
        let (mut all, mut from) = (0, Offset(0));
        loop {
            let committed = shared.transact(|core| {
                let ranges = self.idle(core, from..end)?;
                let Some(last) = ranges.last() else {
                    return Ok(Committing::Done((0, end), core.store.journal.tail()));
                };
                let next = last.end;
                let count = ranges.iter().map(|range| range.len()).sum();
                let op = Op::AckRanges { cursor: self.cursor, ranges: &ranges };
                let outcome = core.commit(&[op], shared.now_plain())?;
                let committing = Committing::of(outcome, || (count, next));
                if matches!(committing, Committing::Done(..)) {
                    core.note_dropped(self.cursor, &ranges);
                }
                Ok(committing)
            })?;
            let (count, next) = shared.complete(committed, self.durability)?;
            (all, from) = (all + count, next);
            if count == 0 {
                self.clear_timetable()?;
                return Ok(all);
            }
        }
    }

    /// The first ranges of messages that are neither acked nor on lease.
    fn idle(&self, core: &mut Core, within: Range<Offset>) -> Result<Vec<OffsetRange>> {
        let leased = core.consumption(self.cursor)?.deliveries.leased();
        let acks = core.store.acks(self.cursor).ok_or_else(deleted)?;
        let mut idle = Vec::new();
        let mut at = within.start;
        let busy = leased.range(within.clone()).copied();
        for busy in busy.chain([within.end]) {
            if idle.len() < RANGES_AT_ONCE && at < busy {
                idle.extend(acks.unacked_up_to(at.to(busy), RANGES_AT_ONCE - idle.len()));
            }
            at = busy.next();
        }
        idle.truncate(RANGES_AT_ONCE);
        Ok(idle)
    }
}
