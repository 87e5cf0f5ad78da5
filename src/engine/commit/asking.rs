//! Calls in tasks. A task must not block its thread. Where such a call lacks space in the journal, a helper thread makes the
//! space, and the task awaits that and calls again. `patience.rs` marks such calls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    committer::{Committer, PANICKED},
    lifetime::Engine,
    patience::{self, Past},
    sleep::Sleep,
    space::{Round, SpaceWait},
    threads::PoisonsOnPanic,
    ticket::Ticket,
};
use crate::{
    config::Durability,
    engine::{
        core::commit::Receipt,
        runtime::{
            wait::{Attempt, Waiting},
            within::Within,
        },
    },
    error::{Error, ErrorKind, Result},
    journal::Urgency,
    prims::thread,
    store::Shortage,
};

/// Has space made by a helper thread, and begins to wait for it.
fn await_space(committer: &Arc<Committer>, shortage: Shortage) -> SpaceWait {
    let (space, new) = committer.space.wait(shortage);
    if let Some(round) = new {
        let (helper, own) = (Arc::clone(committer), Arc::clone(&round));
        let make = move || help(&helper, shortage, &own, || helper.make(shortage));
        let builder = thread::Builder::new().name("posthouse-space".to_owned());
        if let Err(error) = builder.spawn(make) {
            let what = "a thread cannot be started";
            let error = Error::new(ErrorKind::Io, what).because(error);
            committer.space.finish(shortage, &round, Err(error));
        }
    }
    space
}

/// Makes the space that the tasks of a round await. If that panics, they fail, and the engine is poisoned.
fn help(committer: &Committer, lacks: Shortage, round: &Round, make: impl FnOnce() -> Result<u64>) {
    let _within = Within::enter();
    let mut ending = Ending { committer, lacks, round, outcome: None };
    // It is dropped first, so the tasks find the engine poisoned.
    let _guard = PoisonsOnPanic(committer);
    ending.outcome = Some(make());
}

/// A round that runs. Its drop ends the round, so that no task waits for ever, even after a panic.
struct Ending<'a> {
    committer: &'a Committer,
    lacks: Shortage,
    round: &'a Round,
    outcome: Option<Result<u64>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let panicked = || Err(Error::new(ErrorKind::Poisoned, PANICKED));
        let outcome = self.outcome.take().unwrap_or_else(panicked);
        self.committer.space.finish(self.lacks, self.round, outcome);
    }
}

/// A call as a future. It calls `attempt` until it has a result, and waits in between without blocking the thread.
#[derive(Debug)]
pub struct Asked<F> {
    committer: Arc<Committer>,
    attempt: F,
    waiting: Option<Waiting>,
    space: Option<SpaceWait>,
    /// Whether a round failed that had begun before this call. The next one begins after it.
    has_joined_a_failure: bool,
    /// How far rounds have looked for room in a full queue. `None` if that has no limit.
    looked: Option<u64>,
}

impl<F> Asked<F> {
    pub fn new(committer: &Arc<Committer>, attempt: F) -> Asked<F> {
        let committer = Arc::clone(committer);
        let looked = Some(0);
        Asked {
            committer,
            attempt,
            waiting: None,
            space: None,
            has_joined_a_failure: false,
            looked,
        }
    }

    /// Whether the call awaits space in the journal, and not that something happens.
    fn awaits_journal(&self) -> bool {
        self.space.as_ref().is_some_and(SpaceWait::is_for_journal)
    }

    /// Looks for room in a full queue until it is dropped.
    pub fn patient(self) -> Asked<F> {
        Asked { looked: None, ..self }
    }
}

impl<T, F: FnMut() -> Result<Attempt<T>> + Unpin> Future for Asked<F> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                if waiting.poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.waiting = None;
            }
            let failure = match &mut this.space {
                None => None,
                Some(space) => match space.poll(context) {
                    Poll::Pending => return Poll::Pending,
                    // An older failure says nothing about the space of this moment.
                    Poll::Ready(Err(_)) if !space.is_own && !this.has_joined_a_failure => {
                        this.has_joined_a_failure = true;
                        None
                    }
                    Poll::Ready(Ok(steps)) => {
                        this.looked = this.looked.map(|looked| looked + steps);
                        None
                    }
                    Poll::Ready(Err(failure)) => Some(failure),
                },
            };
            this.space = None;
            let past = Past { failure, looked: this.looked.unwrap_or(0) };
            match patience::ask(past, &mut this.attempt) {
                (Ok(Attempt::Got(value)), _) => return Poll::Ready(Ok(value)),
                (Ok(Attempt::Wait(waiting)), _) => this.waiting = Some(waiting),
                (Err(error), Some(lacks)) if error.is_lack_of_space() => {
                    this.space = Some(await_space(&this.committer, lacks));
                }
                (Err(error), None) if error.is_lack_of_space() => {
                    // Failures of earlier deliveries could not be counted, for lack of space. Counting them frees space.
                    let lacks = Shortage::Checkpoint { urgency: Urgency::Freeing };
                    this.space = Some(await_space(&this.committer, lacks));
                }
                (Err(error), _) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// A commit as a future: ready when the commit is as durable as its handle asks for.
///
/// Nothing is committed before it is polled. A future that is dropped before it is ready may have committed, or not.
#[must_use = "nothing is committed before it is awaited"]
pub async fn committed<T: Unpin>(
    engine: Engine,
    durability: Durability,
    mut attempt: impl FnMut() -> Result<Attempt<(T, Receipt)>> + Unpin,
) -> Result<T> {
    let (value, receipt) = Asked::new(engine.committer(), &mut attempt).await?;
    // This is still the thread on which the commit was made.
    let owed = engine.committer().debt_of_task();
    let held_back = owed.map(|owed| Sleep::lasting(engine.committer(), owed));
    let done = match durability {
        Durability::Sync => Ticket::new(&engine, (value, receipt)).await,
        Durability::Buffered => {
            engine.committer().sync_soon();
            Ok(value)
        }
    };
    if let Some(sleep) = held_back {
        sleep.await;
    }
    done
}

/// Awaits a call for at most `time`. `None` if the time is over. It is not over while the call awaits space in the journal, as
/// with a thread.
pub async fn within<T, F: FnMut() -> Result<Attempt<T>> + Unpin>(
    committer: &Arc<Committer>,
    time: Duration,
    mut call: Asked<F>,
) -> Option<Result<T>> {
    let mut sleep = std::pin::pin!(None);
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = Pin::new(&mut call).poll(context) {
            return Poll::Ready(Some(value));
        }
        if call.awaits_journal() {
            return Poll::Pending;
        }
        if sleep.is_none() {
            sleep.set(Some(Sleep::lasting(committer, time)));
        }
        let sleeping = sleep.as_mut().as_pin_mut().expect("it was set above");
        sleeping.poll(context).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
        pin::pin,
        task::Waker,
    };

    use super::*;
    use crate::{config::Config, disk::sim::SimDisk};

    #[test]
    fn tasks_do_not_wait_for_a_helper_that_panicked() {
        let disk = SimDisk::new(1);
        let process = Arc::new(disk.process());
        let engine = Engine::open_on(process, Path::new("store"), Config::default(), true);
        let engine = engine.expect("the disk is well");
        let queue = engine.queue("q").create().expect("there is space");
        let committer = engine.committer();
        let mut context = Context::from_waker(Waker::noop());
        let lacks = Shortage::Checkpoint { urgency: Urgency::Ordinary };
        let (mut first, round) = committer.space.wait(lacks);
        let round = round.expect("no other round runs");
        assert!(first.poll(&mut context).is_pending());
        let panics = || help(committer, lacks, &round, || panic!("on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let Poll::Ready(Err(failure)) = first.poll(&mut context) else { panic!("it waits") };
        assert_eq!(failure.kind(), ErrorKind::Poisoned);
        assert!(committer.space.wait(lacks).1.is_some(), "the round is over");
        let sent = pin!(queue.send_async("a")).poll(&mut context);
        let Poll::Ready(Err(error)) = sent else { panic!("the engine is not poisoned: {sent:?}") };
        assert_eq!(error.kind(), ErrorKind::Poisoned);
    }
}
