//! Checkpoints with commits between all of their steps, and crashes at all of their steps.

use std::{cell::RefCell, collections::BTreeMap, path::Path, sync::Arc};

use crate::{
    config::Config,
    disk::sim::SimDisk,
    error::{ErrorKind, Result},
    format::{
        commit::Change,
        entity::{Creation, Delivering, EntityKind},
        frame::begin_frame,
    },
    ids::{CursorId, Due, LogId, Lsn, Offset, StoreId, Timestamp},
    journal::Urgency,
    message::Message,
    store::{self, Extent, Op, Refused, Shared, Shortage, Space, Store},
};

const QUEUE: LogId = LogId(1);
const CURSOR: CursorId = CursorId(1);

fn config() -> Config {
    Config {
        journal_file_bytes_min: 8 << 10,
        journal_file_bytes_max: 8 << 10,
        journal_bytes: 256 << 10,
        segment_bytes: 4096,
        block_bytes: 512,
        maps_max: 2,
        ..Config::default()
    }
}

fn open(disk: &SimDisk) -> Result<Store> {
    let disk = Arc::new(disk.process());
    store::open(disk, Path::new("store"), config(), StoreId([1; 16]))
}

pub(super) fn commit(store: &mut Store, ops: &[Op<'_>]) -> Result<()> {
    loop {
        match store.commit(ops, Timestamp(1).into()) {
            Ok(_) => return Ok(()),
            Err(Refused::Failed(error)) => return Err(error),
            Err(Refused::NeedsSpace(Shortage::File { bytes, urgency })) => {
                let job = store
                    .journal
                    .begin_prepare(Some(bytes), urgency, 0)
                    .expect("nobody else prepares");
                store.journal.finish_prepare(job.run())?;
            }
            Err(Refused::NeedsSpace(Shortage::Checkpoint { .. })) => {
                panic!("the journal is long enough for these tests")
            }
            Err(Refused::NeedsSpace(Shortage::Lives { .. })) => unreachable!("no queue is full"),
        }
    }
}

fn text(offset: u64) -> String {
    let length = (offset * 71 % 300) as usize;
    format!("message {offset} {}", "x".repeat(length))
}

/// A store that another thread uses while a checkpoint is made.
struct Busy {
    store: RefCell<Store>,
    /// The messages of the queue, and the next offset.
    model: RefCell<(BTreeMap<u64, String>, u64)>,
    random: RefCell<u64>,
    /// How many times the checkpoint has held the store.
    steps: RefCell<usize>,
}

impl Busy {
    fn new(store: Store, seed: u64) -> Busy {
        let model = RefCell::new((BTreeMap::new(), 0));
        Busy {
            store: RefCell::new(store),
            model,
            random: RefCell::new(seed),
            steps: RefCell::new(0),
        }
    }

    fn below(&self, n: u64) -> u64 {
        let mut random = self.random.borrow_mut();
        *random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % n
    }

    fn send(&self, count: u64) -> Result<()> {
        let (unacked, next) = &mut *self.model.borrow_mut();
        let texts: Vec<String> = (*next..*next + count).map(text).collect();
        let messages: Vec<Message<'_>> = texts.iter().map(Message::from).collect();
        let op = Op::Append { log: QUEUE, messages: &messages, delay_ms: 0 };
        commit(&mut self.store.borrow_mut(), &[op])?;
        for text in texts {
            unacked.insert(*next, text);
            *next += 1;
        }
        Ok(())
    }

    /// Acks some of the messages: mostly the oldest, some from anywhere.
    fn ack(&self, count: u64) -> Result<()> {
        for _ in 0..count {
            let (unacked, _) = &mut *self.model.borrow_mut();
            let from = if self.below(3) == 0 { self.below(unacked.len().max(1) as u64) } else { 0 };
            let Some(offset) = unacked.keys().nth(from as usize).copied() else {
                return Ok(());
            };
            let op = Op::Ack { cursor: CURSOR, offsets: &[Offset(offset)] };
            commit(&mut self.store.borrow_mut(), &[op])?;
            unacked.remove(&offset);
        }
        Ok(())
    }

    fn sync_all(&self) {
        let tail = self.store.borrow().journal.tail();
        self.sync_to(tail).expect("the disk is well");
    }

    fn work(&self) -> Result<()> {
        self.send(self.below(4))?;
        self.ack(self.below(5))
    }
}

impl Shared for Busy {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        *self.steps.borrow_mut() += 1;
        let outcome = act(&mut self.store.borrow_mut());
        // Another commit is made each time the checkpoint has released the store. If it fails, the power is
        // off, and the checkpoint will fail, too.
        let _ = self.work();
        outcome
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        let mut store = self.store.borrow_mut();
        if store.journal.durable() < position
            && let Some(job) = store.journal.begin_sync()
        {
            job.run()?;
            store.journal.finish_sync(&job);
        }
        Ok(())
    }
}

fn busy(disk: &SimDisk, seed: u64) -> Busy {
    let mut store = open(disk).expect("a new store");
    let entity = store.new_entity("queue", EntityKind::Queue(Delivering::leasing(1000).into()));
    assert_eq!(entity.id, QUEUE.entity());
    let creation = Creation { entity, starts: vec![Offset(0)] };
    commit(&mut store, &[Op::Create { creation: &creation }]).expect("there is room");
    Busy::new(store, seed)
}

/// The messages that a store holds.
fn contents(store: &mut Store) -> BTreeMap<u64, String> {
    let (_, end) = store.bounds(QUEUE).expect("the queue is there");
    let mut found = BTreeMap::new();
    let mut from = Offset(0);
    while let Some(offset) = store.acks(CURSOR).expect("it is there").next_unacked(from.to(end)) {
        let source = store.locate(QUEUE, offset).expect("it is somewhere");
        let (stored, parts) = source.load(offset).expect("it is whole");
        store.keep(QUEUE, parts);
        let payload = String::from_utf8(stored.payload().to_vec()).expect("text");
        found.insert(offset.0, payload);
        from = offset.next();
    }
    found
}

fn extent(n: u64) -> Extent {
    let all = [Extent::All, Extent::Older, Extent::All, Extent::Nothing, Extent::Idle];
    all[(n % 5) as usize]
}

#[test]
fn commits_between_all_steps_are_kept() {
    for seed in 0..25 {
        let disk = SimDisk::new(seed);
        let busy = busy(&disk, seed);
        for round in 0..8 {
            busy.send(busy.below(30)).expect("there is room");
            busy.ack(busy.below(25)).expect("there is room");
            store::checkpoint(&busy, extent(round), true).expect("the disk is well");
            let found = contents(&mut busy.store.borrow_mut());
            assert_eq!(found, busy.model.borrow().0, "seed {seed}, round {round}");
        }
        busy.sync_all();
        disk.power_cut();
        let found = contents(&mut open(&disk).expect("it recovers"));
        assert_eq!(found, busy.model.borrow().0, "seed {seed}");
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_durable_and_brings_nothing_back() {
    for seed in 0..4 {
        for crash_at in 1.. {
            let disk = SimDisk::new(seed);
            disk.set_pessimal(seed % 2 == 1);
            let busy = busy(&disk, seed);
            for round in 0..3 {
                busy.send(20).expect("there is room");
                busy.ack(14).expect("there is room");
                store::checkpoint(&busy, extent(round), true).expect("the disk is well");
            }
            busy.send(10).expect("there is room");
            busy.sync_all();
            let (before, next) = busy.model.borrow().clone();

            disk.stop_at_step(disk.steps() + crash_at);
            let done = store::checkpoint(&busy, extent(seed), true).is_ok();
            disk.power_cut();
            let found = contents(&mut open(&disk).expect("it recovers"));
            let (after, _) = &*busy.model.borrow();
            for (offset, text) in &found {
                let known = before.get(offset).or(after.get(offset));
                let fresh = known.is_none() && *offset >= next;
                assert!(known == Some(text) || fresh, "seed {seed}, step {crash_at}: {offset}");
            }
            // Only an ack may remove a message.
            for offset in after.keys().filter(|offset| before.contains_key(offset)) {
                assert!(found.contains_key(offset), "seed {seed}, step {crash_at}: {offset}");
            }
            if done {
                break;
            }
        }
    }
}

#[test]
fn space_comes_back_when_all_is_acked_and_nothing_is_left_behind() {
    let disk = SimDisk::new(3);
    let busy = busy(&disk, 3);
    busy.send(400).expect("there is room");
    store::checkpoint(&busy, Extent::All, true).expect("the disk is well");
    assert!(disk.bytes_written("segments") > 60_000);
    while !busy.model.borrow().0.is_empty() {
        busy.ack(1000).expect("there is room");
    }
    // The checkpoint's own commits come and go meanwhile: those of the last one are young.
    for _ in 0..3 {
        store::checkpoint(&busy, Extent::Older, true).expect("the disk is well");
    }
    let left: Vec<_> = disk.files().into_iter().filter(|path| path.ends_with(".seg")).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[test]
fn stragglers_are_rewritten_together() {
    let disk = SimDisk::new(4);
    let store = busy(&disk, 4).store.into_inner();
    let quiet = Quiet(RefCell::new(store));
    let texts: Vec<String> = (0..400).map(text).collect();
    for text in &texts {
        let op = Op::Append { log: QUEUE, messages: &[Message::from(text)], delay_ms: 0 };
        commit(&mut quiet.0.borrow_mut(), &[op]).expect("there is room");
    }
    store::checkpoint(&quiet, Extent::All, true).expect("the disk is well");
    let segments = || disk.files().iter().filter(|it| it.starts_with("store/segments")).count();
    let before = segments();
    assert!(before > 10, "{before}");
    let acked: Vec<Offset> = (0..400).filter(|n| n % 40 != 7).map(Offset).collect();
    let op = Op::Ack { cursor: CURSOR, offsets: &acked };
    commit(&mut quiet.0.borrow_mut(), &[op]).expect("there is room");
    for _ in 0..4 {
        let op = Op::Ack { cursor: CURSOR, offsets: &[Offset(0)] };
        commit(&mut quiet.0.borrow_mut(), &[op]).expect("there is room");
        store::checkpoint(&quiet, Extent::All, true).expect("the disk is well");
    }
    assert!(segments() <= before / 3, "{} of {before}", segments());
    let expected: BTreeMap<u64, String> =
        (0..400).filter(|n| n % 40 == 7).map(|n| (n, text(n))).collect();
    assert_eq!(contents(&mut quiet.0.borrow_mut()), expected);
    disk.power_cut();
    assert_eq!(contents(&mut open(&disk).expect("it recovers")), expected);
}

/// A store without other users.
struct Quiet(RefCell<Store>);

impl Shared for Quiet {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        act(&mut self.0.borrow_mut())
    }

    fn sync_to(&self, _: Lsn) -> Result<()> {
        let mut store = self.0.borrow_mut();
        if let Some(job) = store.journal.begin_sync() {
            job.run()?;
            store.journal.finish_sync(&job);
        }
        Ok(())
    }
}

/// A store with three messages, whose last commit refers to a fourth.
pub fn with_a_commit_about_no_message(change: &Change<'_>) -> SimDisk {
    let disk = SimDisk::new(1);
    let busy = busy(&disk, 1);
    busy.send(3).expect("there is room");
    let mut store = busy.store.into_inner();
    let mut frame = Vec::new();
    begin_frame(&mut frame);
    change.put(&mut frame);
    store.journal.append(&mut frame).expect("there is room");
    disk
}

/// Two changes that refer to a fourth message.
pub fn changes_about_no_message() -> [Change<'static>; 2] {
    [
        Change::Defer { cursor: CURSOR, offset: Offset(3), attempts: 1, due: Due::NOW },
        Change::Prioritize { cursor: CURSOR, first: Offset(2), count: 2, priority: 9 },
    ]
}

/// A store with three messages. Its metalog may refer to a fourth.
pub fn with_a_metalog_about_no_message(says: bool) -> SimDisk {
    let disk = SimDisk::new(1);
    let busy = busy(&disk, 1);
    busy.send(3).expect("there is room");
    let quiet = Quiet(busy.store);
    if says {
        let [_, change] = changes_about_no_message();
        quiet.with(|it| it.state.apply(&change, Lsn(0))).expect("the cursor is there");
    }
    store::checkpoint(&quiet, Extent::All, true).expect("it can be made");
    disk
}

#[test]
fn what_a_commit_says_of_messages_that_are_not_there_is_refused() {
    for change in changes_about_no_message() {
        let disk = with_a_commit_about_no_message(&change);
        assert_eq!(open(&disk).map(drop).map_err(|it| it.kind()), Err(ErrorKind::Corrupt));
    }
}

#[test]
fn operations_of_one_commit_happen_in_their_order_now_and_after_a_crash() {
    let offset = Offset(1);
    let spill = Op::Spill { cursor: CURSOR, offsets: &[offset] };
    let due = Due::day(Timestamp(7));
    let defer = Op::Defer { cursor: CURSOR, offset, attempts: 2, due, urgency: Urgency::Freeing };
    let state = |store: &Store| {
        let acks = store.acks(CURSOR).expect("it is there");
        (acks.is_spilled(offset), acks.due(offset), acks.attempts(offset))
    };
    let orders = [([spill, defer], (false, due, 2)), ([defer, spill], (true, Due::NOW, 2))];
    for (ops, expected) in orders {
        let disk = SimDisk::new(1);
        let busy = busy(&disk, 1);
        busy.send(3).expect("there is room");
        let mut store = busy.store.into_inner();
        commit(&mut store, &ops).expect("there is room");
        assert_eq!(state(&store), expected);
        drop(store);
        assert_eq!(state(&open(&disk).expect("the journal is whole")), expected);
    }
}

#[test]
fn what_a_metalog_says_of_messages_that_are_not_there_is_refused() {
    for says in [false, true] {
        let disk = with_a_metalog_about_no_message(says);
        let opened = open(&disk).map(drop).map_err(|it| it.kind());
        assert_eq!(opened, if says { Err(ErrorKind::Corrupt) } else { Ok(()) });
    }
}

/// The same store, while nobody else uses it.
struct Alone<'a>(&'a Busy);

impl Shared for Alone<'_> {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        act(&mut self.0.store.borrow_mut())
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        self.0.sync_to(position)
    }
}

/// Sends messages until the journal is as long as it may be.
fn send_up_to_the_wall(busy: &Busy) {
    let refused = loop {
        let (offset, payload) = (busy.model.borrow().1, text(busy.model.borrow().1));
        let messages = [Message::from(&payload)];
        let op = Op::Append { log: QUEUE, messages: &messages, delay_ms: 0 };
        let committed = busy.store.borrow_mut().commit(&[op], Timestamp(1).into());
        match committed {
            Ok(_) => {
                let (unacked, next) = &mut *busy.model.borrow_mut();
                unacked.insert(offset, payload);
                *next += 1;
            }
            Err(Refused::NeedsSpace(Shortage::File { bytes, urgency })) => {
                let store = &mut *busy.store.borrow_mut();
                let job = store.journal.begin_prepare(Some(bytes), urgency, 0);
                let prepared = job.expect("nobody else prepares").run();
                store.journal.finish_prepare(prepared).expect("there is space");
            }
            Err(refused) => break refused,
        }
    };
    let full = Shortage::Checkpoint { urgency: Urgency::Ordinary };
    assert!(matches!(refused, Refused::NeedsSpace(shortage) if shortage == full), "{refused:?}");
}

#[test]
fn a_checkpoint_of_much_journal_is_made_in_parts_and_the_first_one_makes_room() {
    let disk = SimDisk::new(1);
    let busy = busy(&disk, 1);
    send_up_to_the_wall(&busy);
    let parts = busy.store.borrow().parts(Extent::All);
    assert!((6..=9).contains(&parts.len()), "{parts:?}");
    let mut length = busy.store.borrow().journal.bytes_behind();
    let whole = length;
    for (n, part) in parts.iter().enumerate() {
        let made = match n {
            0 => store::checkpoint(&Alone(&busy), *part, true),
            // There is room before most of the journal was moved: commits are made at each step from here on.
            _ => store::checkpoint(&busy, *part, true),
        };
        made.expect("the disk is well");
        let now = busy.store.borrow().journal.bytes_behind();
        assert!(now < length || n + 1 == parts.len(), "part {n} frees some of the journal");
        length = now;
        if n == 0 {
            assert!(now > whole / 2 && now < whole, "{now} of {whole}");
            busy.send(1).expect("there is room");
        }
    }
    let found = contents(&mut busy.store.borrow_mut());
    assert_eq!(found, busy.model.borrow().0);
    busy.sync_all();
    disk.power_cut();
    let found = contents(&mut open(&disk).expect("it recovers"));
    assert_eq!(found, busy.model.borrow().0);
}

/// The metalog was taken to count as soon as it was about to be written. So on a full disk the new segments stayed, and with
/// them the space that the next try needs.
#[test]
fn a_checkpoint_that_has_no_space_leaves_no_file_whatever_it_was_about_to_write() {
    const NO_SPACE: i32 = 28;
    let segments = |disk: &SimDisk| -> Vec<_> {
        disk.files().into_iter().filter(|it| it.starts_with("store/segments")).collect()
    };
    let mut refused = 0;
    for call in 0.. {
        let disk = SimDisk::new(1);
        let busy = busy(&disk, 1);
        busy.send(20).expect("there is space");
        let before = segments(&disk);
        disk.fail_call(disk.calls() + call, NO_SPACE, false);
        let made = store::checkpoint(&Alone(&busy), Extent::All, true);
        let Some(failed) = disk.failed_call() else { break };
        let Err(error) = made else { continue };
        if error.kind() == ErrorKind::DiskFull {
            refused += 1;
            assert_eq!(segments(&disk), before, "call {call}, {failed}");
        }
    }
    assert!(refused >= 4, "{refused} failed for lack of space");
}

/// An early salvage wrote such stores.
#[test]
fn a_store_in_which_two_queues_have_one_name_is_not_opened() {
    let disk = SimDisk::new(1);
    let mut store = open(&disk).expect("a new store");
    let mut make = |name: &str| {
        let entity = store.new_entity(name, EntityKind::Queue(Delivering::leasing(1000).into()));
        let creation = Creation { entity: entity.clone(), starts: vec![Offset(0)] };
        commit(&mut store, &[Op::Create { creation: &creation }]).expect("there is room");
        entity.id
    };
    let [first, second, _, fourth] = ["q", "q", "other", "q"].map(&mut make);
    assert_eq!(store.state().catalog.twins(), [first, second]);
    assert_eq!(store.state().catalog.find(Space::Queues, "q").map(|it| it.id), Some(fourth));
    drop(store);
    let error = open(&disk).map(drop).expect_err("it is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("one name"), "{error}");
}
