//! Message groups: messages with one key are delivered in order and one at a time, while other
//! groups flow past.
//!
//! A group is *busy* from the moment in which its first message, the *head*, is leased until that is
//! done with; a failure does not end it. Messages that are met meanwhile are *parked* behind the
//! head: one bit each, so a group with a million of them costs little, and each is met once in a
//! life. Groups are told apart by a hash: two that share one would share their turns, and nothing
//! else. All of it is state of this life; the log has the order.

use crate::audit;
use std::collections::{HashMap, hash_map::Entry};

use roaring::RoaringTreemap;

use crate::ids::Offset;

#[derive(Debug, Default)]
pub struct Groups {
    busy: HashMap<u64, Group>,
    /// The group of each head.
    heads: HashMap<Offset, u64>,
    /// Whether the messages that wait for another attempt have taken their places.
    pub is_prepared: bool,
}

#[derive(Debug)]
struct Group {
    head: Offset,
    parked: RoaringTreemap,
}

impl Groups {
    /// Whether a message may be delivered: its group is free, or it is the group's head. If not, it is
    /// parked.
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
                }
                is_head
            }
        }
    }

    /// A message is done with. If it was a head, the next one that `is_wanted` becomes the head, and
    /// can be delivered.
    pub fn done(&mut self, offset: Offset, is_wanted: impl Fn(Offset) -> bool) -> Option<Offset> {
        let hash = self.heads.remove(&offset)?;
        let group = self.busy.get_mut(&hash)?;
        while let Some(next) = group.parked.min() {
            audit::step();
            group.parked.remove(next);
            if is_wanted(Offset(next)) {
                group.head = Offset(next);
                self.heads.insert(group.head, hash);
                return Some(group.head);
            }
        }
        self.busy.remove(&hash);
        None
    }

    /// The heads of all busy groups.
    pub fn heads(&self) -> impl Iterator<Item = Offset> {
        self.heads.keys().copied()
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
        assert_eq!(groups.heads().collect::<Vec<_>>(), [Offset(5)]);
        assert_eq!(groups.done(Offset(5), |_| true), None);
        assert!(groups.busy.is_empty() && groups.heads.is_empty(), "nothing is kept");
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
