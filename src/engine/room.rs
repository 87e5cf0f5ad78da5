//! Room in queues that may hold so much only: found, made, or waited for.

use std::time::Duration;

use super::{
    core::{Core, deleted},
    queue::Queue,
    wait::{Attempt, blocking},
    weights::{Weights, weight_of},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::entity::Limit,
    ids::{CursorId, LogId, Lsn, Offset, OffsetRange},
    message::Message,
};

/// So much comes, or goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub messages: u64,
    /// Counted only where a queue may hold so many bytes.
    pub bytes: u64,
}

impl Load {
    pub fn of<'m>(limit: Limit, messages: impl IntoIterator<Item = &'m Message<'m>>) -> Load {
        let mut load = Load::default();
        messages.into_iter().for_each(|message| load.add(limit, message));
        load
    }

    pub fn add(&mut self, limit: Limit, message: &Message<'_>) {
        self.messages += 1;
        if limit.bytes.is_some() {
            self.bytes += weight_of(message);
        }
    }
}

/// So much is too much.
#[derive(Debug)]
struct Excess {
    messages: u64,
    bytes: u64,
}

impl Excess {
    fn is_left(&self) -> bool {
        self.messages > 0 || self.bytes > 0
    }

    /// Whether one more is to be dropped, which has so many bytes.
    fn drop(&mut self, bytes: u64) -> bool {
        let is_wanted = self.is_left();
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        is_wanted
    }
}

impl Core {
    /// Makes sure that so much more fits into a queue, when messages are acked in the same commit.
    /// Returns what is to be deleted for it.
    pub fn room_for(
        &mut self,
        (cursor, log, limit): (CursorId, LogId, Limit),
        load: Load,
        acked: &[Offset],
    ) -> Result<Vec<OffsetRange>> {
        let (_, end) = self.store.bounds(log).ok_or_else(deleted)?;
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks(cursor).ok_or_else(deleted)?;
        let (most, most_bytes) =
            (limit.messages.unwrap_or(u64::MAX), limit.bytes.unwrap_or(u64::MAX));
        let never = [
            (load.messages, most, "messages", "max_messages"),
            (load.bytes, most_bytes, "bytes", "max_bytes"),
        ];
        if let Some((more, most, of, field)) = never.into_iter().find(|it| it.0 > it.1) {
            let what = format!("{more} {of} at once for a queue that may hold {most} ({field})");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let weights = consumption.weights.as_ref();
        let weight = |offset: &Offset| weights.map_or(0, |weights| weights.of(*offset));
        // One that was deleted while it was on lease makes no room once more.
        let acked = || acked.iter().filter(|offset| !acks.is_acked(**offset));
        let depth = acks.unacked(end).saturating_sub(acked().count() as u64);
        let bytes = weights.map_or(0, Weights::sum) - acked().map(weight).sum::<u64>();
        let mut excess = Excess {
            messages: (depth + load.messages).saturating_sub(most),
            bytes: (bytes + load.bytes).saturating_sub(most_bytes),
        };
        if !excess.is_left() {
            return Ok(Vec::new());
        }
        if !limit.drops_oldest {
            return Err(full(limit));
        }
        consumption.drops_any = false;
        let deliveries = &mut consumption.deliveries;
        let ready = deliveries.ready(acks, end);
        let mut dropped: Vec<Offset> = ready.take_while(|it| excess.drop(weight(it))).collect();
        dropped.sort_unstable();
        if excess.is_left() {
            // Only those that wait are left, and those on lease.
            consumption.drops_any = true;
            let leased = deliveries.leased();
            let all = acks.unacked_in(Offset(0).to(end)).into_iter().flatten();
            let taken = dropped.clone();
            let others = all.filter(|it| !leased.contains(it) && taken.binary_search(it).is_err());
            dropped.extend(others.take_while(|it| excess.drop(weight(it))));
            dropped.sort_unstable();
        }
        if excess.is_left() {
            return Err(full(limit));
        }
        Ok(ranges(&dropped))
    }

    /// Messages were deleted for which `room_for` has asked.
    pub fn note_made_room(&mut self, cursor: CursorId, dropped: &[OffsetRange]) {
        match self.consumers.get_mut(&cursor) {
            Some(consumption) if !consumption.drops_any && !dropped.is_empty() => {
                consumption.deliveries.forget_ready(dropped);
                self.note_deleted(cursor);
            }
            _ => self.note_dropped(cursor, dropped),
        }
    }

    /// Messages were deleted, wherever they were.
    pub fn note_dropped(&mut self, cursor: CursorId, dropped: &[OffsetRange]) {
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
        // What was to be received before others come due may have been among them.
        self.arm(cursor);
    }
}

/// Sorted offsets, as ranges.
pub fn ranges(offsets: &[Offset]) -> Vec<OffsetRange> {
    let together = offsets.chunk_by(|a, b| a.next() == *b);
    together.map(|all| all[0].to(all[all.len() - 1].next())).collect()
}

fn full(limit: Limit) -> Error {
    let most = |most: Option<u64>, of: &str| most.map(|most| format!("{most} {of}"));
    let (messages, bytes) = (most(limit.messages, "messages"), most(limit.bytes, "bytes"));
    let both: Vec<String> = messages.into_iter().chain(bytes).collect();
    let what = format!("the queue holds as much as it may: {}", both.join(", or "));
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
                (Err(error), _) => {
                    // The room that there may be is for the next one.
                    let mut core = shared.lock();
                    core.note_room(self.cursor(), 1);
                    let wakes = core.take_wakes();
                    drop(core);
                    shared.wake(wakes);
                    Err(error)
                }
            }
        })?;
        let Some((offset, end)): Option<(Offset, Lsn)> = sent else {
            let what = "the queue was full all the time";
            return Err(Error::new(ErrorKind::QueueFull, what));
        };
        shared.complete((offset, end), self.durability_set())
    }
}
