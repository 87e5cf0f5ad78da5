//! What the core knows of the ends of lives: the looks at each cursor's messages, and the timer for the next one.

use std::{collections::BTreeSet, time::Duration};

use super::{
    effects::Effects,
    walk::{LogLook, Walk},
};
use crate::{
    audit,
    delivery::looks::Looks,
    engine::runtime::clock::EvenClock,
    ids::{CursorId, IdMap, LogId, Offset, Timestamp},
    store::Store,
};

/// The engine's thread looks no more often than this.
pub const REST: Duration = Duration::from_secs(1);

/// What is known of the lives of all cursors' messages.
#[derive(Debug, Default)]
pub struct Lives {
    pub looks: IdMap<CursorId, Looks>,
    /// The walks that have begun, and are not over.
    pub walks: IdMap<CursorId, Walk>,
    /// The looks at logs that have begun, and are not over.
    pub begun: IdMap<LogId, LogLook>,
    /// Segments without lives that could not be read as a whole: their bases and generations. Their messages are read one
    /// by one.
    pub opaque: BTreeSet<(LogId, Offset, u64)>,
    /// The time for which the timer is set.
    pub armed: Option<Timestamp>,
    /// When the engine's thread looked last.
    pub swept: Option<Duration>,
}

impl Lives {
    /// Forgets a cursor that was deleted.
    pub fn forget_cursor(&mut self, cursor: CursorId, effects: &mut Effects) {
        effects.drop_after(self.looks.remove(&cursor));
        self.walks.remove(&cursor);
    }

    /// Forgets a log that was deleted.
    pub fn forget_log(&mut self, log: LogId) {
        self.begun.remove(&log);
        let all = (log, Offset(0), 0)..=(log, Offset(u64::MAX), u64::MAX);
        while let Some(one) = self.opaque.range(all.clone()).next().copied() {
            audit::step();
            self.opaque.remove(&one);
        }
    }

    /// Sets the timer for the first time at which a life may be over.
    #[inline]
    pub fn arm(&mut self, store: &Store, clock: &EvenClock, effects: &mut Effects) {
        let of_age = store.retention_due().map(|day| clock.skew().even_of(day));
        if let Some(end) = store.first_end().map(|(end, _)| end).into_iter().chain(of_age).min()
            && self.armed.is_none_or(|armed| end < armed)
        {
            self.armed = Some(end);
            let rested = self.swept.map_or(Duration::ZERO, |swept| swept + REST);
            effects.sweep_at(clock.when(end).max(rested));
        }
    }
}
