//! Commits: one frame, then the change of state.

use super::{Store, gone, state::State, tail::RunPlace};
use crate::{
    config::RUN_MESSAGES_MAX,
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        commit::{put_ack, put_creation, put_delete, put_nack, put_run, put_seek, put_trim},
        entity::Creation,
        frame::{FRAME_HEADER_BYTES, begin_frame},
        record::RecordParts,
    },
    ids::{CursorId, LogId, Lsn, Offset, Timestamp},
    journal::{Room, Urgency},
    message::Message,
};

/// One operation of a commit.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Adds messages to a log, in their order.
    Append {
        log: LogId,
        messages: &'a [Message<'a>],
    },
    /// Acks messages; the offsets are sorted and distinct.
    Ack {
        cursor: CursorId,
        offsets: &'a [Offset],
    },
    /// Counts a failed delivery.
    Nack {
        cursor: CursorId,
        offset: Offset,
    },
    /// Sets where a group goes on.
    Seek {
        cursor: CursorId,
        next: Offset,
    },
    Create {
        creation: &'a Creation,
    },
    Delete {
        entity: u64,
    },
    /// Gives up what lies before an offset.
    Trim {
        log: LogId,
        start: Offset,
    },
}

impl Op<'_> {
    fn urgency(&self) -> Urgency {
        match self {
            Op::Append { .. } | Op::Create { .. } => Urgency::Ordinary,
            _ => Urgency::Freeing,
        }
    }
}

/// A commit that was made: it is in the journal, and the state reflects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Once this much is durable, so is the commit.
    pub end: Lsn,
}

/// What came of an attempt to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Commit),
    /// A journal file must be prepared that holds a frame of so many bytes. Nothing was changed.
    NeedsFile(u64, Urgency),
    /// The journal is as long as it may be: wait for a checkpoint. Nothing was changed.
    NeedsCheckpoint,
}

/// Keeps the buffer of a large commit from staying for good.
const DRAFT_BYTES_KEPT: usize = 1 << 20;

impl Store {
    /// Commits operations as one: all of them, or none.
    ///
    /// # Errors
    ///
    /// If an operation names what does not exist, if a message or all of it is too large, or if
    /// the journal cannot be written. Nothing was changed then.
    pub fn commit(&mut self, ops: &[Op<'_>], now: Timestamp) -> Result<Outcome> {
        for op in ops {
            self.check(op)?;
        }
        let mut draft = std::mem::take(&mut self.draft);
        let committed = self.commit_draft(ops, now, &mut draft);
        if draft.frame.capacity() <= DRAFT_BYTES_KEPT {
            self.draft = draft;
        }
        committed
    }

    fn commit_draft(
        &mut self,
        ops: &[Op<'_>],
        now: Timestamp,
        draft: &mut Draft,
    ) -> Result<Outcome> {
        begin_frame(&mut draft.frame);
        draft.runs.clear();
        for op in ops {
            draft.add(&self.state, op, now);
        }
        let payload_len = draft.frame.len() - FRAME_HEADER_BYTES;
        if payload_len as u64 > self.config.commit_bytes_max {
            let most = self.config.commit_bytes_max;
            let what = format!(
                "a commit has {payload_len} bytes; at most {most} are \
                 configured (commit_bytes_max)"
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let ordinary = ops.iter().any(|op| op.urgency() == Urgency::Ordinary);
        let urgency = if ordinary { Urgency::Ordinary } else { Urgency::Freeing };
        if self.journal_is_full(urgency) {
            return Ok(Outcome::NeedsCheckpoint);
        }
        if let Room::NeedsFile(bytes) = self.journal.make_room(payload_len, urgency)? {
            return Ok(Outcome::NeedsFile(bytes, urgency));
        }
        let lsn = self.journal.append(&mut draft.frame)?;
        self.apply(ops, &draft.runs, lsn).expect("the operations were checked before");
        Ok(Outcome::Done(Commit { end: self.journal.tail() }))
    }

    fn check(&self, op: &Op<'_>) -> Result<()> {
        let cursor = |id: CursorId| match self.state.cursors.contains_key(&id) {
            true => Ok(()),
            false => Err(gone("the queue, subscription or group was deleted")),
        };
        match *op {
            Op::Append { log, messages } => {
                if !self.state.logs.contains_key(&log) {
                    return Err(gone("the queue, topic or stream was deleted"));
                }
                messages.iter().try_for_each(|message| self.check_message(message))
            }
            Op::Ack { cursor: id, .. } | Op::Nack { cursor: id, .. } => cursor(id),
            Op::Seek { cursor: id, .. } => cursor(id),
            Op::Delete { entity } => match self.state.catalog.get(entity) {
                Some(_) => Ok(()),
                None => Err(gone("it was deleted before")),
            },
            Op::Trim { log, .. } if !self.state.logs.contains_key(&log) => {
                Err(gone("the stream was deleted"))
            }
            Op::Trim { .. } | Op::Create { .. } => Ok(()),
        }
    }

    fn check_message(&self, message: &Message<'_>) -> Result<()> {
        let weight = RecordParts::of(message, Timestamp(0)).weight();
        let most = self.config.message_bytes_max;
        if weight > most {
            let what = format!(
                "a message has {weight} bytes with key and headers; at most {most} are configured \
                 (message_bytes_max)"
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        Ok(())
    }

    fn apply(&mut self, ops: &[Op<'_>], runs: &[RunAt], lsn: Lsn) -> Result<(), Malformed> {
        for run in runs {
            let place =
                RunPlace { first: run.first, lsn: Lsn(lsn.0 + run.at as u64), len: run.len };
            self.state.append(run.log, place, run.end)?;
        }
        for op in ops {
            match *op {
                Op::Append { .. } => {}
                Op::Ack { cursor, offsets } => {
                    for offset in offsets {
                        self.state.ack(cursor, offset.0..offset.0 + 1)?;
                    }
                }
                Op::Nack { cursor, offset } => {
                    let attempts = attempts(&self.state, cursor, offset);
                    self.state.nack(cursor, offset, attempts)?;
                }
                Op::Seek { cursor, next } => self.state.seek(cursor, next)?,
                Op::Create { creation } => self.state.create(creation),
                Op::Delete { entity } => drop(self.state.delete(entity)),
                Op::Trim { log, start } => self.state.trim(log, start)?,
            }
        }
        Ok(())
    }

    fn journal_is_full(&self, urgency: Urgency) -> bool {
        let most = match urgency {
            Urgency::Ordinary => 2 * self.config.journal_bytes,
            Urgency::Freeing => 3 * self.config.journal_bytes,
        };
        self.journal.bytes_behind() >= most
    }
}

/// How often a delivery has failed, with the failure that is being noted.
fn attempts(state: &State, cursor: CursorId, offset: Offset) -> u32 {
    let acks = state.cursors.get(&cursor).and_then(super::log::Cursor::acks);
    acks.map_or(0, |acks| acks.attempts(offset)).saturating_add(1)
}

/// A commit that is being put into bytes. Kept between commits for its memory.
#[derive(Debug, Default)]
pub struct Draft {
    frame: Vec<u8>,
    runs: Vec<RunAt>,
}

/// A run, and where in the frame it begins.
#[derive(Debug)]
struct RunAt {
    log: LogId,
    first: Offset,
    end: Offset,
    at: usize,
    len: usize,
}

impl Draft {
    /// The offset that the next message of a log gets.
    fn next(&self, state: &State, log: LogId) -> Offset {
        match self.runs.iter().rev().find(|run| run.log == log) {
            Some(run) => run.end,
            None => state.logs[&log].next(),
        }
    }

    fn add(&mut self, state: &State, op: &Op<'_>, now: Timestamp) {
        let out = &mut self.frame;
        match *op {
            Op::Append { log, messages } => self.add_messages(state, log, messages, now),
            Op::Ack { cursor, offsets } => put_ack(out, cursor, offsets),
            Op::Nack { cursor, offset } => {
                put_nack(out, cursor, offset, attempts(state, cursor, offset));
            }
            Op::Seek { cursor, next } => put_seek(out, cursor, next),
            Op::Create { creation } => put_creation(out, creation),
            Op::Delete { entity } => put_delete(out, entity),
            Op::Trim { log, start } => put_trim(out, log, start),
        }
    }

    fn add_messages(
        &mut self,
        state: &State,
        log: LogId,
        messages: &[Message<'_>],
        now: Timestamp,
    ) {
        let mut first = self.next(state, log);
        for messages in messages.chunks(RUN_MESSAGES_MAX) {
            let at = self.frame.len();
            let records = messages.iter().map(|message| RecordParts::of(message, now));
            put_run(&mut self.frame, log, first, now, records);
            let end = Offset(first.0 + messages.len() as u64);
            self.runs.push(RunAt { log, first, end, at, len: self.frame.len() - at });
            first = end;
        }
    }
}
