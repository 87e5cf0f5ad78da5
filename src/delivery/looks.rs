//! Looks at messages for the end of their lives: which messages of a cursor were looked at, and when to look again.
//!
//! A store tells only a time before which no life in a part of a log is over. Once that has come, the messages of the
//! part are read, and a [`Looks`] keeps what was found, for each *chunk* of 1,024 offsets. It keeps one time for a
//! chunk, and up to 256 ends once messages of the chunk have begun to expire. So each message is read a few times,
//! and memory holds nothing for chunks in which no message's time has come. A chunk is looked at without a gap: the messages
//! before the one whose time has come are read, too.
//!
//! A message on lease is left out: it is not read. It is looked at once its lease has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use roaring::RoaringTreemap;

use crate::{
    audit,
    ids::{Offset, OffsetRange, Timestamp},
};

/// The offsets of a chunk.
const CHUNK: u64 = 1024;

/// The most ends that are kept of one chunk.
const SOON_MAX: usize = 256;

/// The most messages of a chunk that are looked at together.
const AT_ONCE: usize = 256;

/// No life ends.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// The looks at the messages of one cursor.
#[derive(Debug, Default)]
pub struct Looks {
    /// The time to live by which the ends were found.
    time_to_live_ms: u64,
    chunks: BTreeMap<u64, Chunk>,
    /// The chunks by the time of the next look.
    due: BTreeSet<(Timestamp, u64)>,
    /// Messages that were left out because they were on lease.
    on_lease: RoaringTreemap,
    /// Messages that were left out, and whose leases have ended since.
    ended: BTreeSet<Offset>,
}

/// It takes a step for each chunk.
impl Drop for Looks {
    fn drop(&mut self) {
        audit::steps(self.chunks.len() as u64);
    }
}

#[derive(Debug)]
struct Chunk {
    /// The messages of the chunk below were looked at.
    upto: Offset,
    /// The messages that expire first, in their order.
    soon: Vec<(Timestamp, Offset)>,
    /// No life of another message that was looked at is over before.
    later: Timestamp,
}

impl Chunk {
    fn next(&self) -> Timestamp {
        self.soon.first().map_or(self.later, |(end, _)| (*end).min(self.later))
    }

    fn add_soon(&mut self, end: Timestamp, offset: Offset) {
        let at = self.soon.partition_point(|it| *it < (end, offset));
        self.soon.insert(at, (end, offset));
        if self.soon.len() > SOON_MAX
            && let Some((end, _)) = self.soon.pop()
        {
            self.later = self.later.min(end);
        }
    }
}

/// The messages whose lives are over, as far as is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// These messages. They may have been acked meanwhile.
    These(Vec<Offset>),
    /// Some message of this chunk. It counts as not looked at from now on.
    Chunk(OffsetRange),
}

impl Looks {
    /// Follows the time to live of the cursor. Ends that were found by another one count no more: returns what was known,
    /// which may be much. The caller drops it where nobody waits.
    #[must_use]
    pub fn follow(&mut self, time_to_live_ms: u64) -> Option<Looks> {
        if self.time_to_live_ms == time_to_live_ms {
            return None;
        }
        let known = mem::take(self);
        self.time_to_live_ms = time_to_live_ms;
        Some(known)
    }

    /// Forgets chunks all of whose messages are acked, and messages left out: 256 of each at most. Returns whether there are
    /// more.
    pub fn forget_below(&mut self, floor: Offset) -> bool {
        for _ in 0..AT_ONCE {
            let number = self.chunks.first_key_value().map(|(number, _)| *number);
            let Some(number) = number.filter(|number| (number + 1) * CHUNK <= floor.0) else {
                break;
            };
            audit::step();
            if let Some(chunk) = self.chunks.remove(&number) {
                self.due.remove(&(chunk.next(), number));
            }
        }
        for _ in 0..AT_ONCE {
            let Some(first) = self.ended.first().copied().filter(|first| *first < floor) else {
                break;
            };
            audit::step();
            self.ended.remove(&first);
        }
        let first_chunk = self.chunks.first_key_value();
        if first_chunk.is_some_and(|(number, _)| (number + 1) * CHUNK <= floor.0)
            || self.ended.first().is_some_and(|first| *first < floor)
        {
            return true;
        }
        self.on_lease.remove_range(..floor.0);
        false
    }

    /// Notes that a message is left out because it is on lease.
    pub fn leave_out(&mut self, offset: Offset) {
        self.on_lease.insert(offset.0);
    }

    /// Whether a message was left out, and its lease has not ended since.
    pub fn is_left_out(&self, offset: Offset) -> bool {
        self.on_lease.contains(offset.0)
    }

    /// Notes that the lease of a message has ended, and that the message is still there. Returns whether it is to be looked
    /// at now, because it was left out.
    #[inline]
    pub fn end_lease(&mut self, offset: Offset) -> bool {
        let was_left_out = !self.on_lease.is_empty() && self.on_lease.remove(offset.0);
        if was_left_out {
            self.ended.insert(offset);
        }
        was_left_out
    }

    /// The offset up to which messages were looked at, if the message with this offset was.
    pub fn seen_upto(&self, offset: Offset) -> Option<Offset> {
        let chunk = self.chunks.get(&(offset.0 / CHUNK))?;
        (offset < chunk.upto).then_some(chunk.upto)
    }

    /// Where the look at the chunk that holds an offset goes on.
    pub fn goes_on_at(&self, offset: Offset) -> Offset {
        let number = offset.0 / CHUNK;
        self.chunks.get(&number).map_or(Offset(number * CHUNK), |chunk| chunk.upto)
    }

    /// The end of the chunk that holds an offset.
    pub fn end_of_chunk(offset: Offset) -> Offset {
        Offset((offset.0 / CHUNK + 1) * CHUNK)
    }

    /// The messages that are due for a look. [`see_again`](Looks::see_again) ends the look at them.
    pub fn take_due(&mut self, now: Timestamp) -> Option<Due> {
        let ended = self.ended.first().map(|offset| offset.0 / CHUNK);
        let due = || self.due.first().filter(|(next, _)| *next <= now).map(|(_, number)| *number);
        let number = ended.or_else(due)?;
        let first = Offset(number * CHUNK);
        let ended = self.ended.range(..Looks::end_of_chunk(first)).copied();
        let mut these: Vec<Offset> = ended.take(AT_ONCE).collect();
        these.iter().for_each(|offset| _ = self.ended.remove(offset));
        audit::steps(these.len() as u64);
        let Some(chunk) = self.chunks.get(&number) else {
            // It counts as not looked at already.
            return Some(Due::Chunk(first.to(first)));
        };
        if chunk.later > now {
            let over = chunk.soon.iter().take_while(|(end, _)| *end <= now);
            let more = over.take(AT_ONCE - these.len());
            these.extend(more.map(|(_, offset)| *offset));
            audit::steps(these.len() as u64);
            return Some(Due::These(these));
        }
        self.due.remove(&(chunk.next(), number));
        let range = first.to(chunk.upto);
        self.chunks.remove(&number);
        Some(Due::Chunk(range))
    }

    fn change(&mut self, number: u64, upto: Offset, change: impl FnOnce(&mut Chunk)) {
        let fresh = Chunk { upto, soon: Vec::new(), later: NEVER };
        let chunk = self.chunks.entry(number).or_insert(fresh);
        let before = chunk.next();
        change(chunk);
        let next = chunk.next();
        if before != next {
            self.due.remove(&(before, number));
            if next != NEVER {
                self.due.insert((next, number));
            }
        }
    }

    /// Notes a look at a range of one chunk, which follows the messages that were looked at. `ends` are the ends of the
    /// messages that stay. `expires` tells whether a message of the chunk has expired. A range with a gap before it counts
    /// as not looked at: the chunk was forgotten meanwhile.
    pub fn see(&mut self, range: OffsetRange, ends: &[(Timestamp, Offset)], expires: bool) {
        audit::steps(ends.len() as u64);
        if range.start > self.goes_on_at(range.start) {
            return;
        }
        self.change(range.start.0 / CHUNK, range.start, |chunk| {
            chunk.upto = chunk.upto.max(range.end);
            let keeps = expires || !chunk.soon.is_empty();
            for (end, offset) in ends {
                match keeps {
                    true => chunk.add_soon(*end, *offset),
                    false => chunk.later = chunk.later.min(*end),
                }
            }
        });
    }

    /// Notes a look at messages of one chunk that were due. `stay` are the ones that are there still, each with the time
    /// of the next look.
    pub fn see_again(&mut self, seen: &[Offset], stay: &[(Timestamp, Offset)]) {
        let Some(first) = seen.first() else { return };
        let (number, seen) = (first.0 / CHUNK, seen.iter().copied().collect::<BTreeSet<_>>());
        if !self.chunks.contains_key(&number) {
            return;
        }
        audit::steps(seen.len() as u64);
        self.change(number, *first, |chunk| {
            chunk.soon.retain(|(_, offset)| !seen.contains(offset));
            stay.iter().for_each(|(end, offset)| chunk.add_soon(*end, *offset));
            if chunk.soon.is_empty() {
                chunk.soon = Vec::new();
            }
        });
    }

    /// When to look again, at the messages that were looked at.
    pub fn next(&self) -> Option<Timestamp> {
        if !self.ended.is_empty() {
            return Some(Timestamp(0));
        }
        self.due.first().map(|(next, _)| *next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, offset: u64) -> (Timestamp, Offset) {
        (Timestamp(ms), Offset(offset))
    }

    #[test]
    fn a_chunk_that_lives_keeps_one_time_and_one_that_expires_its_next_ends() {
        let mut looks = Looks::default();
        let ends: Vec<_> = (0..700).map(|n| at(1000 + n, n)).collect();
        looks.see(Offset(0).to(Offset(700)), &ends, false);
        assert_eq!(
            (looks.next(), looks.seen_upto(Offset(699))),
            (Some(Timestamp(1000)), Some(Offset(700)))
        );
        assert_eq!(looks.seen_upto(Offset(700)), None);
        assert_eq!(looks.take_due(Timestamp(999)), None);
        let all = Offset(0).to(Offset(700));
        assert_eq!(looks.take_due(Timestamp(1000)), Some(Due::Chunk(all)));
        assert_eq!((looks.next(), looks.seen_upto(Offset(0))), (None, None));

        looks.see(all, &ends[1..], true);
        let over: Vec<Offset> = (1..=5).map(Offset).collect();
        assert_eq!(looks.take_due(Timestamp(1005)), Some(Due::These(over.clone())));
        looks.see_again(&over, &[at(2000, 3)]);
        assert_eq!(looks.next(), Some(Timestamp(1006)));
        let over: Vec<Offset> = (6..=256).map(Offset).collect();
        assert_eq!(looks.take_due(Timestamp(1256)), Some(Due::These(over)));
        // Of the others only the first end is known: it is that of number 257.
        assert_eq!(looks.take_due(Timestamp(1257)), Some(Due::Chunk(all)));
    }

    #[test]
    fn looks_are_forgotten_below_the_floor_and_when_the_time_to_live_changes() {
        let mut looks = Looks::default();
        for chunk in 0..3 {
            let first = Offset(chunk * CHUNK);
            looks.see(first.to(Looks::end_of_chunk(first)), &[at(100 + chunk, first.0)], false);
        }
        assert!(!looks.forget_below(Offset(2 * CHUNK - 1)));
        assert_eq!((looks.next(), looks.chunks.len()), (Some(Timestamp(101)), 2));
        assert!(looks.follow(0).is_none());
        assert_eq!(looks.chunks.len(), 2);
        assert!(looks.follow(5).is_some_and(|known| known.chunks.len() == 2));
        assert_eq!((looks.next(), looks.chunks.len(), looks.due.len()), (None, 0, 0));
    }

    #[test]
    fn a_range_in_the_middle_of_a_chunk_that_was_forgotten_counts_as_not_looked_at() {
        let mut looks = Looks::default();
        looks.see(Offset(0).to(Offset(256)), &[at(10, 3)], true);
        // One look reads the next part. Another one finds the chunk due, and forgets it.
        let next = looks.goes_on_at(Offset(256)).to(Offset(512));
        looks.see_again(&[Offset(3)], &[]);
        looks.see(Offset(256).to(Offset(300)), &[at(20, 256)], false);
        looks.change(0, Offset(0), |chunk| chunk.later = Timestamp(15));
        assert_eq!(looks.take_due(Timestamp(15)), Some(Due::Chunk(Offset(0).to(Offset(300)))));
        looks.see(next, &[at(30, 400)], false);
        assert_eq!((looks.seen_upto(Offset(400)), looks.seen_upto(Offset(0))), (None, None));
        assert_eq!(looks.next(), None);
    }

    #[test]
    fn what_is_left_out_on_lease_is_looked_at_once_its_lease_has_ended() {
        let mut looks = Looks::default();
        [3, 700, 1030].into_iter().for_each(|offset| looks.leave_out(Offset(offset)));
        looks.see(Offset(0).to(Offset(1024)), &[at(8, 2), at(50, 1)], true);
        assert_eq!((looks.take_due(Timestamp(7)), looks.next()), (None, Some(Timestamp(8))));
        assert!(!looks.end_lease(Offset(4)), "it was not left out");
        assert!(looks.end_lease(Offset(1030)) && looks.end_lease(Offset(3)));
        assert_eq!(looks.next(), Some(Timestamp(0)));
        // It leaves together with others of its chunk, in their order.
        let together = vec![Offset(3), Offset(2)];
        assert_eq!(looks.take_due(Timestamp(9)), Some(Due::These(together.clone())));
        looks.see_again(&together, &[at(40, 3)]);
        let unseen = Offset(1024).to(Offset(1024));
        assert_eq!(looks.take_due(Timestamp(9)), Some(Due::Chunk(unseen)), "it is read as a whole");
        assert_eq!((looks.take_due(Timestamp(9)), looks.next()), (None, Some(Timestamp(40))));
        assert!(looks.is_left_out(Offset(700)));
        assert!(!looks.forget_below(Offset(701)));
        assert!(!looks.is_left_out(Offset(700)) && !looks.end_lease(Offset(700)));
    }
}
