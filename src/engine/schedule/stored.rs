//! The stored form of a schedule.

use std::{fmt, time::Duration};

use crate::{
    config::NAME_BYTES_MAX,
    error::{Error, ErrorKind, Result},
    format::schedule::{MissedRuns, NoPlan, Plan, Target, Template},
    ids::{Due, Timestamp},
    message::Message,
    schedule::{Rhythm, text},
};

/// The next run of a schedule that has ended.
pub const NEVER: Timestamp = Timestamp(u64::MAX);

/// The queue of schedules.
pub const REGISTRY: &str = "posthouse.schedules";

/// A recurring schedule, as the store held it at the time of the call.
///
/// [`ScheduleBuilder::create`], [`ScheduleBuilder::open`] and [`Engine::schedules`] return it. It does
/// not change when the schedule runs.
///
/// [`ScheduleBuilder::create`]: crate::ScheduleBuilder::create
/// [`ScheduleBuilder::open`]: crate::ScheduleBuilder::open
/// [`Engine::schedules`]: crate::Engine::schedules
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    pub(super) name: String,
    pub(super) plan: Plan,
    pub(super) attempts: u32,
}

impl Schedule {
    /// The header of each sent message that holds the name of the schedule.
    pub const NAME_HEADER: &'static str = "schedule";

    /// The header of each sent message that holds the time of the run, in RFC 3339 and UTC, such as
    /// `2026-11-25T03:00:00Z`. Name and time together identify a run: a handler that stores the last time of
    /// each schedule handles no run twice.
    pub const TIME_HEADER: &'static str = "scheduled-for";

    pub(crate) fn read(key: Option<&[u8]>, payload: &[u8], attempts: u32) -> Result<Schedule> {
        let name = name_of(key).ok_or_else(|| no_schedule(NoPlan::Malformed))?;
        let plan = Plan::decode(payload).map_err(no_schedule)?;
        Ok(Schedule { name: name.to_owned(), plan, attempts })
    }

    /// The name of the schedule.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cron expression.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.plan.cron
    }

    /// The name of the time zone of the expression.
    #[must_use]
    pub fn time_zone(&self) -> &str {
        &self.plan.time_zone
    }

    /// How missed runs are made up for.
    #[must_use]
    pub fn missed_runs(&self) -> MissedRuns {
        self.plan.missed_runs
    }

    /// The queue, topic or stream to which the messages go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.plan.target
    }

    /// The time of the next run. It is in the past if no scheduler is running, or if the run has failed and is
    /// tried again. If the schedule [has ended](Schedule::has_ended), it is `Timestamp(u64::MAX)`.
    #[must_use]
    pub fn next_run(&self) -> Timestamp {
        self.plan.next
    }

    /// Whether the schedule has ended: its expression has no time to come, such as one with years that are over.
    /// An ended schedule stays in the store until it is replaced or deleted.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Options, Timestamp, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.set_now(Timestamp(1_700_000_000_000)); // in November 2023
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let reports = engine.queue("reports").create()?;
    /// let last = engine.schedule("last").cron("0 0 0 31 12 * 2023").to_queue(&reports, "report");
    /// assert!(!last.create()?.has_ended());
    /// disk.advance(Duration::from_secs(60 * 24 * 3600));
    /// engine.scheduler().run_due()?;
    /// assert!(engine.schedule("last").open()?.has_ended());
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.plan.next == NEVER
    }

    /// How often the next run has failed. A run fails if its target does not exist or is full.
    #[must_use]
    pub fn failed_attempts(&self) -> u32 {
        self.attempts
    }

    /// The message that each run sends, without the headers that the run adds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// assert_eq!(engine.schedule("hourly").open()?.message().payload(), b"report");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        let template = &self.plan.template;
        let Template { payload, key, time_to_live_ms, priority, .. } = template;
        let message = Message::borrowed(payload, key.as_deref(), template.own_headers())
            .with_subject(template.subject())
            .priority(*priority);
        match time_to_live_ms {
            Some(ms) => message.expire_after(Duration::from_millis(*ms)),
            None => message,
        }
    }

    pub(crate) fn rhythm(&self) -> Result<Rhythm> {
        Rhythm::parse(&self.plan.cron, &self.plan.time_zone)
    }

    /// The message of a run.
    pub(crate) fn message_of(&self, run: Timestamp) -> Result<Message<'_>> {
        let message = self.message().header(Schedule::NAME_HEADER, &*self.name);
        Ok(message.header(Schedule::TIME_HEADER, text(run)?))
    }

    /// The message that is the schedule, to be delivered when its next run is due.
    pub(crate) fn stored(&self) -> Message<'static> {
        Message::new(self.plan.encode())
            .key(self.name.clone().into_bytes())
            .deliver_when(Due::day(self.plan.next))
    }

    /// The schedule after a run, with its next time.
    pub(crate) fn going_on(&self, next: Timestamp) -> Schedule {
        let plan = Plan { next, ..self.plan.clone() };
        Schedule { name: self.name.clone(), plan, attempts: 0 }
    }

    /// Whether both say the same, whenever they run next.
    pub(super) fn is_same(&self, other: &Schedule) -> bool {
        let plan = Plan { next: other.plan.next, ..self.plan.clone() };
        plan == other.plan
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name())
            .field("cron", &self.cron())
            .field("time_zone", &self.time_zone())
            .field("target", self.target())
            .field("next_run", &self.next_run())
            .finish_non_exhaustive()
    }
}

/// The name of a schedule from a message's key. `None` if the key is not a valid name.
pub fn name_of(key: Option<&[u8]>) -> Option<&str> {
    let name = std::str::from_utf8(key?).ok()?;
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

/// The error for a message in the queue of schedules that is not a schedule.
pub fn no_schedule(why: NoPlan) -> Error {
    match why {
        NoPlan::Version(version) => {
            let what = format!("a schedule of version {version}, which this build does not know");
            Error::new(ErrorKind::UnsupportedVersion, what)
        }
        NoPlan::Malformed => {
            let what = format!("a message in the queue {REGISTRY:?} is no schedule; remove it");
            Error::invalid("schedule", what)
        }
    }
}
