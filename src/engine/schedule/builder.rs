//! The builder of a schedule.

use super::{
    registry::{Registry, now},
    stored::{REGISTRY, Schedule},
};

use crate::{
    config::check_name,
    engine::{commit::lifetime::Engine, queue::Queue, stream::Stream, topic::Topic},
    error::{Error, ErrorKind, Result},
    format::{
        record::RecordParts,
        schedule::{MissedRuns, Plan, Target, Template},
    },
    ids::Timestamp,
    message::{Delay, Message},
    schedule::Rhythm,
};

/// A commit that runs a schedule holds so many bytes beside the two messages at most.
const COMMIT_BESIDE_BYTES: u64 = 256;

/// Whether a schedule that is there already will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfThere {
    Open,
    Fail,
    Replace,
}

/// Where messages are to go.
#[derive(Clone, Debug)]
enum Aim {
    Queue(Queue),
    Topic(Topic),
    Stream(Stream),
}

impl Aim {
    fn engine(&self) -> &Engine {
        match self {
            Aim::Queue(queue) => queue.engine(),
            Aim::Topic(topic) => topic.engine(),
            Aim::Stream(stream) => &stream.shape().engine,
        }
    }

    fn target(&self) -> Target {
        match self {
            Aim::Queue(queue) => Target::Queue(queue.name().to_owned()),
            Aim::Topic(topic) => Target::Topic(topic.name().to_owned()),
            Aim::Stream(stream) => Target::Stream(stream.name().to_owned()),
        }
    }

    /// Whether a message can go there, as far as can be told now.
    fn admit(&self, engine: &Engine, message: &Message<'_>) -> Result<()> {
        if !engine.is_same(self.engine()) {
            let what = "a schedule's target must come from the engine that keeps the schedule";
            return Err(Error::invalid("target", what));
        }
        message.check_priority(matches!(self, Aim::Queue(queue) if !queue.is_ordered()))?;
        match self {
            Aim::Queue(queue) if queue.name() == REGISTRY => {
                let what = format!("the queue {REGISTRY:?} keeps schedules, and nothing else");
                Err(Error::invalid("target", what))
            }
            Aim::Queue(queue) => queue.check_message(message),
            Aim::Stream(_) if message.time_to_live_ms().is_some() => {
                let what = "a stream keeps its records until it is trimmed; set no expire_after";
                Err(Error::invalid("expire_after", what))
            }
            Aim::Topic(_) | Aim::Stream(_) => Ok(()),
        }
    }
}

/// The parts of a message that can be sent again and again.
fn template(message: &Message<'_>) -> Result<Template> {
    if let Some(delay) = message.delay() {
        let field = if matches!(delay, Delay::At(_)) { "deliver_at" } else { "deliver_after" };
        return Err(Error::invalid(field, "the schedule says when its messages are sent"));
    }
    if message.timestamp_set().is_some() {
        let what = "each message of a schedule bears the time at which it is sent";
        return Err(Error::invalid("timestamp", what));
    }
    if message.time_to_live_ms() == Some(0) {
        return Err(Error::invalid("expire_after", "a message that lives for no time at all"));
    }
    let ours = [Schedule::NAME_HEADER, Schedule::TIME_HEADER];
    if let Some((name, _)) = message.headers().find(|(it, _)| it.is_empty() || ours.contains(it)) {
        let what = format!("a header named {name:?}: it needs a name, and not one of {ours:?}");
        return Err(Error::invalid("header", what));
    }
    Ok(Template {
        payload: message.payload().to_vec(),
        key: message.key_bytes().map(<[u8]>::to_vec),
        headers: message.headers().map(|(name, it)| (name.to_owned(), it.to_vec())).collect(),
        time_to_live_ms: message.time_to_live_ms(),
        priority: message.priority_set(),
    })
}

/// A recurring schedule by its name. Got from [`Engine::schedule`].
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
    /// When it runs: minute, hour, day of month, month and day of week, as `crontab` has them. A field
    /// before them is the second, one behind them the year. `L`, `W` and `#` are known, and so are
    /// names like `@daily`.
    pub fn cron(mut self, expression: &str) -> ScheduleBuilder {
        self.cron = Some(expression.to_owned());
        self
    }

    /// The time zone in which the expression is meant, by its name in the database of time zones,
    /// such as `Europe/Berlin`; `UTC` by default.
    ///
    /// Where clocks are put forward, a run whose time is left out is made when the gap ends; where they
    /// are put back, it is made once, at the first of both. That is so for expressions that name one time
    /// of day. Others, with `*`, lists, ranges or steps, follow the clock: what is left out is left out,
    /// and what comes twice is run twice.
    pub fn time_zone(mut self, name: &str) -> ScheduleBuilder {
        self.time_zone = Some(name.to_owned());
        self
    }

    /// What is done about runs that were missed; [`MissedRuns::RunOnce`] by default.
    pub fn missed_runs(mut self, missed: MissedRuns) -> ScheduleBuilder {
        self.missed_runs = Some(missed);
        self
    }

    /// Sends a message to a queue with each run.
    pub fn to_queue<'m>(self, queue: &Queue, message: impl Into<Message<'m>>) -> ScheduleBuilder {
        self.aimed(Aim::Queue(queue.clone()), message.into())
    }

    /// Publishes a message to a topic with each run.
    pub fn to_topic<'m>(self, topic: &Topic, message: impl Into<Message<'m>>) -> ScheduleBuilder {
        self.aimed(Aim::Topic(topic.clone()), message.into())
    }

    /// Appends a record to a stream with each run.
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

    /// Creates the schedule, unless it is there. It is durable when the call returns.
    ///
    /// Of one that is there, the expression, the target and the message must be those that were given,
    /// and so must be the other settings, as far as they were given. It goes on as it does.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput), with the field's name, if the name is out of range (it
    /// has 1 to 255 bytes); if there is no expression, if it is none or has no time to come; if the
    /// system does not know the time zone; if there is no target, or it is of another engine; if the
    /// message has a delay or a timestamp of its own, or a header of a name that schedules use.
    /// [`TooLarge`](ErrorKind::TooLarge) if schedule and message do not fit into a commit together.
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if another schedule has the name. As of a
    /// [`send`](Queue::send), if the commit fails. Nothing was changed.
    pub fn create(&self) -> Result<Schedule> {
        self.make(IfThere::Open)
    }

    /// Creates the schedule; it must not be there.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), and [`AlreadyExists`](ErrorKind::AlreadyExists) in any case if it
    /// is there.
    pub fn create_new(&self) -> Result<Schedule> {
        self.make(IfThere::Fail)
    }

    /// Creates the schedule, in the place of the one that has its name, if there is one. One commit
    /// ends that and begins this: its next run is the first of this one from now on.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), but for [`AlreadyExists`](ErrorKind::AlreadyExists).
    pub fn replace(&self) -> Result<Schedule> {
        self.make(IfThere::Replace)
    }

    /// Looks at the schedule; it must be there. Settings given here are ignored.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if it is not there;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range;
    /// [`Corrupt`](ErrorKind::Corrupt) if a schedule is damaged, as it may be this one.
    pub fn open(&self) -> Result<Schedule> {
        check_name("schedule", &self.name)?;
        let registry = Registry::open(&self.engine)?.ok_or_else(|| self.not_found())?;
        registry.find(&self.name)?.newest.ok_or_else(|| self.not_found())
    }

    /// Ends the schedule. What it has sent stays where it is.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and if the commit fails.
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
        let registry = Registry::create(&self.engine)?;
        loop {
            let found = registry.find(&self.name)?;
            if let (Some(there), true) = (&found.newest, if_there != IfThere::Replace) {
                if if_there == IfThere::Open && self.suits(&wanted, there) {
                    return Ok(there.clone());
                }
                let how = if if_there == IfThere::Open { ", and it is another one" } else { "" };
                let what = format!("there is a schedule named {:?} already{how}", self.name);
                return Err(Error::new(ErrorKind::AlreadyExists, what));
            }
            if registry.put(&found, Some(&wanted.stored(now(&self.engine))))? {
                return Ok(wanted);
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
        self.check_size(&schedule)?;
        Ok(schedule)
    }

    /// A run is one commit of the message and the schedule. If that did not fit, it would fail for ever.
    fn check_size(&self, schedule: &Schedule) -> Result<()> {
        let config = &self.engine.committer().config;
        let (sent, stored) =
            (schedule.message_of(schedule.plan.next)?, schedule.stored(Timestamp(0)));
        let weigh = |message: &Message<'_>| RecordParts::of(message, Timestamp(0)).weight();
        let (sent, stored) = (weigh(&sent), weigh(&stored));
        let is_large = sent.max(stored) > config.message_bytes_max
            || sent + stored + COMMIT_BESIDE_BYTES > config.commit_bytes_max;
        if !is_large {
            return Ok(());
        }
        let what = format!(
            "a schedule of {stored} bytes and its message of {sent}; at most {} are configured for \
             each (message_bytes_max), and {} for a commit of both (commit_bytes_max)",
            config.message_bytes_max, config.commit_bytes_max
        );
        Err(Error::new(ErrorKind::TooLarge, what))
    }
}

impl Engine {
    /// A recurring schedule by its name: to be created, replaced, opened or deleted. It is kept in the
    /// store, and run by a [scheduler](Engine::scheduler).
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
    ///     .create()?; // where it is there already, it goes on
    /// println!("it runs next at {}", nightly.next_run());
    ///
    /// let scheduler = engine.scheduler().start()?; // on a thread of its own, until it is dropped
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
    /// # Errors
    ///
    /// If the engine is closed or poisoned; [`Corrupt`](ErrorKind::Corrupt) if one is damaged.
    pub fn schedules(&self) -> Result<Vec<Schedule>> {
        Registry::open(self)?.map_or(Ok(Vec::new()), |registry| registry.list())
    }
}
