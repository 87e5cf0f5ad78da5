//! Order by key: messages with one key form a group, and are delivered in order and one at a time. Groups do
//! not wait for each other.
//!
//! A group is *busy* from the lease of its first message, the *head*, until the head is settled for good. A
//! failure of the head does not end that. Messages of a busy group are *parked* behind the head. A parked
//! message costs one bit, so a group of a million messages costs little, and each message is parked once.
//! A parked message that was deleted keeps its bit in its group: which group that is, only its key tells. When a head is
//! done, the bits before the next head are passed over, in slices. The group is *advancing* meanwhile.
//! A hash tells groups apart: two keys with the same hash are one group, which costs speed but not order.
//! This state is in memory only; the log has the order.

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry};

use roaring::RoaringTreemap;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

/// How many deleted messages are passed over at once when a head is done.
const PASSED_AT_ONCE: usize = 8;

#[derive(Debug, Default)]
pub struct Groups {
    busy: HashMap<u64, Group>,
    /// The group of each head.
    heads: BTreeMap<Offset, u64>,
    /// The parked messages of all groups that are still there.
    parked: RoaringTreemap,
    /// Busy groups without a head: the next one is looked for.
    advancing: VecDeque<u64>,
    /// Whether the messages that wait for another attempt are heads already.
    pub is_prepared: bool,
}

#[derive(Debug)]
struct Group {
    /// `None` while the group is advancing.
    head: Option<Offset>,
    parked: RoaringTreemap,
}

impl Groups {
    /// Makes a message the head of its group, if the group is not busy. Returns whether the message is the
    /// head, and may be delivered. If not, it is parked.
    pub fn claim(&mut self, hash: u64, offset: Offset) -> bool {
        match self.busy.entry(hash) {
            Entry::Vacant(free) => {
                free.insert(Group { head: Some(offset), parked: RoaringTreemap::new() });
                self.heads.insert(offset, hash);
                true
            }
            Entry::Occupied(mut busy) => {
                let is_head = busy.get().head == Some(offset);
                if !is_head {
                    busy.get_mut().parked.insert(offset.0);
                    self.parked.insert(offset.0);
                }
                is_head
            }
        }
    }

    /// Ends a message: it was acked, deleted or moved. If it was a head, the next parked message that
    /// still `exists` becomes the head. Returns that message, which can be delivered. If it was not found yet, the group
    /// is advancing.
    pub fn done(&mut self, offset: Offset, exists: impl Fn(Offset) -> bool) -> Option<Offset> {
        let hash = self.heads.remove(&offset)?;
        self.busy.get_mut(&hash)?.head = None;
        let mut most = PASSED_AT_ONCE;
        let head = self.advance(hash, &mut most, exists);
        if head.is_none() && self.busy.contains_key(&hash) {
            self.advancing.push_back(hash);
        }
        head
    }

    /// Whether a group is advancing.
    #[inline]
    pub fn is_advancing(&self) -> bool {
        !self.advancing.is_empty()
    }

    /// Goes on with groups that are advancing: passes over `most` messages. Returns the next head that it found.
    pub fn go_on(&mut self, most: &mut usize, exists: impl Fn(Offset) -> bool) -> Option<Offset> {
        while let Some(hash) = self.advancing.front().copied() {
            let head = self.advance(hash, most, &exists);
            if head.is_none() && self.busy.contains_key(&hash) {
                return None;
            }
            self.advancing.pop_front();
            if head.is_some() {
                return head;
            }
        }
        None
    }

    /// Makes the next parked message of a group that `exists` its head, or ends the group if there is none. Passes over
    /// `most` messages.
    fn advance(
        &mut self,
        hash: u64,
        most: &mut usize,
        exists: impl Fn(Offset) -> bool,
    ) -> Option<Offset> {
        let group = self.busy.get_mut(&hash)?;
        while let Some(next) = group.parked.min() {
            if *most == 0 {
                return None;
            }
            *most -= 1;
            audit::step();
            group.parked.remove(next);
            self.parked.remove(next);
            if exists(Offset(next)) {
                group.head = Some(Offset(next));
                self.heads.insert(Offset(next), hash);
                return group.head;
            }
        }
        self.busy.remove(&hash);
        None
    }

    /// Forgets parked messages that were deleted.
    pub fn forget_parked(&mut self, deleted: OffsetRange) {
        self.parked.remove_range(deleted.start.0..deleted.end.0);
    }

    /// Whether no group is busy.
    pub fn is_at_rest(&self) -> bool {
        self.busy.is_empty()
    }

    /// Whether a message waits behind the head of its group.
    pub fn is_parked(&self, offset: Offset) -> bool {
        self.parked.contains(offset.0)
    }

    /// The heads of busy groups from an offset on.
    pub fn heads_from(&self, from: Offset) -> impl Iterator<Item = Offset> {
        self.heads.range(from..).map(|(head, _)| *head)
    }

    /// The messages that wait behind the heads of their groups.
    pub fn all_parked(&self) -> impl Iterator<Item = Offset> {
        self.parked.iter().map(Offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_in_order_and_others_flow_past() {
        let mut groups = Groups::default();
        assert!(groups.claim(1, Offset(0)));
        assert!(!groups.claim(1, Offset(1)));
        assert!(groups.claim(2, Offset(2)), "another group");
        assert!(!groups.claim(1, Offset(3)));
        assert!(groups.claim(1, Offset(0)), "the head comes again after a failure");
        assert_eq!(groups.done(Offset(1), |_| true), None, "it is no head");
        assert_eq!(groups.done(Offset(0), |_| true), Some(Offset(1)));
        assert!(!groups.claim(1, Offset(4)));
        assert_eq!(groups.done(Offset(1), |it| it != Offset(3)), Some(Offset(4)), "3 was deleted");
        assert_eq!(groups.done(Offset(4), |_| true), None);
        assert!(groups.claim(1, Offset(5)), "the group is free again");
        assert_eq!(groups.done(Offset(2), |_| true), None);
        assert!(groups.heads_from(Offset(0)).eq([Offset(5)]));
        assert!(groups.heads_from(Offset(5)).eq([Offset(5)]));
        assert!(groups.heads_from(Offset(6)).eq([]));
        assert_eq!(groups.done(Offset(5), |_| true), None);
        let is_empty = groups.busy.is_empty() && groups.heads.is_empty();
        assert!(is_empty && groups.parked.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_group_passes_over_deleted_messages_in_slices() {
        let mut groups = Groups::default();
        for hash in [1, 2] {
            assert!(groups.claim(hash, Offset(hash)));
            (1..=100).for_each(|n| assert!(!groups.claim(hash, Offset(10 * n + hash))));
        }
        let exists = |offset| offset == Offset(901) || offset > Offset(2000);
        groups.forget_parked(Offset(11).to(Offset(901)));
        groups.forget_parked(Offset(902).to(Offset(1003)));
        assert!(groups.all_parked().eq([Offset(901)]));
        for head in [1, 2] {
            assert_eq!(groups.done(Offset(head), exists), None);
            assert!(!groups.claim(head, Offset(2000 + head)), "the group is busy");
        }
        let mut heads = Vec::new();
        for _ in 0..10 {
            assert!(groups.is_advancing());
            heads.extend(groups.go_on(&mut 20, exists));
        }
        assert_eq!(heads, [Offset(901), Offset(2002)]);
        assert!(!groups.is_advancing());
        assert_eq!(groups.done(Offset(901), exists), None);
        assert_eq!(groups.go_on(&mut 100, exists), Some(Offset(2001)));
        for head in [2001, 2002] {
            assert_eq!(groups.done(Offset(head), exists), None);
        }
        assert!(groups.is_at_rest() && groups.parked.is_empty() && !groups.is_advancing());
    }

    #[test]
    fn a_million_parked_messages_cost_little() {
        let mut groups = Groups::default();
        assert!(groups.claim(1, Offset(0)));
        for offset in 1..1_000_000 {
            assert!(!groups.claim(1, Offset(offset)));
        }
        let bytes = groups.busy[&1].parked.serialized_size();
        assert!(bytes < 200_000, "{bytes} bytes");
        assert_eq!(groups.done(Offset(0), |_| true), Some(Offset(1)));
    }
}
