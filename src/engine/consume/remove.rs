//! Removes messages without delivering them.

use super::consumer::Consumer;
use crate::{
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        purge::Idle,
    },
    error::Result,
    ids::Offset,
    store::Op,
};

/// What a removal has found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removed {
    Nothing,
    Message,
    /// The last message of which the due time was on disk.
    LastSpilled,
}

/// One step of a purge.
struct Purged {
    messages: u64,
    /// Where the next step begins. `None` if nothing is left.
    next: Option<Offset>,
}

impl Consumer {
    /// Deletes one message. `false` if it is not there.
    pub fn remove(&self, offset: Offset) -> Result<bool> {
        let (cursor, committer) = (self.cursor(), self.committer());
        let (removed, receipt) = loop {
            let (removed, receipt) =
                committer.transact("remove", |core| self.remove_seen(core, offset))?;
            if let Some(removed) = removed {
                break (removed, receipt);
            }
            let core = committer.lock_open("remove")?;
            drop(committer.await_turn("remove", core, (cursor, self.log()))?);
        };
        if removed == Removed::LastSpilled {
            // A failure does no harm: the message is gone, and the blocks go when they come due.
            let _ = committer.clear_spilled(cursor);
        }
        committer.complete((removed != Removed::Nothing, receipt), self.durability)
    }

    /// Deletes one message. `None` if the cursor does not see all messages yet.
    fn remove_seen(
        &self,
        core: &mut Core,
        offset: Offset,
    ) -> CommitResult<(Option<Removed>, Receipt)> {
        let (cursor, log) = (self.cursor(), self.log());
        if core.store.awaits_turn(cursor, log) {
            return Ok((None, Receipt::NOTHING));
        }
        let end = core.end_for(cursor, log)?;
        let acks = core.store.acks_of(cursor)?;
        if offset >= end || acks.is_acked(offset) {
            // The caller relies on the commit that removed it.
            return Ok((Some(Removed::Nothing), Receipt::of_what_is_there(&core.store)));
        }
        let was_spilled = acks.is_spilled(offset);
        let removed = core.removals(cursor, &[offset])?;
        let ack = Op::Ack { cursor, offsets: &[offset] };
        let receipt = core.commit(&[ack], self.committer().now_plain())?;
        core.note_removed(cursor, &removed)?;
        let was_last = was_spilled && core.spilled(cursor) == 0;
        Ok((Some(if was_last { Removed::LastSpilled } else { Removed::Message }), receipt))
    }

    /// Deletes all messages that are not leased. Returns how many.
    pub fn purge(&self) -> Result<u64> {
        let purged = self.purge_in_slices();
        self.committer().lock("purge").end_purge(self.cursor());
        purged
    }

    fn purge_in_slices(&self) -> Result<u64> {
        let (cursor, committer) = (self.cursor(), self.committer());
        // Messages whose leases have run out are not leased.
        let end = self.lock_current("purge")?.0.end_for(cursor, self.log())?;
        let (mut all, mut from) = (0, Offset(0));
        loop {
            let committed = committer.transact("purge", |core| {
                let Idle { dropped, next } = core.idle(cursor, from.to(end))?;
                if dropped.ranges.is_empty() {
                    let nothing = Purged { messages: 0, next };
                    return Ok((nothing, Receipt::of_what_is_there(&core.store)));
                }
                let messages = dropped.ranges.iter().map(|range| range.len()).sum();
                let ack = Op::AckRanges { cursor, ranges: &dropped.ranges };
                let receipt = core.commit(&[ack], committer.now_plain())?;
                core.note_dropped(cursor, &dropped);
                core.count(cursor, |counts| counts.purged += messages);
                Ok((Purged { messages, next }, receipt))
            })?;
            let purged = &committed.0;
            all += purged.messages;
            match purged.next {
                Some(next) => {
                    from = next;
                    committer.let_others_go_on();
                }
                None => {
                    // What the steps before have committed is durable with this.
                    committer.complete(committed, self.durability)?;
                    // A failure does no harm: the messages are gone, and the blocks go when they come due.
                    let _ = committer.clear_spilled(cursor);
                    return Ok(all);
                }
            }
        }
    }
}
