//! When the lives of messages begin and end, as far as the messages say it themselves. `docs/FORMAT.md` has the table
//! under "Metalog files".
//!
//! The time to live of a queue or a subscription is a setting, so it is not in here: a message's life is over at
//! its own end, or that long after it has begun, whichever comes first.

use serde::{Deserialize, Serialize};

use super::{
    note::TimeToLive,
    record::{Headers, RecordParts},
    run::Run,
};
use crate::ids::Timestamp;

/// The earliest begin and the earliest end of the lives of some messages, in even time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lives {
    /// The earliest begin.
    pub begin: Timestamp,
    /// The earliest end, of the messages that have a time to live of their own. `None` if no message has.
    pub end: Option<Timestamp>,
}

impl Lives {
    /// The lives of no message.
    pub const NONE: Lives = Lives { begin: Timestamp(u64::MAX), end: None };

    /// Lives of which nothing is known: each of them may be over.
    pub const UNKNOWN: Lives = Lives { begin: Timestamp(0), end: Some(Timestamp(0)) };

    /// The life of a message with this timestamp and these encoded headers.
    #[inline]
    pub fn of(timestamp: Timestamp, headers: &[u8]) -> Lives {
        // A note is the first header, and its name is empty.
        if headers.first() == Some(&0) {
            return Lives::noted(timestamp, headers);
        }
        Lives { begin: timestamp, end: None }
    }

    /// The life of a message that bears a note. A note that cannot be read says nothing.
    #[cold]
    fn noted(timestamp: Timestamp, headers: &[u8]) -> Lives {
        let TimeToLive { from, ms } = TimeToLive::of(Headers::new(headers)).unwrap_or_default();
        let begin = from.unwrap_or(timestamp);
        Lives { begin, end: ms.map(|ms| Timestamp(begin.0.saturating_add(ms))) }
    }

    /// The lives of the messages of a run. Messages that cannot be read have none.
    #[inline]
    pub fn of_run(run: &Run<'_>) -> Lives {
        let mut lives = Lives::NONE;
        for (_, spans) in run.records().map_while(Result::ok) {
            lives.add(Lives::of(spans.timestamp, spans.headers(run.body)));
        }
        lives
    }

    /// The life of a record that is stored.
    pub fn of_record(record: &RecordParts<'_>) -> Lives {
        Lives::of(record.timestamp, record.encoded_headers())
    }

    /// Adds the lives of other messages.
    #[inline]
    pub fn add(&mut self, other: Lives) {
        self.begin = self.begin.min(other.begin);
        self.end = match (self.end, other.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Whether these lives begin and end no later than others.
    pub fn covers(self, others: Lives) -> bool {
        let mut both = self;
        both.add(others);
        both == self
    }

    /// The time before which none of these lives is over, for a queue or a subscription with this time to live (0: for
    /// ever). `None` if none ends.
    #[inline]
    pub fn earliest_end(self, time_to_live_ms: u64) -> Option<Timestamp> {
        if time_to_live_ms == 0 || self.begin == Lives::NONE.begin {
            return self.end;
        }
        let by_rule = Timestamp(self.begin.0.saturating_add(time_to_live_ms));
        Some(self.end.map_or(by_rule, |own| own.min(by_rule)))
    }
}
