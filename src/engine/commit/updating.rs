//! What comes before an entity is created, or its settings change.

use super::{committer::Committer, definition::Definition};
use crate::{
    config::NAME_BYTES_MAX,
    engine::core::Core,
    error::{Error, ErrorKind, Result},
    format::entity::Entity,
    store::Space,
};

/// Checks the name of the queue for dead letters where it follows from that of its entity, and was not given.
pub fn check_letters_name(definition: &impl Definition, letters: Option<&str>) -> Result<()> {
    let is_long =
        |length: &usize| !definition.names_dead_letter_queue() && *length > NAME_BYTES_MAX;
    let Some(length) = letters.map(str::len).filter(is_long) else { return Ok(()) };
    let (noun, name) = (definition.space().noun(), definition.name());
    let what = format!(
        "the queue for the dead letters of {noun} {name:?} would have a name of {length} bytes, and names have at \
         most {NAME_BYTES_MAX}: give it a shorter one with dead_letter_queue()"
    );
    Err(Error::invalid("dead_letter_queue", what))
}

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
