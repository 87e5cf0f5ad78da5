//! Opens and deletes named entities.

use super::lifetime::Engine;
use crate::{
    config::check_name,
    engine::core::Core,
    error::{Error, ErrorKind, Result},
    format::entity::Entity,
    store::{Op, Space},
};

fn not_found(core: &Core, space: Space, name: &str, way_out: &str) -> Error {
    let noun = space.noun();
    let owner = match space {
        Space::Subscriptions { topic: it } | Space::Groups { stream: it } => core.store.entity(it),
        _ => None,
    };
    let of = owner.map_or(String::new(), |it| format!(" of {:?}", it.name));
    Error::new(ErrorKind::NotFound, format!("there is no {noun} named {name:?}{of}{way_out}"))
}

/// Finds an existing entity.
pub fn open(engine: &Engine, space: Space, name: &str) -> Result<Entity> {
    check_name(space.noun(), name)?;
    let core = engine.committer().lock_open("open")?;
    core.store
        .find(space, name)
        .cloned()
        .ok_or_else(|| not_found(&core, space, name, ": create() makes one"))
}

/// Deletes an existing entity.
pub fn delete(engine: &Engine, space: Space, name: &str) -> Result<()> {
    check_name(space.noun(), name)?;
    let committer = engine.committer();
    let committed = committer.transact("delete", |core| {
        let found = core.store.find(space, name).ok_or_else(|| not_found(core, space, name, ""))?;
        let entity = found.id;
        if let Some(other) = core.store.uses_as_dead_letters(entity) {
            let what =
                format!("queue {name:?} takes the dead letters of {other}: delete that first");
            return Err(Error::invalid("name", what).into());
        }
        let receipt = core.commit(&[Op::Delete { entity }], committer.now_plain())?;
        Ok((core.follow_deletions(), receipt))
    })?;
    let (is_more, receipt) = committed;
    if is_more {
        committer.take_out();
    }
    committer.complete(((), receipt), committer.config.durability)
}
