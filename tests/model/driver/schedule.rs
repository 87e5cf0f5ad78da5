//! Schedules: each run is one commit, which sends a message and puts off the schedule.
//!
//! The first schedule sends to a queue, and the other one to a topic or a stream. So the order of their runs makes no
//! difference, and the model takes any.

use posthouse::{Error, ErrorKind, MissedRuns, ScheduleBuilder, Target};

use super::{Driver, text, unacked};
use crate::{
    action::Name,
    state::{EXPIRING, MOMENT, Msg, ScheduleState, State},
};

/// The expressions, and the milliseconds between two runs. All of them have a run at the full hour.
const CRONS: [(&str, u64); 4] = [
    ("*/20 * * * * *", 20_000),
    ("*/30 * * * * *", 30_000),
    ("* * * * *", 60_000),
    ("@hourly", 3_600_000),
];

/// A run that is later than this is missed.
const LATE: u64 = 60_000;

/// Clocks differ by this much where nobody has set one.
const EARLY: u64 = 1000;

/// A schedule that has missed more runs begins anew: making up for all of them would take long.
const MISSED_MAX: usize = 8;

/// No calendar has the days behind this one.
const DAYS_END: u64 = 253_000_000_000_000;

/// What a schedule does when its time has come.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The time for which a message is sent, if one is.
    run: Option<u64>,
    next: u64,
}

/// One commit of a scheduler.
#[derive(Clone, Copy, Debug)]
enum Step {
    Turn(Turn),
    /// A run has failed.
    Failure,
    /// A run that had failed was tried again, and the clock had been set back: the schedule waits for its time.
    PutOff,
}

impl Driver<'_> {
    /// The time of day, if schedules can follow it.
    fn today(&self) -> Option<u64> {
        self.day.filter(|day| *day < DAYS_END)
    }

    /// Creates a schedule, or puts another one in its place.
    pub(super) fn schedule(&mut self, name: Name, target: u8, n: u8) -> Result<Option<()>, Error> {
        let (name, Some(today)) = (text("schedule", name), self.today()) else {
            return Ok(Some(()));
        };
        let target = target_of(&name, target);
        if !has_target(self.now(), &target) {
            return Ok(Some(()));
        }
        let (cron, _) = CRONS[usize::from(n) % CRONS.len()];
        let missed =
            [MissedRuns::RunOnce, MissedRuns::RunAll, MissedRuns::Skip][usize::from(n / 4) % 3];
        let next = first_after(cron, today);
        let wanted = ScheduleState { cron: cron.to_owned(), missed, target, next, attempts: 0 };
        let builder = self.builder(&name, &wanted)?;
        let there = self.now().schedules.get(&name).cloned();
        let replaces = n.is_multiple_of(2);
        let made = if replaces { builder.replace() } else { builder.create() };
        match there {
            Some(there) if !replaces => {
                let is_same = ScheduleState { next, attempts: 0, ..there.clone() } == wanted;
                if !is_same {
                    return self.expect(made.map(drop), ErrorKind::AlreadyExists);
                }
                let done = self.outcome(made)?;
                Ok(done.map(|found| assert_eq!(found.next_run().0, there.next)))
            }
            _ => {
                let done = self.commit(made, |state| drop(state.schedules.insert(name, wanted)))?;
                Ok(done.map(|made| assert_eq!(made.next_run().0, next)))
            }
        }
    }

    fn builder(&self, name: &str, wanted: &ScheduleState) -> Result<ScheduleBuilder, Error> {
        let builder = self.engine().schedule(name).cron(&wanted.cron).missed_runs(wanted.missed);
        let message = message_of(name, &wanted.target);
        Ok(match &wanted.target {
            Target::Queue(queue) => builder.to_queue(&self.queue(queue)?, message.message()),
            Target::Topic(topic) => builder.to_topic(&self.topic(topic)?, message.message()),
            Target::Stream(stream) => builder.to_stream(&self.stream(stream)?, message.message()),
            _ => unreachable!("there are no other targets"),
        })
    }

    pub(super) fn unschedule(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("schedule", name);
        let gone = self.engine().schedule(&name).delete();
        if !self.now().schedules.contains_key(&name) {
            return self.expect(gone, ErrorKind::NotFound);
        }
        self.commit(gone, |state| drop(state.schedules.remove(&name)))
    }

    /// Runs all schedules that are due after some moments.
    pub(super) fn run_schedules_after(&mut self, moments: u8) -> Result<Option<()>, Error> {
        match self.time_passes(MOMENT * u32::from(moments))? {
            Some(()) => self.run_schedules(),
            None => Ok(None),
        }
    }

    fn run_schedules(&mut self) -> Result<Option<()>, Error> {
        let Some(today) = self.today() else { return Ok(Some(())) };
        for (name, schedule) in self.now().schedules.clone() {
            // A run that is tried again may come a little early, where the clock was set back.
            let may_be_early =
                schedule.attempts > 0 && (today + 1..=today + EARLY).contains(&schedule.next);
            let has_missed_many = turns(&schedule, today).len() > MISSED_MAX;
            if (has_missed_many || may_be_early) && self.begin_anew(&name, schedule)?.is_none() {
                return Ok(None);
            }
        }
        let before = self.now().schedules.clone();
        let ran = self.engine().scheduler().run_due();
        let found = self.schedules_there();
        let (mut all, mut runs, mut fails) = (Vec::new(), 0, 0);
        let mut may_fail = false;
        for (name, schedule) in &before {
            let turns = turns(schedule, today);
            // A failing sync may lose what the system has cached.
            let there = found.get(name).unwrap_or(schedule);
            let made = turns.iter().position(|turn| turn.next == there.next).map_or(0, |n| n + 1);
            let has_target = has_target(self.now(), &schedule.target);
            let can = turns.iter().take_while(|turn| has_target || turn.run.is_none()).count();
            // A schedule whose run has failed waits before it is tried again.
            let waits = schedule.attempts > 0 && made == 0 && there.attempts == schedule.attempts;
            let is_put_off = made == 0 && there.attempts < schedule.attempts;
            assert!(!is_put_off || schedule.next > today || self.doomed, "{name} at {today}");
            let begun = if made > 0 || is_put_off { 0 } else { schedule.attempts };
            let failures = there.attempts.saturating_sub(begun);
            if !self.doomed && !waits {
                assert_eq!(made, can, "runs of {name} at {today}: {schedule:?} {there:?}");
                let expected = u32::from(can < turns.len());
                assert_eq!(
                    failures, expected,
                    "failures of {name} at {today}: {schedule:?} {there:?}"
                );
            }
            fails += failures;
            may_fail |= can < turns.len();
            runs += turns[..made].iter().filter(|turn| turn.run.is_some()).count();
            let put_off = is_put_off.then_some(Step::PutOff).into_iter();
            let steps = put_off.chain(turns[..made].iter().copied().map(Step::Turn));
            let steps = steps.chain((0..failures).map(|_| Step::Failure));
            all.push((name.clone(), steps.collect::<Vec<_>>()));
        }
        self.commit_steps(&all);
        match ran {
            Ok(count) => {
                assert_eq!(count, runs as u64, "messages of schedules");
                // A run is durable, and what was committed before it.
                let has_run = all.iter().any(|(_, steps)| !steps.is_empty());
                if self.hides_unsynced && has_run && fails == 0 {
                    self.is_durable();
                }
                Ok(Some(()))
            }
            Err(error) if may_fail && error.kind() == ErrorKind::NotFound => Ok(Some(())),
            Err(error) => self.outcome(Err(error)),
        }
    }

    /// Puts a schedule in its own place, so that it has missed nothing.
    fn begin_anew(&mut self, name: &str, there: ScheduleState) -> Result<Option<()>, Error> {
        let today = self.today().expect("it was looked at");
        let next = first_after(&there.cron, today);
        let fresh = ScheduleState { next, attempts: 0, ..there };
        let made = if has_target(self.now(), &fresh.target) {
            self.builder(name, &fresh)?.replace().map(drop)
        } else {
            let gone = self.engine().schedule(name).delete();
            return self.commit(gone, |state| drop(state.schedules.remove(name)));
        };
        self.commit(made, |state| drop(state.schedules.insert(name.to_owned(), fresh)))
    }

    /// The schedules as a copy of the disk has them, which also has what is not durable yet.
    fn schedules_there(&self) -> std::collections::BTreeMap<String, ScheduleState> {
        let found = self.on_copy(crate::state::dump_schedules);
        found.unwrap_or_else(|error| panic!("cannot list the schedules: {error}"))
    }

    /// Each step was a commit: those of one schedule in their order, and those of two in any.
    fn commit_steps(&mut self, all: &[(String, Vec<Step>)]) {
        let (base, now) = (self.now().clone(), self.time);
        let first = self.history.states.len();
        let mut some = vec![0; all.len()];
        loop {
            let mut state = base.clone();
            for ((name, steps), count) in all.iter().zip(&some) {
                steps[..*count].iter().for_each(|step| take_step(&mut state, name, *step, now));
            }
            self.push_new(&state);
            // Counts up.
            let Some(at) = (0..all.len()).rev().find(|n| some[*n] < all[*n].1.len()) else { break };
            some[at] += 1;
            some[at + 1..].fill(0);
        }
        self.bear_new(&base, first);
    }

    /// Notes in which state each message came, of those that have come since `first`.
    fn bear_new(&mut self, base: &State, first: usize) {
        let last = self.now().clone();
        for whose in self.all_whose() {
            let (Some(before), Some(after)) = (unacked(base, &whose), unacked(&last, &whose))
            else {
                continue;
            };
            for offset in after.keys().filter(|offset| !before.contains_key(offset)) {
                let has = |state: &State| {
                    unacked(state, &whose).is_some_and(|it| it.contains_key(offset))
                };
                let born = self.history.states[first..].iter().position(|state| has(state));
                let born = born.expect("it is in the last one") + first;
                self.born.insert((whose.clone(), *offset), born);
            }
        }
    }
}

fn target_of(name: &str, n: u8) -> Target {
    let is_first = name.ends_with('0');
    match n % 4 {
        0 | 1 if is_first => Target::Queue("queue 0".to_owned()),
        _ if is_first => Target::Queue(EXPIRING.to_owned()),
        0 => Target::Topic("topic 0".to_owned()),
        1 => Target::Topic("topic 1".to_owned()),
        2 => Target::Stream("stream 0".to_owned()),
        _ => Target::Stream("stream 1".to_owned()),
    }
}

fn has_target(state: &State, target: &Target) -> bool {
    match target {
        Target::Queue(name) => state.queues.contains_key(name),
        Target::Topic(name) => state.topics.contains_key(name),
        Target::Stream(name) => state.streams.contains_key(name),
        _ => unreachable!("there are no other targets"),
    }
}

/// The message of a schedule. In some queues and topics it has a time to live.
fn message_of(name: &str, target: &Target) -> Msg {
    let message = Msg {
        payload: format!("tick of {name}").into_bytes(),
        key: Some(name.as_bytes().to_vec()),
        headers: Vec::new(),
        subject: Some("a.c".to_owned()),
        priority: 0,
        note: None,
    };
    let lives = match target {
        Target::Queue(name) => name == EXPIRING,
        Target::Topic(name) => name.ends_with('1'),
        _ => false,
    };
    if lives { message.brief() } else { message }
}

fn period_of(cron: &str) -> u64 {
    CRONS.iter().find(|(it, _)| *it == cron).expect("it is one of them").1
}

fn first_after(cron: &str, day: u64) -> u64 {
    let period = period_of(cron);
    (day / period + 1) * period
}

/// What a schedule does until its next run is to come.
fn turns(schedule: &ScheduleState, today: u64) -> Vec<Turn> {
    let (period, mut next) = (period_of(&schedule.cron), schedule.next);
    let mut turns = Vec::new();
    while next <= today && turns.len() <= MISSED_MAX {
        let time = match schedule.missed {
            MissedRuns::RunAll => next,
            _ => today / period * period,
        };
        let is_missed = schedule.missed == MissedRuns::Skip && today - time > LATE;
        next = time + period;
        turns.push(Turn { run: (!is_missed).then_some(time), next });
    }
    turns
}

fn take_step(state: &mut State, name: &str, step: Step, now: u64) {
    let schedule = state.schedules.get_mut(name).expect("it is there");
    let turn = match step {
        Step::Failure => return schedule.attempts += 1,
        Step::PutOff => return schedule.attempts = 0,
        Step::Turn(turn) => turn,
    };
    (schedule.next, schedule.attempts) = (turn.next, 0);
    let (Some(time), target) = (turn.run, schedule.target.clone()) else { return };
    let mut message = message_of(name, &target);
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    message.headers.extend([header("schedule", name), header("scheduled-for", &rfc_3339(time))]);
    match &target {
        Target::Queue(name) => state.queues.get_mut(name).unwrap().send(&[message], now),
        Target::Topic(name) => {
            state.topics.get_mut(name).unwrap().publish(name, &[message], now);
        }
        Target::Stream(name) => {
            state.streams.get_mut(name).unwrap().append(&message);
        }
        _ => unreachable!("there are no other targets"),
    }
}

/// A time as text, in UTC. The days are counted as Howard Hinnant does, in `chrono-Compatible Low-Level Date Algorithms`.
fn rfc_3339(time: u64) -> String {
    let (days, second) = (time / 86_400_000 + 719_468, time / 1000 % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
