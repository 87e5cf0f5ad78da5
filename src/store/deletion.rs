//! Deletions: nothing finds what was deleted, at once, and its memory is given back in slices.
//!
//! A deletion is one change, however many subscriptions, groups and partitions go with the entity. The first slice is done
//! with it. The caller goes on with the others, each in a hold of the core of its own. A checkpoint comes when
//! nothing is left: it writes down which entities are gone, and finds them one by one in the slices. Recovery does all slices
//! at once.

use std::{collections::VecDeque, mem, ops::Range, sync::Arc};

use super::{Store, log::Freed, state::State};
use crate::{
    audit,
    format::{Malformed, entity::Entity},
    ids::{CursorId, EntityId},
};

/// So many logs and cursors leave in one slice.
pub const AT_ONCE: usize = 64;

/// An entity that was deleted, and of which something is left in memory.
#[derive(Debug)]
pub struct Dying {
    root: Arc<Entity>,
    /// Of the entity itself, and of each that belongs to it: the one that leaves now.
    now: Arc<Entity>,
    /// The partition of it that leaves next.
    partition: u32,
}

impl State {
    /// Deletes an entity, and the entities that belong to it. The first logs and cursors leave.
    pub fn begin_delete(&mut self, id: EntityId) -> Result<(), Malformed> {
        let unknown = Malformed("a deletion refers to something that does not exist");
        let root = self.catalog.begin_removal(id).ok_or(unknown)?;
        self.changed.entities.insert(root.id);
        self.forget_limits(root.id);
        self.dying.push_back(Dying { now: Arc::clone(&root), root, partition: 0 });
        self.lose();
        let last = self.dying.len() - 1;
        self.take_out_of(last, AT_ONCE);
        Ok(())
    }

    /// Deletes an entity as a whole. The caller holds no lock.
    pub fn delete(&mut self, id: EntityId) -> Result<(), Malformed> {
        self.begin_delete(id)?;
        while !self.dying.is_empty() {
            self.take_out(usize::MAX);
        }
        self.freed = Freed::default();
        Ok(())
    }

    /// Takes the next logs and cursors out of memory that belong to deleted entities.
    pub fn take_out(&mut self, most: usize) {
        if !self.dying.is_empty() {
            self.take_out_of(0, most);
        }
    }

    fn take_out_of(&mut self, n: usize, most: usize) {
        let Some(mut dying) = self.dying.remove(n) else { return };
        for _ in 0..most {
            audit::step();
            self.take_out_partition(&dying.now, dying.partition);
            dying.partition += 1;
            if dying.partition < dying.now.partitions() {
                continue;
            }
            if dying.now.id != dying.root.id {
                self.changed.entities.insert(dying.now.id);
                self.catalog.remove_child(dying.now.id);
            }
            let Some(next) = self.catalog.last_child(dying.root.id) else {
                self.catalog.end_removal(&dying.root);
                return self.lose();
            };
            (dying.now, dying.partition) = (next, 0);
        }
        self.dying.insert(n, dying);
    }

    /// Removes the log and the cursor of a partition, as far as the entity has them.
    fn take_out_partition(&mut self, entity: &Entity, partition: u32) {
        if let Some(mut log) = self.logs.remove(&entity.id.log(partition)) {
            self.expiring.forget(&log);
            self.forget_retained(log.id);
            self.changed.forget(&log);
            self.filtering.logs -= usize::from(log.filters.is_some());
            self.note_dead_segments(!log.segments.is_empty());
            self.deleted_logs.insert(log.id, mem::take(&mut log.segments));
            self.freed.logs.push(log);
        }
        let id = entity.id.cursor(partition);
        if let Some(filter) = entity.filter()
            && let Some(cursor) = self.cursors.get(&id)
        {
            let of = (id, cursor.log);
            self.detach_filter(of, filter);
        }
        self.take_out_cursor(id);
    }

    /// Removes a cursor.
    pub(super) fn take_out_cursor(&mut self, id: CursorId) {
        let Some(cursor) = self.cursors.remove(&id) else { return };
        let floor = cursor.floor();
        if cursor.spares {
            self.retaining.spare_no_more(cursor.log, floor);
        }
        if let Some(log) = self.logs.get_mut(&cursor.log) {
            log.remove_cursor(cursor.id, cursor.held());
            // Below its floor, nothing waited for it.
            let may_be_dead = !log.segments.is_empty() && floor < log.moved;
            self.changed.suspect(log, floor.to(log.moved));
            self.note_dead_segments(may_be_dead);
        }
        self.freed.cursors.push(cursor);
    }

    fn note_dead_segments(&mut self, are_there: bool) {
        self.reclaimable |= are_there;
        self.has_dead_segment |= are_there;
    }

    /// Has the maps find nothing of what is dying.
    fn lose(&mut self) {
        let gone = self.gone();
        self.logs.lose(&gone, false);
        self.cursors.lose(&gone, false);
    }

    /// The ids of entities that were deleted, and of which something is left in memory.
    fn gone(&self) -> Vec<Range<EntityId>> {
        self.dying.iter().map(|it| it.root.id..it.root.end_of_ids()).collect()
    }
}

/// What is left of deleted entities in memory, the oldest deletion first.
pub type AllDying = VecDeque<Dying>;

impl Store {
    /// Whether something of deleted entities is left in memory. A checkpoint waits until it was [taken out](Store::take_out).
    #[inline]
    pub fn has_dying(&self) -> bool {
        !self.state.dying.is_empty()
    }

    /// The ids of those entities.
    pub fn gone(&self) -> Vec<Range<EntityId>> {
        self.state.gone()
    }

    /// Takes some of it out. The caller [takes](Store::take_freed) it later.
    pub fn take_out(&mut self) {
        self.state.take_out(AT_ONCE);
    }

    /// Takes some of the states of what was deleted, to be dropped once no lock is held.
    pub fn take_freed(&mut self) -> Freed {
        let Freed { cursors, logs } = &mut self.state.freed;
        let (first_cursor, first_log) =
            (cursors.len().saturating_sub(AT_ONCE), logs.len().saturating_sub(AT_ONCE));
        Freed { cursors: cursors.split_off(first_cursor), logs: logs.split_off(first_log) }
    }

    /// Whether there are more such states.
    pub fn has_freed(&self) -> bool {
        let Freed { cursors, logs } = &self.state.freed;
        !cursors.is_empty() || !logs.is_empty()
    }
}
