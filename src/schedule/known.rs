//! The known schedules: which messages of the queue hold which names, up to the offset that was read.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{LogId, Offset};

/// The offsets of the messages of each name. Of several messages with one name the newest counts.
#[derive(Debug, Default)]
pub struct KnownSchedules {
    log: Option<LogId>,
    /// Messages before this offset were looked at.
    next: Offset,
    by_name: BTreeMap<String, BTreeSet<Offset>>,
}

impl KnownSchedules {
    /// Where to go on looking in a log. All is forgotten if it is another log than before.
    pub fn begin(&mut self, log: LogId) -> Offset {
        if self.log != Some(log) {
            *self = KnownSchedules { log: Some(log), ..KnownSchedules::default() };
        }
        self.next
    }

    /// Adds the names of messages. All messages before `next` were looked at. What another thread has found meanwhile stays.
    pub fn add(&mut self, log: LogId, named: Vec<(String, Offset)>, next: Offset) {
        if self.log != Some(log) {
            // The queue was deleted meanwhile.
            return;
        }
        self.next = self.next.max(next);
        for (name, offset) in named {
            self.by_name.entry(name).or_default().insert(offset);
        }
    }

    /// The messages that have a name, the newest last. Those that are gone are forgotten.
    pub fn those_named(&mut self, name: &str, is_gone: impl Fn(Offset) -> bool) -> Vec<Offset> {
        let Some(offsets) = self.by_name.get_mut(name) else { return Vec::new() };
        offsets.retain(|offset| !is_gone(*offset));
        let there = offsets.iter().copied().collect();
        if offsets.is_empty() {
            self.by_name.remove(name);
        }
        there
    }
}
