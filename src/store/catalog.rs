//! The catalog: all entities, by id and by name.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::{Bound, Range},
    sync::Arc,
};

use super::{circles::circles, log_name::LogName};
use crate::{
    audit,
    error::{Error, ErrorKind},
    format::entity::{Delivering, Entity, EntityKind},
    ids::{EntityId, LogId},
};

/// The spaces in which names are unique. Subscriptions and groups have one for each parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    Queues,
    Topics,
    Streams,
    Subscriptions {
        topic: EntityId,
    },
    Groups {
        stream: EntityId,
    },
    /// The delay index of a queue. A queue has at most one, and users do not see it.
    DelayIndexes {
        queue: EntityId,
    },
}

impl Space {
    pub fn of(kind: &EntityKind) -> Space {
        match kind {
            EntityKind::Queue(_) => Space::Queues,
            EntityKind::Topic { .. } => Space::Topics,
            EntityKind::Subscription { topic, .. } => Space::Subscriptions { topic: *topic },
            EntityKind::Stream { .. } => Space::Streams,
            EntityKind::Group { stream, .. } => Space::Groups { stream: *stream },
            EntityKind::DelayIndex { queue } => Space::DelayIndexes { queue: *queue },
        }
    }

    /// The noun for an entity of this space in texts for people.
    pub fn noun(self) -> &'static str {
        match self {
            Space::Queues => "queue",
            Space::Topics => "topic",
            Space::Streams => "stream",
            Space::Subscriptions { .. } => "subscription",
            Space::Groups { .. } => "group",
            Space::DelayIndexes { .. } => "delay index",
        }
    }
}

/// How many deleted entities are remembered. Programs that make a queue for each reply delete many of them.
const DELETED_MAX: usize = 1024;

/// A deleted entity, for the errors of its handles.
#[derive(Debug)]
struct Deleted {
    ids: Range<EntityId>,
    description: String,
}

/// So many settings are looked through for equal ones.
const SHARED_MAX: usize = 16;

/// An entity in the order of the spaces and the names.
#[derive(Debug)]
struct ByName(Arc<Entity>);

/// A name in a space.
trait Named {
    fn named(&self) -> (Space, &str);
}

struct NameRef<'a>(Space, &'a str);

impl Named for ByName {
    fn named(&self) -> (Space, &str) {
        (Space::of(&self.0.kind), &self.0.name)
    }
}

impl Named for NameRef<'_> {
    fn named(&self) -> (Space, &str) {
        (self.0, self.1)
    }
}

impl<'a> Borrow<dyn Named + 'a> for ByName {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for dyn Named + '_ {}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.named().cmp(&other.named())
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.named() == other.named()
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &ByName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &ByName) -> Ordering {
        self.named().cmp(&other.named())
    }
}

#[derive(Debug)]
pub struct Catalog {
    entities: BTreeMap<EntityId, Arc<Entity>>,
    names: BTreeSet<ByName>,
    /// Settings that entities have, shared by those that have the same.
    settings: Vec<Arc<Delivering>>,
    /// Each entity that belongs to another, behind the one to which it belongs.
    children: BTreeSet<(EntityId, EntityId)>,
    /// Each entity that has dead letters, behind the queue that takes them.
    letters: BTreeSet<(EntityId, EntityId)>,
    /// Entities that were deleted, while entities are left that belong to them.
    dying: Vec<Arc<Entity>>,
    /// The entities that were deleted last, the oldest deletion first.
    deleted: VecDeque<Deleted>,
    /// The next free id. An id is never used twice.
    pub next_id: EntityId,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            entities: BTreeMap::new(),
            names: BTreeSet::new(),
            settings: Vec::new(),
            children: BTreeSet::new(),
            letters: BTreeSet::new(),
            dying: Vec::new(),
            deleted: VecDeque::new(),
            next_id: EntityId::FIRST,
        }
    }
}

impl Catalog {
    pub fn insert(&mut self, mut entity: Entity) {
        self.share_settings(&mut entity.kind);
        let entity = Arc::new(entity);
        self.next_id = self.next_id.max(entity.end_of_ids());
        self.names.replace(ByName(Arc::clone(&entity)));
        self.children.extend(entity.parent().map(|parent| (parent, entity.id)));
        self.letters.extend(taker_of_letters(&entity).map(|queue| (queue, entity.id)));
        let (id, now) = (entity.id, taker_of_letters(&entity));
        if let Some(before) = self.entities.insert(id, entity)
            && let Some(queue) = taker_of_letters(&before).filter(|queue| Some(*queue) != now)
        {
            self.letters.remove(&(queue, id));
        }
    }

    /// Has an entity share the settings of others.
    fn share_settings(&mut self, kind: &mut EntityKind) {
        let (EntityKind::Queue(ours) | EntityKind::Subscription { delivering: ours, .. }) = kind
        else {
            return;
        };
        // Filters differ. Settings with one would be in the place of those that others share.
        if ours.filter.is_some() || ours.is_paused {
            return;
        }
        audit::step();
        if let Some(there) = self.settings.iter().find(|it| *it == ours) {
            *ours = Arc::clone(there);
            return;
        }
        self.settings.retain(|it| Arc::strong_count(it) > 1);
        if self.settings.len() == SHARED_MAX {
            self.settings.remove(0);
        }
        self.settings.push(Arc::clone(ours));
    }

    /// Removes an entity. Nothing finds the entities that belong to it from now on. They leave one by one by
    /// [`remove_child`](Catalog::remove_child), and then comes [`end_removal`](Catalog::end_removal).
    pub fn begin_removal(&mut self, id: EntityId) -> Option<Arc<Entity>> {
        self.get(id)?;
        let root = self.take(id)?;
        self.dying.push(Arc::clone(&root));
        Some(root)
    }

    /// The last entity that belongs to one, which may be gone.
    pub fn last_child(&self, id: EntityId) -> Option<Arc<Entity>> {
        self.entities.get(&behind(&self.children, id).next_back()?).cloned()
    }

    /// Removes an entity that belongs to one which is gone.
    pub fn remove_child(&mut self, id: EntityId) {
        if let Some(entity) = self.take(id) {
            self.remember(&entity);
        }
    }

    /// Ends a removal: no entity is left that belongs to `root`.
    pub fn end_removal(&mut self, root: &Entity) {
        self.dying.retain(|it| it.id != root.id);
        self.remember(root);
    }

    fn take(&mut self, id: EntityId) -> Option<Arc<Entity>> {
        audit::step();
        let entity = self.entities.remove(&id)?;
        self.names.remove(&NameRef(Space::of(&entity.kind), &entity.name) as &dyn Named);
        entity.parent().map(|parent| self.children.remove(&(parent, id)));
        taker_of_letters(&entity).map(|queue| self.letters.remove(&(queue, id)));
        Some(entity)
    }

    /// Whether an entity belongs to one that is gone.
    #[inline]
    fn is_gone(&self, entity: &Entity) -> bool {
        !self.dying.is_empty() && self.dying_of(entity.parent()).is_some()
    }

    /// The entity that is gone, and of which others are left.
    #[cold]
    fn dying_of(&self, id: Option<EntityId>) -> Option<&Arc<Entity>> {
        audit::steps(self.dying.len() as u64);
        self.dying.iter().find(|it| Some(it.id) == id)
    }

    /// The first entity whose dead letters are in a queue.
    pub fn user_of_letters(&self, queue: EntityId) -> Option<&Entity> {
        behind(&self.letters, queue).inspect(|_| audit::step()).find_map(|id| self.get(id))
    }

    /// Remembers an entity that was deleted. One comes behind those that belong to it, so it is kept if not all fit.
    fn remember(&mut self, entity: &Entity) {
        audit::step();
        let (ids, description) = (entity.id..entity.end_of_ids(), self.describe(entity));
        self.deleted.push_back(Deleted { ids, description });
        if self.deleted.len() > DELETED_MAX {
            self.deleted.pop_front();
        }
    }

    /// The noun and the name of an entity, for people.
    pub fn describe(&self, entity: &Entity) -> String {
        let parent = entity.parent();
        let parent = parent.and_then(|id| self.entities.get(&id)).or_else(|| self.dying_of(parent));
        let of_parent = parent.map(|it| format!(" of {}", self.describe(it))).unwrap_or_default();
        format!("{} {:?}{of_parent}", Space::of(&entity.kind).noun(), entity.name)
    }

    /// The error of a handle whose entity was deleted. `id` is any of the ids that the entity owned.
    #[cold]
    pub fn deleted(&self, id: EntityId) -> Error {
        audit::steps((self.dying.len() + self.deleted.len()) as u64);
        let owns = |entity: &&Arc<Entity>| (entity.id..entity.end_of_ids()).contains(&id);
        let dying = self.dying.iter().find(owns);
        let dying =
            dying.or_else(|| self.entities.range(..=id).next_back().map(|it| it.1).filter(owns));
        let known = || self.deleted.iter().rev().find(|it| it.ids.contains(&id));
        let what = match dying {
            Some(entity) => self.describe(entity),
            None => known()
                .map_or("the queue, topic, stream, subscription or group".to_owned(), |it| {
                    it.description.clone()
                }),
        };
        let what = format!(
            "{what} was deleted; this handle is of no use any more: create or open it again"
        );
        Error::new(ErrorKind::NotFound, what)
    }

    pub fn find(&self, space: Space, name: &str) -> Option<&Entity> {
        let found = self.names.get(&NameRef(space, name) as &dyn Named)?;
        Some(&*found.0).filter(|it| !self.is_gone(it))
    }

    pub fn get(&self, id: EntityId) -> Option<&Entity> {
        let entity = &**self.entities.get(&id)?;
        Some(entity).filter(|it| !self.is_gone(it))
    }

    /// The first entity whose id is this one or a later one.
    pub fn at_or_behind(&self, id: EntityId) -> Option<&Entity> {
        self.entities.range(id..).next().map(|(_, entity)| &**entity)
    }

    /// The entities from an id on, by id.
    pub fn from(&self, id: EntityId) -> impl Iterator<Item = &Entity> {
        self.all_behind(id).filter(|it| !self.is_gone(it))
    }

    fn all_behind(&self, id: EntityId) -> impl Iterator<Item = &Entity> {
        self.entities.range(id..).inspect(|_| audit::step()).map(|(_, entity)| &**entity)
    }

    /// The entities from an id on, by id: `most` are looked at. And where the next slice begins, unless this was the last one.
    pub fn slice_from(&self, id: EntityId, most: usize) -> (Vec<EntityId>, Option<EntityId>) {
        let looked_at = || self.all_behind(id).take(most);
        let last = looked_at().last().map(|entity| entity.id);
        let there = looked_at().filter(|it| !self.is_gone(it)).map(|entity| entity.id);
        (there.collect(), last.map(|last| last.plus(1)))
    }

    /// The entities of a space whose names stand behind a name, by name. The empty name stands before all.
    pub fn list(&self, space: Space, behind: &str) -> impl Iterator<Item = &Entity> {
        let behind: Bound<&dyn Named> = Bound::Excluded(&NameRef(space, behind));
        let named = self.names.range::<dyn Named, _>((behind, Bound::Unbounded));
        let named = named.inspect(|_| audit::step()).map(|it| &*it.0);
        named.take_while(move |it| Space::of(&it.kind) == space && !self.is_gone(it))
    }

    /// The name of a log, for people.
    pub fn log_name(&self, log: LogId) -> LogName {
        // No two entities own the same id.
        let below = self.entities.range(..=log.entity()).next_back().map(|(_, it)| &**it);
        let is_owner = |it: &&Entity| log.0 - it.id.0 < it.logs().len() as u64;
        let Some(entity) = below.filter(is_owner) else {
            return LogName::Unknown { log: log.0 };
        };
        let name = entity.name.to_string();
        match entity.kind {
            EntityKind::Queue(_) => LogName::Queue(name),
            EntityKind::Topic { .. } => LogName::Topic(name),
            EntityKind::DelayIndex { queue } => {
                let queue = self.entities.get(&queue).map(|queue| queue.name.to_string());
                LogName::DelayIndex(queue.unwrap_or_default())
            }
            _ => LogName::Partition { stream: name, partition: log.partition_of(entity.id) },
        }
    }

    pub fn all(&self) -> impl ExactSizeIterator<Item = &Entity> {
        self.entities.values().map(|entity| &**entity)
    }

    /// The entity that takes the dead letters of another.
    pub fn dead_letters_of(&self, id: EntityId) -> Option<EntityId> {
        taker_of_letters(self.get(id)?)
    }

    /// Circles of queues, each of which moves its dead letters to the next. An engine makes none.
    pub fn circles_of_dead_letters(&self) -> Vec<Vec<EntityId>> {
        circles(self.entities.keys(), |id| self.dead_letters_of(id))
    }

    /// Entities that have dead letters, each behind the queue that takes them.
    pub fn letters_from(
        &self,
        from: Bound<(EntityId, EntityId)>,
    ) -> impl Iterator<Item = (EntityId, EntityId)> {
        self.letters.range((from, Bound::Unbounded)).inspect(|_| audit::step()).copied()
    }

    pub fn is_queue(&self, id: EntityId) -> bool {
        self.get(id).is_some_and(|it| matches!(it.kind, EntityKind::Queue(_)))
    }

    /// Entities whose dead letters go to something that is no queue. An engine makes none.
    pub fn stray_dead_letters(&self) -> Vec<EntityId> {
        let is_stray =
            |id: &EntityId| self.dead_letters_of(*id).is_some_and(|queue| !self.is_queue(queue));
        self.entities.keys().copied().filter(is_stray).collect()
    }

    /// Entities with a name that a newer entity of their space has. An engine makes none, and a salvage gives each another
    /// name.
    pub fn twins(&self) -> Vec<EntityId> {
        if self.has_unique_names() {
            return Vec::new();
        }
        let (mut newest, mut twins) = (BTreeMap::new(), Vec::new());
        for entity in self.all() {
            twins.extend(newest.insert((Space::of(&entity.kind), &*entity.name), entity.id));
        }
        twins
    }

    /// Whether no name stands for two entities.
    pub fn has_unique_names(&self) -> bool {
        self.names.len() == self.entities.len()
    }

    /// Leaves the messages of an entity where they are, however often they fail.
    pub fn clear_dead_letters(&mut self, id: EntityId) {
        let taker = self.dead_letters_of(id);
        taker.map(|queue| self.letters.remove(&(queue, id)));
        let Some(mut entity) = self.get(id).cloned() else { return };
        if let EntityKind::Queue(it) | EntityKind::Subscription { delivering: it, .. } =
            &mut entity.kind
        {
            Arc::make_mut(it).dead_letters = None;
        }
        self.insert(entity);
    }
}

/// The queue that takes the dead letters of an entity.
fn taker_of_letters(entity: &Entity) -> Option<EntityId> {
    Some(entity.delivering()?.dead_letters?.queue)
}

/// The ids that stand behind another one.
fn behind(
    pairs: &BTreeSet<(EntityId, EntityId)>,
    id: EntityId,
) -> impl DoubleEndedIterator<Item = EntityId> + '_ {
    let all = (id, EntityId(0))..=(id, EntityId(u64::MAX));
    pairs.range(all).map(|(_, behind)| *behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remove(catalog: &mut Catalog, id: EntityId) {
        let root = catalog.begin_removal(id).unwrap();
        while let Some(child) = catalog.last_child(id) {
            assert!(catalog.get(child.id).is_none());
            catalog.remove_child(child.id);
        }
        catalog.end_removal(&root);
    }

    fn add(catalog: &mut Catalog, name: &str, kind: EntityKind) -> EntityId {
        let id = catalog.next_id;
        catalog.insert(Entity { id, name: name.into(), kind });
        id
    }

    #[test]
    fn the_names_of_so_many_deleted_entities_are_kept_at_most() {
        let mut catalog = Catalog::default();
        let topics = 0..DELETED_MAX + 1;
        let ids = topics
            .map(|n| add(&mut catalog, &n.to_string(), EntityKind::Topic { retention: None }));
        let ids: Vec<EntityId> = ids.collect();
        ids.iter().for_each(|id| remove(&mut catalog, *id));
        let said = |catalog: &Catalog, n: usize| catalog.deleted(ids[n]).to_string();
        assert!(said(&catalog, 0).starts_with("the queue, topic, stream,"), "it is the oldest");
        assert!(said(&catalog, 1).starts_with("topic \"1\" was deleted"));
        assert_eq!(catalog.deleted.len(), DELETED_MAX);

        let stream = add(&mut catalog, "s", EntityKind::Stream { partitions: 3, retention: None });
        for n in 0..=DELETED_MAX {
            add(
                &mut catalog,
                &n.to_string(),
                EntityKind::Group { stream, partitions: 3, keeps_unread: false },
            );
        }
        remove(&mut catalog, stream);
        for id in [stream, stream.plus(2)] {
            let error = catalog.deleted(id).to_string();
            assert!(error.starts_with("stream \"s\" was deleted"), "{error}");
        }
        let group = catalog.deleted(stream.plus(4)).to_string();
        assert!(group.contains("of stream \"s\""), "{group}");
        assert_eq!(catalog.deleted.len(), DELETED_MAX);
    }
}
