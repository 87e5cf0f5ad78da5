//! What the core knows of the ends of lives: the looks at each cursor's messages, and the timer for the next one.

use std::time::Duration;

use super::effects::Effects;
use crate::{
    delivery::looks::Looks,
    engine::runtime::clock::EvenClock,
    ids::{CursorId, IdMap, Timestamp},
    store::Store,
};

/// The engine's thread looks no more often than this.
pub const REST: Duration = Duration::from_secs(1);

/// What is known of the lives of all cursors' messages.
#[derive(Debug, Default)]
pub struct Lives {
    pub looks: IdMap<CursorId, Looks>,
    /// The time for which the timer is set.
    pub armed: Option<Timestamp>,
    /// When the engine's thread looked last.
    pub swept: Option<Duration>,
}

impl Lives {
    /// Sets the timer for the first time at which a life may be over.
    #[inline]
    pub fn arm(&mut self, store: &Store, clock: &EvenClock, effects: &mut Effects) {
        if let Some((end, _)) = store.first_end()
            && self.armed.is_none_or(|armed| end < armed)
        {
            self.armed = Some(end);
            let rested = self.swept.map_or(Duration::ZERO, |swept| swept + REST);
            effects.sweep_at(clock.when(end).max(rested));
        }
    }
}
