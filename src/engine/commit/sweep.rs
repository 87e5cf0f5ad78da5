//! Drops messages whose lives are over, or moves them to the dead letters, whether somebody receives or not.
//!
//! The checkpointer's thread does it before its checkpoints, and when a life may have ended. A sender does it for a queue
//! that has no room, for a few slices. Without threads, calls do it (`alone.rs`). `core/slices.rs` says which messages to
//! read. Several threads that look at one log share the look: each takes a slice of it, and the others wait for that slice.

use std::{cell::Cell, mem, time::Duration};

use super::{committer::Committer, threads};
use crate::{
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        effects::HeldBack,
        expired::Gone,
        room::BYTES_A_STEP,
        slices::{AT_ONCE, Slice, SliceOf},
        sweep::{Seen, Turn},
        walk::WalkOf,
    },
    error::{Error, ErrorKind, Result},
    ids::{LogId, Lsn, Offset, Timestamp},
    journal::Urgency,
    store::{Extent, Loaded, Located, Refused, Shortage, Stored, Together},
};

const OPERATION: &str = "drop expired messages";

/// About how many bytes of messages are read at once, and leave in one commit.
const BYTES_AT_ONCE: usize = 1 << 20;

/// About how many bytes the note of a letter takes.
const NOTE_BYTES: usize = 128;

/// A look writes so many times less than the length of a journal before it has the journal made shorter.
const GROWTH: u64 = 8;

/// Whether a look is broken off before all messages were looked at. A later one goes on.
pub type BreaksOff<'a> = &'a dyn Fn() -> bool;

/// A thread's look at messages.
struct Sweep<'a> {
    /// The even time. Lives that end later are not over.
    now: Timestamp,
    /// `None` if it goes on until its end.
    breaks_off: Option<BreaksOff<'a>>,
    /// The end of the journal when the look began, or when it last had the journal made shorter.
    short_at: Cell<Lsn>,
}

/// A slice that this thread reads. Its drop ends it, also after an error or a panic: what has left is noted, and others go
/// on with the walk.
struct Reading<'a> {
    committer: &'a Committer,
    slice: Option<Slice>,
    seen: Seen,
    /// The steps that reading took.
    steps: u64,
}

/// What came of a slice.
struct Swept {
    has_gone: bool,
    /// The steps that reading took.
    steps: u64,
}

/// Every turn counts as one look at a few messages at least.
const STEPS_MIN: u64 = 16;

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.committer.lock(OPERATION).end_slice(slice, &self.seen);
        }
    }
}

impl Committer {
    /// Looks at all messages whose lives may be over. What cannot leave now, for example on a full disk, is tried again
    /// later. It asks after each slice whether it `breaks_off`; then it does not wait for others either. Returns whether it
    /// was not broken off.
    pub fn sweep(&self, breaks_off: Option<BreaksOff<'_>>) -> bool {
        let (sweep, mut last) = (self.begin_sweep(breaks_off), None);
        loop {
            let Ok(core) = self.lock_open(OPERATION) else { return true };
            // A log that comes again has its turn in the next round.
            let Some(due) = core.store.end_after(last).filter(|(end, ..)| *end <= sweep.now) else {
                break;
            };
            drop(core);
            if last.is_some() && seeded!(SweepLeavesTheOthers) {
                break;
            }
            last = Some(due);
            // Damage and failures keep only the messages that they are about.
            let is_broken_off = self.sweep_log(due.2, &sweep);
            if is_broken_off.unwrap_or(false) {
                return false;
            }
        }
        self.lock(OPERATION).arm_lives();
        true
    }

    fn begin_sweep<'a>(&self, breaks_off: Option<BreaksOff<'a>>) -> Sweep<'a> {
        let short_at = Cell::new(self.lock(OPERATION).store.journal.tail());
        Sweep { now: self.even(), breaks_off, short_at }
    }

    /// Has the journal made shorter if it is long, and the look has written much of it: letters. The first letters have no
    /// checkpoint: it would move messages that are about to leave. A failure does no harm: the look is broken off in time.
    fn shorten_after_letters(&self, sweep: &Sweep<'_>) {
        let core = self.lock(OPERATION);
        let (is_long, tail) = (core.is_long(), core.store.journal.tail());
        drop(core);
        if !is_long || tail.0 - sweep.short_at.get().0 < self.config.journal_bytes / GROWTH {
            return;
        }
        sweep.short_at.set(tail);
        if self.checkpointer.has_thread() && !threads::is_checkpointer() {
            self.checkpointer.call();
        } else {
            let _ = self.checkpoint(Extent::Older, Urgency::Ordinary);
        }
    }

    /// Looks at messages until some have left, so that a full queue has room, or for `most` steps. `left` is the time that
    /// the caller has. Returns the steps that it took: one at least. Either messages leave, or what cannot leave now is
    /// looked at again later. So a caller that tries again finds an end.
    pub fn look_for_room(
        &self,
        log: LogId,
        most: u64,
        left: Option<&dyn Fn() -> Duration>,
    ) -> Result<u64> {
        let (now, mut steps) = (self.even(), 0);
        loop {
            let turn = self.lock_open(OPERATION)?.take_turn(log, now);
            let mut has_gone = false;
            match turn {
                Turn::Read(slice) => {
                    let swept = self.sweep_slice(slice)?;
                    has_gone = swept.has_gone;
                    steps += swept.steps.max(STEPS_MIN);
                }
                Turn::GoOn => {
                    self.let_others_go_on();
                    steps += STEPS_MIN;
                }
                Turn::End => return Ok(steps + STEPS_MIN),
                Turn::Busy(waiting) => {
                    // The slice of the other thread may make room.
                    waiting.wait(left.map(|left| left()));
                    return Ok(steps + AT_ONCE as u64);
                }
            }
            if has_gone || steps >= most || left.is_some_and(|left| left().is_zero()) {
                self.lock(OPERATION).break_off(log, now);
                return Ok(steps);
            }
        }
    }

    /// Looks at the messages of a log, for all its cursors. Returns whether it was broken off.
    fn sweep_log(&self, log: LogId, sweep: &Sweep<'_>) -> Result<bool> {
        loop {
            let turn = self.lock_open(OPERATION)?.take_turn(log, sweep.now);
            match turn {
                Turn::Read(slice) => {
                    self.sweep_slice(slice)?;
                    self.shorten_after_letters(sweep);
                }
                Turn::GoOn => {
                    self.let_others_go_on();
                    continue;
                }
                Turn::End => return Ok(false),
                // The thread that makes checkpoints does not wait: another one looks.
                Turn::Busy(_) if sweep.breaks_off.is_some() => return Ok(false),
                Turn::Busy(waiting) => _ = waiting.wait(None),
            }
            if sweep.breaks_off.is_some_and(|breaks_off| breaks_off()) {
                self.lock(OPERATION).break_off(log, sweep.now);
                return Ok(true);
            }
        }
    }

    /// Reads messages, and has those leave whose lives are over. No code of the application runs meanwhile: others wait for
    /// the slice.
    fn sweep_slice(&self, slice: Slice) -> Result<Swept> {
        let _held_back = HeldBack::begin(&self.flusher);
        let of = slice.of;
        let (slice, seen) = (Some(slice), Seen::default());
        let mut reading = Reading { committer: self, slice, seen, steps: 0 };
        let read = reading.read();
        let swept = read.and_then(|expired| reading.expire(expired));
        let (has_gone, steps) = (!reading.seen.gone.is_empty(), reading.steps);
        drop(reading);
        if swept.is_err() {
            self.lock_open(OPERATION)?.give_up_walk(&of);
        }
        Ok(Swept { has_gone, steps })
    }

    /// Reads messages that are in one place, from one on. A checkpoint may have replaced the segment: then they are looked
    /// for again.
    pub(super) fn read_together(
        &self,
        log: LogId,
        place: &Together,
        from: usize,
        left: &mut usize,
    ) -> Result<Vec<(Offset, Result<Stored>)>> {
        let Loaded { mut messages, parts } = place.load(from, left);
        if !parts.is_empty() {
            self.lock(OPERATION).store.keep(log, parts);
        }
        let failed = messages.iter().filter(|(_, stored)| stored.is_err());
        let failed: Vec<Offset> = failed.map(|(offset, _)| *offset).collect();
        if failed.is_empty() {
            return Ok(messages);
        }
        let dead = |offset: &Offset| (*offset, Err(Error::new(ErrorKind::NotFound, "it is gone")));
        let again = self.lock_open(OPERATION)?.store.locate_all_again(log, failed);
        let Ok(Located { places, lost }) = again else {
            return Ok(messages.iter().map(|(offset, _)| dead(offset)).collect());
        };
        let is_there = |offset: &Offset| {
            places.iter().any(|it| it.offsets.binary_search(offset).is_ok())
                || lost.iter().any(|it| it.0 == *offset)
        };
        for message in messages.iter_mut().filter(|it| it.1.is_err() && !is_there(&it.0)) {
            *message = dead(&message.0);
        }
        for found in places.iter().filter(|found| !found.is_same(place)) {
            for (offset, stored) in found.load(0, left).messages {
                if let Ok(at) = messages.binary_search_by_key(&offset, |it| it.0) {
                    messages[at].1 = stored;
                }
            }
        }
        for (offset, stored) in messages.iter_mut() {
            if stored.as_ref().is_err_and(|error| error.kind() != ErrorKind::NotFound) {
                *stored = self.read_alone(log, *offset, left);
            }
        }
        Ok(messages)
    }

    /// Reads a message that could not be read with others: it is damaged, or its segment was replaced meanwhile. Once `left`
    /// bytes are used up, it is left to a later look.
    fn read_alone(&self, log: LogId, offset: Offset, left: &mut usize) -> Result<Stored> {
        if *left == 0 {
            return Err(Error::new(ErrorKind::Io, "the message was moved while it was read"));
        }
        let source = self.lock_open(OPERATION)?.store.locate_again(log, offset)?;
        let stored = self.read(OPERATION, log, offset, source)?;
        *left = left.saturating_sub(stored.payload().len() + stored.headers_len());
        Ok(stored)
    }

    /// Has messages leave in one commit. Returns the ones that have left.
    fn expire(&self, of: &WalkOf, expired: &[Stored]) -> Result<Vec<Offset>> {
        let (gone, receipt) =
            self.commit_sweep(|core| core.expire_messages(of, expired, self.now()))?;
        let Gone { offsets, was_last_spilled } = gone;
        if receipt != Receipt::NOTHING {
            self.sync_soon();
        }
        if was_last_spilled {
            // A failure does no harm: the messages are gone, and the blocks go when they come due.
            let cursor = of.cursor;
            let _ =
                self.commit_sweep(|core| Ok(((), core.clear_spilled(cursor, self.now_plain())?)));
        }
        Ok(offsets)
    }

    /// Commits. It makes the space that the commit lacks itself: the thread that makes checkpoints for others may be this
    /// one. It has no use of the reserve for letters: on a full disk they wait.
    pub(super) fn commit_sweep<T>(
        &self,
        mut attempt: impl FnMut(&mut Core) -> CommitResult<(T, Receipt)>,
    ) -> Result<(T, Receipt)> {
        loop {
            let mut core = self.lock_open(OPERATION)?;
            if core.doubts_clock() {
                self.look_at_clock_in(&mut core);
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

impl Reading<'_> {
    /// Reads messages, so many as fit into memory together. Returns those whose lives are over.
    fn read(&mut self) -> Result<Vec<Stored>> {
        let Some(slice) = &mut self.slice else { return Ok(Vec::new()) };
        if let SliceOf::Segment(segment) = &slice.what {
            self.seen.lives = segment.1.read_lives().ok();
            self.steps = segment.0.bytes / BYTES_A_STEP;
            return Ok(Vec::new());
        }
        self.seen.unread.append(&mut slice.lost);
        let (of, places) = (slice.of, mem::take(&mut slice.places));
        let (mut expired, mut left, mut count) = (Vec::new(), BYTES_AT_ONCE, 0);
        for place in places {
            let mut at = 0;
            while at < place.offsets.len() {
                if left == 0 && count > 0 {
                    self.seen.upto = Some(place.offsets[at]);
                    return Ok(expired);
                }
                let messages = self.committer.read_together(of.log, &place, at, &mut left)?;
                (at, count) = (at + messages.len(), count + messages.len());
                self.steps = count as u64 + (BYTES_AT_ONCE - left) as u64 / BYTES_A_STEP;
                for (offset, stored) in messages {
                    self.see(&of, offset, stored, &mut expired);
                }
            }
        }
        Ok(expired)
    }

    fn see(
        &mut self,
        of: &WalkOf,
        offset: Offset,
        stored: Result<Stored>,
        expired: &mut Vec<Stored>,
    ) {
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return self.seen.unread.push((offset, error)),
        };
        let Some(end) = stored.expires(of.time_to_live_ms) else { return };
        self.seen.ends.push((end, offset));
        let is_over = end <= of.now || seeded!(SweepTakesTheLiving);
        if is_over && !seeded!(ExpiredIsDelivered) {
            expired.push(stored);
        }
    }

    /// Has messages leave.
    fn expire(&mut self, expired: Vec<Stored>) -> Result<()> {
        let Some(slice) = &self.slice else { return Ok(()) };
        for batch in batches(expired) {
            match self.committer.expire(&slice.of, &batch) {
                Ok(offsets) => self.seen.gone.extend(offsets),
                // The letter is larger than a commit can be. The message stays, and the others leave.
                Err(error) if error.kind() == ErrorKind::TooLarge => {
                    self.seen.stuck.extend(batch.iter().map(|stored| stored.offset));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
