//! Receiving from queues whose messages are delivered in order for each key.
//!
//! Whose turn a message is can be told only when its key was read. So messages are leased, read and
//! then delivered or parked, one after the other: those who receive take turns at that.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{Arc, PoisonError},
};

use super::{
    consumer::{Consumer, Picked},
    core::{Core, deleted},
    delivery::Delivery,
    wait::Attempt,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{CursorId, Offset, Timestamp},
    message::{Delay, Message},
    store::Stored,
};

/// The longest key of a message in a queue whose messages are ordered by key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Whether a message can be sent to a queue whose messages are ordered by key.
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
        Some(Delay::At(_)) => Err(Error::invalid("deliver_at", UNDELAYED)),
    }
}

pub const UNDELAYED: &str = "in a queue that is ordered by key no message waits for a time: those \
                             behind it would have to wait, too";

/// The group of a message; one without a key has none.
fn group_of(stored: &Stored) -> Option<u64> {
    stored.key().map(|key| BuildHasherDefault::<DefaultHasher>::default().hash_one(key))
}

impl Consumer {
    /// Receives a message from a queue that is ordered by key, or counts deliveries: what is to be done
    /// before one is delivered is done when it was read, so that what cannot be read is not counted.
    pub fn attempt_read(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        let turn = || self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = self.is_ordered.then(turn);
        if self.is_ordered {
            self.prepare_groups()?;
        }
        let mut counts = self.retry.counts_first();
        loop {
            let picked = match self.lease_with(|core, elapsed| self.pick(core, elapsed))? {
                Attempt::Got(picked) => picked,
                Attempt::Wait(waiting) => return Ok(Attempt::Wait(waiting)),
            };
            let (key, offset, dealt) = (picked.key, picked.offset, picked.dealt);
            let admitted = match self.admit(picked) {
                Ok(admitted) => admitted,
                Err(error) => {
                    self.put_back(std::iter::once(key));
                    return Err(error);
                }
            };
            let Some(stored) = admitted else { continue };
            if counts && let Some(outcome) = self.count((offset, key, dealt.attempt))? {
                match self.shared().make_room(outcome) {
                    // On a full disk it is delivered without being counted.
                    Err(error) if error.kind() == ErrorKind::DiskFull => counts = false,
                    made => made?,
                }
                continue;
            }
            return Ok(Attempt::Got(Delivery::new(Arc::clone(self), key, stored, dealt)));
        }
    }

    /// Reads a message on lease. `None` if it is not to be delivered now, or never.
    fn admit(self: &Arc<Consumer>, picked: Picked) -> Result<Option<Stored>> {
        let Picked { offset, key, source, dealt, grave } = picked;
        let stored = self.load(source, offset)?;
        if self.is_ordered
            && let Some(group) = group_of(&stored)
            && !self.shared().lock_open()?.claim(self.cursor, group, (offset, key))?
        {
            return Ok(None);
        }
        Ok((!self.discards(&stored, key, dealt.attempt, grave)?).then_some(stored))
    }

    /// Receives up to `most` messages, one by one.
    pub fn attempt_each(self: &Arc<Consumer>, most: usize) -> Result<Attempt<Vec<Delivery>>> {
        let mut deliveries = Vec::new();
        while deliveries.len() < most {
            match self.attempt_read() {
                Ok(Attempt::Got(delivery)) => deliveries.push(delivery),
                Ok(Attempt::Wait(waiting)) if deliveries.is_empty() => {
                    return Ok(Attempt::Wait(waiting));
                }
                Err(error) if deliveries.is_empty() => return Err(error),
                Ok(Attempt::Wait(_)) | Err(_) => break,
            }
        }
        Ok(Attempt::Got(deliveries))
    }

    /// Has the messages that wait for another attempt keep their groups busy: they were delivered
    /// before those behind them, in an earlier life.
    fn prepare_groups(&self) -> Result<()> {
        let waiting: Vec<Offset> = {
            let mut core = self.shared().lock_open()?;
            let groups = &mut core.consumption(self.cursor)?.groups;
            if groups.as_ref().is_none_or(|groups| groups.is_prepared) {
                return Ok(());
            }
            let acks = core.store.acks(self.cursor).ok_or_else(deleted)?;
            acks.deferred(acks.floor()).map(|(offset, _)| offset).collect()
        };
        for offset in waiting {
            let source = self.shared().lock_open()?.store.locate(self.log, offset);
            // One that is damaged is reported when its time has come.
            let Ok(stored) = source.and_then(|source| self.load(source, offset)) else { continue };
            if let Some(group) = group_of(&stored) {
                let mut core = self.shared().lock_open()?;
                if let Some(groups) = &mut core.consumption(self.cursor)?.groups {
                    groups.claim(group, offset);
                }
            }
        }
        if let Some(groups) = &mut self.shared().lock_open()?.consumption(self.cursor)?.groups {
            groups.is_prepared = true;
        }
        Ok(())
    }
}

impl Core {
    /// Whether a message on lease may be delivered; if not, its lease is ended, and it is parked.
    fn claim(
        &mut self,
        cursor: CursorId,
        group: u64,
        (offset, key): (Offset, crate::delivery::LeaseKey),
    ) -> Result<bool> {
        let consumption = self.consumption(cursor)?;
        let Some(groups) = &mut consumption.groups else { return Ok(true) };
        let may = groups.claim(group, offset);
        if !may {
            consumption.deliveries.settle(key);
            consumption.counts.delivered -= 1;
            self.note_seats(cursor);
        }
        Ok(may)
    }

    /// A message is done with: the next one of its group can be delivered.
    pub fn end_turn(&mut self, cursor: CursorId, offset: Offset) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let (Some(groups), Some(acks)) = (&mut consumption.groups, self.store.acks(cursor)) else {
            return;
        };
        if let Some(next) = groups.done(offset, |offset| !acks.is_acked(offset)) {
            consumption.deliveries.put(next, Timestamp(0), acks);
            let log = consumption.log;
            self.wake_one(log);
        }
    }

    /// Messages were deleted: where one was its group's head and is not on lease, the next one can be
    /// delivered.
    pub fn end_turns_of_deleted(&mut self, cursor: CursorId) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let (Some(groups), Some(acks)) = (&consumption.groups, self.store.acks(cursor)) else {
            return;
        };
        let leased = consumption.deliveries.leased();
        let is_gone = |offset: &Offset| acks.is_acked(*offset) && !leased.contains(offset);
        let gone: Vec<Offset> = groups.heads().filter(is_gone).collect();
        for offset in gone {
            self.end_turn(cursor, offset);
        }
    }
}
