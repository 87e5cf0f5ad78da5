//! The builder of a schedule.

use super::{
    registry::{Registry, now},
    stored::Schedule,
    target::{Aim, check_size, template},
};
use crate::{
    config::check_name,
    engine::{commit::lifetime::Engine, queue::Queue, stream::Stream, topic::Topic},
    error::{Error, ErrorKind, Result},
    format::schedule::{MissedRuns, Plan},
    message::Message,
    schedule::Rhythm,
};

/// Whether a schedule that is there already will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfThere {
    Open,
    Fail,
    Replace,
}

/// A recurring schedule by its name: to be created, replaced, opened or deleted. [`Engine::schedule`]
/// returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, replaced, opened or deleted"]
pub struct ScheduleBuilder {
    engine: Engine,
    name: String,
    cron: Option<String>,
    time_zone: Option<String>,
    missed_runs: Option<MissedRuns>,
    aim: Option<(Aim, Message<'static>)>,
}

impl ScheduleBuilder {
    /// Sets the cron expression: the times at which the schedule runs.
    ///
    /// The five fields are minute, hour, day of month, month and day of week, as in `crontab`. Six fields begin
    /// with the second. Seven fields end with the year. `L`, `W`, `#` and names such as `@daily` are allowed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// let hourly = engine.schedule("hourly").cron("0 * * * *").to_queue(&reports, "report").create()?;
    /// assert_eq!(hourly.next_run().0 % 3_600_000, 0);
    ///
    /// let bad = engine.schedule("bad").cron("61 * * * *").to_queue(&reports, "report").create();
    /// assert!(bad.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cron(mut self, expression: &str) -> ScheduleBuilder {
        self.cron = Some(expression.to_owned());
        self
    }

    /// Sets the time zone of the expression by its name in the time zone database, such as `Europe/Berlin`. The
    /// default is `UTC`.
    ///
    /// When clocks are put forward, a run in the gap is made at the end of the gap. When clocks are put back, a
    /// run is made once, at the first of the two times. Both hold for expressions that name one time of day.
    /// Expressions with `*`, lists, ranges or steps follow the clock: times in the gap are left out, and times
    /// that come twice run twice.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// let nightly = engine
    ///     .schedule("nightly")
    ///     .cron("0 3 * * *")
    ///     .time_zone("Europe/Berlin")
    ///     .to_queue(&reports, "report")
    ///     .create()?;
    /// assert_eq!(nightly.time_zone(), "Europe/Berlin");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn time_zone(mut self, name: &str) -> ScheduleBuilder {
        self.time_zone = Some(name.to_owned());
        self
    }

    /// Sets how missed runs are made up for: [`MissedRuns::RunOnce`] by default.
    ///
    /// ```
    /// use posthouse::MissedRuns;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// let hourly = engine
    ///     .schedule("hourly")
    ///     .cron("@hourly")
    ///     .missed_runs(MissedRuns::Skip)
    ///     .to_queue(&reports, "report")
    ///     .create()?;
    /// assert_eq!(hourly.missed_runs(), MissedRuns::Skip);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn missed_runs(mut self, missed: MissedRuns) -> ScheduleBuilder {
        self.missed_runs = Some(missed);
        self
    }

    /// Sends a message to a queue at each run.
    ///
    /// The message has two more headers: [`Schedule::NAME_HEADER`] and [`Schedule::TIME_HEADER`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::{Message, Target};
    ///
    /// let reports = engine.queue("reports").create()?;
    /// let message = Message::new("report").key("hourly");
    /// let hourly = engine.schedule("hourly").cron("@hourly").to_queue(&reports, message).create()?;
    /// assert_eq!(*hourly.target(), Target::Queue("reports".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_queue<'m>(self, queue: &Queue, message: impl Into<Message<'m>>) -> ScheduleBuilder {
        self.aimed(Aim::Queue(queue.clone()), message.into())
    }

    /// Publishes a message to a topic at each run. See also [`to_queue`](Self::to_queue).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::Target;
    ///
    /// let ticks = engine.topic("ticks").create()?;
    /// let hourly = engine.schedule("hourly").cron("@hourly").to_topic(&ticks, "tick").create()?;
    /// assert_eq!(*hourly.target(), Target::Topic("ticks".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_topic<'m>(self, topic: &Topic, message: impl Into<Message<'m>>) -> ScheduleBuilder {
        self.aimed(Aim::Topic(topic.clone()), message.into())
    }

    /// Appends a record to a stream at each run. See also [`to_queue`](Self::to_queue).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::Target;
    ///
    /// let audit = engine.stream("audit").create()?;
    /// let hourly = engine.schedule("hourly").cron("@hourly").to_stream(&audit, "tick").create()?;
    /// assert_eq!(*hourly.target(), Target::Stream("audit".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_stream<'m>(
        self,
        stream: &Stream,
        message: impl Into<Message<'m>>,
    ) -> ScheduleBuilder {
        self.aimed(Aim::Stream(stream.clone()), message.into())
    }

    fn aimed(mut self, aim: Aim, message: Message<'_>) -> ScheduleBuilder {
        self.aim = Some((aim, message.into_owned()));
        self
    }

    /// Creates the schedule, or opens it if it exists. It is durable when the call returns.
    ///
    /// An existing schedule must have the same expression, target and message, and the same other settings as
    /// far as they are given here. It keeps its next run. See also [`replace`](Self::replace).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::ErrorKind;
    ///
    /// let reports = engine.queue("reports").create()?;
    /// let hourly = engine.schedule("report").cron("@hourly").to_queue(&reports, "report");
    /// assert_eq!(hourly.create()?, hourly.create()?);
    ///
    /// let daily = engine.schedule("report").cron("@daily").to_queue(&reports, "report");
    /// assert_eq!(daily.create().unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput), with the name of the field: if the name does not have 1 to
    ///   255 bytes; if the expression is missing or malformed, or never runs; if the system does not know the
    ///   time zone; if the target is missing, or of another engine; if the message has a delay, a timestamp, or
    ///   a header with a name that schedules use.
    /// - [`TooLarge`](ErrorKind::TooLarge) if schedule and message do not fit into one commit.
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists) if another schedule has the name.
    /// - The errors of [`send`](Queue::send), if the commit fails.
    ///
    /// After an error nothing is changed.
    pub fn create(&self) -> Result<Schedule> {
        self.make(IfThere::Open)
    }

    /// Creates the schedule. It must not exist.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::ErrorKind;
    ///
    /// let reports = engine.queue("reports").create()?;
    /// let hourly = engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report");
    /// hourly.create_new()?;
    /// assert_eq!(hourly.create_new().unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`create`](Self::create); [`AlreadyExists`](ErrorKind::AlreadyExists) if any schedule
    /// has the name.
    pub fn create_new(&self) -> Result<Schedule> {
        self.make(IfThere::Fail)
    }

    /// Creates the schedule in the place of an existing one of that name, if there is one.
    ///
    /// One commit ends the old schedule and begins the new one. The next run is the first time of the new
    /// expression after now.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("report").cron("@hourly").to_queue(&reports, "report").create()?;
    /// engine.schedule("report").cron("@daily").to_queue(&reports, "report").replace()?;
    /// assert_eq!(engine.schedule("report").open()?.cron(), "@daily");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`create`](Self::create), except [`AlreadyExists`](ErrorKind::AlreadyExists) for the
    /// name.
    pub fn replace(&self) -> Result<Schedule> {
        self.make(IfThere::Replace)
    }

    /// Reads the schedule. It must exist. The settings of the builder are ignored.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use posthouse::ErrorKind;
    ///
    /// let missing = engine.schedule("hourly").open();
    /// assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    ///
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// assert_eq!(engine.schedule("hourly").open()?.cron(), "@hourly");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if it does not exist;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range;
    /// [`Corrupt`](ErrorKind::Corrupt) if any schedule is damaged, because it may be this one.
    pub fn open(&self) -> Result<Schedule> {
        check_name("schedule", &self.name)?;
        let registry = Registry::open(&self.engine)?.ok_or_else(|| self.not_found())?;
        registry.find(&self.name)?.newest.ok_or_else(|| self.not_found())
    }

    /// Deletes the schedule. Messages that it has sent stay.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// engine.schedule("hourly").delete()?;
    /// assert!(engine.schedules()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`open`](Self::open), and the errors of [`send`](Queue::send) if the commit fails.
    pub fn delete(&self) -> Result<()> {
        check_name("schedule", &self.name)?;
        let registry = Registry::open(&self.engine)?.ok_or_else(|| self.not_found())?;
        loop {
            let found = registry.find(&self.name)?;
            if found.newest.is_none() {
                return Err(self.not_found());
            }
            if registry.put(&found, None)? {
                return Ok(());
            }
        }
    }

    fn not_found(&self) -> Error {
        let what = format!("there is no schedule named {:?}", self.name);
        Error::new(ErrorKind::NotFound, what)
    }

    fn make(&self, if_there: IfThere) -> Result<Schedule> {
        let wanted = self.wanted()?;
        loop {
            match self.keep(&wanted, if_there) {
                // The queue of schedules was deleted meanwhile. If the engine is closed, that is the error.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                kept => return kept,
            }
        }
    }

    fn keep(&self, wanted: &Schedule, if_there: IfThere) -> Result<Schedule> {
        let registry = Registry::create(&self.engine)?;
        loop {
            let found = registry.find(&self.name)?;
            if let (Some(there), true) = (&found.newest, if_there != IfThere::Replace) {
                if if_there == IfThere::Open && self.suits(wanted, there) {
                    return Ok(there.clone());
                }
                let how = if if_there == IfThere::Open { ", and it is another one" } else { "" };
                let what = format!("there is a schedule named {:?} already{how}", self.name);
                return Err(Error::new(ErrorKind::AlreadyExists, what));
            }
            if registry.put(&found, Some(&wanted.stored()))? {
                return Ok(wanted.clone());
            }
        }
    }

    fn suits(&self, wanted: &Schedule, there: &Schedule) -> bool {
        let mut wanted = wanted.clone();
        if self.time_zone.is_none() {
            wanted.plan.time_zone.clone_from(&there.plan.time_zone);
        }
        if self.missed_runs.is_none() {
            wanted.plan.missed_runs = there.plan.missed_runs;
        }
        wanted.is_same(there)
    }

    /// The schedule, checked, with the time of its first run.
    fn wanted(&self) -> Result<Schedule> {
        check_name("schedule", &self.name)?;
        let Some(cron) = &self.cron else {
            return Err(Error::invalid("cron", "a schedule without a cron expression"));
        };
        let rhythm = Rhythm::parse(cron, self.time_zone.as_deref().unwrap_or("UTC"))?;
        let Some((aim, message)) = &self.aim else {
            let what = "a schedule without a target; give it to_queue, to_topic or to_stream";
            return Err(Error::invalid("target", what));
        };
        aim.admit(&self.engine, message)?;
        let template = template(message)?;
        let now = now(&self.engine);
        let Some(next) = rhythm.next(now)? else {
            let what = format!("{cron:?} has no time to come: it would never run");
            return Err(Error::invalid("cron", what));
        };
        let plan = Plan {
            cron: cron.clone(),
            time_zone: rhythm.time_zone().to_owned(),
            target: aim.target(),
            missed_runs: self.missed_runs.unwrap_or_default(),
            next,
            template,
        };
        let schedule = Schedule { name: self.name.clone(), plan, attempts: 0 };
        check_size(&self.engine, &schedule)?;
        aim.admit_size(&schedule.message_of(next)?)?;
        Ok(schedule)
    }
}

impl Engine {
    /// A recurring schedule by its name: to be created, replaced, opened or deleted.
    ///
    /// The store keeps schedules. A [scheduler](Engine::scheduler) runs them.
    ///
    /// ```
    /// use posthouse::Engine;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let engine = Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// let nightly = engine
    ///     .schedule("nightly")
    ///     .cron("0 3 * * *")
    ///     .time_zone("Europe/Berlin")
    ///     .to_queue(&reports, "make the nightly report")
    ///     .create()?; // an existing schedule goes on
    /// println!("it runs next at {}", nightly.next_run());
    ///
    /// let scheduler = engine.scheduler().start()?; // a thread, until it is dropped
    /// # scheduler.stop()?;
    /// engine.schedule("nightly").delete()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn schedule(&self, name: &str) -> ScheduleBuilder {
        ScheduleBuilder {
            engine: self.clone(),
            name: name.to_owned(),
            cron: None,
            time_zone: None,
            missed_runs: None,
            aim: None,
        }
    }

    /// All schedules, sorted by name.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// engine.schedule("daily").cron("@daily").to_queue(&reports, "report").create()?;
    /// let schedules = engine.schedules()?;
    /// let names: Vec<&str> = schedules.iter().map(|schedule| schedule.name()).collect();
    /// assert_eq!(names, ["daily", "hourly"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the engine is closed; [`Poisoned`](ErrorKind::Poisoned) if a sync
    /// failed; [`Corrupt`](ErrorKind::Corrupt) if a schedule is damaged.
    pub fn schedules(&self) -> Result<Vec<Schedule>> {
        loop {
            let Some(registry) = Registry::open(self)? else { return Ok(Vec::new()) };
            match registry.list() {
                // The queue of schedules was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                listed => return listed,
            }
        }
    }
}
