//! Room in queues that may hold so many messages only: found, made, or waited for.

use std::{ops::Range, time::Duration};

use super::{
    core::{Core, deleted},
    queue::Queue,
    wait::{Attempt, blocking},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::entity::Limit,
    ids::{CursorId, LogId, Lsn, Offset},
    message::Message,
};

impl Core {
    /// Makes sure that so many more messages fit into a queue, when so many are acked in the same
    /// commit. Returns what is to be deleted for it.
    pub fn room_for(
        &mut self,
        (cursor, log, limit): (CursorId, LogId, Limit),
        messages: u64,
        acked: u64,
    ) -> Result<Vec<Range<u64>>> {
        let (_, end) = self.store.bounds(log).ok_or_else(deleted)?;
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        let depth = acks.unacked(end).saturating_sub(acked);
        let excess = (depth + messages).saturating_sub(limit.messages);
        if excess == 0 {
            return Ok(Vec::new());
        }
        if !limit.drops_oldest || messages > limit.messages {
            return Err(full(limit));
        }
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks(cursor).ok_or_else(deleted)?;
        let deliveries = &consumption.deliveries;
        let excess = excess as usize;
        let mut dropped: Vec<Offset> = deliveries.ready(acks, end).take(excess).collect();
        if dropped.len() < excess {
            // Only those that wait are left, and those on lease.
            let leased = deliveries.leased();
            let all = acks.unacked_in(0..end.0).into_iter().flatten().map(Offset);
            let taken = dropped.clone();
            let others = all.filter(|it| !leased.contains(it) && taken.binary_search(it).is_err());
            dropped.extend(others.take(excess - taken.len()));
            dropped.sort_unstable();
        }
        if dropped.len() < excess {
            return Err(full(limit));
        }
        Ok(ranges(&dropped))
    }

    /// Messages were deleted to make room.
    pub fn note_dropped(&mut self, cursor: CursorId, dropped: &[Range<u64>]) {
        if dropped.is_empty() {
            return;
        }
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.deliveries.forget_all(dropped);
        }
        self.note_deleted(cursor);
    }

    /// Messages are gone: those who wait for room are to look, and groups go on.
    pub fn note_deleted(&mut self, cursor: CursorId) {
        self.note_room(cursor, usize::MAX);
        self.end_turns_of_deleted(cursor);
    }
}

/// Sorted offsets, as ranges.
pub fn ranges(offsets: &[Offset]) -> Vec<Range<u64>> {
    let together = offsets.chunk_by(|a, b| a.next() == *b);
    together.map(|all| all[0].0..all[all.len() - 1].0 + 1).collect()
}

fn full(limit: Limit) -> Error {
    let what = format!("the queue holds as many messages as it may: {}", limit.messages);
    Error::new(ErrorKind::QueueFull, what)
}

impl Queue {
    /// As [`send`](Queue::send); but where the queue is full, it waits until there is room, for so
    /// long at most. It is woken when there is: it does not poll.
    ///
    /// # Errors
    ///
    /// As [`send`](Queue::send); [`QueueFull`](ErrorKind::QueueFull) if the time ran out;
    /// [`Closed`](ErrorKind::Closed) if the engine is closed meanwhile.
    pub fn send_within<'m>(
        &self,
        message: impl Into<Message<'m>>,
        timeout: Duration,
    ) -> Result<Offset> {
        let message = message.into();
        let shared = self.engine().shared();
        let messages = std::slice::from_ref(&message);
        let stopwatch = || shared.disk.stopwatch();
        let sent = blocking(Some(timeout), stopwatch, || {
            let mut waiting = None;
            let sent =
                self.append_or(messages, |core, cursor| waiting = core.wait_for_room(cursor));
            match (sent, waiting) {
                (Ok(sent), _) => Ok(Attempt::Got(sent)),
                (Err(error), Some(waiting)) if error.kind() == ErrorKind::QueueFull => {
                    Ok(Attempt::Wait(waiting))
                }
                (Err(error), _) => Err(error),
            }
        })?;
        let Some((offset, end)): Option<(Offset, Lsn)> = sent else {
            let what = "the queue was full all the time";
            return Err(Error::new(ErrorKind::QueueFull, what));
        };
        shared.complete((offset, end), self.durability_set())
    }
}
