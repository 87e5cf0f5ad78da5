//! Does actions on an engine and on the model, and compares the two.

mod act;
mod capacity;
mod commit;
mod dead_letter;
mod epoch;
pub(crate) mod history;
mod life;
mod queue;
mod receive;
#[cfg(feature = "cron")]
mod schedule;
mod settle;
mod stream;
mod sweep;
mod topic;
mod transaction;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use posthouse::{Delivery, Durability, Engine, Error, ErrorKind, Queue, Subscription, sim};

use self::history::History;
use crate::{
    World,
    action::{Action, How, Name},
    oracle::{Clock, Oracle},
    state::{ATTEMPTS_MAX, DEAD, EXPIRING, Entry, Msg, ORDERED, RETRIED, State, Unacked},
};

/// The owner of deliveries: a queue or a subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Queue(String),
    Subscription(String, String),
}

struct Held {
    whose: Whose,
    delivery: Delivery,
    /// Counts leases, in the order in which they were granted.
    granted: u64,
    /// When the lease runs out.
    until: u64,
    /// Whether its consumer became the single active one.
    is_admitted: bool,
}

pub struct Driver<'a> {
    world: &'a dyn World,
    engine: Option<Engine>,
    /// The state after each commit since the last recovery.
    history: History,
    /// That of the epoch before.
    history_before: History,
    /// The states before this one cannot come back: this one is durable, or was seen.
    floor: usize,
    /// The floor when the clock was moved on.
    floor_then: usize,
    /// Whether consumers must see durable messages only.
    hides_unsynced: bool,
    held: Vec<Held>,
    /// Handles that stay open between the actions, and use nothing.
    kept: RefCell<BTreeMap<Whose, Handle>>,
    /// The highest offset that was delivered in this epoch, for each consumer and priority.
    fresh: BTreeMap<(Whose, u8), u64>,
    /// The messages that were delivered in this epoch.
    seen: BTreeSet<(Whose, u64)>,
    /// The state in which each message came, for the messages since the last recovery.
    born: BTreeMap<(Whose, u64), usize>,
    numbered: u64,
    /// Counts the calls that were made to have what is over leave.
    looks: usize,
    /// Whether the power may be off, or a call may fail: then an error ends this epoch.
    doomed: bool,
    /// Whether the power may be off.
    powerless: bool,
    /// For each state, the state that was durable when its commit was made: its frame says so.
    proven: Vec<usize>,
    /// Counts recoveries.
    epoch: u64,
    granted: u64,
    /// The last fencing token of each queue and subscription.
    tokens: BTreeMap<Whose, u64>,
    /// The milliseconds by which the clock was moved on. For messages that wait, that sum when they began to
    /// wait.
    time: u64,
    waits_since: BTreeMap<(Whose, u64), u64>,
    /// The time of day, if the test can set it.
    day: Option<u64>,
    /// Whether the time of day was set.
    clock_was_set: bool,
    /// Whether the power was cut since. Then the engine takes the time of day for the time that has passed, and the
    /// model does not know when messages are due, and when their times to live are over.
    time_is_lost: bool,
    /// Examines the moments that the world has recorded.
    oracle: Option<&'a Oracle>,
}

/// A handle that stays open.
#[derive(Clone, Debug)]
enum Handle {
    Queue(Queue),
    Subscription(Subscription),
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Settling {
    Ack,
    Nack,
    NackAfter,
    Reject,
    /// The delivery is dropped.
    Drop,
    /// Its lease runs out.
    RunOut,
}

/// How an action ended.
enum Ended {
    Fine,
    /// The power was off. The commit that was being made may be there or not.
    Dead,
}

/// The name of [`RETRIED`].
const RETRIED_NAME: Name = 1;

fn text(kind: &str, name: Name) -> String {
    format!("{kind} {name}")
}

fn queue_name(name: Name) -> String {
    if name == 2 { DEAD.to_owned() } else { format!("queue {name}") }
}

impl<'a> Driver<'a> {
    pub fn new(world: &'a dyn World, hides_unsynced: bool) -> Driver<'a> {
        let mut driver = Driver {
            world,
            engine: None,
            history: History::new(Rc::default()),
            history_before: History::new(Rc::default()),
            floor: 0,
            floor_then: 0,
            hides_unsynced,
            held: Vec::new(),
            kept: RefCell::default(),
            fresh: BTreeMap::new(),
            seen: BTreeSet::new(),
            born: BTreeMap::new(),
            numbered: 0,
            looks: 0,
            doomed: false,
            powerless: false,
            proven: vec![0],
            epoch: 0,
            granted: 0,
            tokens: BTreeMap::new(),
            time: 0,
            waits_since: BTreeMap::new(),
            day: world.set_clock(BEGIN).then_some(BEGIN),
            clock_was_set: false,
            time_is_lost: false,
            oracle: None,
        };
        driver.open();
        driver
    }

    /// Makes an oracle examine everything that the world records from now on.
    pub fn examined_by(mut self, oracle: &'a Oracle) -> Driver<'a> {
        self.oracle = Some(oracle);
        self
    }

    pub fn run(&mut self, actions: &[Action]) {
        for action in actions {
            self.one(action);
        }
        self.examined(|driver| driver.crash(false));
        self.examined(|driver| driver.crash(true));
    }

    /// Does one action, and recovers if the power is cut in the middle of it.
    pub fn one(&mut self, action: &Action) {
        self.examined(|driver| {
            let epoch = driver.epoch;
            let mut ended = driver.caught_up();
            if let Ended::Fine = ended {
                ended = driver.act(action);
            }
            // After a recovery, nothing happens before the next action.
            if matches!(ended, Ended::Fine) && driver.epoch == epoch {
                ended = driver.caught_up();
            }
            if let Ended::Dead = ended {
                // After an error the machine may stay up, with the data that the system has cached.
                driver.crash(driver.powerless || driver.numbered.is_multiple_of(2));
            }
            driver.compare_bytes();
        });
    }

    /// Compares the bytes that the engine has counted with those that are in the queue, of a queue with a
    /// limit in bytes.
    fn compare_bytes(&self) {
        let (false, Some(known)) = (self.doomed, self.now().queues.get(EXPIRING)) else { return };
        let bytes = sim::still(|| self.queue(EXPIRING).and_then(|queue| queue.bytes()));
        let bytes = bytes.unwrap_or_else(|error| panic!("the bytes are not known: {error}"));
        let sum = known.unacked.values().map(|entry| entry.msg.weight()).sum();
        assert_eq!(bytes, Some(sum), "bytes of {EXPIRING}");
    }

    /// Does something, and makes the oracle examine the moments at which it could have been cut off.
    fn examined(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(oracle) = self.oracle else {
            return act(self);
        };
        let (floor, epoch, before) = (self.floor, self.epoch, self.time);
        let proven = self.proven[floor];
        act(self);
        // The oracle cuts the power.
        let is_lost = self.time_is_lost || self.clock_was_set;
        let clock = Clock { before, now: self.time, is_lost };
        let all = if self.epoch == epoch { &self.history } else { &self.history_before };
        for moment in self.world.moments() {
            oracle.examine(&moment, all, (floor, proven), clock);
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is open")
    }

    /// The handle that was kept of a queue or a subscription, or a new one, which may be kept. A consumer that keeps others
    /// out ends with each action.
    fn handle(
        &self,
        whose: Whose,
        open: impl FnOnce() -> Result<Handle, Error>,
    ) -> Result<Handle, Error> {
        if self.is_exclusive(&whose) {
            self.kept.borrow_mut().remove(&whose);
            return open();
        }
        if let Some(kept) = self.kept.borrow().get(&whose) {
            return Ok(kept.clone());
        }
        let handle = open()?;
        if self.numbered.is_multiple_of(2) {
            self.kept.borrow_mut().insert(whose, handle.clone());
        }
        Ok(handle)
    }

    fn now(&self) -> &State {
        self.history.now()
    }

    /// Makes new messages.
    fn messages(&mut self, count: u8, bytes: u16) -> Vec<Msg> {
        let first = self.numbered;
        self.numbered += u64::from(count);
        // Batches of many large messages would exceed the limit of a commit.
        let bytes = if count > 5 { bytes % 200 } else { bytes };
        (first..self.numbered).map(|n| Msg::number(n, usize::from(bytes))).collect()
    }
}

/// The simulated power is off, a call fails as ordered, or a sync failed because of it.
fn is_of_power(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::DiskFull | ErrorKind::Poisoned)
}

/// The lease of all queues and subscriptions here, but for the dead letters.
const LEASE: Duration = Duration::from_secs(60);

fn durability(how: How) -> Durability {
    match how {
        How::Sync | How::Waited => Durability::Sync,
        How::Buffered | How::Ticket => Durability::Buffered,
    }
}

/// The time of day at which a test begins.
const BEGIN: u64 = 1_000_000_000_000;

/// How long a delayed message waits: less than a lease.
const WAIT: Duration = Duration::from_millis(30_014);

impl Whose {
    fn is_ordered(&self) -> bool {
        matches!(self, Whose::Subscription(_, name) if name == ORDERED)
    }

    fn is_retried(&self) -> bool {
        matches!(self, Whose::Queue(name) if name == RETRIED)
    }

    fn lease(&self) -> Duration {
        let is_by_default = *self == Whose::Queue(DEAD.to_owned());
        if is_by_default { Duration::from_secs(30) } else { LEASE }
    }

    /// Whether a message was tried often enough to become a dead letter.
    fn is_worn_out(&self, entry: &Entry) -> bool {
        self.is_retried() && entry.attempts >= ATTEMPTS_MAX
    }
}

/// The messages in a queue or a subscription.
fn offsets_of(engine: &Engine, whose: &Whose) -> Result<BTreeSet<u64>, Error> {
    let browse = match whose {
        Whose::Queue(name) => engine.queue(name).open()?.browse()?,
        Whose::Subscription(topic, name) => {
            engine.topic(topic).open()?.subscription(name).open()?.browse()?
        }
    };
    browse.map(|it| Ok(it?.offset().0)).collect()
}

fn unacked<'s>(state: &'s State, whose: &Whose) -> Option<&'s Unacked> {
    match whose {
        Whose::Queue(name) => state.queues.get(name).map(|queue| &queue.unacked),
        Whose::Subscription(topic, name) => {
            state.topics.get(topic)?.subscriptions.get(name).map(|it| &it.unacked)
        }
    }
}

fn unacked_mut<'s>(state: &'s mut State, whose: &Whose) -> &'s mut Unacked {
    match whose {
        Whose::Queue(name) => &mut state.queues.get_mut(name).unwrap().unacked,
        Whose::Subscription(topic, name) => {
            &mut state.topics.get_mut(topic).unwrap().subscriptions.get_mut(name).unwrap().unacked
        }
    }
}

/// Settles delivery number `attempt` of a message.
fn settle_in(
    state: &mut State,
    whose: &Whose,
    (offset, attempt): (u64, u32),
    how: Settling,
    now: u64,
) {
    let unacked = unacked_mut(state, whose);
    if how == Settling::Ack {
        unacked.remove(&offset).expect("it was on lease");
        return;
    }
    let entry = unacked.get_mut(&offset).expect("it was on lease");
    if whose.is_retried() {
        // It was counted when it was delivered, or is now if the disk was full then.
        entry.attempts = entry.attempts.max(attempt);
        if how == Settling::Reject || entry.attempts >= ATTEMPTS_MAX {
            return move_to_dead_letters(state, offset, now);
        }
    } else {
        entry.attempts += 1;
    }
    // The dead letters have the default backoff, and no other queue has one.
    let backs_off = *whose == Whose::Queue(DEAD.to_owned());
    entry.waits = match how {
        Settling::NackAfter => true,
        Settling::Nack | Settling::Drop => backs_off,
        Settling::RunOut => backs_off && entry.attempts > 1,
        Settling::Ack | Settling::Reject => false,
    };
}

fn move_to_dead_letters(state: &mut State, offset: u64, now: u64) {
    let entry = state.queues.get_mut(RETRIED).unwrap().unacked.remove(&offset).unwrap();
    let note = Some((RETRIED.to_owned(), offset, entry.attempts));
    state.queues.get_mut(DEAD).unwrap().send(&[Msg { note, ..entry.msg }], now);
}

fn seek_in(state: &mut State, stream: &str, group: &str, partition: u32, offset: u64) {
    let stream = state.streams.get_mut(stream).unwrap();
    stream.groups.get_mut(group).unwrap()[partition as usize] = offset;
}
