//! The known schedules: which messages of the queue hold which names, up to the offset that was read.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::Error,
    ids::{LogId, Offset},
};

/// The offsets of the messages of each name. Of several messages with one name the newest counts.
#[derive(Debug, Default)]
pub struct KnownSchedules {
    log: Option<LogId>,
    /// Messages before this offset were looked at.
    next: Offset,
    by_name: BTreeMap<String, BTreeSet<Offset>>,
    /// The messages that cannot be read. They may have any name.
    damaged: BTreeMap<Offset, Error>,
}

/// What was found in a part of the queue.
#[derive(Debug)]
pub struct Looked {
    pub named: Vec<(String, Offset)>,
    pub damaged: Vec<(Offset, Error)>,
    /// All messages before this offset were looked at.
    pub next: Offset,
}

impl KnownSchedules {
    /// Begins to look on in a log: nothing is found yet. All is forgotten if it is another log than before.
    pub fn begin(&mut self, log: LogId) -> Looked {
        if self.log != Some(log) {
            *self = KnownSchedules { log: Some(log), ..KnownSchedules::default() };
        }
        Looked { named: Vec::new(), damaged: Vec::new(), next: self.next }
    }

    /// Adds what was found. What another thread has found meanwhile stays.
    pub fn add(&mut self, log: LogId, looked: Looked) {
        if self.log != Some(log) {
            // The queue was deleted meanwhile.
            return;
        }
        self.next = self.next.max(looked.next);
        self.damaged.extend(looked.damaged);
        for (name, offset) in looked.named {
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

    /// The error of the first damaged message that is still there.
    pub fn damage(&mut self, is_gone: impl Fn(Offset) -> bool) -> Option<Error> {
        while let Some(first) = self.damaged.first_entry() {
            if !is_gone(*first.key()) {
                return Some(first.get().again());
            }
            first.remove();
        }
        None
    }
}
