//! Checkpoints of stores with many entities, in small slices, while all of them change between the slices.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use super::checkpoint::commit;
use crate::{
    config::Config,
    disk::sim::SimDisk,
    error::Result,
    format::entity::{Creation, Delivering, Entity, EntityKind},
    ids::{CursorId, Due, EntityId, LogId, Lsn, Offset, StoreId},
    journal::Urgency,
    message::Message,
    store::{self, Extent, Op, Shared, Store},
};

fn open(disk: &SimDisk, slice: usize) -> Result<Store> {
    let config = Config {
        journal_file_bytes_min: 8 << 10,
        journal_file_bytes_max: 8 << 10,
        journal_bytes: 64 << 20,
        segment_bytes: 4096,
        block_bytes: 512,
        maps_max: 2,
        slice,
        ..Config::default()
    };
    store::open(Arc::new(disk.process()), Path::new("store"), config, StoreId([1; 16]))
}

struct Crowd {
    store: RefCell<Store>,
    random: RefCell<u64>,
    /// How many commits come between two slices.
    commits: u64,
    made: RefCell<u64>,
}

impl Crowd {
    fn below(&self, n: u64) -> u64 {
        let mut random = self.random.borrow_mut();
        *random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % n
    }

    fn commit(&self, ops: &[Op<'_>]) {
        // If it fails, the power is off.
        let _ = commit(&mut self.store.borrow_mut(), ops);
    }

    fn any(&self) -> Option<Entity> {
        let store = self.store.borrow();
        let count = store.state.catalog.all().len() as u64;
        let n = if count == 0 { 0 } else { self.below(count) };
        store.state.catalog.all().nth(n as usize).cloned()
    }

    fn create(&self) {
        *self.made.borrow_mut() += 1;
        let name = format!("entity {}", self.made.borrow());
        let delivering = Delivering::leasing(1000);
        let kind = match (self.below(5), self.any().map(|it| (it.id, it.kind))) {
            (0, _) => EntityKind::Topic { retention: None },
            (1, _) => EntityKind::Stream { partitions: 3, retention: None },
            (2..4, Some((topic, EntityKind::Topic { .. }))) => {
                EntityKind::Subscription { topic, delivering: delivering.into() }
            }
            (2..4, Some((stream, EntityKind::Stream { .. }))) => {
                EntityKind::Group { stream, partitions: 3, keeps_unread: false }
            }
            _ => EntityKind::Queue(delivering.into()),
        };
        let entity = self.store.borrow().new_entity(&name, kind);
        let end = |log| self.store.borrow().bounds(log).map_or(Offset(0), |(_, end)| end);
        let starts = entity.cursors().map(|(_, log)| end(log)).collect();
        let creation = Creation { entity, starts };
        self.commit(&[Op::Create { creation: &creation }]);
    }

    fn append(&self, entity: &Entity) {
        for log in entity.logs().filter(|_| self.below(3) > 0) {
            let texts = (0..self.below(4)).map(|n| format!("{log} {n} {}", "x".repeat(60)));
            let texts: Vec<String> = texts.collect();
            let messages: Vec<Message<'_>> = texts.iter().map(Message::from).collect();
            if !messages.is_empty() {
                self.commit(&[Op::Append { log, messages: &messages, delay_ms: 0 }]);
            }
        }
    }

    fn consume(&self, entity: &Entity) {
        for (cursor, log) in entity.cursors() {
            let end = self.store.borrow().bounds(log).map_or(Offset(0), |(_, end)| end);
            let floor = self.store.borrow().floor(cursor).unwrap_or_default();
            if matches!(entity.kind, EntityKind::Group { .. }) {
                let next = Offset(floor.0 + self.below(end.0 + 1 - floor.0));
                self.commit(&[Op::Seek { cursor, next }]);
            } else if floor < end {
                let offset = Offset(floor.0 + self.below(end.0 - floor.0).min(self.below(9)));
                let urgency = Urgency::Freeing;
                match self.below(4) {
                    0 => self.commit(&[Op::Defer {
                        cursor,
                        offset,
                        attempts: 3,
                        due: Due::NOW,
                        urgency,
                    }]),
                    1 => self.commit(&[Op::AckRanges { cursor, ranges: &[floor.to(end)] }]),
                    _ => self.commit(&[Op::Ack { cursor, offsets: &[offset] }]),
                }
            }
        }
    }

    fn work(&self) {
        let Some(entity) = self.any() else { return self.create() };
        match self.below(20) {
            0 | 1 => self.create(),
            2 => self.commit(&[Op::Delete { entity: entity.id }]),
            3 => {
                let kind = match &entity.kind {
                    EntityKind::Queue(it) => {
                        let lease_ms = it.lease_ms + 1;
                        EntityKind::Queue(Delivering { lease_ms, ..Delivering::clone(it) }.into())
                    }
                    kind => kind.clone(),
                };
                self.commit(&[Op::Update { entity: &Entity { kind, ..entity } }]);
            }
            4 if matches!(entity.kind, EntityKind::Stream { .. }) => {
                let log = entity.id.log(1);
                let (_, start) = self.store.borrow().bounds(log).expect("it is there");
                self.commit(&[Op::Trim { log, start }]);
            }
            5..13 => self.append(&entity),
            _ => self.consume(&entity),
        }
    }
}

impl Shared for Crowd {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let outcome = act(&mut self.store.borrow_mut());
        (0..self.commits).for_each(|_| self.work());
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

/// All that a store says of its entities and messages.
fn contents(store: &mut Store) -> BTreeMap<EntityId, String> {
    let entities: Vec<Entity> = store.state.catalog.all().cloned().collect();
    let mut all = BTreeMap::new();
    for entity in entities {
        let mut said = format!("{entity:?}");
        for log in entity.logs() {
            write!(said, ", {log}: {:?}", store.bounds(log)).expect("it is a string");
            let whole = store.bounds(log).expect("it is there");
            let needed = store.state.needed(&store.state.logs[&log], whole.0.to(whole.1));
            let offsets = needed.iter().flat_map(|range| *range);
            for offset in offsets {
                let text = read(store, log, offset);
                assert!(text.starts_with(&format!("{log} ")), "{text}");
                write!(said, " {offset}={text}").expect("it is a string");
            }
        }
        for (cursor, log) in entity.cursors() {
            let end = store.bounds(log).map_or(Offset(0), |(_, end)| end);
            write!(said, ", {}", cursor_says(store, cursor, end)).expect("it is a string");
        }
        all.insert(entity.id, said);
    }
    all
}

fn read(store: &mut Store, log: LogId, offset: Offset) -> String {
    let source = store.locate(log, offset).expect("it is somewhere");
    let (stored, parts) = source.load(offset).expect("it is whole");
    store.keep(log, parts);
    String::from_utf8(stored.payload().to_vec()).expect("text")
}

fn cursor_says(store: &Store, cursor: CursorId, end: Offset) -> String {
    let floor = store.floor(cursor);
    let Some(acks) = store.acks(cursor) else { return format!("{cursor}: {floor:?}") };
    let unacked = acks.unacked_in(acks.floor().to(end));
    let tried = unacked.iter().flat_map(|range| *range).map(|offset| acks.attempts(offset));
    format!("{cursor}: {floor:?}, {unacked:?}, tried {:?}", tried.collect::<Vec<_>>())
}

#[test]
fn a_capture_in_slices_holds_what_changes_meanwhile() {
    for seed in 0..6 {
        let disk = SimDisk::new(seed);
        let slice = 1 + (seed % 4) as usize;
        let mut crowd = Crowd {
            store: RefCell::new(open(&disk, slice).expect("a new store")),
            random: RefCell::new(seed),
            commits: 0,
            made: RefCell::new(0),
        };
        (0..200).for_each(|_| crowd.work());
        for round in 0..4 {
            crowd.commits = 1 + seed % 2;
            let extent = [Extent::All, Extent::Older, Extent::Oldest][round % 3];
            // The first one captures everything, the others what changed.
            for _ in 0..=round % 4 {
                store::checkpoint(&crowd, extent, true).expect("the disk is well");
            }
            crowd.commits = 0;
            (0..20).for_each(|_| crowd.work());
            let tail = crowd.store.borrow().journal.tail();
            crowd.sync_to(tail).expect("the disk is well");
            let before = contents(&mut crowd.store.borrow_mut());
            assert!(!before.is_empty());
            disk.power_cut();
            let recovered = open(&disk, slice).expect("it recovers");
            crowd.store = RefCell::new(recovered);
            let after = contents(&mut crowd.store.borrow_mut());
            for (id, said) in &before {
                assert_eq!(after.get(id), Some(said), "seed {seed}, round {round}");
            }
            assert_eq!(after.len(), before.len(), "seed {seed}, round {round}");
        }
    }
}
