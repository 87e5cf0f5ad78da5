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
    error::{ErrorKind, Result},
    ids::{CursorId, Offset, OffsetRange},
    message::Message,
    store::{Op, Stored},
};

/// So many of the newest messages are read while the core is held, so that it comes to an end.
const CAUGHT_UP: u64 = 64;

/// So many messages are kept together, and let go of together.
const CHUNK_MESSAGES: u64 = 128;

/// The weights of a queue's messages.
#[derive(Debug, Default)]
pub struct Weights {
    /// The number of the first chunk.
    first: u64,
    /// `None` if nothing in it weighs anything: one message that stays keeps no others in memory.
    chunks: VecDeque<Option<Box<Chunk>>>,
    /// The offset behind the last message.
    end: u64,
    sum: u64,
}

#[derive(Debug)]
struct Chunk {
    /// 0 for those that are acked.
    each: [u32; CHUNK_MESSAGES as usize],
    sum: u64,
}

impl Weights {
    pub fn new(first: Offset) -> Weights {
        Weights { end: first.0, ..Weights::default() }
    }

    /// How much they have together.
    #[inline]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// One more has come.
    fn push(&mut self, weight: u64) {
        let (index, at) = (self.end / CHUNK_MESSAGES, self.end % CHUNK_MESSAGES);
        self.end += 1;
        if weight == 0 {
            return;
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        self.begin_chunk(index);
        let none = || Box::new(Chunk { each: [0; CHUNK_MESSAGES as usize], sum: 0 });
        let chunk = self.chunks.back_mut().expect("it was begun").get_or_insert_with(none);
        chunk.each[at as usize] = weight;
        chunk.sum += u64::from(weight);
        self.sum += u64::from(weight);
    }

    fn begin_chunk(&mut self, index: u64) {
        if self.first + self.chunks.len() as u64 > index {
            return;
        }
        // The last one was kept although it may be empty.
        if self.chunks.back().is_some_and(|it| it.as_ref().is_some_and(|it| it.sum == 0)) {
            *self.chunks.back_mut().expect("there is one") = None;
        }
        self.drop_empty();
        if self.chunks.is_empty() {
            self.first = index;
        }
        self.chunks.resize_with((index - self.first + 1) as usize, || None);
    }

    fn drop_empty(&mut self) {
        while let Some(None) = self.chunks.front() {
            self.chunks.pop_front();
            self.first += 1;
        }
    }

    /// All up to an offset weigh nothing, as they are acked.
    fn pass_to(&mut self, offset: Offset) {
        self.end = self.end.max(offset.0);
    }

    pub fn of(&self, offset: Offset) -> u64 {
        let (index, at) = (offset.0 / CHUNK_MESSAGES, (offset.0 % CHUNK_MESSAGES) as usize);
        let index = index.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let chunk = index.and_then(|index| self.chunks.get(index)?.as_ref());
        chunk.map_or(0, |chunk| u64::from(chunk.each[at]))
    }

    /// Some are acked; those that were before count once.
    fn ack(&mut self, range: Range<u64>) {
        let last = self.chunks.len().saturating_sub(1);
        let from = (range.start / CHUNK_MESSAGES).saturating_sub(self.first);
        let upto = range.end.div_ceil(CHUNK_MESSAGES).saturating_sub(self.first);
        for index in from as usize..(upto as usize).min(self.chunks.len()) {
            let Some(chunk) = &mut self.chunks[index] else { continue };
            let base = (self.first + index as u64) * CHUNK_MESSAGES;
            let start = range.start.saturating_sub(base) as usize;
            let end = range.end.saturating_sub(base).min(CHUNK_MESSAGES) as usize;
            let acked: u64 = chunk.each[start..end].iter().map(|it| u64::from(*it)).sum();
            chunk.each[start..end].fill(0);
            chunk.sum -= acked;
            self.sum -= acked;
            if chunk.sum == 0 && index < last {
                self.chunks[index] = None;
            }
        }
        self.drop_empty();
    }

    /// So many are there, and all others are acked.
    fn keep(&mut self, there: &[OffsetRange]) {
        let mut at = 0;
        for range in there {
            self.ack(at..range.start.0);
            at = range.end.0;
        }
        self.ack(at..self.end);
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
                Op::Append { log, .. } => log.queue_cursor(),
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
                    ranges.iter().for_each(|range| weights.ack(range.start.0..range.end.0));
                }
                _ => {}
            }
        }
    }

    /// Begins to take note of a queue's weights, if all up to its end are given.
    fn begin_weighing(&mut self, cursor: CursorId, mut weights: Weights) -> Result<()> {
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        // Some were acked while they were read.
        weights.keep(&acks.unacked_in(Offset(0).to(Offset(weights.end))));
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
            let is_near = end.0 - weights.end <= CAUGHT_UP;
            let most = if is_near { end.0 } else { weights.end + 1 };
            while weights.end < most {
                let at = weights.end;
                let acks = core.store.acks(cursor).ok_or_else(deleted)?;
                let next = acks.next_unacked(Offset(at).to(end)).unwrap_or(end);
                weights.pass_to(next);
                if next == end {
                    break;
                }
                let located = core.store.locate(log, next);
                let loaded = if is_near {
                    located.and_then(|source| source.load(next))
                } else {
                    drop(core);
                    let loaded = located.and_then(|source| source.load(next));
                    core = self.shared().lock_open()?;
                    loaded
                };
                let (weight, block) = match loaded {
                    Ok((stored, block)) => (weight_of_stored(&stored), block),
                    // One that is damaged takes up no room that anyone could count.
                    Err(error) if error.kind() == ErrorKind::Corrupt => (0, None),
                    Err(error) => return Err(error),
                };
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_come_and_go_and_go_but_once() {
        let mut weights = Weights::new(Offset(10));
        [5, 0, 7, 9].into_iter().for_each(|weight| weights.push(weight));
        assert_eq!((weights.sum(), weights.of(Offset(12)), weights.end), (21, 7, 14));
        weights.ack(12..13);
        weights.ack(12..13);
        assert_eq!((weights.sum(), weights.of(Offset(12))), (14, 0));
        weights.ack(0..11);
        assert_eq!(weights.sum(), 9);
        weights.ack(13..99);
        assert_eq!((weights.sum(), weights.of(Offset(13))), (0, 0));
        weights.push(3);
        assert_eq!((weights.sum(), weights.of(Offset(14))), (3, 3));
        weights.pass_to(Offset(1000));
        weights.push(4);
        weights.keep(&[Offset(0).to(Offset(14)), Offset(1000).only()]);
        assert_eq!((weights.sum(), weights.of(Offset(1000))), (4, 4));
    }

    #[test]
    fn a_message_that_stays_keeps_no_others_in_memory() {
        let mut weights = Weights::new(Offset(0));
        (0..2).for_each(|_| weights.push(9));
        for offset in 1..1_000_000 {
            weights.push(9);
            weights.ack(offset..offset + 1);
        }
        assert_eq!(weights.sum(), 18);
        let kept = weights.chunks.iter().flatten().count();
        assert!(kept <= 2, "{kept} chunks");
        weights.ack(0..1_000_001);
        assert_eq!((weights.sum(), weights.chunks.len()), (0, 1));
    }

    proptest! {
        #[test]
        fn they_are_those_of_a_plain_list(
            first in 0..300u64,
            steps in proptest::collection::vec((0..3u8, 0..600u64, 0..300u64), 1..200),
        ) {
            let (mut weights, mut plain) = (Weights::new(Offset(first)), BTreeMap::new());
            for (kind, at, n) in steps {
                match kind {
                    0 => for weight in 0..n {
                        plain.insert(weights.end, weight % 5);
                        weights.push(weight % 5);
                    },
                    1 => {
                        weights.ack(at..at + n);
                        plain.retain(|offset, _| !(at..at + n).contains(offset));
                    }
                    _ => weights.pass_to(Offset(weights.end + n)),
                }
                prop_assert_eq!(weights.sum(), plain.values().sum::<u64>());
                for offset in (0..weights.end + 3).step_by(7) {
                    let weight = plain.get(&offset).copied().unwrap_or(0);
                    prop_assert_eq!(weights.of(Offset(offset)), weight);
                }
            }
        }
    }
}
