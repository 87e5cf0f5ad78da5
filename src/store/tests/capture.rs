//! Captures while commits change things as fast as slices capture them.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    sync::Arc,
};

use super::checkpoint::commit;
use crate::{
    audit,
    config::Config,
    disk::sim::SimDisk,
    error::Result,
    format::{
        commit::{Change, OffsetRanges},
        entity::{Creation, Delivering, EntityKind},
    },
    ids::{CursorId, LogId, Lsn, Offset, OffsetRange, StoreId},
    message::Message,
    store::{self, Extent, Op, Shared, Store},
};

const SLICE: usize = 32;

fn open(disk: &SimDisk) -> Store {
    let config = Config {
        journal_file_bytes_min: 1 << 20,
        journal_file_bytes_max: 1 << 20,
        journal_bytes: 64 << 20,
        segment_bytes: 16 << 10,
        block_bytes: 512,
        slice: SLICE,
        ..Config::default()
    };
    let opened =
        store::open(Arc::new(disk.process()), Path::new("store"), config, StoreId([1; 16]));
    opened.expect("a new store")
}

/// A store in which between two accesses some queues change.
struct Hot<F: Fn(&mut Store)> {
    store: RefCell<Store>,
    change: F,
    /// The most steps that an access took.
    longest: Cell<u64>,
    accesses: Cell<u64>,
}

impl<F: Fn(&mut Store)> Hot<F> {
    fn new(mut store: Store, change: F) -> Hot<F> {
        // There is work for a checkpoint.
        store.state.reclaimable = true;
        let store = RefCell::new(store);
        Hot { store, change, longest: Cell::new(0), accesses: Cell::new(0) }
    }
}

impl<F: Fn(&mut Store)> Shared for Hot<F> {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.store.borrow_mut();
        let _ = audit::take_steps();
        let outcome = act(&mut store);
        self.longest.set(self.longest.get().max(audit::take_steps()));
        self.accesses.set(self.accesses.get() + 1);
        (self.change)(&mut store);
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

fn create_queues(store: &mut Store, count: usize) -> Vec<LogId> {
    let create = |_| {
        let kind = EntityKind::Queue(Delivering::leasing(1000).into());
        // No two queues have one name.
        let name = format!("q{}", store.state().catalog.next_id);
        let entity = store.new_entity(&name, kind);
        let log = entity.logs().next().expect("a queue has one");
        let creation = Creation { entity, starts: vec![Offset(0)] };
        commit(store, &[Op::Create { creation: &creation }]).expect("there is room");
        log
    };
    (0..count).map(create).collect()
}

fn send(store: &mut Store, log: LogId) {
    let messages = [Message::from("m")];
    commit(store, &[Op::Append { log, messages: &messages, delay_ms: 0 }]).expect("there is room");
}

fn ack(store: &mut Store, cursor: CursorId, range: OffsetRange) {
    let ranges = [range];
    let offsets = OffsetRanges::Ranges(&ranges);
    let change = Change::Ack { cursor, offsets };
    store.state.apply(&change, Lsn(0)).expect("the cursor is there");
}

/// A checkpoint of so many changed queues, while 100 others change all the time. Returns the longest access, and how many
/// there were.
fn beside_hot_queues(count: usize, is_full: bool) -> (u64, u64) {
    let disk = SimDisk::new(1);
    let mut store = open(&disk);
    let queues = create_queues(&mut store, count);
    let hot = create_queues(&mut store, 100);
    if is_full {
        drop(store);
        disk.kill();
        store = open(&disk);
    }
    queues.iter().for_each(|log| ack(&mut store, CursorId(log.0), Offset(1).only()));
    let change = move |store: &mut Store| {
        for log in &hot {
            send(store, *log);
        }
    };
    let hot = Hot::new(store, change);
    store::checkpoint(&hot, Extent::Nothing, true).expect("the disk is well");
    let made = (hot.longest.get(), hot.accesses.get());
    assert!(hot.store.borrow().meta.writer.is_some());
    made
}

/// The hot ones filled each slice, and the last slice captured all the others at once.
#[test]
fn a_capture_beside_hot_queues_has_short_slices_however_much_it_captures() {
    for is_full in [false, true] {
        let (few, many) = (beside_hot_queues(400, is_full), beside_hot_queues(4000, is_full));
        assert!(few.0 <= 1500 && many.0 <= 1500, "steps: {few:?}, {many:?}");
        assert!(many.1 <= 12 * few.1, "accesses: {few:?}, {many:?}");
    }
}

/// A cursor of which more chunks change than a slice captures does not keep the others waiting.
#[test]
fn a_capture_beside_a_cursor_with_many_chunks_has_short_slices() {
    let of = |count: usize| {
        let disk = SimDisk::new(1);
        let mut store = open(&disk);
        let queues = create_queues(&mut store, count);
        queues.iter().for_each(|log| ack(&mut store, CursorId(log.0), Offset(1).only()));
        let (hot, round) = (CursorId(queues[0].0), Cell::new(2));
        let change = move |store: &mut Store| {
            let low = round.replace(round.get() + 2);
            for chunk in 0..3 * SLICE as u64 {
                ack(store, hot, Offset((chunk << 16) + low).only());
            }
        };
        let hot = Hot::new(store, change);
        store::checkpoint(&hot, Extent::Nothing, true).expect("the disk is well");
        assert!(hot.accesses.get() > count as u64 / SLICE as u64);
        hot.longest.get()
    };
    let (few, many) = (of(400), of(4000));
    assert!(few <= 1500 && many <= 1500, "steps: {few}, {many}");
}

/// What is gone was looked for among all that is gone, for each segment that stays.
#[test]
fn a_capture_of_many_segments_of_which_many_are_gone_takes_as_many_steps_as_there_are() {
    let of = |count: u64| {
        let disk = SimDisk::new(1);
        let mut store = open(&disk);
        let queue = create_queues(&mut store, 1)[0];
        let messages: Vec<Vec<u8>> = (0..30).map(|_| vec![b'x'; 600]).collect();
        let messages: Vec<Message<'_>> = messages.iter().map(Message::from).collect();
        for _ in 0..count {
            let append = Op::Append { log: queue, messages: &messages, delay_ms: 0 };
            commit(&mut store, &[append]).expect("there is room");
        }
        let quiet = Hot::new(store, |_| {});
        store::checkpoint(&quiet, Extent::All, true).expect("the disk is well");
        // The file of the metalog begins anew after an open, with everything.
        let mut store = quiet.store.into_inner();
        store.meta.writer = None;
        let bases: Vec<OffsetRange> =
            store.state.logs[&queue].segments.values().map(|it| it.base.to(it.end)).collect();
        assert!(bases.len() as u64 >= count, "{}", bases.len());
        for range in bases.iter().step_by(2) {
            ack(&mut store, CursorId(queue.0), *range);
        }
        let quiet = Hot::new(store, |_| {});
        store::checkpoint(&quiet, Extent::Nothing, true).expect("the disk is well");
        let store = quiet.store.borrow();
        assert!(store.state.logs[&queue].segments.len() <= bases.len() / 2 + 1);
        quiet.longest.get()
    };
    let (few, many) = (of(100), of(1000));
    assert!(few <= 300 && many <= 300, "steps: {few}, {many}");
}
