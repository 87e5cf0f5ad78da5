//! The weights of messages in bytes, for queues with a limit in bytes.

use std::collections::VecDeque;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
    message::Message,
    store::Stored,
};

/// How many messages a chunk holds.
const CHUNK_MESSAGES: u64 = 128;

/// The weights of a queue's messages, in bytes.
///
/// A message that arrives is pushed, and an acked message weighs nothing. The weights of older messages are read
/// and [set](Weights::set) one after the other, while others arrive.
#[derive(Debug, Default)]
pub struct Weights {
    /// The number of the first chunk.
    first: u64,
    /// `None` for a chunk whose messages all weigh nothing. So one old message keeps only its own chunk in
    /// memory.
    chunks: VecDeque<Option<Box<Chunk>>>,
    /// The offset behind the last message.
    end: u64,
    sum: u64,
    /// Some weights before this offset are not set yet. `None` once all are set.
    unread_before: Option<Offset>,
}

#[derive(Debug)]
struct Chunk {
    /// 0 for messages that are acked.
    each: [u32; CHUNK_MESSAGES as usize],
    sum: u64,
}

impl Chunk {
    fn new() -> Box<Chunk> {
        Box::new(Chunk { each: [0; CHUNK_MESSAGES as usize], sum: 0 })
    }
}

impl Weights {
    /// The weights of a log that ends at `end`. The caller sets the weights of the messages in it.
    pub fn new(end: Offset) -> Weights {
        let first = end.0 / CHUNK_MESSAGES;
        Weights { first, end: end.0, unread_before: Some(end), ..Weights::default() }
    }

    /// The sum of all weights.
    #[inline]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Some weights before this offset are not set yet. `None` once all are set.
    pub fn unread_before(&self) -> Option<Offset> {
        self.unread_before
    }

    /// Notes that all weights are set.
    pub fn finish_reading(&mut self) {
        self.unread_before = None;
    }

    /// Adds a message that arrives.
    pub fn push(&mut self, weight: u64) {
        let index = self.end / CHUNK_MESSAGES;
        if weight > 0 && self.first + self.chunks.len() as u64 <= index {
            self.begin_chunk(index);
        }
        let offset = Offset(self.end);
        self.end += 1;
        self.set(offset, weight);
    }

    fn begin_chunk(&mut self, index: u64) {
        // The last chunk is kept even if it is empty. Now it is no longer the last.
        if self.chunks.back().is_some_and(|it| it.as_ref().is_some_and(|it| it.sum == 0)) {
            self.chunks.pop_back();
            self.chunks.push_back(None);
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

    /// Sets the weight of a message, unless it has one.
    pub fn set(&mut self, offset: Offset, weight: u64) {
        if weight == 0 {
            return;
        }
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let (index, at) = (offset.0 / CHUNK_MESSAGES, (offset.0 % CHUNK_MESSAGES) as usize);
        if self.chunks.is_empty() {
            self.first = index;
        }
        while index < self.first {
            audit::step();
            self.first -= 1;
            self.chunks.push_front(None);
        }
        let n = (index - self.first) as usize;
        if n >= self.chunks.len() {
            self.chunks.resize_with(n + 1, || None);
        }
        let chunk = self.chunks[n].get_or_insert_with(Chunk::new);
        if chunk.each[at] == 0 {
            chunk.each[at] = weight;
            chunk.sum += u64::from(weight);
            self.sum += u64::from(weight);
        }
    }

    /// The weight of a message; 0 if it is acked.
    pub fn of(&self, offset: Offset) -> u64 {
        let (index, at) = (offset.0 / CHUNK_MESSAGES, (offset.0 % CHUNK_MESSAGES) as usize);
        let index = index.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let chunk = index.and_then(|index| self.chunks.get(index)?.as_ref());
        chunk.map_or(0, |chunk| u64::from(chunk.each[at]))
    }

    /// Removes the weights of acked messages. A message that was acked before has none.
    pub fn ack(&mut self, range: OffsetRange) {
        let (start_offset, end_offset) = (range.start.0, range.end.0);
        let last = self.chunks.len().saturating_sub(1);
        let from = (start_offset / CHUNK_MESSAGES).saturating_sub(self.first);
        let upto = end_offset.div_ceil(CHUNK_MESSAGES).saturating_sub(self.first);
        for index in from as usize..(upto as usize).min(self.chunks.len()) {
            audit::step();
            let Some(chunk) = &mut self.chunks[index] else { continue };
            let base = (self.first + index as u64) * CHUNK_MESSAGES;
            let start = start_offset.saturating_sub(base) as usize;
            let end = end_offset.saturating_sub(base).min(CHUNK_MESSAGES) as usize;
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
}

/// The weight of a message: its payload, key, headers and subject.
fn weight<'a>(
    payload: &[u8],
    key: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    subject: Option<&str>,
) -> u64 {
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    let key = key.map_or(0, <[u8]>::len);
    (payload.len() + key + headers + subject.map_or(0, str::len)) as u64
}

pub fn weight_of(message: &Message<'_>) -> u64 {
    let subject = message.subject_set();
    weight(message.payload(), message.key_bytes(), message.headers(), subject)
}

pub fn weight_of_stored(stored: &Stored) -> u64 {
    weight(stored.payload(), stored.key(), stored.headers(), stored.subject())
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
        weights.ack(Offset(12).to(Offset(13)));
        weights.ack(Offset(12).to(Offset(13)));
        assert_eq!((weights.sum(), weights.of(Offset(12))), (14, 0));
        weights.ack(Offset(0).to(Offset(11)));
        assert_eq!(weights.sum(), 9);
        weights.ack(Offset(13).to(Offset(99)));
        assert_eq!((weights.sum(), weights.of(Offset(13))), (0, 0));
        weights.push(3);
        assert_eq!((weights.sum(), weights.of(Offset(14))), (3, 3));
    }

    #[test]
    fn weights_that_were_there_before_are_set_while_others_arrive() {
        let mut weights = Weights::new(Offset(1000));
        assert_eq!(weights.unread_before(), Some(Offset(1000)));
        weights.set(Offset(3), 5);
        weights.push(7);
        weights.ack(Offset(3).to(Offset(4)));
        weights.set(Offset(999), 11);
        weights.set(Offset(500), 13);
        weights.set(Offset(500), 13);
        weights.finish_reading();
        assert_eq!(weights.sum(), 7 + 11 + 13);
        assert_eq!([3, 500, 999, 1000].map(|n| weights.of(Offset(n))), [0, 13, 11, 7]);
        assert_eq!(weights.unread_before(), None);
    }

    #[test]
    fn a_message_that_stays_keeps_no_others_in_memory() {
        let mut weights = Weights::new(Offset(0));
        (0..2).for_each(|_| weights.push(9));
        for offset in 1..1_000_000 {
            weights.push(9);
            weights.ack(Offset(offset).to(Offset(offset + 1)));
        }
        assert_eq!(weights.sum(), 18);
        let kept = weights.chunks.iter().flatten().count();
        assert!(kept <= 2, "{kept} chunks");
        weights.ack(Offset(0).to(Offset(1_000_001)));
        assert_eq!((weights.sum(), weights.chunks.len()), (0, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

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
                        weights.ack(Offset(at).to(Offset(at + n)));
                        plain.retain(|offset, _| !(at..at + n).contains(offset));
                    }
                    // A message that was there before is read.
                    _ if at < first => {
                        weights.set(Offset(at), n);
                        let there = plain.entry(at).or_insert(0);
                        *there = if *there == 0 { n } else { *there };
                    }
                    _ => {}
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
