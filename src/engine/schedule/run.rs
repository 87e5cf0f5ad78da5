//! One run of a schedule, as one commit, and what becomes of an error.

use std::{mem, sync::Arc, time::Duration};

use super::{
    registry::{Registry, now},
    stored::{NEVER, Schedule, name_of},
};
use crate::{
    engine::{commit::lifetime::Engine, consume::delivery::Delivery, transaction::Transaction},
    error::{Error, ErrorKind, Result},
    format::schedule::Target,
};

/// A failed run of a schedule, or the end of a schedule.
///
/// After a failed run the schedule stays, and the run is tried again: after a second at first, and after a minute at
/// most. A schedule whose expression has no time to come [has ended](crate::Schedule::has_ended). It stays, too, and
/// does not run any more.
///
/// [`SchedulerBuilder::on_failure`](crate::SchedulerBuilder::on_failure) receives it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScheduleFailure {
    /// The name of the schedule. `None` if the failure belongs to no schedule, as when the schedules cannot be
    /// received.
    pub schedule: Option<String>,
    /// How often the run was tried so far.
    pub attempt: u32,
    /// The error: [`NotFound`](ErrorKind::NotFound) if the target was deleted,
    /// [`QueueFull`](ErrorKind::QueueFull), [`DiskFull`](ErrorKind::DiskFull) and others.
    pub error: Error,
    /// Whether the schedule has ended. Then its last run was made, and this is no failure of that run.
    pub has_ended: bool,
}

/// How long a scheduler pauses after it could not receive.
pub const REST: Duration = Duration::from_secs(1);

pub type OnFailure = Arc<dyn Fn(&ScheduleFailure) + Send + Sync>;

/// A run that is prepared, and not committed yet.
struct Prepared {
    tx: Transaction,
    /// Whether it sends a message.
    sends: bool,
    /// Set if the schedule ends with it.
    end: Option<ScheduleFailure>,
}

/// Whether another attempt would be useless.
pub fn ends(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Poisoned)
}

/// What a scheduler does after an error that belongs to no schedule, and does not end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Rest,
}

/// Judges an error that belongs to no schedule, for the thread, the task and the step: tells it. Returns what the scheduler
/// does then, and the error. `Err` ends the scheduler, also if the engine is closed, which is not told.
pub fn judge(error: Error, tell: impl FnOnce(&ScheduleFailure)) -> Result<(Next, Error)> {
    if error.kind() == ErrorKind::Closed {
        return Err(error);
    }
    let failure = ScheduleFailure { schedule: None, attempt: 1, error, has_ended: false };
    tell(&failure);
    let ScheduleFailure { error, .. } = failure;
    match error.kind() {
        _ if ends(&error) => Err(error),
        // A damaged schedule was set aside, so others come at once.
        ErrorKind::Corrupt => Ok((Next::GoOn, error)),
        _ => Ok((Next::Rest, error)),
    }
}

/// The outcome of a scheduler that an error has ended. The close of the engine is no error.
pub fn ended_by(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::Closed { Ok(()) } else { Err(error) }
}

/// Delays the next try of a schedule whose run has failed.
pub fn put_off(delivery: &Delivery, error: Error) -> ScheduleFailure {
    // The nack need not be durable. If the commit fails, for example on a full disk, the schedule waits all the
    // same until the engine closes.
    let _ = delivery.nack_ticket();
    failed(delivery, error)
}

/// The same in a task, which awaits room in a full journal.
pub async fn put_off_in_task(delivery: &Delivery, error: Error) -> ScheduleFailure {
    let _ = delivery.nack_async().await;
    failed(delivery, error)
}

fn failed(delivery: &Delivery, error: Error) -> ScheduleFailure {
    let schedule = name_of(delivery.key()).map(str::to_owned);
    ScheduleFailure { schedule, attempt: delivery.attempt(), error, has_ended: false }
}

/// The news that a schedule has ended.
fn ended(schedule: &Schedule, attempt: u32) -> ScheduleFailure {
    let what = format!(
        "the expression {:?} has no time to come, so the schedule has ended: replace it or delete it",
        schedule.cron()
    );
    let error = Error::new(ErrorKind::NotFound, what);
    let schedule = Some(schedule.name().to_owned());
    ScheduleFailure { schedule, attempt, error, has_ended: true }
}

/// Runs a schedule that is due. Returns whether a message was sent, and the end of the schedule if this was the
/// last run.
pub fn run(
    engine: &Engine,
    registry: &Registry,
    delivery: &Delivery,
) -> Result<(bool, Option<ScheduleFailure>)> {
    let committed = prepare(engine, registry, delivery).and_then(|Prepared { tx, sends, end }| {
        tx.commit()?;
        Ok((sends, end))
    });
    unless_lost(committed, (false, None))
}

/// The same in a task, which awaits room in a full journal, and the sync.
pub async fn run_in_task(
    engine: &Engine,
    registry: &Registry,
    delivery: &Delivery,
) -> Result<Option<ScheduleFailure>> {
    let committed = match prepare(engine, registry, delivery) {
        Ok(Prepared { tx, end, .. }) => tx.commit_async().await.map(|_| end),
        Err(error) => Err(error),
    };
    unless_lost(committed, None)
}

/// The outcome of a run. `nothing` if the schedule was deleted or replaced meanwhile, or another scheduler has it.
fn unless_lost<T>(committed: Result<T>, nothing: T) -> Result<T> {
    match committed {
        Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(nothing),
        committed => committed,
    }
}

fn prepare(engine: &Engine, registry: &Registry, delivery: &Delivery) -> Result<Prepared> {
    let schedule = Schedule::read(delivery.key(), delivery.payload(), delivery.attempt())?;
    let mut tx = engine.transaction();
    if !seeded!(RunIsTwoCommits) {
        tx.ack_if_there(delivery);
    }
    if registry.is_superseded(schedule.name(), delivery.offset())? {
        // A salvage may have brought back an old message of the schedule.
        return Ok(Prepared { tx, sends: false, end: None });
    }
    let now = now(engine);
    let turn = schedule.rhythm()?.turn(schedule.next_run(), schedule.missed_runs(), now)?;
    if let Some(time) = turn.run {
        let message = schedule.message_of(time)?;
        match schedule.target() {
            Target::Queue(name) => tx.send(&engine.queue(name).open()?, message),
            Target::Topic(name) => tx.publish(&engine.topic(name).open()?, message),
            Target::Stream(name) => {
                let stream = engine.stream(name).open()?;
                // A new handle would begin with the same partition each time.
                stream.shape().set_round_robin(delivery.offset().0);
                tx.append(&stream, message)
            }
        };
    }
    if seeded!(RunIsTwoCommits) {
        mem::replace(&mut tx, engine.transaction()).commit()?;
        tx.ack_if_there(delivery);
    }
    // A schedule that has ended stays, so that its user finds it.
    let next = turn.next.unwrap_or(NEVER);
    tx.send(registry.queue(), schedule.going_on(next).stored());
    let end = turn.next.is_none().then(|| ended(&schedule, delivery.attempt()));
    Ok(Prepared { tx, sends: turn.run.is_some(), end })
}
