//! Settings that change: what is applied, and what is refused.

use std::borrow::Cow;

use crate::{
    format::{
        commit::Change,
        entity::{Creation, Delivering, Entity, EntityKind},
    },
    ids::{CursorId, EntityId, Lsn, Offset},
    store::{AckSet, state::State},
};

fn queue(id: u64, name: &str, lease_ms: u64) -> Entity {
    let kind = EntityKind::Queue(Delivering::leasing(lease_ms).into());
    Entity { id: EntityId(id), name: name.into(), kind }
}

fn with_a_queue() -> State {
    let mut state = State::default();
    let creation = Creation { entity: queue(1, "q", 1000), starts: vec![Offset(7)] };
    state.apply(&Change::Create(Cow::Owned(creation)), Lsn(0)).unwrap();
    state.changed.entities.clear();
    state
}

#[test]
fn an_update_changes_the_settings_and_nothing_else() {
    let mut state = with_a_queue();
    state.apply(&Change::Update(Cow::Owned(queue(1, "q", 2000))), Lsn(8)).unwrap();
    assert_eq!(state.catalog.get(EntityId(1)), Some(&queue(1, "q", 2000)));
    let changed: Vec<_> = state.changed.entities.iter().copied().collect();
    assert_eq!(changed, [EntityId(1)], "the next checkpoint captures it");
    let cursor = &state.cursors[&CursorId(1)];
    assert_eq!(cursor.acks().map(AckSet::floor), Some(Offset(7)));
    assert_eq!((state.logs.len(), state.cursors.len()), (1, 1));
}

#[test]
fn an_update_of_another_shape_is_refused() {
    let subscription = EntityKind::Subscription {
        topic: EntityId(1),
        delivering: Delivering::leasing(1000).into(),
    };
    let topic = Entity { kind: EntityKind::Topic { retention: None }, ..queue(1, "q", 1000) };
    let other = Entity { kind: subscription, ..queue(1, "q", 1000) };
    for entity in [queue(1, "other", 1000), queue(2, "q", 1000), topic, other] {
        let mut state = with_a_queue();
        assert!(state.apply(&Change::Update(Cow::Owned(entity)), Lsn(8)).is_err());
        assert_eq!(state.catalog.get(EntityId(1)), Some(&queue(1, "q", 1000)));
        assert!(state.changed.entities.is_empty());
    }
}
