//! The settings in a damaged store: which may be old, and which contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Looking, Nameless, replay::Settings};
use crate::{
    format::entity::{Entity, EntityKind},
    ids::{EntityId, Lsn},
    store::{Catalog, State},
};

impl Looking {
    /// The entities whose newest settings are in the metalog, as far as it reaches: no damage stands behind them.
    pub(super) fn newest_in_metalog(
        &self,
        described: &BTreeMap<EntityId, u64>,
    ) -> BTreeSet<EntityId> {
        if self.metas.survey.committed == 0 {
            // No checkpoint counts. Any entry may have come after those that are left.
            return BTreeSet::new();
        }
        let last_damage = self.metas.survey.damage.last().map(|damage| damage.position);
        let last_damage = last_damage.max(self.metas.loose_from);
        let is_newest = |position: &u64| last_damage.is_none_or(|damage| damage < *position);
        described.iter().filter(|(_, at)| is_newest(at)).map(|(id, _)| *id).collect()
    }

    /// The entities whose settings may be older than they were.
    pub(super) fn old_settings(&self, state: &State, settings: &Settings) -> BTreeSet<EntityId> {
        let gaps = self.journal.damage.iter().filter(|gap| gap.from < gap.to);
        let Some(last_gap) = gaps.map(|gap| gap.to).max().or(self.metas.damaged.then_some(Lsn(0)))
        else {
            return BTreeSet::new();
        };
        let is_known = |id: EntityId| {
            let by_journal = settings.in_journal.get(&id).is_some_and(|at| last_gap <= *at);
            by_journal || (settings.in_metalog.contains(&id) && last_gap <= self.reflects)
        };
        let changes = state.catalog.all().filter(|it| has_settings(&it.kind));
        changes.map(|entity| entity.id).filter(|id| !is_known(*id)).collect()
    }

    /// Whether entities may be gone of which nothing is left, not even a number.
    ///
    /// The last checkpoint of the metalog says which numbers were given away. Those that nothing refers to belonged to
    /// entities that were deleted, or whose entries are lost.
    pub(super) fn may_lack_entities(
        &self,
        state: &State,
        gone: &BTreeSet<EntityId>,
        nameless: &[Nameless],
    ) -> bool {
        if self.has_gap_behind_metalog() {
            // An entity may have been created there.
            return true;
        }
        if !self.metas.lacks_entries() {
            return false;
        }
        let Some(next_id) = self.metas.last_next_id() else { return true };
        let lost = nameless.iter().filter_map(|it| match it {
            Nameless::Lost(cursor) => Some(cursor.entity()),
            Nameless::Named(_) => None,
        });
        let known =
            state.catalog.all().flat_map(Entity::ids).chain(gone.iter().copied()).chain(lost);
        let known: BTreeSet<EntityId> = known.filter(|id| *id < next_id).collect();
        (known.len() as u64) < next_id.0 - EntityId::FIRST.0
    }
}

/// Whether an entity of this kind has settings that change.
fn has_settings(kind: &EntityKind) -> bool {
    match kind {
        EntityKind::Queue(_)
        | EntityKind::Topic { .. }
        | EntityKind::Subscription { .. }
        | EntityKind::Stream { .. }
        | EntityKind::Group { .. } => true,
        EntityKind::DelayIndex { .. } => false,
    }
}

fn name(catalog: &Catalog, id: EntityId) -> &str {
    catalog.get(id).map(|it| &*it.name).unwrap_or_default()
}

/// What is said of queues that move their dead letters in a circle.
pub fn tell_circle(catalog: &Catalog, circle: &[EntityId]) -> String {
    let names: Vec<&str> = circle.iter().map(|id| name(catalog, *id)).collect();
    format!("the dead letters of queues go in a circle: {}", names.join(", "))
}

/// What is said of an entity whose dead letters go to something that is no queue.
pub fn tell_stray(catalog: &Catalog, id: EntityId) -> String {
    let name = name(catalog, id);
    format!("the dead letters of {name:?} go to a queue that does not exist")
}

/// Contradictions of settings.
pub fn contradictions(state: &State) -> Vec<String> {
    let catalog = &state.catalog;
    let circles = catalog.circles_of_dead_letters();
    let circles = circles.iter().map(|circle| tell_circle(catalog, circle));
    let strays = catalog.stray_dead_letters();
    let strays = strays.iter().map(|id| tell_stray(catalog, *id));
    let twins = catalog.twins();
    let twins = twins
        .iter()
        .filter_map(|id| catalog.get(*id))
        .map(|twin| format!("there is a newer one of the same name: {}", catalog.describe(twin)));
    circles.chain(strays).chain(twins).collect()
}
