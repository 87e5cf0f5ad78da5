//! Circles of queues, each of which moves its dead letters to the next.

use std::collections::BTreeSet;

use crate::ids::EntityId;

/// Circles of queues, each of which moves its dead letters to the next. `taker` is the queue that takes those of another.
pub fn circles<'a>(
    all: impl Iterator<Item = &'a EntityId>,
    taker: impl Fn(EntityId) -> Option<EntityId>,
) -> Vec<Vec<EntityId>> {
    let (mut circles, mut seen) = (Vec::new(), BTreeSet::new());
    for start in all {
        let (mut chain, mut at) = (Vec::new(), Some(*start));
        while let Some(id) = at.filter(|id| seen.insert(*id)) {
            chain.push(id);
            at = taker(id);
        }
        if let Some(first) = chain.iter().position(|id| at == Some(*id)) {
            circles.push(chain.split_off(first));
        }
    }
    circles
}
