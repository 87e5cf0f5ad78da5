//! Journal, segments and metalog as one durable store of logs and cursors.
//!
//! A commit writes one frame of the journal, and then changes [`State`]. A checkpoint moves live
//! messages out of the journal. Recovery loads the metalog and replays the journal behind it. It
//! ends with the state after some prefix of the commits.
//!
//! Invariants: the state holds nothing that is neither in the journal nor in the metalog. A file is
//! removed only when the metalog that no longer refers to it is durable. Memory holds some bits per
//! message between a cursor's floor and its log's end, and 12 bytes per run in the journal.

mod acks;
mod batch;
mod beyond;
mod cache;
mod capture;
mod catalog;
mod changed;
mod checkpoint;
mod checks;
mod circles;
mod commit;
mod deletion;
mod draft;
mod early;
mod ends;
mod extent;
mod files;
mod filters;
mod floor_counts;
mod inspected;
mod install;
mod keepers;
mod lazy;
mod leftovers;
mod living;
mod log;
mod log_name;
mod matches;
mod moving;
mod needed;
mod open;
mod passing;
mod plain;
mod ranges;
mod read;
mod reserve;
mod retain;
mod retaining;
mod rewrite;
mod scan;
mod series;
mod state;
mod stretch;
mod tail;
#[cfg(test)]
pub mod tests;
mod together;

pub use acks::{AckSet, CHUNK_OFFSETS};
pub use batch::{Batch, BatchArrivals, BatchedMessage};
pub use beyond::{Aged, Kept, RetentionLook, Weighed};
pub use cache::SegmentSource;
pub use catalog::{Catalog, Space};
pub use checkpoint::{Extent, Shared, checkpoint};
pub use circles::circles;
pub use commit::{Op, Receipt, Refused, Shortage};
pub use living::{Belongs, Living};
pub use matches::Match;
pub use open::open;
pub use passing::Passed;
pub use read::{JournalRun, ReadParts, Source, Stored, View, Walk, damaged_run};
pub use retaining::{Occasion, RetentionRound, Turn};
pub use scan::Chunk;
pub use stretch::{ReadStretch, RunAt};
pub use tail::RunPlace;

// For the inspector, which reads stores that no engine has open, and checks stores that an engine has open.
pub use inspected::OnDisk;
pub use log::{Cursor, Progress};
pub use log_name::LogName;
pub use needed::needed;
pub use open::{Opening, fan_dirs, log_dirs, remove_all};
pub use ranges::join;
pub use state::State;
pub use together::{Loaded, Located, Together};

use self::{cache::SegmentCache, draft::Draft, files::Files};
use crate::{
    config::Config,
    error::{Error, Result},
    format::{
        clock::ClockState,
        entity::{Delivering, Entity, EntityKind},
    },
    ids::{CursorId, EntityId, LogId, Lsn, Offset, StoreId},
    journal::Journal,
    metalog::{MetaPlace, MetaWriter},
    segment::Segments,
};

/// An open store.
#[derive(Debug)]
pub struct Store {
    config: Config,
    id: StoreId,
    pub journal: Journal,
    segments: Segments,
    cache: SegmentCache,
    meta: Metalog,
    state: State,
    /// The files of the segments.
    files: Files,
    /// Recovery would read the journal from here on.
    replay_from: Lsn,
    /// Whether commits that free space may make the journal longer than its limit.
    may_outgrow: bool,
    draft: Draft,
}

/// The store's side of the metalog.
#[derive(Debug)]
struct Metalog {
    place: MetaPlace,
    /// The file that is being written. If there is `None`, the next checkpoint begins a file and
    /// captures everything.
    writer: Option<MetaWriter>,
    /// The number of the newest file.
    number: u64,
    /// About how many bytes the whole state takes up.
    snapshot_bytes: u64,
    /// Whether the segments' directories may hold files that nothing refers to.
    unswept: bool,
}

impl Store {
    /// The entity with a name.
    pub fn find(&self, space: Space, name: &str) -> Option<&Entity> {
        self.state.catalog.find(space, name)
    }

    pub fn entity(&self, id: EntityId) -> Option<&Entity> {
        self.state.catalog.get(id)
    }

    /// The entities from an id on: `most` are looked at. And where the next slice begins.
    pub fn entities_from(&self, id: EntityId, most: usize) -> (Vec<EntityId>, Option<EntityId>) {
        self.state.catalog.slice_from(id, most)
    }

    /// The next names of a space behind one, at most `most`. The empty name stands before all.
    pub fn list(&self, space: Space, behind: &str, most: usize) -> Vec<String> {
        let next = self.state.catalog.list(space, behind).take(most);
        next.map(|entity| entity.name.to_string()).collect()
    }

    /// A new entity with the next free id. It exists once it is committed.
    pub fn new_entity(&self, name: &str, kind: EntityKind) -> Entity {
        Entity { id: self.state.catalog.next_id, name: name.into(), kind }
    }

    /// The name of the queue for dead letters, if there is one.
    pub fn dead_letter_queue_of(&self, delivering: &Delivering) -> Option<String> {
        let queue = delivering.dead_letters?.queue;
        Some(self.state.catalog.get(queue)?.name.to_string())
    }

    /// Whether the dead letters of `queue`, the dead letters of the queue that takes them, and so on come to `end`.
    pub fn dead_letters_reach(&self, queue: EntityId, end: EntityId) -> bool {
        let next = |id: &EntityId| {
            crate::audit::step();
            Some(self.state.catalog.get(*id)?.delivering()?.dead_letters?.queue)
        };
        // An engine makes no circles. But an older salvage may have left one, and then the chain has no end.
        let most = self.state.catalog.all().len() + 1;
        std::iter::successors(Some(queue), next).take(most).any(|id| id == end)
    }

    /// The name of an entity whose dead letters are in this queue.
    pub fn uses_as_dead_letters(&self, queue: EntityId) -> Option<String> {
        let catalog = &self.state.catalog;
        catalog.user_of_letters(queue).map(|entity| catalog.describe(entity))
    }

    /// The error of a handle whose entity was deleted. `id` is any of the ids that the entity owned.
    #[cold]
    pub fn deleted(&self, id: EntityId) -> Error {
        self.state.catalog.deleted(id)
    }

    /// Whether a log is that of a stream: its messages stay, and do not expire.
    pub fn keeps_acked(&self, log: LogId) -> bool {
        self.state.logs.get(&log).is_some_and(|log| log.keeps_acked)
    }

    #[inline]
    pub fn acks(&self, cursor: CursorId) -> Option<&AckSet> {
        self.state.cursors.get(&cursor)?.acks()
    }

    /// The acks of a cursor. Fails if it was deleted.
    #[inline]
    pub fn acks_of(&self, cursor: CursorId) -> Result<&AckSet> {
        self.acks(cursor).ok_or_else(|| self.deleted(cursor.entity()))
    }

    /// Gives back memory that a cursor and its log do not use.
    pub fn shrink(&mut self, cursor: CursorId) {
        let State { logs, cursors, .. } = &mut self.state;
        let Some(cursor) = cursors.get_mut(&cursor) else { return };
        if let Some(log) = logs.get_mut(&cursor.log) {
            log.tail.shrink();
        }
        if let Progress::Acks(acks) = &mut cursor.progress {
            acks.shrink();
        }
    }

    /// What the last commit means to cursors with filters. Each cursor is in it once.
    #[inline]
    pub fn take_matched(&mut self) -> Vec<Match> {
        let matched = &mut self.state.filtering.matched;
        if matched.is_empty() { Vec::new() } else { matched.take() }
    }

    /// Whether a cursor has a filter.
    #[inline]
    pub fn is_filtered(&self, cursor: CursorId) -> bool {
        self.state.has_filters() && self.acks(cursor).is_some_and(|acks| acks.seen().is_some())
    }

    /// The floor of a cursor's acks, or the next offset of a group.
    #[inline]
    pub fn floor(&self, cursor: CursorId) -> Option<Offset> {
        self.state.cursors.get(&cursor).map(Cursor::floor)
    }

    /// As [`floor`](Store::floor). Fails if the cursor was deleted.
    pub fn floor_of(&self, cursor: CursorId) -> Result<Offset> {
        self.floor(cursor).ok_or_else(|| self.deleted(cursor.entity()))
    }

    /// The first offset of a log that was not trimmed, and the offset that the next message gets.
    #[inline]
    pub fn bounds(&self, log: LogId) -> Option<(Offset, Offset)> {
        self.state.logs.get(&log).map(|log| (log.start, log.next()))
    }

    /// Whether a checkpoint gives back space: a segment is dead, or as much died in several as one may hold.
    #[inline]
    pub fn is_reclaimable(&self) -> bool {
        self.state.reclaimable
            || self.state.passing.wants_capture()
            || self.state.changed.dead >= self.config.segment_bytes
    }

    /// Whether the next checkpoint frees space, as a segment is dead.
    pub fn has_dead_segment(&self) -> bool {
        self.state.has_dead_segment
    }

    /// Whether nothing was ever created.
    pub fn is_new(&self) -> bool {
        self.state.catalog.next_id == EntityId::FIRST
    }

    /// The clocks, if they were recorded.
    pub fn clock(&self) -> Option<&ClockState> {
        self.state.clock.as_ref()
    }

    pub fn id(&self) -> StoreId {
        self.id
    }
}
