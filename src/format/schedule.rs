//! A schedule, which is stored as a message in the queue of schedules.
//! `docs/FORMAT.md` has the table under "Schedules".

use serde::{Deserialize, Serialize};

use super::entity::{put_value, take_value};
use crate::{ids::Timestamp, message::Message};

/// The version of the layout. There is no other version.
const VERSION: u8 = 1;

/// How a schedule makes up for missed runs: runs whose time passed while no scheduler was running, or while
/// their message could not be sent.
///
/// [`ScheduleBuilder::missed_runs`](crate::ScheduleBuilder::missed_runs) sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MissedRuns {
    /// One message for all missed runs, as soon as possible. It bears the time of the latest.
    #[default]
    RunOnce,
    /// One message for each missed run, in order, as soon as possible.
    RunAll,
    /// No message. A run is missed when it is more than a minute late.
    Skip,
}

/// The target of a schedule: the queue, topic or stream to which its messages go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Target {
    /// Sent to the queue of this name.
    Queue(String),
    /// Published to the topic of this name.
    Topic(String),
    /// Appended to the stream of this name.
    Stream(String),
}

/// A schedule without its name. The name is the key of the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub cron: String,
    pub time_zone: String,
    pub target: Target,
    pub missed_runs: MissedRuns,
    /// The time of the next run.
    pub next: Timestamp,
    pub template: Template,
}

/// The message that each run sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    /// A header without a name is the subject. It stands before the others.
    pub headers: Vec<(String, Vec<u8>)>,
    pub time_to_live_ms: Option<u64>,
    pub priority: u8,
}

/// The reason why bytes are no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// The bytes have a version that this build does not know.
    Version(u8),
    Malformed,
}

impl Template {
    /// The headers of a message, and its subject.
    pub fn headers_of(message: &Message<'_>) -> Vec<(String, Vec<u8>)> {
        let subject = message.subject_set().map(|subject| ("", subject.as_bytes()));
        let all = subject.into_iter().chain(message.headers());
        all.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    /// The headers that the application has set.
    pub fn own_headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.headers.iter().map(|(name, value)| (&**name, &**value));
        all.filter(|(name, _)| !name.is_empty())
    }

    /// The subject.
    pub fn subject(&self) -> Option<&str> {
        let (name, value) = self.headers.first()?;
        name.is_empty().then(|| std::str::from_utf8(value).ok())?
    }
}

impl Plan {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_value(&mut out, self);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Plan, NoPlan> {
        match bytes {
            [VERSION, rest @ ..] => take_value(rest).map_err(|_| NoPlan::Malformed),
            [other, ..] => Err(NoPlan::Version(*other)),
            [] => Err(NoPlan::Malformed),
        }
    }
}
