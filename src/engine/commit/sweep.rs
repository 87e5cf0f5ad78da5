//! Drops messages whose lives are over, or moves them to the dead letters, whether somebody receives or not.
//!
//! The checkpointer's thread does it before its checkpoints, and when a life may have ended. A sender does it for a queue
//! that has no room. Without threads, the calls that do their work do it. `core/sweep.rs` says which messages to read.

use std::mem;

use super::committer::Committer;
use crate::{
    audit,
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        sweep::{AGAIN_MS, Gone, Slice, Step, Walk},
    },
    error::{ErrorKind, Result},
    ids::{CursorId, LogId, Offset, Timestamp},
    journal::Urgency,
    store::{Extent, Refused, Shortage, Stored, Together},
};

const OPERATION: &str = "drop expired messages";

/// The most bytes of messages that leave in one commit.
const BYTES_AT_ONCE: usize = 1 << 20;

/// About how many bytes the note of a letter takes.
const NOTE_BYTES: usize = 128;

/// When a look is broken off before all messages were looked at. A later one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It is not.
    End,
    /// Commits may have to wait for the thread that looks.
    SpaceIsNeeded,
    /// Messages have left, so that a full queue has room.
    ThereIsRoom,
}

/// One look at messages.
#[derive(Clone, Copy)]
struct Sweep {
    /// The even time. Lives that end later are not over.
    now: Timestamp,
    until: Until,
}

impl Committer {
    /// Looks at all messages whose lives may be over. What cannot leave now, for example on a full disk, is tried again
    /// later. Returns whether it was not broken off.
    pub fn sweep(&self, until: Until) -> bool {
        let (now, mut last) = (self.even(), None);
        loop {
            let Ok(core) = self.lock_open(OPERATION) else { return true };
            // A log that comes again has its turn in the next round.
            let Some(due) = core.store.end_after(last).filter(|(end, _)| *end <= now) else {
                break;
            };
            drop(core);
            last = Some(due);
            // A failure has set the log aside for a moment.
            let _ = self.sweep_log(due.1, None, Sweep { now, until });
            if self.breaks_off(until, false) {
                return false;
            }
        }
        self.lock(OPERATION).arm_lives();
        true
    }

    fn breaks_off(&self, until: Until, has_gone: bool) -> bool {
        match until {
            Until::End => false,
            Until::SpaceIsNeeded => self.lock(OPERATION).needs_space_soon(),
            Until::ThereIsRoom => has_gone,
        }
    }

    /// Looks at the messages of one cursor.
    pub fn sweep_cursor(&self, cursor: CursorId, log: LogId, until: Until) {
        let sweep = Sweep { now: self.even(), until };
        // A failure has set the log aside for a moment.
        let _ = self.sweep_log(log, Some(cursor), sweep);
    }

    /// Looks at the messages of a log, for all its cursors or for one.
    fn sweep_log(&self, log: LogId, only: Option<CursorId>, sweep: Sweep) -> Result<()> {
        let Some(look) = self.lock_open(OPERATION)?.store.begin_look(log) else { return Ok(()) };
        let cursors = look.cursors.iter().copied();
        let (mut next, mut failure, mut is_whole) = (None::<Timestamp>, None, true);
        let again = Timestamp(sweep.now.0.saturating_add(AGAIN_MS));
        for cursor in cursors {
            if only.is_some_and(|only| only != cursor) {
                is_whole = false;
                continue;
            }
            let end = match self.sweep_one(cursor, log, sweep) {
                Ok(end) => end,
                Err(error) => {
                    failure = Some(error);
                    Some(again)
                }
            };
            next = [next, end].into_iter().flatten().min();
            if self.breaks_off(sweep.until, false) {
                // Commits may have to wait. The other cursors are looked at once there is space.
                is_whole = false;
                break;
            }
        }
        let mut core = self.lock(OPERATION);
        if !is_whole {
            // The other cursors were not looked at.
            next = Some(sweep.now);
        }
        core.store.end_look(log, &look, next);
        core.arm_lives();
        drop(core);
        failure.map_or(Ok(()), Err)
    }

    /// Looks at the messages of one cursor. Returns the time before which no other life is over.
    fn sweep_one(&self, cursor: CursorId, log: LogId, sweep: Sweep) -> Result<Option<Timestamp>> {
        let Some(mut walk) = self.lock_open(OPERATION)?.begin_walk(cursor, log, sweep.now) else {
            return Ok(None);
        };
        loop {
            let step = self.lock_open(OPERATION)?.next_slice(&mut walk)?;
            match step {
                Step::Read(slice) => {
                    let has_gone = self.sweep_slice(&walk, &slice)?;
                    if self.breaks_off(sweep.until, has_gone) {
                        return Ok(Some(sweep.now));
                    }
                }
                Step::GoOn => {}
                Step::End(next) => return Ok(next),
            }
        }
    }

    /// Reads messages, and has those leave whose lives are over. Returns whether one has left.
    fn sweep_slice(&self, walk: &Walk, slice: &Slice) -> Result<bool> {
        let (mut ends, mut expired) = (Vec::new(), Vec::new());
        for place in &slice.places {
            for stored in self.read_together(walk.log, place)? {
                let Some(end) = stored.expires(walk.time_to_live_ms) else { continue };
                ends.push((end, stored.offset));
                let is_over = end <= walk.now || seeded!(SweepTakesTheLiving);
                if is_over && !seeded!(ExpiredIsDelivered) {
                    expired.push(stored);
                }
            }
        }
        let mut gone = Vec::new();
        for batch in batches(expired) {
            match self.expire(walk, &batch) {
                Ok(offsets) => gone.extend(offsets),
                // The letter is larger than a commit can be. The message stays, and the others leave.
                Err(error) if error.kind() == ErrorKind::TooLarge => {}
                Err(error) => return Err(error),
            }
        }
        self.lock(OPERATION).end_slice(walk, slice, &ends, &gone);
        Ok(!gone.is_empty())
    }

    /// Reads messages that are in one place. Those that are gone are left out, and damaged ones, too: a consumer that meets
    /// them gets the error.
    fn read_together(&self, log: LogId, place: &Together) -> Result<Vec<Stored>> {
        if let Ok((stored, parts)) = place.load() {
            if !parts.is_empty() {
                self.lock(OPERATION).store.keep(log, parts);
            }
            return Ok(stored);
        }
        // A checkpoint has replaced the segment, or a message is damaged.
        let mut all = Vec::new();
        for offset in place.offsets.iter().copied() {
            audit::step();
            let source = self.lock_open(OPERATION)?.store.locate_again(log, offset);
            match source.and_then(|source| self.read(OPERATION, log, offset, source)) {
                Ok(stored) => all.push(stored),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Has messages leave in one commit. Returns the ones that have left.
    fn expire(&self, walk: &Walk, expired: &[Stored]) -> Result<Vec<Offset>> {
        let (gone, receipt) =
            self.commit_sweep(|core| core.expire_messages(walk, expired, self.now()))?;
        let Gone { offsets, was_last_spilled } = gone;
        if receipt != Receipt::NOTHING {
            self.sync_soon();
        }
        if was_last_spilled {
            // A failure does no harm: the messages are gone, and the blocks go when they come due.
            let cursor = walk.cursor;
            let _ =
                self.commit_sweep(|core| Ok(((), core.clear_spilled(cursor, self.now_plain())?)));
        }
        Ok(offsets)
    }

    /// Commits. It makes the space that the commit lacks itself: the thread that makes checkpoints for others may be this
    /// one. It has no use of the reserve for letters: on a full disk they wait.
    fn commit_sweep<T>(
        &self,
        mut attempt: impl FnMut(&mut Core) -> CommitResult<(T, Receipt)>,
    ) -> Result<(T, Receipt)> {
        loop {
            let mut core = self.lock_open(OPERATION)?;
            if core.doubts_clock() {
                core.look_at_clock(self.now());
            }
            let attempted = attempt(&mut core);
            drop(core);
            match attempted {
                Ok(committed) => return Ok(committed),
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::NeedsSpace(Shortage::File { bytes, urgency: Urgency::Ordinary })) => {
                    self.prepare_file(Some(bytes), Urgency::Ordinary)?;
                }
                Err(Refused::NeedsSpace(shortage)) if shortage.urgency() == Urgency::Freeing => {
                    self.make_space(shortage)?;
                }
                Err(Refused::NeedsSpace(_)) => {
                    self.checkpoint(Extent::Older, Urgency::Ordinary)?;
                }
            }
        }
    }
}

/// The messages in batches that fit into one commit.
fn batches(messages: Vec<Stored>) -> Vec<Vec<Stored>> {
    let (mut all, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for message in messages {
        let key = message.key().map_or(0, <[u8]>::len);
        let more = message.payload().len() + key + message.headers_len() + NOTE_BYTES;
        if bytes + more > BYTES_AT_ONCE && !batch.is_empty() {
            all.push(mem::take(&mut batch));
            bytes = 0;
        }
        bytes += more;
        batch.push(message);
    }
    if !batch.is_empty() {
        all.push(batch);
    }
    all
}
