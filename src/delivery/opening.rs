//! Deliveries as the store has them: when a cursor comes into use, its messages are taken over chunk by chunk.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use super::Deliveries;
use crate::{
    audit,
    ids::{Due, Offset},
    store::AckSet,
};

impl Deliveries {
    /// The deliveries of a cursor, but for messages that were spilled.
    pub fn of(acks: &AckSet) -> Deliveries {
        let mut deliveries = Deliveries::new(acks.floor());
        for (index, priority, lows) in acks.prioritized_chunks() {
            deliveries.known.insert_chunk(index, &lows);
            deliveries.lanes.insert_chunk(index, &lows, priority);
        }
        for (index, due) in acks.deferred_chunks() {
            deliveries.move_elsewhere(index, &due.keys().map(|low| u32::from(*low)).collect());
        }
        let waiting = acks.deferred(acks.floor()).inspect(|_| audit::step());
        let waiting: BTreeSet<(Due, Offset)> = waiting.map(|(offset, due)| (due, offset)).collect();
        deliveries.waiting = waiting;
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
