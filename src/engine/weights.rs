//! How many bytes the messages in a queue have that may hold so many bytes only.
//!
//! For such a queue each message's weight is kept, from the oldest on, so that an ack takes off what a
//! send has put on, in constant time. It is state of this life: whoever first opens the queue reads
//! it once, without holding the core.

use std::{collections::VecDeque, ops::Range};

use super::{
    consumer::Consumer,
    core::{Core, deleted},
};
use crate::{
    error::Result,
    ids::{CursorId, Offset},
    message::Message,
    store::{Op, Stored},
};

/// So many of the newest messages are read while the core is held, so that it comes to an end.
const CAUGHT_UP: u64 = 64;

/// The weights of a queue's messages.
#[derive(Debug, Default)]
pub struct Weights {
    /// The offset of the first in `each`.
    first: u64,
    /// 0 for those that are acked.
    each: VecDeque<u32>,
    sum: u64,
}

impl Weights {
    pub fn new(first: Offset) -> Weights {
        Weights { first: first.0, ..Weights::default() }
    }

    /// How much they have together.
    #[inline]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The offset behind the last one.
    fn end(&self) -> u64 {
        self.first + self.each.len() as u64
    }

    /// One more has come.
    fn push(&mut self, weight: u64) {
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.each.push_back(weight);
        self.sum += u64::from(weight);
    }

    pub fn of(&self, offset: Offset) -> u64 {
        let at = offset.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.each.get(at)).map_or(0, |weight| u64::from(*weight))
    }

    /// Some are acked; those that were before count once.
    fn ack(&mut self, range: Range<u64>) {
        let (start, end) = (range.start.max(self.first), range.end.min(self.end()));
        for at in start..end {
            let weight = &mut self.each[(at - self.first) as usize];
            self.sum -= u64::from(std::mem::take(weight));
        }
        if start == self.first {
            while self.each.front() == Some(&0) {
                self.each.pop_front();
                self.first += 1;
            }
        }
    }
}

/// What counts of a message: what the application has put in.
fn weight<'a>(
    payload: &[u8],
    key: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> u64 {
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    (payload.len() + key.map_or(0, <[u8]>::len) + headers) as u64
}

pub fn weight_of(message: &Message<'_>) -> u64 {
    weight(message.payload(), message.key_bytes(), message.headers())
}

fn weight_of_stored(stored: &Stored) -> u64 {
    weight(stored.payload(), stored.key(), stored.headers())
}

impl Core {
    /// Takes note of what a commit has put into queues that are weighed, and of what it has acked.
    #[cold]
    pub fn note_weights(&mut self, ops: &[Op<'_>]) {
        for op in ops {
            let cursor = match op {
                // A queue and its cursor have one number.
                Op::Append { log, .. } => CursorId(log.0),
                Op::Ack { cursor, .. } | Op::AckRanges { cursor, .. } => *cursor,
                _ => continue,
            };
            let consumption = self.consumers.get_mut(&cursor);
            let Some(weights) = consumption.and_then(|it| it.weights.as_mut()) else { continue };
            match op {
                Op::Append { messages, .. } => {
                    messages.iter().for_each(|message| weights.push(weight_of(message)));
                }
                Op::Ack { offsets, .. } => {
                    offsets.iter().for_each(|offset| weights.ack(offset.0..offset.0 + 1));
                }
                Op::AckRanges { ranges, .. } => {
                    ranges.iter().for_each(|range| weights.ack(range.clone()));
                }
                _ => {}
            }
        }
    }

    /// Begins to take note of a queue's weights, if all up to its end are given.
    fn begin_weighing(&mut self, cursor: CursorId, mut weights: Weights) -> Result<()> {
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        // What was acked while they were read.
        let mut at = weights.first;
        for open in acks.unacked_in(weights.first..weights.end()) {
            weights.ack(at..open.start);
            at = open.end;
        }
        weights.ack(at..weights.end());
        let consumption = self.consumption(cursor)?;
        if consumption.weights.is_none() {
            consumption.weights = Some(weights);
            self.weighs = true;
        }
        Ok(())
    }
}

impl Consumer {
    /// Finds out how much the messages of a queue weigh, unless that is known.
    pub fn weigh(&self) -> Result<()> {
        let (cursor, log) = (self.cursor, self.log);
        let mut weights: Option<Weights> = None;
        loop {
            let mut core = self.shared().lock_open()?;
            if core.consumption(cursor)?.weights.is_some() {
                return Ok(());
            }
            let (_, end) = core.store.bounds(log).ok_or_else(deleted)?;
            let floor = core.store.acks(cursor).ok_or_else(deleted)?.floor();
            let weights = weights.get_or_insert_with(|| Weights::new(floor));
            let is_near = end.0 - weights.end() <= CAUGHT_UP;
            let most = if is_near { end.0 } else { weights.end() + 1 };
            while weights.end() < most {
                let at = weights.end();
                let acks = core.store.acks(cursor).ok_or_else(deleted)?;
                let next = acks.next_unacked(at..end.0).unwrap_or(end);
                // Those between are acked, and weigh nothing.
                (at..next.0).for_each(|_| weights.push(0));
                if next == end {
                    break;
                }
                let source = core.store.locate(log, next)?;
                if is_near {
                    weights.push(source.load(next).map_or(0, |(it, _)| weight_of_stored(&it)));
                    continue;
                }
                drop(core);
                // One that is damaged takes up no room that anyone could count.
                let loaded = source.load(next);
                core = self.shared().lock_open()?;
                let (weight, block) =
                    loaded.map_or((0, None), |(it, block)| (weight_of_stored(&it), block));
                if let Some(block) = block {
                    core.store.remember(log, block);
                }
                weights.push(weight);
            }
            if is_near {
                let weights = std::mem::take(weights);
                return core.begin_weighing(cursor, weights);
            }
        }
    }

    /// How many bytes the messages have that are not acked, where that is known.
    pub fn bytes(&self) -> Result<Option<u64>> {
        let mut core = self.shared().lock_open()?;
        let weights = &core.consumption(self.cursor)?.weights;
        Ok(weights.as_ref().map(Weights::sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_and_go_and_go_but_once() {
        let mut weights = Weights::new(Offset(10));
        [5, 0, 7, 9].into_iter().for_each(|weight| weights.push(weight));
        assert_eq!((weights.sum(), weights.of(Offset(12)), weights.end()), (21, 7, 14));
        weights.ack(12..13);
        weights.ack(12..13);
        assert_eq!((weights.sum(), weights.of(Offset(12))), (14, 0));
        weights.ack(0..11);
        assert_eq!((weights.sum(), weights.first), (9, 13), "those without weight go along");
        weights.ack(13..99);
        assert_eq!((weights.sum(), weights.first, weights.of(Offset(13))), (0, 14, 0));
        weights.push(3);
        assert_eq!((weights.sum(), weights.of(Offset(14))), (3, 3));
    }
}
