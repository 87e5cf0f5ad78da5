//! The facts that the inspector needs about a store that is in use.
//!
//! The inspector reads files while commits go on. It copies these facts while it holds the store, and then reads
//! without holding it.

use super::{Store, state::State};
use crate::{
    format::meta::Place,
    ids::{LogId, Lsn, Offset, StoreId},
    metalog::MetaPlace,
    segment::Segments,
};

/// The files of a store that is in use.
#[derive(Debug)]
pub struct OnDisk {
    pub id: StoreId,
    pub metalog: MetaPlace,
    /// The number of the metalog's newest file.
    pub metalog_number: u64,
    pub segments: Segments,
    /// The position from which recovery would read the journal.
    pub replay_from: Lsn,
}

impl Store {
    pub fn on_disk(&self) -> OnDisk {
        OnDisk {
            id: self.id,
            metalog: self.meta.place.clone(),
            metalog_number: self.meta.number,
            segments: self.segments.clone(),
            replay_from: self.replay_from,
        }
    }

    /// The state in memory, to be compared with the files.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The bases and generations of a log's segments in the log's own directory, as the metalog has them. `None` if the log
    /// was deleted and the metalog still refers to all of its segments.
    pub fn known_segments(&self, log: LogId) -> Option<Vec<(Offset, u64)>> {
        if self.state.deleted_logs.contains_key(&log) {
            return None;
        }
        let segments = self.state.logs.get(&log).map(|log| log.segments.values());
        let former = segments.into_iter().flatten().filter(|it| it.place == Place::Former);
        Some(former.map(|it| (it.base, it.generation)).collect())
    }

    /// Whether a segment refers to the file with a number.
    pub fn knows_file(&self, number: u64) -> bool {
        self.files.knows(number)
    }
}
