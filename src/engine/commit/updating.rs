//! What comes before the settings of an entity change.

use super::{committer::Committer, definition::Definition};
use crate::{
    engine::core::Core,
    error::{Error, ErrorKind, Result},
    format::entity::Entity,
    store::Space,
};

/// Prepares the update of an entity, if there is one. Another thread may delete it meanwhile, and may create another one.
pub fn prepare_update(committer: &Committer, definition: &impl Definition) -> Result<()> {
    let (space, name) = (definition.space(), definition.name());
    let find = || -> Result<Option<Entity>> {
        Ok(committer.lock_open("create")?.store.find(space, name).cloned())
    };
    let mut found = find()?;
    while let Some(there) = found {
        match definition.before_update(&there) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                found = find()?;
                if found.as_ref().is_some_and(|it| it.id == there.id) {
                    return Err(error);
                }
            }
            prepared => return prepared,
        }
    }
    Ok(())
}

/// Refuses settings that contradict the messages that are there, or other queues.
pub fn check_update(core: &Core, there: &Entity, entity: &Entity) -> Result<()> {
    let (Some(before), Some(after)) = (there.delivering(), entity.delivering()) else {
        return Ok(());
    };
    let (noun, name) = (Space::of(&entity.kind).noun(), &entity.name);
    let messages = core.depth(entity.id.cursor(0));
    if before.is_ordered != after.is_ordered && messages > 0 {
        let what = format!(
            "{noun} {name:?} holds {messages} messages that came under another order: order by key changes only \
             while it is empty. Receive them first, or move them with redrive().to(&other)"
        );
        return Err(Error::invalid("ordered_by_key", what));
    }
    if let Some(letters) = after.dead_letters
        && core.store.dead_letters_reach(letters.queue, entity.id)
        && !seeded!(CircleOfLettersIsAccepted)
    {
        let what = format!(
            "the dead letters of queue {name:?} would come back to it: the queue that is to take them moves its \
             own dead letters there. Name another queue"
        );
        return Err(Error::invalid("dead_letter_queue", what));
    }
    Ok(())
}
