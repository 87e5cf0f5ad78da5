//! The checks of every disk that a crash can leave.
//!
//! For each moment at which the power can be cut, and for each choice of surviving writes:
//!
//! 1. The recovered state is the state after some prefix of the commits, with no holes.
//! 2. The prefix holds every commit that was reported durable, or of which something was seen.
//! 3. Everything that is seen after the recovery survives the next power cut, which comes at once.
//! 4. A recovery that is itself cut off, at any of its steps, and started again gives the same state.
//! 5. The store takes new commits, makes them durable, and recovers with them.
//! 6. Injected damage is a typed error that names a file, or has no consequence.
//! 7. After a checkpoint every file is referred to.

use std::cell::{Cell, RefCell};

use posthouse::{Durability, Engine, ErrorKind, Offset, Options, sim::SimDisk};

use super::{
    driver::history::{History, after_sweep},
    state::{BOUNDED, Entry, MESSAGES_MAX, Msg, QueueState, REFUSING, State, dump, look},
};

/// How thoroughly each moment is examined.
#[derive(Clone, Debug)]
pub struct Effort {
    /// If at most this many choices decide what survives, all of them are tried; else this many samples.
    pub survivors: u64,
    /// One step of a recovery in this many is cut off; 0 is none.
    pub recovery_one_in: u64,
    /// One survivor in this many is damaged; 0 is none.
    pub damage_one_in: u64,
}

#[derive(Debug)]
pub struct Oracle {
    options: Options,
    effort: Effort,
    chance: RefCell<Chance>,
    /// Crashes that were recovered, each with its result compared.
    pub states: Cell<u64>,
    /// Files that were damaged.
    pub damages: Cell<u64>,
}

/// The time of the driver's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Its time when the action began that was cut off.
    pub before: u64,
    pub now: u64,
    /// Whether it tells nothing of the engine's time.
    pub is_lost: bool,
}

impl Clock {
    fn may_be_over(self, entry: &Entry) -> bool {
        entry.end().is_some_and(|end| self.is_lost || end <= self.now)
    }

    fn is_over(self, entry: &Entry) -> bool {
        entry.end().is_some_and(|end| !self.is_lost && end <= self.before)
    }
}

impl Oracle {
    pub fn new(options: Options, effort: Effort, seed: u64) -> Oracle {
        Oracle {
            options,
            effort,
            chance: RefCell::new(Chance(seed)),
            states: Cell::new(0),
            damages: Cell::new(0),
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.chance.borrow_mut().below(n)
    }

    fn open(&self, disk: &SimDisk) -> Engine {
        self.options
            .clone()
            .sim(disk)
            .open("store")
            .unwrap_or_else(|error| panic!("cannot recover: {error}"))
    }

    /// Opens the disk, and returns its state. The disk is used up.
    fn recover(&self, disk: &SimDisk) -> State {
        self.states.set(self.states.get() + 1);
        let engine = self.open(disk);
        dump(&engine).unwrap_or_else(|error| panic!("cannot read: {error}"))
    }

    /// Examines a moment at which the power may be cut. `all` are the states since the last opening. The
    /// crash may lead to those from `floor` on. More than one frame proves that the states before `proven`
    /// are durable.
    pub fn examine(
        &self,
        moment: &SimDisk,
        all: &History,
        floor_and_proven: (usize, usize),
        clock: Clock,
    ) {
        let mut cuts = Cuts::default();
        let mut tried = 0;
        loop {
            let disk = moment.fork(self.below(u64::MAX));
            let sampling = cuts.alternatives() > self.effort.survivors;
            if sampling && tried > 1 {
                disk.power_cut();
            } else {
                // The least that may survive; then, if there are too many choices to try, the most.
                let most = sampling && tried == 1;
                disk.power_cut_with(&mut |n| if most { n - 1 } else { cuts.choose(n) });
            }
            tried += 1;
            self.examine_survivor(&disk, all, floor_and_proven, clock);
            if tried >= self.effort.survivors || (!sampling && !cuts.advance()) {
                break;
            }
        }
    }

    fn examine_survivor(
        &self,
        disk: &SimDisk,
        all: &History,
        (floor, proven): (usize, usize),
        clock: Clock,
    ) {
        let found = self.recover(&disk.fork(1));
        // The model's own state knows when lives end.
        let Some(known) = all.find(&found, floor) else {
            panic!("{}", all.unexpected(&found, floor));
        };
        // Each look at a stream with limits may take more from it.
        let found = State::clone(&known);
        if self.effort.damage_one_in > 0 && self.below(self.effort.damage_one_in) == 0 {
            self.damage(&disk.fork(1), all, proven);
        }
        disk.record(self.effort.recovery_one_in);
        let engine = self.open(disk);
        disk.record(0);
        for moment in disk.take_moments() {
            moment.power_cut();
            let again = self.recover(&moment);
            let found = found.retained_as(&again);
            assert!(again == found, "a recovery was cut off: {}", differ(&again, &found));
        }

        let (seen, held) = look(&engine).unwrap_or_else(|error| panic!("cannot read: {error}"));
        let found = found.retained_as(&seen);
        let expected = found.looked_at();
        assert!(seen == expected, "another recovery: {}", differ(&seen, &expected));
        disk.power_cut_with(&mut |_| 0);
        drop((held, engine));
        let engine = self.open(disk);
        let found = self.sweep(&engine, disk, &found, clock);
        let more = add_to_all(&engine, &found, clock);
        disk.power_cut_with(&mut |_| 0);
        drop(engine);
        self.states.set(self.states.get() + 1);
        let engine = self.open(disk);
        self.check_space(&engine, disk);
        disk.power_cut_with(&mut |_| 0);
        drop(engine);
        let again = self.recover(disk);
        let more = more.retained_as(&again);
        assert!(again == more, "with new commits: {}", differ(&again, &more));
    }

    /// The first call has what is over leave. Returns what is left.
    fn sweep(&self, engine: &Engine, disk: &SimDisk, found: &State, clock: Clock) -> State {
        engine.sync().unwrap_or_else(|error| panic!("no sync: {error}"));
        let seen = self.recover(&disk.fork(1));
        let left = after_sweep(found, &seen, |entry| clock.may_be_over(entry), clock.now);
        let left = left.retained_as(&seen);
        assert!(seen == left, "after a sweep: {}", differ(&seen, &left));
        let queues = left.queues.values().map(|it| &it.unacked);
        let subscriptions = left.topics.values().flat_map(|it| it.subscriptions.values());
        let stays = queues.chain(subscriptions.map(|it| &it.unacked)).flat_map(|it| it.values());
        let stays = stays.filter(|entry| clock.is_over(entry)).collect::<Vec<_>>();
        assert!(stays.is_empty(), "these are over, and stay: {stays:?}");
        left
    }

    /// After a checkpoint no file from before it is left, and all files that are left verify.
    fn check_space(&self, engine: &Engine, disk: &SimDisk) {
        engine.checkpoint().unwrap_or_else(|error| panic!("no checkpoint: {error}"));
        let report = engine.verify().unwrap_or_else(|error| panic!("cannot verify: {error}"));
        assert!(report.is_ok(), "{report}");
        assert!(report.unreferenced.is_empty(), "left behind: {:?}", report.unreferenced);
        let files = disk.files();
        let journal = files.iter().filter(|path| path.starts_with("store/journal")).count();
        assert!(journal <= 4, "{files:?}");
    }

    /// Spoils one file.
    fn damage(&self, disk: &SimDisk, all: &History, proven: usize) {
        let files: Vec<_> =
            disk.files().into_iter().filter(|path| !path.ends_with("LOCK")).collect();
        let pick = |n: usize| self.below(n as u64) as usize;
        let path = &files[pick(files.len())];
        let content = disk.content(path).unwrap();
        let mut spoiled = content.clone();
        let what = if content.is_empty() { 0 } else { self.below(5) };
        match what {
            0 => spoiled.clear(),
            1 => spoiled.truncate(pick(content.len())),
            2 => {
                // In the written part, not in the zeros behind it.
                let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
                spoiled[pick(used)] ^= 1 << self.below(8);
            }
            3 => {
                let at = pick(content.len());
                let end = (at + 1 + pick(600)).min(content.len());
                spoiled[at..end].fill(0);
            }
            _ => {
                let other = &files[pick(files.len())];
                spoiled = disk.content(other).unwrap();
            }
        }
        let planted = if what == 0 && self.below(2) == 0 { None } else { Some(spoiled) };
        disk.plant(path, planted);
        self.damages.set(self.damages.get() + 1);
        let read = self.options.clone().sim(disk).open("store").and_then(|it| dump(&it));
        match read {
            Ok(state) => {
                // Damage to the last frames looks like a torn tail. An earlier state is a right answer then;
                // a state that never was is not. One flipped bit damages one frame.
                let from = if what == 2 { proven } else { 0 };
                let honest = all.find(&state, from).is_some();
                let unexpected = || all.unexpected(&state, from);
                assert!(honest, "{path:?} was damaged ({what}): {}", unexpected());
            }
            Err(error) => {
                let kind = error.kind();
                let typed = matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
                assert!(typed, "{path:?} was damaged ({what}): {error:?}");
                assert!(error.file().is_some(), "{path:?} was damaged ({what}): {error:?}");
            }
        }
    }
}

/// Adds one durable message to every queue, topic and stream.
fn add_to_all(engine: &Engine, found: &State, clock: Clock) -> State {
    let mut state = found.clone();
    let (payload, key) = (b"more".to_vec(), Some(b"k".to_vec()));
    let subject = Some("a.b".to_owned());
    let message = Msg { payload, key, headers: Vec::new(), subject, priority: 0, note: None };
    let added = (|| {
        for (name, queue) in &mut state.queues {
            let handle = engine.queue(name).open()?.durability(Durability::Sync);
            let is_full = [BOUNDED, REFUSING].contains(&&**name)
                && queue.unacked.len() as u64 >= MESSAGES_MAX;
            let sent = handle.send(message.message());
            if is_full && !make_room(name, queue, &sent) {
                continue;
            }
            assert_eq!(sent?.0, queue.next);
            queue.send(std::slice::from_ref(&message), clock.now);
        }
        for (name, topic) in &mut state.topics {
            let handle = engine.topic(name).open()?.durability(Durability::Sync);
            assert_eq!(handle.publish(message.message())?.0, topic.next);
            topic.publish(name, std::slice::from_ref(&message), clock.now);
        }
        for (name, stream) in &mut state.streams {
            let handle = engine.stream(name).open()?.durability(Durability::Sync);
            let at = handle.append(message.message())?;
            assert_eq!((at.partition, at.offset.0), stream.append(&message));
        }
        Ok::<(), posthouse::Error>(())
    })();
    added.unwrap_or_else(|error| panic!("cannot go on after a recovery: {error}"));
    state
}

/// A message was sent to a full queue: the oldest message of the lowest priority leaves it, if the queue drops any. Returns
/// whether the new message had room.
fn make_room(name: &str, queue: &mut QueueState, sent: &posthouse::Result<Offset>) -> bool {
    if name == REFUSING {
        let is_refused = sent.as_ref().is_err_and(|it| it.kind() == ErrorKind::QueueFull);
        assert!(is_refused, "{name} is full");
        return false;
    }
    let oldest = queue.unacked.iter().min_by_key(|(n, it)| (it.msg.priority, **n));
    let oldest = *oldest.expect("it is full").0;
    queue.unacked.remove(&oldest);
    true
}

fn differ(found: &State, expected: &State) -> String {
    format!("the states differ\nfound: {found:#?}\nexpected: {expected:#?}")
}

/// Goes through all combinations of the choices that a power cut makes, like the digits of a number that is
/// counted up.
#[derive(Default)]
struct Cuts {
    /// The choice that was made, and how many there were.
    digits: Vec<(u64, u64)>,
    at: usize,
}

impl Cuts {
    fn choose(&mut self, n: u64) -> u64 {
        if self.at == self.digits.len() {
            self.digits.push((0, n));
        }
        self.at += 1;
        self.digits[self.at - 1].0.min(n - 1)
    }

    /// How many combinations there are, as far as was seen.
    fn alternatives(&self) -> u64 {
        self.digits.iter().fold(1, |all: u64, (_, n)| all.saturating_mul(*n))
    }

    /// Goes on to the next combination; `false` if there is none.
    fn advance(&mut self) -> bool {
        self.digits.truncate(self.at);
        self.at = 0;
        while let Some((digit, n)) = self.digits.pop() {
            if digit + 1 < n {
                self.digits.push((digit + 1, n));
                return true;
            }
        }
        false
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(n.max(1))) >> 64) as u64
    }
}
