//! The explorer: random actions, and all short sequences of actions, each cut off at every step.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use posthouse::{Durability, IoMode, sim::SimDisk};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    Simulated,
    action::{Action, How, TxPart, actions},
    driver::Driver,
    oracle::{Effort, Oracle},
    small_options,
};

/// The longest interval between two syncs.
const SYNC_MAX: Duration = Duration::from_secs(3600);

/// How much was examined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Crashes that were recovered, each with its result compared.
    pub states: u64,
    /// Calls that were made to fail, and files that were damaged.
    pub faults: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.states += more.states;
        self.faults += more.faults;
    }
}

/// One run, with everything it depends on.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub durability: Durability,
    pub io: IoMode,
    pub pessimal: bool,
    /// The actions before the first examination.
    pub setup: Vec<Action>,
    pub actions: Vec<Action>,
    /// One step in this many is examined.
    pub one_in: u64,
    pub effort: Effort,
}

/// A case that fails, and its message.
#[derive(Debug)]
pub struct Failure {
    pub case: Case,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { seed, durability, io, pessimal, setup, actions, one_in, .. } = &self.case;
        writeln!(f, "{}", self.message)?;
        writeln!(
            f,
            "seed {seed}, {durability:?}, {io:?}, pessimal names: {pessimal}, every {one_in}"
        )?;
        writeln!(f, "after {setup:?}")?;
        actions.iter().try_for_each(|action| writeln!(f, "    {action:?}"))
    }
}

impl Case {
    /// Runs the case.
    pub fn run(&self) -> Result<Counts, Failure> {
        catch_unwind(AssertUnwindSafe(|| self.examine()))
            .map_err(|panic| Failure { case: self.clone(), message: text_of(&*panic) })
    }

    /// Runs the case, and panics if a check fails.
    pub fn examine(&self) -> Counts {
        let disk = SimDisk::new(self.seed);
        disk.set_pessimal(self.pessimal);
        let mut options = small_options().durability(self.durability).io(self.io);
        if self.seed.is_multiple_of(2) {
            // All messages are encoded before the core is locked, as those of large calls are.
            options = options.batch_messages(1);
        }
        if self.seed % 4 < 2 {
            // The engine syncs no commit by itself, as time passes.
            options = options.sync_interval(SYNC_MAX);
        }
        let oracle = Oracle::new(options.clone(), self.effort.clone(), self.seed);
        let world = Simulated { disk, options };
        let hides_unsynced = self.durability == Durability::Sync;
        let mut driver = Driver::new(&world, hides_unsynced).examined_by(&oracle);
        self.setup.iter().for_each(|action| driver.one(action));
        world.disk.record(self.one_in);
        driver.run(&self.actions);
        let fails = |action: &&Action| {
            matches!(
                action,
                Action::CallFails(..) | Action::SyncFails(_) | Action::CheckpointFails(_)
            )
        };
        let failing = self.actions.iter().filter(fails).count() as u64;
        Counts { states: oracle.states.get(), faults: oracle.damages.get() + failing }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// A beginning with as many small segment files as a store keeps. The next checkpoint adds one, and makes one of them; with
/// one more here, that would happen before crashes are tried. Queue 2 is for dead letters only, and queue 3 gets no more
/// messages.
fn many_small_files() -> Vec<Action> {
    let rounds = (0..8).flat_map(|round| {
        let queue = [0, 1, 3][round % 3];
        let send = Action::Send { queue, messages: 1, bytes: 10, how: How::Sync };
        [send, Action::Checkpoint]
    });
    (0..4).map(Action::CreateQueue).chain(rounds).collect()
}

/// A beginning with a message that waits after a nack, and a clock that is set then: the wait does not change.
fn a_wait_and_a_set_clock(time: u8) -> Vec<Action> {
    vec![
        Action::CreateQueue(0),
        Action::Send { queue: 0, messages: 2, bytes: 10, how: How::Sync },
        Action::Receive { queue: 0 },
        Action::NackAfter(0),
        Action::Clock(time),
    ]
}

/// A beginning with a stream that has limits, more records than these keep, and a group that has it keep some of them.
fn a_stream_with_limits() -> Vec<Action> {
    let append = |messages| Action::Append { stream: 1, messages, bytes: 20, how: How::Sync };
    let group = Action::CreateGroup(1, 0);
    vec![Action::CreateStream(1), append(25), Action::Checkpoint, append(20), group, append(30)]
}

/// Random case number `n` of a seed.
pub fn random(seed: u64, n: u64) -> Random {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&n.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = actions(60).new_tree(&mut runner).expect("no value is refused");
    let actions = tree.current();
    let rounds = actions.iter().map(|action| match action {
        Action::Churn { rounds, .. } => u64::from(*rounds),
        _ => 0,
    });
    // Long cases are examined at about as many moments as short ones.
    let one_in = 8 + 4 * rounds.sum::<u64>();
    let case = Case {
        seed: seed ^ n,
        durability: if n % 3 == 2 { Durability::Buffered } else { Durability::Sync },
        io: if n % 4 == 3 { IoMode::Calls } else { IoMode::Map },
        pessimal: n % 5 < 2,
        setup: match n % 8 {
            5 => many_small_files(),
            1 => a_wait_and_a_set_clock((n / 8 % 8) as u8),
            3 => a_stream_with_limits(),
            _ => Vec::new(),
        },
        actions,
        one_in,
        effort: Effort { survivors: 4, recovery_one_in: 10, damage_one_in: 4 },
    };
    Random { case, tree: Box::new(tree) }
}

/// A random case, and the simpler cases that it can be shrunk to.
pub struct Random {
    pub case: Case,
    tree: Box<dyn ValueTree<Value = Vec<Action>>>,
}

impl Random {
    /// Looks for a simpler case that fails too, in at most this many runs.
    pub fn shrink(mut self, mut failure: Failure, runs: usize) -> Failure {
        // Most steps are examined, so that removing an action does not shift the choice of steps.
        let mut simpler = self.tree.simplify();
        for _ in 0..runs {
            if !simpler {
                break;
            }
            let one_in = self.case.one_in.min(4);
            let case = Case { actions: self.tree.current(), one_in, ..self.case.clone() };
            simpler = match case.run() {
                Err(smaller) => {
                    failure = smaller;
                    self.tree.simplify()
                }
                Ok(_) => self.tree.complicate(),
            };
        }
        failure
    }
}

/// The operations of a sequence.
fn operations() -> Vec<Vec<Action>> {
    let how = How::Sync;
    let (queue, topic, stream, messages) = (0, 0, 0, 1);
    let receive = Action::Receive { queue };
    vec![
        vec![Action::Send { queue, messages, bytes: 30, how }],
        vec![receive.clone(), Action::Ack(0)],
        vec![receive.clone(), Action::Nack(0)],
        vec![Action::Publish { topic, messages, bytes: 30, how }],
        vec![Action::Subscribe(0, 1)],
        vec![Action::Filter(0, 2, 3)],
        vec![Action::Retain(0, 1), Action::Late(0, 1, 1)],
        vec![Action::PublishTo { topic, subscription: 0, bytes: 30, how }],
        vec![Action::Append { stream, messages, bytes: 30, how }],
        vec![Action::AppendIf { stream, at: 0, messages, bytes: 30, how }],
        vec![Action::Seek { stream, group: 0, to: 2 }],
        vec![
            receive,
            Action::Transaction(
                vec![TxPart::Ack(0), TxPart::Send(0), TxPart::Publish(0), TxPart::Append(0)],
                how,
            ),
        ],
        vec![Action::Checkpoint],
        // Rolls over to another journal file.
        vec![Action::Send { queue, messages, bytes: 7000, how }],
        vec![Action::Trim { stream, to: 1 }, Action::Trim { stream, to: 2 }, Action::Checkpoint],
        vec![Action::DeleteQueue(0), Action::CreateQueue(0)],
        vec![Action::Reopen],
    ]
}

/// How many sequences of this length there are.
pub fn sequences(length: u32) -> u64 {
    (operations().len() as u64).pow(length)
}

/// Sequence number `n` of this length, on a store that is not empty. All moments of the last operation are
/// examined. Those of the operations before it are examined in shorter sequences.
pub fn sequence(length: u32, n: u64) -> Case {
    let operations = operations();
    let count = operations.len() as u64;
    let mut setup = vec![
        Action::CreateQueue(0),
        Action::CreateTopic(0),
        Action::Subscribe(0, 0),
        Action::Subscribe(0, 2),
        Action::CreateStream(0),
        Action::CreateGroup(0, 0),
        // The next ones have subjects.
        Action::Send { queue: 0, messages: 5, bytes: 20, how: How::Sync },
        Action::Append { stream: 0, messages: 2, bytes: 20, how: How::Sync },
    ];
    let mut last = Vec::new();
    for place in (0..length).rev() {
        let operation = operations[(n / count.pow(place) % count) as usize].clone();
        if place == 0 {
            last = operation;
        } else {
            setup.extend(operation);
        }
    }
    Case {
        seed: n,
        durability: Durability::Sync,
        io: IoMode::Map,
        pessimal: n % 2 == 1,
        setup,
        actions: last,
        one_in: 1,
        effort: Effort { survivors: 8, recovery_one_in: 1, damage_one_in: 0 },
    }
}
