//! Which partitions of a stream got records last.

use crate::audit;

/// The partitions of a stream in the order of their last arrivals, newest first. A reader finds those that got records
/// since it looked, and looks at no other. To note an arrival takes constant time.
#[derive(Debug)]
pub struct Recent {
    /// How many arrivals were noted.
    count: u64,
    newest: Option<u32>,
    /// One for each partition. Those that got records form a list that is linked both ways.
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The number of the last arrival. 0 if there was none.
    last: u64,
    newer: Option<u32>,
    older: Option<u32>,
}

impl Recent {
    pub fn new(partitions: u32) -> Recent {
        Recent { count: 0, newest: None, links: vec![Link::default(); partitions as usize] }
    }

    /// How many arrivals were noted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Notes that records came to a partition.
    pub fn note(&mut self, partition: u32) {
        self.count += 1;
        let Link { newer, older, .. } = self.links[partition as usize];
        self.links[partition as usize].last = self.count;
        if self.newest == Some(partition) {
            return;
        }
        if let Some(newer) = newer {
            self.links[newer as usize].older = older;
        }
        if let Some(older) = older {
            self.links[older as usize].newer = newer;
        }
        let link = &mut self.links[partition as usize];
        (link.newer, link.older) = (None, self.newest);
        if let Some(newest) = self.newest.replace(partition) {
            self.links[newest as usize].newer = Some(partition);
        }
    }

    /// The partitions that got records after the first `count` arrivals, newest first.
    pub fn since(&self, count: u64) -> impl Iterator<Item = u32> {
        let mut next = self.newest;
        std::iter::from_fn(move || {
            let partition = next?;
            let Link { last, older, .. } = self.links[partition as usize];
            if last <= count {
                return None;
            }
            audit::step();
            next = older;
            Some(partition)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn partitions_come_in_the_order_of_their_last_arrivals(arrivals in prop::collection::vec(0..6u32, 0..40)) {
            let mut recent = Recent::new(6);
            arrivals.iter().for_each(|it| recent.note(*it));
            prop_assert_eq!(recent.count(), arrivals.len() as u64);
            for seen in 0..=arrivals.len() {
                let mut expected = Vec::new();
                for partition in arrivals[seen..].iter().rev() {
                    if !expected.contains(partition) {
                        expected.push(*partition);
                    }
                }
                prop_assert_eq!(recent.since(seen as u64).collect::<Vec<_>>(), expected);
            }
        }
    }
}
