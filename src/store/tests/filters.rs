//! Filters beside checkpoints: messages are published, acked, and filters change between all of their steps, and the process is
//! killed there.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    path::Path,
    sync::Arc,
};

use super::checkpoint::commit;
use crate::{
    config::Config,
    disk::sim::SimDisk,
    error::Result,
    format::{
        entity::{Creation, Delivering, Entity, EntityKind},
        filter::Filter,
    },
    ids::{CursorId, EntityId, LogId, Lsn, Offset, StoreId},
    message::Message,
    store::{self, Extent, Op, Shared, Store},
};

const TOPIC: LogId = LogId(1);
const CURSORS: [CursorId; 3] = [CursorId(2), CursorId(3), CursorId(4)];
const SUBJECTS: [&str; 3] = ["a", "b", "c"];
/// The last one gets everything, as without a filter.
const PATTERNS: [Option<&str>; 5] = [Some("a"), Some("b"), Some("*"), Some("x"), None];

fn open(disk: &SimDisk) -> Store {
    let config = Config {
        journal_file_bytes_min: 8 << 10,
        journal_file_bytes_max: 8 << 10,
        journal_bytes: 512 << 10,
        segment_bytes: 4096,
        block_bytes: 512,
        slice: 2,
        ..Config::default()
    };
    let opened =
        store::open(Arc::new(disk.process()), Path::new("store"), config, StoreId([1; 16]));
    opened.expect("it recovers")
}

fn entity(cursor: CursorId, pattern: Option<&str>) -> Entity {
    let patterns = pattern.map(str::to_owned).into_iter().collect();
    let filter = Filter::of(patterns, Vec::new()).map(Arc::new);
    let delivering = Delivering { filter, ..Delivering::leasing(1000) }.into();
    let kind = EntityKind::Subscription { topic: EntityId(1), delivering };
    Entity { id: cursor.entity(), name: format!("s{}", cursor.0).into(), kind }
}

/// What the cursors need, which patterns they have, and the next offset.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    pending: [BTreeSet<u64>; 3],
    patterns: [usize; 3],
    next: u64,
}

/// What a store shows.
fn shown(store: &Store) -> Model {
    let mut model =
        Model { next: store.bounds(TOPIC).expect("it is there").1.0, ..Model::default() };
    for (n, cursor) in CURSORS.into_iter().enumerate() {
        let acks = store.acks(cursor).expect("it is there");
        let end = store.end_for(cursor, TOPIC).expect("it is there");
        let unacked = acks.unacked_in(Offset(0).to(end)).into_iter().flatten();
        model.pending[n] = unacked.map(|it| it.0).collect();
        assert_eq!(acks.unacked(end), model.pending[n].len() as u64);
        let filter = store.entity(cursor.entity()).expect("it is there").filter();
        let pattern = filter.map(|it| it.patterns[0].as_str());
        model.patterns[n] = PATTERNS.iter().position(|it| *it == pattern).expect("one of them");
    }
    model
}

struct Busy {
    store: RefCell<Store>,
    disk: SimDisk,
    model: RefCell<Model>,
    random: Cell<u64>,
    /// The disk, and what must be on it, each time the checkpoint has released the store.
    moments: RefCell<Vec<(SimDisk, Model)>>,
}

impl Busy {
    fn new(seed: u64) -> Busy {
        let disk = SimDisk::new(seed);
        let mut store = open(&disk);
        let topic = store.new_entity("t", EntityKind::Topic { retention: None });
        let all = CURSORS.map(|cursor| entity(cursor, PATTERNS[0]));
        for entity in [topic].into_iter().chain(all) {
            let starts = entity.cursors().map(|_| Offset(0)).collect();
            let creation = Creation { entity, starts };
            commit(&mut store, &[Op::Create { creation: &creation }]).expect("there is room");
        }
        let (store, model) = (RefCell::new(store), RefCell::default());
        Busy { store, disk, model, random: Cell::new(seed), moments: RefCell::default() }
    }

    fn below(&self, n: usize) -> usize {
        let random = self.random.get().wrapping_mul(6_364_136_223_846_793_005);
        self.random.set(random.wrapping_add(1_442_695_040_888_963_407));
        (self.random.get() >> 33) as usize % n
    }

    fn publish(&self) {
        let (model, subject) = (&mut *self.model.borrow_mut(), SUBJECTS[self.below(3)]);
        let messages = [Message::from("m").subject(subject)];
        let op = Op::Append { log: TOPIC, messages: &messages, delay_ms: 0 };
        commit(&mut self.store.borrow_mut(), &[op]).expect("there is room");
        for n in 0..CURSORS.len() {
            let pattern = PATTERNS[model.patterns[n]];
            if pattern.is_none_or(|it| it == "*" || it == subject) {
                model.pending[n].insert(model.next);
            }
        }
        model.next += 1;
    }

    fn work(&self) {
        let n = self.below(CURSORS.len());
        match self.below(8) {
            0..5 => self.publish(),
            5 | 6 => {
                let pending = &mut self.model.borrow_mut().pending[n];
                let place = self.below(pending.len().max(1));
                let Some(offset) = pending.iter().nth(place).copied() else { return };
                let ack = Op::Ack { cursor: CURSORS[n], offsets: &[Offset(offset)] };
                commit(&mut self.store.borrow_mut(), &[ack]).expect("there is room");
                pending.remove(&offset);
            }
            _ => {
                let pattern = self.below(PATTERNS.len());
                let entity = entity(CURSORS[n], PATTERNS[pattern]);
                let update = Op::Update { entity: &entity };
                commit(&mut self.store.borrow_mut(), &[update]).expect("there is room");
                self.model.borrow_mut().patterns[n] = pattern;
            }
        }
    }
}

impl Shared for Busy {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let outcome = act(&mut self.store.borrow_mut());
        if self.moments.borrow().len() < 150 {
            self.work();
        }
        let moment = (self.disk.fork(1), self.model.borrow().clone());
        self.moments.borrow_mut().push(moment);
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

#[test]
fn after_a_kill_at_any_step_of_a_checkpoint_each_cursor_has_what_it_had() {
    for seed in 0..4 {
        let busy = Busy::new(seed);
        for round in 0..3 {
            (0..30).for_each(|_| busy.work());
            busy.moments.borrow_mut().clear();
            let extent = [Extent::All, Extent::Older, Extent::Nothing][round % 3];
            store::checkpoint(&busy, extent, true).expect("the disk is well");
            assert_eq!(shown(&busy.store.borrow()), *busy.model.borrow(), "seed {seed}");
            for (n, (disk, expected)) in busy.moments.borrow().iter().enumerate().step_by(4) {
                disk.kill();
                assert_eq!(shown(&open(disk)), *expected, "seed {seed}, round {round}, moment {n}");
            }
        }
    }
}
