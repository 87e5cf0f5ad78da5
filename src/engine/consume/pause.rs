//! Pausing and resuming deliveries: a setting of the queue or the subscription.

use std::sync::Arc;

use super::consumer::Consumer;
use crate::{
    config::RESERVED_PREFIX,
    engine::core::commit::Receipt,
    error::{Error, Result},
    format::entity::{Delivering, Entity, EntityKind},
    store::Op,
};

/// Settings with which nothing is delivered, or with which messages are.
fn paused(delivering: &Arc<Delivering>, is_paused: bool) -> Arc<Delivering> {
    Delivering { is_paused, ..Delivering::clone(delivering) }.into()
}

fn check_not_internal(name: &str) -> Result<()> {
    if name.starts_with(RESERVED_PREFIX) {
        let what = format!(
            "queue {name:?} is the engine's own: without its deliveries no schedule would run"
        );
        return Err(Error::invalid("name", what));
    }
    Ok(())
}

impl Consumer {
    /// Has nothing be delivered from now on, or has messages delivered again.
    pub fn set_paused(&self, is_paused: bool) -> Result<()> {
        let (committer, id) = (self.committer(), self.cursor().entity());
        let committed = committer.transact("pause", |core| {
            let there = core.store.entity(id).ok_or_else(|| core.store.deleted(id))?;
            if is_paused {
                // The engine's own queues deliver, or schedules would stop.
                check_not_internal(&there.name)?;
            }
            let kind = match &there.kind {
                EntityKind::Queue(delivering) => EntityKind::Queue(paused(delivering, is_paused)),
                EntityKind::Subscription { topic, delivering } => EntityKind::Subscription {
                    topic: *topic,
                    delivering: paused(delivering, is_paused),
                },
                other => other.clone(),
            };
            let entity = Entity { kind, ..there.clone() };
            if entity == *there {
                return Ok(((), Receipt::of_what_is_there(&core.store)));
            }
            let receipt = core.commit(&[Op::Update { entity: &entity }], committer.now_plain())?;
            core.follow_settings(&entity);
            Ok(((), receipt))
        })?;
        committer.complete(committed, committer.config.durability)
    }
}
