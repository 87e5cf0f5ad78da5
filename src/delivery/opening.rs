//! Deliveries as the store has them: when a cursor comes into use, its messages are taken over chunk by chunk.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use super::{Deliveries, offset_set::OffsetSet};
use crate::{
    audit,
    ids::{Due, Offset},
    store::{AckSet, CHUNK_OFFSETS},
};

/// The delayed messages of a cursor that are not on disk.
#[derive(Debug)]
pub struct Delayed {
    waiting: BTreeSet<(Due, Offset)>,
    offsets: OffsetSet,
}

impl Delayed {
    /// The messages are sorted.
    pub fn of(messages: &[(Offset, Due)]) -> Delayed {
        let index = |it: &(Offset, Due)| it.0.0 / CHUNK_OFFSETS;
        let mut offsets = OffsetSet::default();
        for chunk in messages.chunk_by(|a, b| index(a) == index(b)) {
            let lows = chunk.iter().map(|(offset, _)| (offset.0 % CHUNK_OFFSETS) as u32);
            offsets.insert_chunk(index(&chunk[0]), &lows.collect());
        }
        let waiting = messages.iter().map(|(offset, due)| (*due, *offset)).collect();
        Delayed { waiting, offsets }
    }

    pub fn insert(&mut self, offset: Offset, due: Due) {
        self.waiting.insert((due, offset));
        self.offsets.insert(offset);
    }

    pub fn remove(&mut self, offset: Offset, due: Due) {
        self.waiting.remove(&(due, offset));
        self.offsets.remove(offset);
    }
}

impl Deliveries {
    /// The deliveries of a cursor, but for messages that were spilled. `delayed` are its delayed messages, if they were
    /// copied before.
    pub fn of(acks: &AckSet, delayed: Option<Delayed>) -> Deliveries {
        let mut deliveries = Deliveries::new(acks.floor());
        for (index, priority, lows) in acks.prioritized_chunks() {
            deliveries.known.insert_chunk(index, &lows);
            deliveries.lanes.insert_chunk(index, &lows, priority);
        }
        let copy = || {
            let messages: Vec<_> = acks.deferred(acks.floor()).collect();
            audit::steps(messages.len() as u64);
            Delayed::of(&messages)
        };
        let Delayed { waiting, offsets } = delayed.unwrap_or_else(copy);
        for (index, lows) in offsets.chunks() {
            deliveries.move_elsewhere(index, lows);
        }
        (deliveries.waiting, deliveries.waits) = (waiting, offsets);
        deliveries
    }

    /// Notes messages that were spilled to disk before.
    pub fn add_spilled(&mut self, acks: &AckSet) {
        for (index, lows) in acks.spilled_chunks() {
            self.move_elsewhere(index, lows);
        }
    }

    /// Notes that messages of a chunk are in another place: they wait.
    fn move_elsewhere(&mut self, index: u64, lows: &RoaringBitmap) {
        self.known.insert_chunk(index, lows);
        if !self.lanes.is_empty() {
            self.lanes.remove_chunk(index, lows);
        }
    }
}
