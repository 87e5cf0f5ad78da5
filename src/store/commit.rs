//! Commits: one frame of the journal, then the changes of the state.

use std::borrow::Cow;

use super::{
    Store,
    draft::{Deferred, Draft, Prioritized},
};
use crate::{
    audit,
    config::{COMMIT_BYTES_CEILING, Config},
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        clock::ClockState,
        commit::{Change, OffsetRanges},
        entity::{Creation, Entity},
        frame::FRAME_HEADER_BYTES,
    },
    ids::{CursorId, Due, EntityId, LogId, Lsn, Now, Offset, OffsetRange},
    journal::{FrameSpace, Journal, Urgency},
    message::Message,
};

/// One operation of a commit.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Appends messages to a log, in their order. In a queue each is delayed by `delay_ms`, unless
    /// the message has a delay of its own.
    Append {
        log: LogId,
        messages: &'a [Message<'a>],
        delay_ms: u64,
    },
    /// Acks messages. The offsets are sorted and distinct.
    Ack {
        cursor: CursorId,
        offsets: &'a [Offset],
    },
    /// Acks ranges. They are sorted, with gaps between them.
    AckRanges {
        cursor: CursorId,
        ranges: &'a [OffsetRange],
    },
    /// Acks ranges for all cursors over a log but one. The ranges are sorted, with gaps between them.
    AckOthers {
        log: LogId,
        keeper: CursorId,
        ranges: &'a [OffsetRange],
    },
    /// Sets the number of attempts of a message, and the time at which it is due.
    Defer {
        cursor: CursorId,
        offset: Offset,
        attempts: u32,
        due: Due,
        urgency: Urgency,
    },
    /// Sets the offset of a group in one partition.
    Seek {
        cursor: CursorId,
        next: Offset,
    },
    Create {
        creation: &'a Creation,
    },
    /// Gives an entity other settings.
    Update {
        entity: &'a Entity,
    },
    Delete {
        entity: EntityId,
    },
    /// Marks messages as spilled: the delay index holds the times at which they are due. The
    /// offsets are sorted and distinct.
    Spill {
        cursor: CursorId,
        offsets: &'a [Offset],
    },
    /// Trims a stream's partition: drops the records before `start`.
    Trim {
        log: LogId,
        start: Offset,
    },
    /// Records the clocks.
    Clock(ClockState),
}

impl Op<'_> {
    #[inline]
    fn urgency(&self) -> Urgency {
        match self {
            Op::Append { .. } | Op::Create { .. } | Op::Update { .. } => Urgency::Ordinary,
            // It is small, and what was sent before depends on it: it goes on where a journal is too long for messages.
            Op::Clock(_) => Urgency::Freeing,
            Op::Defer { urgency, .. } => *urgency,
            _ => Urgency::Freeing,
        }
    }

    /// The operation as a change. `None` for an append: its changes are known once its messages
    /// have offsets.
    #[inline]
    pub(super) fn change(&self) -> Option<Change<'_>> {
        Some(match *self {
            Op::Append { .. } => return None,
            Op::Ack { cursor, offsets } => {
                Change::Ack { cursor, offsets: OffsetRanges::Listed(offsets) }
            }
            Op::AckRanges { cursor, ranges } => {
                Change::Ack { cursor, offsets: OffsetRanges::Ranges(ranges) }
            }
            Op::AckOthers { log, keeper, ranges } => {
                Change::AckOthers { log, keeper, offsets: OffsetRanges::Ranges(ranges) }
            }
            Op::Defer { cursor, offset, attempts, due, .. } => {
                Change::Defer { cursor, offset, attempts, due }
            }
            Op::Seek { cursor, next } => Change::Seek { cursor, next },
            Op::Create { creation } => Change::Create(Cow::Borrowed(creation)),
            Op::Update { entity } => Change::Update(Cow::Borrowed(entity)),
            Op::Delete { entity } => Change::Delete { entity },
            Op::Spill { cursor, offsets } => {
                Change::Spill { cursor, offsets: OffsetRanges::Listed(offsets) }
            }
            Op::Trim { log, start } => Change::Trim { log, start },
            Op::Clock(state) => Change::Clock(state),
        })
    }
}

/// A commit that was made: it is in the journal, and the state reflects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The commit is durable once the journal is durable up to here.
    pub end: Lsn,
}

/// Why a commit was not made. Nothing was changed.
#[derive(Debug)]
pub enum Refused {
    /// The commit is impossible, or the journal cannot be written.
    Failed(Error),
    /// The commit can be made once the journal has space for it.
    NeedsSpace(Shortage),
}

/// The space that a commit lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// A prepared journal file that holds a frame of this many bytes.
    File { bytes: u64, urgency: Urgency },
    /// The journal has its full length. A checkpoint makes it shorter.
    Checkpoint { urgency: Urgency },
    /// Room in a full queue, in which lives may be over: the messages of its log are to be looked at, for about as many
    /// steps.
    Lives { log: LogId, steps: u64 },
}

impl Shortage {
    /// Whether the commit that lacks the space frees space itself.
    pub fn urgency(self) -> Urgency {
        match self {
            Shortage::File { urgency, .. } | Shortage::Checkpoint { urgency } => urgency,
            Shortage::Lives { .. } => Urgency::Freeing,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Failed(error)
    }
}

/// A larger buffer is freed after its commit.
const DRAFT_BYTES_KEPT: usize = 1 << 20;

impl Store {
    /// Commits operations as one: all of them, or none.
    ///
    /// # Errors
    ///
    /// [`Failed`](Refused::Failed) if an operation names something that does not exist, if a
    /// message or the commit is too large, or if the journal cannot be written.
    /// [`NeedsSpace`](Refused::NeedsSpace) if the commit has to be tried again once there is space.
    /// Nothing was changed in either case.
    pub fn commit(&mut self, ops: &[Op<'_>], now: Now) -> Result<Receipt, Refused> {
        self.draft.begin();
        self.state.filtering.matched.clear();
        let mut urgency = Urgency::Freeing;
        for op in ops {
            audit::step();
            self.draft.add(&self.state, &self.config, op, now)?;
            if op.urgency() == Urgency::Ordinary {
                urgency = Urgency::Ordinary;
            }
        }
        let payload_len = self.draft.frame.len() - FRAME_HEADER_BYTES;
        let most = match self.config.commit_bytes_max {
            most if payload_len as u64 > most => self.most_of_large()?,
            most => most,
        };
        let Store { journal, config, draft, may_outgrow, .. } = self;
        let lsn = write(journal, config, draft, (urgency, *may_outgrow), most)?;
        self.apply(ops, lsn).expect("the operations were checked before");
        if self.state.has_filters() {
            self.match_messages(ops);
        }
        shrink(&mut self.draft.frame);
        Ok(Receipt { end: self.journal.tail() })
    }

    /// The logs and offsets of the messages in the last commit, in the order in which they were
    /// committed. Those of a batch are in the batch.
    #[inline]
    pub fn placed(&self) -> impl Iterator<Item = (LogId, OffsetRange)> {
        self.draft.runs.iter().map(|run| (run.log, run.first.to(run.end)))
    }

    /// Whether the last commit added messages.
    #[inline]
    pub fn has_placed(&self) -> bool {
        self.draft.has_batch || !self.draft.runs.is_empty()
    }

    /// The messages that the last commit delayed.
    #[inline]
    pub fn deferred(&self) -> &[Deferred] {
        &self.draft.deferred
    }

    /// The messages of the last commit that have a priority.
    #[inline]
    pub fn prioritized(&self) -> &[Prioritized] {
        &self.draft.prioritized
    }

    /// Applies the changes of a commit. New messages come first. This order gives the state that
    /// the order of the frame gives, because a change can only refer to a new message that stands
    /// before it in the frame.
    #[inline]
    pub(super) fn apply(&mut self, ops: &[Op<'_>], lsn: Lsn) -> Result<(), Malformed> {
        let Store { draft, state, .. } = self;
        audit::steps((draft.deferred.len() + ops.len()) as u64);
        for run in &draft.runs {
            audit::step();
            let at = Lsn(lsn.0 + run.at as u64);
            state.append_run(&run.of(&draft.frame), at, || run.lives(&draft.frame))?;
        }
        for it in draft.deferred.iter().filter(|it| it.is_new) {
            state.apply(&it.change(), lsn)?;
        }
        for it in &draft.prioritized {
            audit::step();
            state.apply(&it.change(), lsn)?;
        }
        for change in ops.iter().filter_map(Op::change) {
            match change {
                Change::Delete { entity } => state.begin_delete(entity)?,
                Change::AckOthers { log, keeper, offsets } => {
                    state.begin_passing(log, keeper, offsets, Some(lsn))?;
                }
                _ => state.apply(&change, lsn)?,
            }
        }
        Ok(())
    }

    /// The most bytes of a commit that is larger than the configured limit. The limit is for messages. What is committed beside
    /// them does not count: the engine acks hundreds of messages at once, to drop or to expire them, and to count attempts.
    /// Messages that the store has accepted before, and that are moved, do not count either.
    #[cold]
    fn most_of_large(&self) -> Result<u64> {
        check_messages(self.draft.messages_len, &self.config)?;
        Ok(COMMIT_BYTES_CEILING)
    }

    /// Lets commits that free space make the journal longer than its limit, until the next checkpoint. On a full
    /// disk there may be too little space for a checkpoint, and enough for the acks that make a checkpoint small.
    pub fn let_outgrow(&mut self) {
        self.may_outgrow = true;
    }
}

/// Writes the frame of a draft, if it has at most `most` bytes of payload and the journal has space for it. Returns its
/// position. `may_outgrow` is whether commits that free space may make the journal longer than its limit.
#[inline]
pub(super) fn write(
    journal: &mut Journal,
    config: &Config,
    draft: &mut Draft,
    (urgency, may_outgrow): (Urgency, bool),
    most: u64,
) -> Result<Lsn, Refused> {
    let payload_len = draft.frame.len() - FRAME_HEADER_BYTES;
    if payload_len as u64 > most {
        return Err(too_large(payload_len, most).into());
    }
    make_space(journal, config, (urgency, may_outgrow), payload_len)?;
    Ok(journal.append(&mut draft.frame)?)
}

/// Finds space in the journal for a frame with so many bytes of payload.
#[inline]
pub(super) fn make_space(
    journal: &mut Journal,
    config: &Config,
    (urgency, may_outgrow): (Urgency, bool),
    payload_len: usize,
) -> Result<(), Refused> {
    let (length, limit) = (journal.bytes_behind(), config.journal_bytes);
    let is_at_the_wall = match urgency {
        Urgency::Ordinary => meets_wall(length, limit, payload_len as u64),
        Urgency::Freeing => !may_outgrow && length >= 3 * limit,
    };
    if is_at_the_wall {
        return Err(Refused::NeedsSpace(Shortage::Checkpoint { urgency }));
    }
    match journal.make_space(payload_len, urgency)? {
        FrameSpace::Ready => Ok(()),
        FrameSpace::NeedsFile(bytes) => Err(Refused::NeedsSpace(Shortage::File { bytes, urgency })),
    }
}

/// Commits of more bytes leave the end of the journal to others.
const SMALL_COMMIT_BYTES: u64 = 128 << 10;

/// Whether a commit that frees no space waits for a checkpoint. The journal may have twice its limit. The last eighth of the
/// limit is kept for small commits: a large one does not begin there. It may reach into it: one that had to fit before would
/// wait for ever beside producers that keep the journal long.
#[inline]
fn meets_wall(length: u64, limit: u64, bytes: u64) -> bool {
    length >= if bytes <= SMALL_COMMIT_BYTES { 2 * limit } else { limit / 8 * 15 }
}

/// Frees a large buffer.
#[inline]
pub(super) fn shrink(frame: &mut Vec<u8>) {
    if frame.capacity() > DRAFT_BYTES_KEPT {
        *frame = Vec::new();
    }
}

/// Fails if messages take more bytes than a commit may have of them.
pub(super) fn check_messages(bytes: usize, config: &Config) -> Result<()> {
    let most = config.commit_bytes_max;
    if bytes as u64 > most { Err(too_large(bytes, most)) } else { Ok(()) }
}

pub(super) fn too_large(bytes: usize, most: u64) -> Error {
    let what =
        format!("a commit has {bytes} bytes; at most {most} are configured (commit_bytes_max)");
    Error::new(ErrorKind::TooLarge, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_journal_is_kept_for_small_commits() {
        const MIB: u64 = 1 << 20;
        let limit = 64 * MIB;
        for (length, bytes, waits) in [
            (2 * limit - 1, MIB / 8, false),
            (2 * limit, 100, true),
            // Large commits stop an eighth of the limit before that.
            (120 * MIB - 1, MIB / 8 + 1, false),
            (120 * MIB, MIB / 8 + 1, true),
            (100 * MIB, 60 * MIB, false),
            (0, 200 * MIB, false),
        ] {
            assert_eq!(meets_wall(length, limit, bytes), waits, "{length}, {bytes}");
        }
    }
}
