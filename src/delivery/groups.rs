//! Order by key: messages with one key form a group, and are delivered in order and one at a time. Groups do
//! not wait for each other.
//!
//! A group is *busy* from the lease of its first message, the *head*, until the head is settled for good. A
//! failure of the head does not end that. Messages of a busy group are *parked* behind the head. A parked
//! message costs one bit, so a group of a million messages costs little, and each message is parked once.
//! A hash tells groups apart: two keys with the same hash are one group, which costs speed but not order.
//! This state is in memory only; the log has the order.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use roaring::RoaringTreemap;

use crate::{audit, ids::Offset};

#[derive(Debug, Default)]
pub struct Groups {
    busy: HashMap<u64, Group>,
    /// The group of each head.
    heads: BTreeMap<Offset, u64>,
    /// The parked messages of all groups.
    parked: RoaringTreemap,
    /// Whether the messages that wait for another attempt are heads already.
    pub is_prepared: bool,
}

#[derive(Debug)]
struct Group {
    head: Offset,
    parked: RoaringTreemap,
}

impl Groups {
    /// Makes a message the head of its group, if the group is not busy. Returns whether the message is the
    /// head, and may be delivered. If not, it is parked.
    pub fn claim(&mut self, hash: u64, offset: Offset) -> bool {
        match self.busy.entry(hash) {
            Entry::Vacant(free) => {
                free.insert(Group { head: offset, parked: RoaringTreemap::new() });
                self.heads.insert(offset, hash);
                true
            }
            Entry::Occupied(mut busy) => {
                let is_head = busy.get().head == offset;
                if !is_head {
                    busy.get_mut().parked.insert(offset.0);
                    self.parked.insert(offset.0);
                }
                is_head
            }
        }
    }

    /// Ends a message: it was acked, deleted or moved. If it was a head, the next parked message that
    /// still `exists` becomes the head. Returns that message, which can be delivered.
    pub fn done(&mut self, offset: Offset, exists: impl Fn(Offset) -> bool) -> Option<Offset> {
        let hash = self.heads.remove(&offset)?;
        let group = self.busy.get_mut(&hash)?;
        while let Some(next) = group.parked.min() {
            audit::step();
            group.parked.remove(next);
            self.parked.remove(next);
            if exists(Offset(next)) {
                group.head = Offset(next);
                self.heads.insert(group.head, hash);
                return Some(group.head);
            }
        }
        self.busy.remove(&hash);
        None
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
