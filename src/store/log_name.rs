//! The names of logs, for people.

use std::fmt;

/// The name of a log, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogName {
    /// A queue, by its name.
    Queue(String),
    /// A topic, by its name.
    Topic(String),
    /// A partition of a stream.
    Partition {
        /// The stream's name.
        stream: String,
        /// The partition's number.
        partition: u32,
    },
    /// The delay index of the queue with this name: it holds the times at which delayed messages
    /// are due.
    DelayIndex(String),
    /// A log whose name is lost.
    Unknown {
        /// Its number in the store.
        log: u64,
    },
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogName::Queue(name) => write!(f, "queue {name:?}"),
            LogName::Topic(name) => write!(f, "topic {name:?}"),
            LogName::Partition { stream, partition } => {
                write!(f, "stream {stream:?}, partition {partition}")
            }
            LogName::DelayIndex(queue) => write!(f, "the delay index of queue {queue:?}"),
            LogName::Unknown { log } => write!(f, "log {log}, whose name is lost"),
        }
    }
}
