//! How messages whose lives are over leave, under the core.

use std::slice;

use super::{
    Core,
    commit::{CommitResult, Receipt},
    consumption::Origin,
    dead_letters::{DeadMessage, EXPIRED, Letter},
    walk::WalkOf,
};
use crate::{
    audit,
    format::entity::{DeadLetters, EntityKind},
    ids::{CursorId, Now, Offset},
    store::{Op, Stored},
};

/// Messages that have left.
#[derive(Debug, Default)]
pub struct Gone {
    pub offsets: Vec<Offset>,
    /// Whether the last spilled message was among them.
    pub was_last_spilled: bool,
}

/// The queue or the subscription of a cursor, for the letters of its messages.
struct Owner {
    origin: Origin,
    time_to_live_ms: u64,
    dead_letters: Option<DeadLetters>,
}

impl Core {
    /// Drops messages whose lives are over, or moves them to the dead letters, in one commit. Those that are gone, on
    /// lease, or live longer by now stay.
    pub fn expire_messages(
        &mut self,
        of: &WalkOf,
        expired: &[Stored],
        now: Now,
    ) -> CommitResult<(Gone, Receipt)> {
        let (cursor, nothing) = (of.cursor, (Gone::default(), Receipt::NOTHING));
        let Some(owner) = self.owner(cursor).filter(|it| it.time_to_live_ms == of.time_to_live_ms)
        else {
            return Ok(nothing);
        };
        if seeded!(ExpiredIsDroppedWithoutACommit) {
            return Ok(nothing);
        }
        let acks = self.store.acks_of(cursor)?;
        let mut letters: Vec<Letter<'_>> = Vec::new();
        let mut offsets = Vec::with_capacity(expired.len());
        let mut on_lease = Vec::new();
        for stored in expired {
            audit::step();
            let offset = stored.offset;
            if acks.is_acked(offset) {
                continue;
            }
            if self.is_left_out(cursor, offset) {
                // It was leased while it was read.
                on_lease.push(offset);
                continue;
            }
            offsets.push(offset);
            if let Some(to) = owner.dead_letters {
                let (attempts, priority) = (acks.attempts(offset), acks.priority(offset));
                let dead = DeadMessage { stored, attempts, priority, reason: EXPIRED };
                letters.push(dead.letter(&owner.origin, to));
            }
        }
        let was_spilled = offsets.iter().any(|offset| acks.is_spilled(*offset));
        on_lease.into_iter().for_each(|offset| self.leave_out(cursor, offset));
        if offsets.is_empty() {
            return Ok(nothing);
        }
        let removed = self.removals(cursor, &offsets)?;
        let mut ops = vec![Op::Ack { cursor, offsets: &offsets }];
        let dated: Vec<_> = letters.iter().map(|letter| (letter.log, letter.dated(now))).collect();
        ops.extend(dated.iter().map(|(log, message)| Op::Append {
            log: *log,
            messages: slice::from_ref(message),
            delay_ms: 0,
        }));
        if seeded!(SweptLettersAreNotAcked) && ops.len() > 1 {
            ops.remove(0);
        }
        let receipt = self.commit(&ops, now)?;
        self.note_expired(cursor, &removed, !letters.is_empty());
        let was_last_spilled = was_spilled && self.spilled(cursor) == 0;
        Ok((Gone { offsets, was_last_spilled }, receipt))
    }

    /// The queue or the subscription of a cursor, as it is now.
    fn owner(&self, cursor: CursorId) -> Option<Owner> {
        let entity = self.store.entity(cursor.entity())?;
        let delivering = entity.delivering()?;
        let origin = match entity.kind {
            EntityKind::Subscription { topic, .. } => {
                Origin::of_subscription(&self.store.entity(topic)?.name, &entity.name)
            }
            _ => Origin::of_queue(&entity.name),
        };
        let (time_to_live_ms, dead_letters) = (delivering.time_to_live_ms, delivering.dead_letters);
        Some(Owner { origin, time_to_live_ms, dead_letters })
    }
}
