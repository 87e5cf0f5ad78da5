//! Compares a salvaged store with the original.

use std::{collections::BTreeMap, ops::Range};

use posthouse::{LogName, SalvageReport};

use super::sample::History;
use crate::model::state::{Entry, PartitionState, State, Unacked};

pub fn ranges(report: &SalvageReport, log: &LogName, certain: bool) -> Vec<Range<u64>> {
    let of = report.lost.iter().filter(|lost| lost.log == *log && (lost.is_certain || !certain));
    of.flat_map(|lost| &lost.offsets).map(|it| it.start.0..it.end.0).collect()
}

pub fn within(ranges: &[Range<u64>], offset: u64) -> bool {
    ranges.iter().any(|range| range.contains(&offset))
}

/// Compares the salvaged store with the original.
pub struct Comparison<'a> {
    pub history: &'a History,
    pub report: &'a SalvageReport,
    /// Whether the metalog was not damaged, and holds all names.
    pub names_are_in_metalog: bool,
}

impl Comparison<'_> {
    fn is_uncertain(&self, noun: &str, name: &str, parent: Option<&str>) -> bool {
        self.report
            .uncertain
            .iter()
            .any(|it| (it.noun, it.name.as_str(), it.parent.as_deref()) == (noun, name, parent))
    }

    fn consumer(&self, log: &LogName, key: &str, was: &Unacked, is: &Unacked, uncertain: bool) {
        let (lost, certain) = (ranges(self.report, log, false), ranges(self.report, log, true));
        for (offset, Entry { msg, attempts, waits, .. }) in is {
            assert!(!within(&lost, *offset), "{log} {offset} is there and reported lost");
            assert_eq!(self.history.get(&(key.to_owned(), *offset)), Some(msg), "{log} {offset}");
            match was.get(offset) {
                Some(before) => {
                    let same = (*attempts, *waits) == (before.attempts, before.waits);
                    assert!(same || uncertain, "{log} {offset}");
                }
                None => assert!(uncertain, "{log} {offset} was acked, and is back"),
            }
        }
        for offset in was.keys().filter(|offset| !is.contains_key(offset)) {
            assert!(within(&lost, *offset), "{log} {offset} is lost, and no report says so");
        }
        assert!(certain.iter().all(|it| it.end < 1 << 40));
    }

    pub fn all(&self, was: &State, is: &State) {
        // A name may be gone that nothing else refers to. Then the report cannot name what was there.
        let excused = (self.report.may_lack_entities && !self.names_are_in_metalog)
            || !self.report.renamed.is_empty()
            || !self.report.lost_consumers.is_empty();
        let mut certain = BTreeMap::new();
        for (name, was) in &was.queues {
            let Some(is) = is.queues.get(name) else {
                assert!(excused, "queue {name} is gone");
                continue;
            };
            let log = LogName::Queue(name.clone());
            let uncertain = self.is_uncertain("queue", name, None);
            self.consumer(&log, &format!("queue {name}"), &was.unacked, &is.unacked, uncertain);
            assert!(is.next >= was.next, "an offset of queue {name} comes back");
            certain.insert(log, was.unacked.keys().copied().collect::<Vec<_>>());
        }
        for (name, was) in &was.topics {
            let Some(is) = is.topics.get(name) else {
                assert!(excused, "topic {name} is gone");
                continue;
            };
            let (log, key) = (LogName::Topic(name.clone()), format!("topic {name}"));
            for (subscription, was) in &was.subscriptions {
                let uncertain = self.is_uncertain("subscription", subscription, Some(name));
                match is.subscriptions.get(subscription) {
                    Some(is) => {
                        self.consumer(&log, &key, &was.unacked, &is.unacked, uncertain);
                    }
                    None => assert!(excused, "subscription {subscription} is gone"),
                }
            }
            assert!(is.next >= was.next, "an offset of topic {name} comes back");
            let unacked = was.subscriptions.values().flat_map(|it| it.unacked.keys().copied());
            certain.insert(log, unacked.collect());
        }
        for (name, was) in &was.streams {
            let Some(is) = is.streams.get(name) else {
                assert!(excused, "stream {name} is gone");
                continue;
            };
            for (n, was) in was.partitions.iter().enumerate() {
                let log = LogName::Partition { stream: name.clone(), partition: n as u32 };
                self.partition(&log, &format!("stream {name} {n}"), was, &is.partitions[n]);
                certain.insert(log, was.records.keys().copied().collect());
            }
            for (group, was) in &was.groups {
                let uncertain = self.is_uncertain("group", group, Some(name));
                match is.groups.get(group) {
                    Some(is) => assert!(was == is || uncertain, "group {group}"),
                    None => assert!(excused, "group {group} is gone"),
                }
            }
        }
        // A message that is certainly lost was certainly there.
        for (log, offsets) in &certain {
            for lost in ranges(self.report, log, true) {
                for offset in lost {
                    assert!(offsets.contains(&offset), "{log} {offset} was never there");
                }
            }
        }
    }

    fn partition(&self, log: &LogName, key: &str, was: &PartitionState, is: &PartitionState) {
        let lost = ranges(self.report, log, false);
        for (offset, msg) in &is.records {
            assert!(!within(&lost, *offset), "{log} {offset} is there and reported lost");
            assert_eq!(self.history.get(&(key.to_owned(), *offset)), Some(msg), "{log} {offset}");
            assert!(was.records.contains_key(offset) || *offset < was.start, "{log} {offset}");
        }
        for offset in was.records.keys().filter(|offset| !is.records.contains_key(offset)) {
            assert!(within(&lost, *offset), "{log} {offset} is lost, and no report says so");
        }
        assert!(is.next >= was.next, "an offset of {log} comes back");
        assert!(is.start <= was.start);
    }
}
