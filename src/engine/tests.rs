//! All interleavings of group commit, and of waiters with the threads that wake them.
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib interleavings`
//!
//! What is checked is the engine's own `Syncs`, `GroupCommit`, `Watch` and `FairMutex`, over a journal that is a number. Loom
//! itself finds whoever waits for ever.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64 as Uncheck, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use loom::thread;

use super::{
    commit::sync::{Synced, Syncs},
    runtime::{
        fair::FairMutex,
        wait::{Attempt, Awaited, Watch, blocking},
    },
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::Lsn,
    prims::{Condvar, Mutex},
};

/// Tries all schedules with at most this many preemptions.
fn check(preemptions: usize, act: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let count = Arc::new(Uncheck::new(0));
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, SeqCst);
        act();
    });
    println!("{} schedules", count.load(SeqCst));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Fails(u64),
    Panics(u64),
}

/// A journal and its disk.
struct Model {
    syncs: Syncs,
    core: Mutex<Core>,
    /// The durable position on the disk: the tail at the begin of the last sync that succeeded. Loom does not
    /// check these three fields.
    disk: Uncheck,
    runs: Uncheck,
    clock: Uncheck,
    sync_time: u64,
    fault: Fault,
}

struct Core {
    tail: u64,
    durable: u64,
}

impl Model {
    fn new(sync_time: u64, fault: Fault) -> Arc<Model> {
        let zero = || Uncheck::new(0);
        let core = Mutex::new(Core { tail: 0, durable: 0 });
        let (disk, runs, clock) = (zero(), zero(), zero());
        Arc::new(Model { syncs: Syncs::new(Lsn(0)), core, disk, runs, clock, sync_time, fault })
    }

    /// Appends, and waits until it is durable.
    fn commit(&self) -> Result<()> {
        let position = {
            let mut core = self.core.lock().unwrap();
            core.tail += 1;
            core.tail
        };
        let synced = self.syncs.sync_to(Lsn(position), self);
        if synced.is_ok() {
            assert!(self.disk.load(SeqCst) >= position, "it is not on the disk");
            let durable = self.core.lock().unwrap().durable;
            assert!(durable >= position, "it is durable, and cannot be seen");
        }
        synced
    }

    /// Reads the watermark meanwhile.
    fn observe(&self) {
        let mut was_durable = false;
        for _ in 0..2 {
            let is_durable = matches!(self.syncs.outcome(Lsn(1)), Some(Ok(())));
            assert!(is_durable || !was_durable, "the watermark goes back");
            assert!(!is_durable || self.disk.load(SeqCst) >= 1, "it is ahead of the disk");
            was_durable = is_durable;
            let visible = self.core.lock().unwrap().durable;
            assert!(visible <= self.disk.load(SeqCst), "what can be seen is not on the disk");
        }
    }
}

impl Synced for Model {
    type Job = (u64, bool);
    type Effects = ();

    fn begin_sync(&self, covers: impl FnOnce(Lsn)) -> (u64, bool) {
        let core = self.core.lock().unwrap();
        covers(Lsn(core.tail));
        (core.tail, core.durable < core.tail)
    }

    fn run_sync(&self, (upto, is_due): &(u64, bool)) -> Result<bool> {
        if *is_due {
            thread::yield_now();
            let run = self.runs.fetch_add(1, SeqCst);
            assert!(self.fault != Fault::Panics(run), "the disk panics");
            if self.fault == Fault::Fails(run) {
                return Err(Error::new(ErrorKind::Poisoned, "a sync failed"));
            }
            assert!(self.syncs.check().is_ok(), "a sync is tried after one that failed");
            self.disk.fetch_max(*upto, SeqCst);
        }
        Ok(*is_due)
    }

    fn finish_sync(&self, (upto, _): (u64, bool), publish: impl FnOnce(Lsn)) {
        let mut core = self.core.lock().unwrap();
        core.durable = core.durable.max(upto);
        publish(Lsn(core.durable));
    }

    fn run_effects(&self, (): ()) {}

    fn poison(&self, error: &Error) {
        self.syncs.poison(error);
    }

    fn stopwatch(&self) -> Duration {
        Duration::from_millis(self.clock.fetch_add(self.sync_time, SeqCst))
    }
}

fn spawn<T: Send + 'static>(
    model: &Arc<Model>,
    act: impl FnOnce(&Model) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || act(&model))
}

/// Runs with a disk so slow that a batch window pays, and with a disk so fast that it does not.
const SYNC_TIMES: [u64; 2] = [0, 1];

#[test]
fn interleavings_of_group_commit() {
    for sync_time in SYNC_TIMES {
        check(4, move || {
            let model = Model::new(sync_time, Fault::None);
            let other = spawn(&model, |it| (0..2).for_each(|_| it.commit().unwrap()));
            (0..2).for_each(|_| model.commit().unwrap());
            other.join().unwrap();
        });
        check(3, move || {
            let model = Model::new(sync_time, Fault::None);
            let others = [(); 2].map(|()| spawn(&model, |it| it.commit().unwrap()));
            model.commit().unwrap();
            others.into_iter().for_each(|it| it.join().unwrap());
        });
    }
}

#[test]
fn interleavings_of_the_watermark_with_those_who_look() {
    check(3, || {
        let model = Model::new(1, Fault::None);
        let others = [spawn(&model, |it| it.commit().unwrap()), spawn(&model, Model::observe)];
        model.commit().unwrap();
        others.into_iter().for_each(|it| it.join().unwrap());
    });
}

#[test]
fn interleavings_of_a_sync_that_fails() {
    for (sync_time, which) in SYNC_TIMES.into_iter().flat_map(|it| [(it, 0), (it, 1)]) {
        check(2, move || {
            let model = Model::new(sync_time, Fault::Fails(which));
            let act = |it: &Model| it.commit().and_then(|()| it.commit()).is_ok();
            let others = [spawn(&model, act), spawn(&model, |it| it.commit().is_ok())];
            let mut all_well = act(&model);
            others.into_iter().for_each(|it| all_well &= it.join().unwrap());
            assert!(!all_well || model.runs.load(SeqCst) <= which, "a failure was kept secret");
        });
    }
}

#[test]
fn interleavings_of_a_leader_that_panics() {
    std::panic::set_hook(Box::new(|_| ()));
    // The first leader. Behind a second one the first may still be waking others; as loom's threads
    // are one of the system's, the panic would then spoil the locks of both, which it does not do.
    let which = 0;
    check(4, move || {
        let model = Model::new(1, Fault::Panics(which));
        let act = |it: &Model| {
            let commit = AssertUnwindSafe(|| it.commit().and_then(|()| it.commit()));
            let done = catch_unwind(commit);
            done.is_err_and(|panic| {
                let is_planned = panic.downcast_ref() == Some(&"the disk panics");
                assert!(is_planned, "{:?}", panic.downcast_ref::<String>());
                true
            })
        };
        let other = spawn(&model, act);
        let panics = usize::from(act(&model)) + usize::from(other.join().unwrap());
        let planned = usize::from(model.runs.load(SeqCst) > which);
        assert_eq!(panics, planned, "only the leader panics");
        assert_eq!(model.syncs.check().is_err(), planned == 1);
    });
    let _ = std::panic::take_hook();
}

/// A thread finds that the disk has failed while a sync hangs. All waiters get the error before that sync ends.
#[test]
fn interleavings_of_an_end_that_comes_from_elsewhere() {
    check(4, || {
        let hanging = Arc::new(Hanging {
            syncs: Syncs::new(Lsn(0)),
            told: Mutex::new(0),
            changed: Condvar::new(),
        });
        let others = [(); 2].map(|()| {
            let hanging = Arc::clone(&hanging);
            thread::spawn(move || {
                assert!(hanging.syncs.sync_to(Lsn(1), &*hanging).is_err());
                *hanging.told.lock().unwrap() += 1;
                hanging.changed.notify_all();
            })
        });
        hanging.syncs.poison(&Error::new(ErrorKind::Poisoned, "a sync failed elsewhere"));
        others.into_iter().for_each(|it| it.join().unwrap());
    });
}

/// A disk whose sync ends only after a waiter got the error.
struct Hanging {
    syncs: Syncs,
    told: Mutex<u64>,
    changed: Condvar,
}

impl Synced for Hanging {
    type Job = ();
    type Effects = ();

    fn begin_sync(&self, covers: impl FnOnce(Lsn)) {
        covers(Lsn(1));
    }

    fn run_sync(&self, (): &()) -> Result<bool> {
        let told = self.told.lock().unwrap();
        drop(self.changed.wait_while(told, |told| *told == 0).unwrap());
        self.syncs.check().map(|()| true)
    }

    fn finish_sync(&self, (): (), _: impl FnOnce(Lsn)) {}
    fn run_effects(&self, (): ()) {}
    fn poison(&self, _: &Error) {}

    fn stopwatch(&self) -> Duration {
        Duration::ZERO
    }
}

/// Messages and their waiters, as in a queue.
#[derive(Default)]
struct Messages {
    count: Mutex<usize>,
    watch: Arc<Watch>,
}

impl Messages {
    fn send(&self) {
        let wakes = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            self.watch.has_waiters()
        };
        if wakes {
            self.watch.wake(1);
        }
    }

    fn attempt(&self) -> Result<Attempt<()>> {
        let mut count = self.count.lock().unwrap();
        if *count == 0 {
            return Ok(Attempt::Wait(self.watch.begin()));
        }
        *count -= 1;
        Ok(Attempt::Got(()))
    }

    fn receive(&self, timeout: Option<Duration>) -> Option<()> {
        blocking(timeout, || Duration::ZERO, || self.attempt()).unwrap()
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// A thread or a task that waits for a message is woken when one arrives.
#[test]
fn interleavings_of_sleep_and_wake_up() {
    for awaits in [false, true] {
        check(5, move || {
            let messages = Arc::new(Messages::default());
            let consumers = [false, awaits].map(|awaits| {
                let messages = Arc::clone(&messages);
                thread::spawn(move || match awaits {
                    false => messages.receive(None).unwrap(),
                    true => block_on(Awaited::new(|| messages.attempt())).unwrap(),
                })
            });
            (0..2).for_each(|_| messages.send());
            consumers.into_iter().for_each(|it| it.join().unwrap());
        });
    }
}

/// A waiter that times out or is dropped passes its wake-up on to another waiter.
#[test]
fn interleavings_of_giving_up_with_a_wake_up() {
    for is_task in [false, true] {
        check(5, move || {
            let messages = Arc::new(Messages::default());
            let waits = {
                let messages = Arc::clone(&messages);
                thread::spawn(move || messages.receive(None).unwrap())
            };
            let gives_up = {
                let messages = Arc::clone(&messages);
                thread::spawn(move || match is_task {
                    false => messages.receive(Some(Duration::from_secs(1))),
                    true => {
                        let mut future = Awaited::new(|| messages.attempt());
                        let waker = Waker::noop();
                        match Pin::new(&mut future).poll(&mut Context::from_waker(waker)) {
                            Poll::Ready(got) => Some(got.unwrap()),
                            Poll::Pending => None,
                        }
                    }
                })
            };
            messages.send();
            // If that waiter got the message, this sends one more.
            if gives_up.join().unwrap().is_some() {
                messages.send();
            }
            waits.join().unwrap();
        });
    }
}

/// Threads that take a mutex again and again, and one that gives way, all have their turns.
#[test]
fn interleavings_of_a_fair_mutex() {
    for overtaking_max in [0, 1] {
        check(4, move || {
            let mutex = Arc::new(FairMutex::with_overtaking(overtaking_max, 0));
            let threads = [true, false].map(|gives_way| {
                let mutex = Arc::clone(&mutex);
                thread::spawn(move || {
                    for _ in 0..2 {
                        *mutex.lock().unwrap() += 1;
                        if gives_way {
                            mutex.give_way();
                        }
                    }
                })
            });
            *mutex.lock().unwrap() += 1;
            threads.into_iter().for_each(|it| it.join().unwrap());
            assert_eq!(*mutex.lock().unwrap(), 5);
        });
    }
}

/// Of many waiters that are woken at once, each wakes others. One of them may have given up.
#[test]
fn interleavings_of_a_wake_up_that_is_passed_on() {
    check(4, || {
        let messages = Arc::new(Messages::default());
        let waits = [None, Some(Duration::from_secs(1))].map(|timeout| {
            let messages = Arc::clone(&messages);
            thread::spawn(move || messages.receive(timeout))
        });
        *messages.count.lock().unwrap() += 2;
        messages.watch.wake(usize::MAX);
        let [waits, gives_up] = waits.map(|it| it.join().unwrap());
        assert!(waits.is_some());
        assert!(gives_up.is_some() || *messages.count.lock().unwrap() == 1);
    });
}

/// All readers are woken for each record. A wake-up comes while threads still pass on the one before.
#[test]
fn interleavings_of_wake_ups_of_all_while_one_is_passed_on() {
    check(3, || {
        let records = Arc::new(Messages::default());
        let readers = [(); 2].map(|()| {
            let records = Arc::clone(&records);
            thread::spawn(move || {
                for seen in 0..2 {
                    let attempt = || {
                        let count = records.count.lock().unwrap();
                        let has_more = *count > seen;
                        Ok(if has_more {
                            Attempt::Got(())
                        } else {
                            Attempt::Wait(records.watch.begin())
                        })
                    };
                    blocking(None, || Duration::ZERO, attempt).unwrap().unwrap();
                }
            })
        });
        for _ in 0..2 {
            let wakes = {
                let mut count = records.count.lock().unwrap();
                *count += 1;
                records.watch.has_waiters()
            };
            if wakes {
                records.watch.wake(usize::MAX);
            }
        }
        readers.into_iter().for_each(|it| it.join().unwrap());
    });
}
