//! Deleted entities: what the core knows of their cursors and logs leaves with these, in slices.

use super::Core;
use crate::{audit, store::Cursor};

impl Core {
    /// Takes some of what was deleted out of memory. Returns whether there is more. A checkpoint may have taken it out of the
    /// store.
    pub fn take_out(&mut self) -> bool {
        self.store.take_out();
        self.follow_deletions()
    }

    /// Forgets the cursors and logs that have left the store, and wakes their waiters. From now on nothing finds those that
    /// are about to leave. Returns whether there are any.
    pub fn follow_deletions(&mut self) -> bool {
        let freed = self.store.take_freed();
        let has_freed = self.store.has_freed();
        self.consumers.lose(&self.store.gone(), has_freed);
        for cursor in &freed.cursors {
            audit::step();
            self.forget_cursor(cursor);
        }
        let Core { arrivals, effects, lives, .. } = self;
        for log in &freed.logs {
            audit::step();
            arrivals.recent.remove(&log.id.entity());
            lives.forget_log(log.id);
            if let Some(watched) = arrivals.watches.remove(&log.id) {
                effects.wake_all(&watched.watch);
            }
        }
        effects.drop_after(Some(freed));
        has_freed || self.store.has_dying()
    }

    fn forget_cursor(&mut self, deleted: &Cursor) {
        let Core { consumers, dormancy, arrivals, effects, lives, .. } = self;
        let (cursor, log) = (deleted.id, deleted.log);
        lives.forget_cursor(cursor, effects);
        let had_consumers = dormancy.forget_deleted(cursor);
        let consumption = consumers.remove(&cursor);
        if (had_consumers || consumption.is_some())
            && let Some(watched) = arrivals.watches.get(&log)
        {
            // A subscription may be gone while its topic stays. Its waiters find that it was deleted.
            watched.wake_of(effects, (cursor, deleted.seen().is_some()), usize::MAX);
        }
        let Some(mut consumption) = consumption else { return };
        dormancy.tidy(consumers);
        consumption.wake_others(effects);
        effects.drop_later(consumption.thresholds.drain(..));
        dormancy.number_above(consumption.deliveries.last_number());
        effects.drop_after(Some(consumption));
    }
}
