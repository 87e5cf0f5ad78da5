//! Orphans: logs and cursors of which something is left, but whose entity is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::Gathered;
use crate::{
    format::entity::{Creation, Delivering, Entity, EntityKind, Retention},
    ids::{CursorId, EntityId, LogId},
};

/// The entities, logs and cursors that the journal mentions.
#[derive(Debug, Default)]
pub struct Seen {
    pub created: BTreeMap<EntityId, Creation>,
    /// Those of `created` whose creation was not found: they were only given other settings.
    pub updated: BTreeSet<EntityId>,
    pub deleted: BTreeSet<EntityId>,
    pub logs: BTreeSet<LogId>,
    pub cursors: BTreeSet<CursorId>,
}

/// An entity whose name is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nameless {
    /// The entity has an invented name.
    Named(Entity),
    /// Only the number of a subscription or group is left.
    Lost(CursorId),
}

/// The name of an entity that cannot have its own.
pub fn invented_name(noun: &str, id: EntityId) -> String {
    format!("salvaged-{noun}-{id}")
}

/// Finds or makes an entity for every orphan. `older` are the entities of earlier metalogs.
pub fn adopt(
    gathered: &mut Gathered,
    seen: &Seen,
    mut logs: BTreeSet<LogId>,
    older: &BTreeMap<EntityId, Entity>,
) -> Vec<Nameless> {
    let mut adoption = Adoption { gathered, seen, older, nameless: Vec::new() };
    logs.extend(adoption.gathered.logs.keys());
    logs.extend(adoption.gathered.segments.keys().map(|(log, _)| *log));
    for log in logs {
        adoption.adopt_log(log);
    }
    let mut cursors = seen.cursors.clone();
    cursors.extend(adoption.gathered.cursors.keys());
    cursors.extend(adoption.gathered.chunks.keys().map(|(cursor, _)| *cursor));
    for cursor in cursors {
        adoption.adopt_cursor(cursor);
    }
    adoption.adopt_parents();
    adoption.drop_strays();
    adoption.nameless
}

/// The queue that takes an entity's dead letters.
fn takes_dead_letters_of(entity: &Entity) -> Option<EntityId> {
    Some(entity.delivering()?.dead_letters?.queue)
}

struct Adoption<'a> {
    gathered: &'a mut Gathered,
    seen: &'a Seen,
    older: &'a BTreeMap<EntityId, Entity>,
    nameless: Vec<Nameless>,
}

impl Adoption<'_> {
    /// The entity that owns an id, among known entities and entities that the journal creates.
    fn owner(&self, id: EntityId, owns: impl Fn(&Entity) -> bool) -> Option<&Entity> {
        let known = self.gathered.entities.range(..=id).map(|(_, entity)| entity);
        let created = self.seen.created.range(..=id).map(|(_, creation)| &creation.entity);
        known.chain(created).find(|entity| owns(entity))
    }

    fn is_gone(&self, id: EntityId) -> bool {
        self.gathered.gone.contains(&id) || self.seen.deleted.contains(&id)
    }

    fn adopt_log(&mut self, log: LogId) {
        let owns = |entity: &Entity| entity.logs().any(|owned| owned == log);
        if self.is_gone(log.entity()) || self.owner(log.entity(), owns).is_some() {
            return;
        }
        if let Some(older) = self.older.values().find(|entity| owns(entity)) {
            self.gathered.entities.insert(older.id, older.clone());
            return;
        }
        if let Some((id, kind)) = self.kind_by_children(log) {
            self.invent(id, kind);
        } else if self.has_cursor(log.queue_cursor()) {
            self.invent(log.entity(), EntityKind::Queue(Delivering::plain().into()));
        } else {
            self.invent(log.entity(), EntityKind::Stream { partitions: 1, retention: None });
        }
    }

    /// The kind of a log by the entities that refer to it: a topic has subscriptions, a stream has groups, and a queue
    /// has a delay index, or takes dead letters.
    fn kind_by_children(&self, log: LogId) -> Option<(EntityId, EntityKind)> {
        let created = self.seen.created.values().map(|creation| &creation.entity);
        let queue = |id: EntityId| Some((id, EntityKind::Queue(Delivering::plain().into())));
        self.gathered.entities.values().chain(created).find_map(|entity| match entity.kind {
            _ if takes_dead_letters_of(entity) == Some(log.entity()) => queue(log.entity()),
            EntityKind::Subscription { topic, .. } if topic == log.entity() => {
                // It has kept messages for those who come late. Its limits are lost.
                let is_kept = self.has_cursor(log.queue_cursor());
                let retention = is_kept.then(Retention::of_everything);
                Some((topic, EntityKind::Topic { retention }))
            }
            EntityKind::DelayIndex { queue: of } if of == log.entity() => queue(of),
            EntityKind::Group { stream, partitions, .. }
                if (0..partitions).any(|partition| stream.log(partition) == log) =>
            {
                let retention = None;
                Some((stream, EntityKind::Stream { partitions, retention }))
            }
            _ => None,
        })
    }

    fn has_cursor(&self, cursor: CursorId) -> bool {
        let owns = |entity: &Entity| entity.cursors().any(|(owned, _)| owned == cursor);
        let mut chunks = self.gathered.chunks.range((cursor, 0)..=(cursor, u64::MAX));
        let known = self.gathered.cursors.contains_key(&cursor)
            || self.seen.cursors.contains(&cursor)
            || chunks.next().is_some();
        known && self.owner(cursor.entity(), owns).is_none()
    }

    /// A topic that retains nothing, and of whose keeper something is left: the entry is lost that gave it its limits, or one that
    /// took them away. `false` if it is no such cursor.
    fn adopt_keeper(&mut self, cursor: CursorId) -> bool {
        let Gathered { entities, described, cursors, .. } = &mut *self.gathered;
        let topic = entities.get_mut(&cursor.entity());
        let Some(topic) = topic.filter(|it| it.lost_keeper() == Some(cursor)) else { return false };
        let last = described.get(&topic.id).copied().unwrap_or(0);
        if cursors.get(&cursor).is_some_and(|(position, _)| *position > last) {
            topic.kind = EntityKind::Topic { retention: Some(Retention::of_everything()) };
        }
        true
    }

    fn adopt_cursor(&mut self, cursor: CursorId) {
        if self.adopt_keeper(cursor) {
            return;
        }
        let owns = |entity: &Entity| entity.cursors().any(|(owned, _)| owned == cursor);
        if self.is_gone(cursor.entity()) || self.owner(cursor.entity(), owns).is_some() {
            return;
        }
        match self.older.values().find(|entity| owns(entity)) {
            Some(older) => drop(self.gathered.entities.insert(older.id, older.clone())),
            None => self.nameless.push(Nameless::Lost(cursor)),
        }
    }

    /// Makes the missing parents of known entities, and the missing queues that take dead letters.
    fn adopt_parents(&mut self) {
        let parents =
            |entity: &Entity| entity.parent().into_iter().chain(takes_dead_letters_of(entity));
        let created = self.seen.created.values().map(|creation| &creation.entity);
        let known = self.gathered.entities.values().chain(created);
        let parents: BTreeSet<EntityId> = known.flat_map(parents).collect();
        for parent in parents {
            if !self.gathered.entities.contains_key(&parent)
                && !self.seen.created.contains_key(&parent)
            {
                self.adopt_log(parent.log(0));
            }
        }
    }

    fn invent(&mut self, id: EntityId, kind: EntityKind) {
        let noun = crate::store::Space::of(&kind).noun();
        let mut name = invented_name(noun, id);
        let is_taken = |name: &String| {
            let created = self.seen.created.values().map(|creation| &creation.entity);
            self.gathered.entities.values().chain(created).any(|entity| *entity.name == **name)
        };
        while is_taken(&name) {
            name.push('x');
        }
        let entity = Entity { id, name: name.into(), kind };
        self.nameless.push(Nameless::Named(entity.clone()));
        self.gathered.entities.insert(id, entity);
    }

    /// Drops entries that belong to no entity.
    fn drop_strays(&mut self) {
        let logs: BTreeSet<LogId> =
            self.gathered.entities.values().flat_map(Entity::logs).collect();
        let cursors: BTreeSet<CursorId> =
            self.gathered.entities.values().flat_map(Entity::cursors).map(|(id, _)| id).collect();
        self.gathered.logs.retain(|log, _| logs.contains(log));
        self.gathered.segments.retain(|(log, _), _| logs.contains(log));
        self.gathered.cursors.retain(|cursor, _| cursors.contains(cursor));
        self.gathered.chunks.retain(|(cursor, _), _| cursors.contains(cursor));
    }
}
