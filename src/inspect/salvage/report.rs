//! The report of a salvage.

use std::{fmt, ops::Range};

use crate::{
    ids::Offset,
    inspect::report::{Amounts, Problem, Ranges},
    store::LogName,
};

/// What [`salvage`](crate::salvage) has copied, and what was lost.
///
/// Printed, it is a text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Queues, topics, subscriptions, streams and groups in the new store.
    pub entities: u64,
    /// Messages in the new store.
    pub messages: u64,
    /// The bytes of their payloads, keys and headers.
    pub bytes: u64,
    /// What was read of the old store to find them.
    pub read: Amounts,
    /// The damage that was found.
    pub problems: Vec<Problem>,
    /// Messages that are not in the new store, and were wanted in the old one.
    pub lost: Vec<Lost>,
    /// What is in the new store under a name that was made up, as its own is lost.
    pub renamed: Vec<Renamed>,
    /// Subscriptions and groups of which nothing is left but the number in the store.
    pub lost_consumers: Vec<u64>,
    /// Consumers of which acks, attempts or offsets may be lost: what they had handled may be
    /// delivered again.
    pub uncertain: Vec<Consumer>,
}

/// Messages of one log that were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Whose messages.
    pub log: LogName,
    /// Their offsets. They stay free for good: readers skip them, and for consumers they count as
    /// acked.
    pub offsets: Vec<Range<Offset>>,
    /// Whether all of them were there, and wanted. If not, some may have been acked, or never
    /// have been given to a message: what says so is lost too.
    pub is_certain: bool,
}

/// Something whose name was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renamed {
    /// What it is in the new store: "queue", "topic" or "stream". What it was may be a guess.
    pub noun: &'static str,
    /// Its name there.
    pub name: String,
}

/// A queue as its own consumer, a subscription, or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// "queue", "subscription" or "group".
    pub noun: &'static str,
    /// Its name.
    pub name: String,
    /// The topic or the stream that it belongs to.
    pub parent: Option<String>,
}

impl SalvageReport {
    /// Whether nothing was lost, and nothing is uncertain.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
            && self.renamed.is_empty()
            && self.lost_consumers.is_empty()
            && self.uncertain.is_empty()
    }
}

impl fmt::Display for SalvageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "read {}", self.read)?;
        let SalvageReport { entities, messages, bytes, .. } = self;
        writeln!(f, "copied {messages} messages ({bytes} bytes) of {entities} entities")?;
        if self.is_complete() {
            writeln!(f, "nothing was lost")?;
        }
        for lost in &self.lost {
            writeln!(f, "- {lost}")?;
        }
        for Renamed { noun, name } in &self.renamed {
            writeln!(f, "- renamed: {noun} {name:?}, whose own name is lost")?;
        }
        for number in &self.lost_consumers {
            writeln!(f, "- lost: a subscription or group, number {number} in the store")?;
        }
        for consumer in &self.uncertain {
            writeln!(f, "- {consumer}: what it had handled may be delivered again")?;
        }
        for problem in &self.problems {
            writeln!(f, "damage: {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost: {}: {}", self.log, Ranges(&self.offsets))?;
        if !self.is_certain {
            f.write_str(" (at most: some may have been acked, or never sent)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.noun, self.name)?;
        if let Some(parent) = &self.parent {
            write!(f, " of {parent:?}")?;
        }
        Ok(())
    }
}
