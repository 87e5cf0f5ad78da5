//! Leases messages one by one: from queues that are ordered by key, and from those that count deliveries
//! before their handlers see them.
//!
//! Whether a message may be delivered is known only after its key was read. So a message is leased, read, and then
//! delivered or parked. In a queue that is ordered by key, one consumer at a time does this, and it waits for no space.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use super::{
    consumer::Consumer,
    delivery::Delivery,
    lease::{DeliveryInfo, Leased},
};
use crate::{
    delivery::settings::UNDELAYED,
    engine::{
        core::{effects::HeldBack, failures::Begun},
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    ids::{Due, Offset},
    journal::Urgency,
    message::{Delay, Message},
    store::{Op, Refused, Shortage, Stored},
};

/// The longest key of a message in a queue that is ordered by key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Fails if a message cannot be sent to a queue that is ordered by key.
pub fn check_ordered(message: &Message<'_>) -> Result<()> {
    let length = message.key_bytes().map_or(0, <[u8]>::len);
    if length > KEY_BYTES_MAX {
        let what = format!(
            "a key of {length} bytes: in a queue that is ordered by key it has {KEY_BYTES_MAX} at most"
        );
        return Err(Error::invalid("key", what));
    }
    match message.delay() {
        None | Some(Delay::After(0)) => Ok(()),
        Some(Delay::After(_)) => Err(Error::invalid("deliver_after", UNDELAYED)),
        Some(Delay::At(_) | Delay::Until(_)) => Err(Error::invalid("deliver_at", UNDELAYED)),
    }
}

/// The hash of a message's key. `None` for a message without a key, which has no order.
fn key_hash(stored: &Stored) -> Option<u64> {
    stored.key().map(|key| BuildHasherDefault::<DefaultHasher>::default().hash_one(key))
}

/// What came of an attempt to lease, read and claim one message.
enum Claimed {
    Done(Attempt<Delivery>),
    /// The message was parked, discarded, or deleted while it was read.
    Discarded,
    /// The journal has no space for the count.
    Short(Shortage),
}

/// When the attempt of a message is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    Now,
    /// When its handling begins.
    Later,
    /// When it has failed, or not at all: on a full disk.
    Never,
}

impl Consumer {
    /// Receives one message. The message is read first, and then claimed and counted. So a message that cannot
    /// be read is not counted.
    pub(super) fn attempt_read(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        let mut is_uncounted = false;
        loop {
            let counts = match self.info.current.counts_first() && !is_uncounted {
                true => Counts::Now,
                false => Counts::Never,
            };
            let claimed = match self.attempt_in_turn(counts) {
                Ok(Claimed::Short(shortage)) => {
                    self.make_space_once(shortage).map(|()| Claimed::Discarded)
                }
                claimed => claimed,
            };
            match claimed {
                Ok(Claimed::Done(attempt)) => return Ok(attempt),
                // On a full disk the message is delivered without being counted.
                Err(error) if error.kind() == ErrorKind::DiskFull && counts == Counts::Now => {
                    is_uncounted = true;
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes space for the count of an attempt. Once it was found that the disk has none, no other attempt waits for it.
    fn make_space_once(&self, shortage: Shortage) -> Result<()> {
        self.committer().wait_for_space_once(|| self.committer().make_space(shortage))
    }

    /// Receives one message of a batch. The attempt is counted when its handling begins.
    fn attempt_untouched(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        loop {
            let Claimed::Done(attempt) = self.attempt_in_turn(Counts::Later)? else { continue };
            return Ok(match attempt {
                Attempt::Got(delivery) => Attempt::Got(delivery.untouched()),
                wait => wait,
            });
        }
    }

    /// One attempt. In a queue that is ordered by key, one consumer at a time makes one. Space is made between two
    /// attempts: others, tasks among them, do not wait for it.
    fn attempt_in_turn(self: &Arc<Consumer>, counts: Counts) -> Result<Claimed> {
        let is_ordered = self.info.current.is_ordered();
        let attempt = || self.attempt_claimed(is_ordered, counts);
        if is_ordered { self.committer().make_space_between(attempt) } else { attempt() }
    }

    /// One attempt. In a queue that is ordered by key it holds `leasing`; its effects run after that is unlocked.
    fn attempt_claimed(self: &Arc<Consumer>, is_ordered: bool, counts: Counts) -> Result<Claimed> {
        // Without the engine's threads: what wakes tasks and makes checkpoints comes before that lock.
        let _worked = is_ordered.then(|| self.committer().work_alone_first());
        // A callback of the application may receive from this queue. It runs after `leasing` is unlocked.
        let hold_back = || HeldBack::begin(&self.committer().flusher);
        let _held_back = is_ordered.then(hold_back);
        let _leasing = is_ordered.then(|| self.info.lease_in_order());
        if is_ordered {
            self.claim_retries()?;
        }
        let leased = self.lease_with(|core, elapsed| {
            if self.info.current.is_ordered() != is_ordered {
                // The settings have just changed.
                return Ok(Some(None));
            }
            let leased = self.lease_next(core, elapsed)?;
            if let Some(leased) = leased.as_ref().filter(|_| counts == Counts::Later) {
                // Nobody has looked at it, also if its lease runs out while it is read.
                core.set_untouched(self.cursor(), leased.delivered.key, true);
            }
            Ok(leased.map(Some))
        })?;
        let leased = match leased {
            Attempt::Got(Some(leased)) => leased,
            Attempt::Got(None) => return Ok(Claimed::Discarded),
            Attempt::Wait(waiting) => return Ok(Claimed::Done(Attempt::Wait(waiting))),
        };
        let (offset, delivered) = (leased.offset, leased.delivered);
        let stored = match self.read_and_claim(leased) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(Claimed::Discarded),
            Err(error) => {
                self.return_unread(offset, delivered, error)?;
                return Ok(Claimed::Discarded);
            }
        };
        if counts == Counts::Now {
            let counted = self.count(offset, delivered);
            if !matches!(counted, Ok(None)) {
                let mut core = self.committer().lock("put back");
                core.note_undelivered(self.cursor(), delivered.was_tried);
                core.take_back(self.cursor(), delivered.key);
            }
            if let Some(shortage) = counted? {
                return Ok(Claimed::Short(shortage));
            }
        }
        let delivery = Delivery::new(Arc::clone(self), stored, delivered);
        Ok(Claimed::Done(Attempt::Got(delivery)))
    }

    /// Receives up to `most` messages, one by one. Their attempts are counted when their handling begins.
    pub(super) fn attempt_each(
        self: &Arc<Consumer>,
        most: usize,
    ) -> Result<Attempt<Vec<Delivery>>> {
        let mut deliveries = Vec::new();
        while deliveries.len() < most {
            match self.attempt_untouched() {
                Ok(Attempt::Got(delivery)) => deliveries.push(delivery),
                Ok(Attempt::Wait(waiting)) if deliveries.is_empty() => {
                    return Ok(Attempt::Wait(waiting));
                }
                Err(error) if deliveries.is_empty() => return Err(error),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.committer().lock("tell of damage").tell_later(self.cursor(), error);
                    break;
                }
                Ok(Attempt::Wait(_)) | Err(_) => break,
            }
        }
        Ok(Attempt::Got(deliveries))
    }

    /// Reads a leased message and claims its key. `None` if it was parked or discarded.
    fn read_and_claim(self: &Arc<Consumer>, leased: Leased) -> Result<Option<Stored>> {
        let Leased { offset, source, delivered, exhausted } = leased;
        let stored = self.load(source, offset)?;
        if self.info.current.is_ordered()
            && let Some(group) = key_hash(&stored)
        {
            let mut core = self.committer().lock_open("receive")?;
            let DeliveryInfo { key, was_tried, .. } = delivered;
            if !core.claim_key(self.cursor(), group, offset, key, was_tried)? {
                return Ok(None);
            }
        }
        Ok((!self.discards(&stored, delivered, exhausted)?).then_some(stored))
    }

    /// Counts the attempt before the message is handled. If the journal has no space for that, returns the space
    /// that the commit needs.
    pub(super) fn count(
        &self,
        offset: Offset,
        delivered: DeliveryInfo,
    ) -> Result<Option<Shortage>> {
        let (cursor, committer) = (self.cursor(), self.committer());
        let op = Op::Defer {
            cursor,
            offset,
            attempts: delivered.attempt,
            due: Due::NOW,
            // On a full disk the reserve is for commits that free space. This one does not.
            urgency: Urgency::Ordinary,
        };
        let mut core = committer.lock_open("count a delivery")?;
        if core.held(cursor, delivered.key, committer.elapsed()).is_err() {
            // The lease has run out, so another delivery counts.
            return Ok(None);
        }
        let counted = core.commit(&[op], committer.now_plain());
        if !matches!(counted, Err(Refused::NeedsSpace(_))) {
            core.set_untouched(cursor, delivered.key, false);
        }
        drop(core);
        match counted {
            Ok(_) => {
                committer.sync_soon();
                Ok(None)
            }
            Err(Refused::NeedsSpace(shortage)) => Ok(Some(shortage)),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    /// Counts an attempt whose handling has begun. On a full disk it is not counted. A task that would have to wait for
    /// space leaves the count to a later commit.
    pub(super) fn count_begun(&self, offset: Offset, delivered: DeliveryInfo) -> Result<()> {
        while let Some(shortage) = self.count(offset, delivered)? {
            if let Err(error) = self.make_space_once(shortage) {
                let cursor = self.cursor();
                let mut core = self.committer().lock("count a delivery");
                core.set_untouched(cursor, delivered.key, false);
                if error.is_lack_of_space() {
                    let DeliveryInfo { key, attempt, .. } = delivered;
                    core.count_later(Begun { cursor, offset, key, attempt });
                    drop(core);
                    self.committer().checkpointer.call();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Makes the messages that wait for another attempt the heads of their keys. They were delivered in an
    /// earlier epoch, so they come before later messages of their keys.
    fn claim_retries(&self) -> Result<()> {
        let operation = "receive";
        let (cursor, committer) = (self.cursor(), self.committer());
        let mut from = Offset(0);
        loop {
            // No message is leased before this ends, so no other one comes to wait for another attempt.
            let waiting = committer.lock_open(operation)?.unclaimed_retries(cursor, from)?;
            let Some(waiting) = waiting else { return Ok(()) };
            let Some(last) = waiting.last() else { break };
            from = last.next();
            self.claim_some(&waiting)?;
        }
        committer.lock_open(operation)?.finish_claiming_retries(cursor)
    }

    fn claim_some(&self, waiting: &[Offset]) -> Result<()> {
        let (operation, cursor, committer) = ("receive", self.cursor(), self.committer());
        for offset in waiting.iter().copied() {
            let source = committer.lock_open(operation)?.store.locate(self.log(), offset);
            let stored = match source.and_then(|source| self.load(source, offset)) {
                Ok(stored) => stored,
                // A damaged message is reported when it is received. One that has left keeps no key.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    continue;
                }
                // The read may succeed later. Until then a later message of the key could overtake this one.
                Err(error) => return Err(error.while_reading(&self.info.name, offset)),
            };
            if let Some(group) = key_hash(&stored) {
                committer.lock_open(operation)?.claim_retry(cursor, group, offset)?;
            }
        }
        Ok(())
    }
}
