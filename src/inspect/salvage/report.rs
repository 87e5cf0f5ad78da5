//! The report of a salvage.

use std::{fmt, ops::Range};

use crate::{
    ids::Offset,
    inspect::report::{Amounts, Problem, Ranges},
    store::LogName,
};

/// The report of [`salvage`](crate::salvage): the amounts that it copied, and the losses.
///
/// `Display` prints it as a text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Queues, topics, subscriptions, streams and groups in the new store.
    pub entities: u64,
    /// Messages in the new store.
    pub messages: u64,
    /// The bytes of their payloads, keys and headers.
    pub bytes: u64,
    /// The amounts that were read in the old store.
    pub read: Amounts,
    /// The damage that was found.
    pub problems: Vec<Problem>,
    /// Messages that the old store should hold, and the new store does not.
    pub lost: Vec<Lost>,
    /// Queues, topics and streams whose names were lost, and whatever had a name that a newer one of its kind has: its
    /// deletion was lost. They have new names in the new store.
    pub renamed: Vec<Renamed>,
    /// Subscriptions and groups that were lost, by their numbers in the store. Nothing else is known of them.
    pub lost_consumers: Vec<u64>,
    /// Consumers that may have lost acks, attempts or offsets: they may receive handled messages again.
    pub uncertain: Vec<Consumer>,
    /// Queues, subscriptions, streams and groups whose settings may be older than they were. If their dead letters would have
    /// come back to them, or if the queue for them is gone, they have no dead letters now. Streams among them have no
    /// limits now: older limits might take records that are there.
    pub old_settings: Vec<Consumer>,
    /// Whether queues, topics, subscriptions, streams or groups may be gone that this report cannot name, because
    /// nothing is left of them. Either the metalog lost entries, and gave away numbers that nothing refers to: they
    /// may also belong to what was deleted long ago. Or the journal was damaged where something may have been created.
    pub may_lack_entities: bool,
    /// Whether the store's newest note of the clock may be lost. If the clock of the machine was set, lives and waits of
    /// messages may end earlier or later by as much.
    pub clock_is_uncertain: bool,
}

/// Messages of one log that were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The queue, the topic or the partition of a stream.
    pub log: LogName,
    /// The offsets of the messages. They are not used again: readers skip them, and for consumers they count
    /// as acked.
    pub offsets: Vec<Range<Offset>>,
    /// Whether all these messages existed and were not acked. If `false`, some may have been acked, and some
    /// offsets may never have had a message: the data that tells is lost, too.
    pub is_certain: bool,
}

/// A queue, topic or stream whose name was lost, or anything whose name a newer one has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renamed {
    /// "queue", "topic" or "stream", as in the new store. In the old store it may have been another one.
    pub noun: &'static str,
    /// The name in the new store.
    pub name: String,
    /// The name in the old store, if that is known. A newer one of the same kind has it in the new store.
    pub formerly: Option<String>,
}

/// A row of a [`SalvageReport`]: it names a queue, a subscription or a group.
///
/// It is not a handle, and cannot receive. Open a [`Queue`](crate::Queue),
/// a [`Subscription`](crate::Subscription) or a [`Group`](crate::Group) of that name instead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// "queue", "subscription" or "group".
    pub noun: &'static str,
    /// The name.
    pub name: String,
    /// The topic or the stream that it belongs to.
    pub parent: Option<String>,
}

impl SalvageReport {
    /// Whether the new store holds everything: nothing was lost, and nothing is uncertain.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let (damaged, salvaged) = (dir.path().join("damaged"), dir.path().join("salvaged"));
    /// # posthouse::Engine::open(&damaged)?.queue("payments").create()?.send("charge order 1")?;
    /// let report = posthouse::salvage(&damaged, &salvaged)?;
    /// if !report.is_complete() {
    ///     eprintln!("{report}");
    /// }
    /// # assert!(report.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
            && self.renamed.is_empty()
            && self.lost_consumers.is_empty()
            && self.uncertain.is_empty()
            && self.old_settings.is_empty()
            && !self.may_lack_entities
            && !self.clock_is_uncertain
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
        for Renamed { noun, name, formerly } in &self.renamed {
            match formerly {
                Some(formerly) => writeln!(
                    f,
                    "- renamed: {noun} {name:?}, formerly {formerly:?}, which is the name of a newer one"
                )?,
                None => writeln!(f, "- renamed: {noun} {name:?}, whose own name is lost")?,
            }
        }
        for number in &self.lost_consumers {
            writeln!(f, "- lost: a subscription or group, number {number} in the store")?;
        }
        for consumer in &self.uncertain {
            writeln!(f, "- {consumer}: what it had handled may be delivered again")?;
        }
        for consumer in &self.old_settings {
            let limits = match consumer.noun {
                "stream" => ", and it has no limits now",
                "topic" => "; if it retains messages, it has no limits now",
                _ => "",
            };
            writeln!(f, "- {consumer}: its settings may be old ones{limits}")?;
        }
        if self.may_lack_entities {
            let what = "queues, topics, subscriptions, streams or groups may be gone of which nothing is left";
            writeln!(f, "- {what}")?;
        }
        if self.clock_is_uncertain {
            let what = "a note of how the clock was set may be lost: lives and waits may end earlier or later";
            writeln!(f, "- {what}")?;
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
