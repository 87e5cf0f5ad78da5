//! The dead letters of a store that is in use: whether queues move them in a circle, or to something that is no queue.

use std::{collections::BTreeMap, ops::Bound};

use super::survey::{tell_circle, tell_stray};
use crate::{
    ids::EntityId,
    store::{Shared, circles},
};

/// So many entities are looked at in one hold of the store.
const AT_ONCE: usize = 256;

/// Contradictions of settings. They are found in slices. Settings may change between two of them, so a circle counts only if
/// it is there at one moment.
pub fn contradictions_in_use(shared: &impl Shared) -> Vec<String> {
    let (mut takers, mut found) = (BTreeMap::new(), Vec::new());
    let mut from = Bound::Unbounded;
    loop {
        let slice: Vec<(EntityId, EntityId)> = shared.with(|store| {
            let catalog = &store.state().catalog;
            let slice: Vec<_> = catalog.letters_from(from).take(AT_ONCE).collect();
            found.extend(
                slice.iter().filter(|(queue, _)| !catalog.is_queue(*queue)).map(|(_, id)| *id),
            );
            slice
        });
        let Some(last) = slice.last() else { break };
        from = Bound::Excluded(*last);
        takers.extend(slice.into_iter().map(|(queue, id)| (id, queue)));
    }
    let circles = circles(takers.keys(), |id| takers.get(&id).copied());
    shared.with(|store| {
        let catalog = &store.state().catalog;
        let is_there = |circle: &Vec<EntityId>| {
            let next = circle.iter().cycle().skip(1);
            circle.iter().zip(next).all(|(id, next)| catalog.dead_letters_of(*id) == Some(*next))
        };
        let circles = circles.iter().filter(|it| is_there(it)).map(|it| tell_circle(catalog, it));
        let strays = found.iter().map(|id| tell_stray(catalog, *id));
        // No engine opens a store with one name twice.
        circles.chain(strays).collect()
    })
}
