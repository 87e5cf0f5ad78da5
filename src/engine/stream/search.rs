//! Where a reader looks for its next records, and begins to wait for them.

use std::sync::Arc;

use super::{place::Place, reader::Reader};
use crate::{
    audit,
    engine::{
        core::Core,
        runtime::{interest::Interest, wait::Waiting},
    },
    error::{Error, Result},
    ids::Offset,
    store::Chunk,
};

/// The result of a search for the next chunk.
pub enum Search {
    Found(Chunk),
    /// There is nothing yet. It may have begun to wait.
    Nothing(Option<Waiting>),
}

/// How many partitions a reader looks at in one hold of the core.
const LOOKS_AT_ONCE: usize = 256;

impl Reader {
    /// Finds the next chunk of any partition, in turn, among those that may have something. If there is none and `waits` is
    /// set, begins to wait in the same hold of the core, unless it took several.
    pub(super) fn search(&mut self, waits: bool) -> Result<Search> {
        let committer = Arc::clone(self.shape.engine.committer());
        let mut core = committer.lock_to_look("read")?;
        self.turns.note_arrivals(&core, self.shape.id)?;
        let mut rounds = self.turns.len();
        let is_one_hold = rounds <= LOOKS_AT_ONCE;
        loop {
            let found = self.look(&mut core, rounds.min(LOOKS_AT_ONCE))?;
            rounds -= rounds.min(LOOKS_AT_ONCE);
            if let Some(chunk) = found {
                return Ok(Search::Found(chunk));
            }
            if rounds == 0 {
                // A record that comes later wakes this waiter.
                let waits = waits && is_one_hold;
                return Ok(Search::Nothing(waits.then(|| self.begin_to_wait())));
            }
            core = committer.give_way("read", core);
            committer.check_open(&core)?;
        }
    }

    /// Begins to wait. The caller holds the core.
    fn begin_to_wait(&self) -> Waiting {
        self.shape.watch.begin_for(self.interest())
    }

    /// Looks at some places. Those that have nothing more are left out until something comes.
    fn look(&mut self, core: &mut Core, most: usize) -> Result<Option<Chunk>> {
        let visible = core.visible();
        for _ in 0..most {
            audit::step();
            let Some(n) = self.turns.next() else { return Ok(None) };
            self.turn = n;
            let place = &mut self.places[n];
            self.partition = place.partition;
            // If the stream was deleted, the search says so.
            let bounds = core.store.bounds(place.log);
            let (start, end) = bounds.unwrap_or((place.next, Offset::MAX));
            if self.fails_on_trimmed && place.next < start && !place.is_done() {
                return Err(Error::trimmed(&self.shape.name, (place.partition, place.next, start)));
            }
            place.next = place.next.max(start);
            place.missed = None;
            if place.is_done() {
                self.turns.leave_out();
                continue;
            }
            let offsets = place.next.to(place.end);
            if let Some(chunk) = core.store.scan_until(place.log, offsets, visible)? {
                return Ok(Some(chunk));
            }
            if place.end < Offset::MAX && place.end <= core.store.end_before(place.log, visible)? {
                // The last records before its end are lost.
                place.next = place.end;
            }
            // Records before the end of the log may become visible.
            if place.next >= end || place.is_done() {
                self.turns.leave_out();
            }
        }
        Ok(None)
    }

    /// What it waits for: its partition, if it reads one of several.
    fn interest(&self) -> Interest {
        match self.places[..] {
            [Place { partition, .. }] if self.shape.partitions > 1 => {
                Interest::of_partition(partition)
            }
            _ => Interest::ALL,
        }
    }

    /// Searches all places in one hold of the core, and begins to wait if there is nothing.
    pub(super) fn search_at_once(&mut self) -> Result<Option<Waiting>> {
        let committer = Arc::clone(self.shape.engine.committer());
        let mut core = committer.lock_open("read")?;
        self.turns.note_arrivals(&core, self.shape.id)?;
        let visible = core.visible();
        let has_come = |n: usize| {
            let Place { log, next, end, .. } = self.places[n];
            if next >= end {
                return None;
            }
            core.store.scan_until(log, next.to(end), visible).transpose()
        };
        match self.turns.iter().find_map(has_come) {
            Some(found) => found.map(|_| None),
            None => Ok(Some(self.begin_to_wait())),
        }
    }
}
