//! Removes messages without delivering them.

use super::consumer::Consumer;
use crate::{
    engine::core::{commit::Receipt, purge::Idle},
    error::Result,
    ids::Offset,
    store::Op,
};

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
        let mut was_last_spilled = false;
        let committed = committer.transact("remove", |core| {
            let end = core.end_for(cursor, self.log())?;
            let acks = core.store.acks_of(cursor)?;
            if offset >= end || acks.is_acked(offset) {
                // The caller relies on the commit that removed it.
                return Ok((false, Receipt::of_what_is_there(&core.store)));
            }
            let was_spilled = acks.is_spilled(offset);
            let removed = core.removals(cursor, &[offset])?;
            let ack = Op::Ack { cursor, offsets: &[offset] };
            let receipt = core.commit(&[ack], committer.now_plain())?;
            core.note_removed(cursor, &removed)?;
            was_last_spilled = was_spilled && core.spilled(cursor) == 0;
            Ok((true, receipt))
        })?;
        if was_last_spilled {
            // A failure does no harm: the message is gone, and the blocks go when they come due.
            let _ = committer.clear_spilled(cursor);
        }
        committer.complete(committed, self.durability)
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
