//! Commits: one frame, then the change of state.

use std::{borrow::Cow, ops::Range};

use super::{Store, gone, log::Log, state::State};
use crate::{
    config::{COMMIT_BYTES_CEILING, Config, RUN_MESSAGES_MAX},
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        commit::{Change, OffsetRanges, Run, begin_run, finish_run},
        entity::{Creation, Entity, EntityKind},
        frame::{FRAME_HEADER_BYTES, begin_frame},
        record::RecordParts,
    },
    ids::{CursorId, LogId, Lsn, Now, Offset, Timestamp},
    journal::{Room, Urgency},
    message::{Delay, Message},
};

/// One operation of a commit.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Adds messages to a log, in their order. In a queue's, they are kept back for so long, unless
    /// they say otherwise.
    Append {
        log: LogId,
        messages: &'a [Message<'a>],
        delay_ms: u64,
    },
    /// Acks messages; the offsets are sorted and distinct.
    Ack {
        cursor: CursorId,
        offsets: &'a [Offset],
    },
    /// Acks whole ranges, sorted, that do not touch.
    AckRanges {
        cursor: CursorId,
        ranges: &'a [Range<u64>],
    },
    /// Says how often a message was tried by now, and when it is due.
    Defer {
        cursor: CursorId,
        offset: Offset,
        attempts: u32,
        due: Timestamp,
        urgency: Urgency,
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
    /// Has the timetable say when these are due. Sorted.
    Shelve {
        cursor: CursorId,
        offsets: &'a [Offset],
    },
    /// Gives up what lies before an offset.
    Trim {
        log: LogId,
        start: Offset,
    },
}

impl Op<'_> {
    #[inline]
    fn urgency(&self) -> Urgency {
        match self {
            Op::Append { .. } | Op::Create { .. } => Urgency::Ordinary,
            Op::Defer { urgency, .. } => *urgency,
            _ => Urgency::Freeing,
        }
    }

    /// The change that the operation is. Appended messages are changes of their own, once they have
    /// their offsets.
    #[inline]
    fn change(&self) -> Option<Change<'_>> {
        Some(match *self {
            Op::Append { .. } => return None,
            Op::Ack { cursor, offsets } => {
                Change::Ack { cursor, offsets: OffsetRanges::Listed(offsets) }
            }
            Op::AckRanges { cursor, ranges } => {
                Change::Ack { cursor, offsets: OffsetRanges::Ranges(ranges) }
            }
            Op::Defer { cursor, offset, attempts, due, .. } => {
                Change::Defer { cursor, offset, attempts, due }
            }
            Op::Seek { cursor, next } => Change::Seek { cursor, next },
            Op::Create { creation } => Change::Create(Cow::Borrowed(creation)),
            Op::Delete { entity } => Change::Delete { entity },
            Op::Shelve { cursor, offsets } => {
                Change::Shelve { cursor, offsets: OffsetRanges::Listed(offsets) }
            }
            Op::Trim { log, start } => Change::Trim { log, start },
        })
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
    pub fn commit(&mut self, ops: &[Op<'_>], now: impl Into<Now>) -> Result<Outcome> {
        let now = now.into();
        self.draft.begin();
        let mut urgency = Urgency::Freeing;
        for op in ops {
            self.draft.add(&self.state, &self.config, op, now)?;
            if op.urgency() == Urgency::Ordinary {
                urgency = Urgency::Ordinary;
            }
        }
        let payload_len = self.draft.frame.len() - FRAME_HEADER_BYTES;
        let most = self.config.commit_bytes_max;
        let is_too_large = |most| payload_len as u64 > most;
        if is_too_large(most) && (!self.moves(ops) || is_too_large(COMMIT_BYTES_CEILING)) {
            return Err(too_large(payload_len, most));
        }
        if self.journal_is_full(urgency) {
            return Ok(Outcome::NeedsCheckpoint);
        }
        if let Room::NeedsFile(bytes) = self.journal.make_room(payload_len, urgency)? {
            return Ok(Outcome::NeedsFile(bytes, urgency));
        }
        let lsn = self.journal.append(&mut self.draft.frame)?;
        self.apply(ops, lsn).expect("the operations were checked before");
        if self.draft.frame.capacity() > DRAFT_BYTES_KEPT {
            self.draft.frame = Vec::new();
        }
        Ok(Outcome::Done(Commit { end: self.journal.tail() }))
    }

    /// Where the messages of the last commit are: the log, and the offsets from the first up to
    /// the one behind the last, in the order in which they were committed.
    #[inline]
    pub fn placed(&self) -> impl Iterator<Item = (LogId, Range<Offset>)> {
        self.draft.runs.iter().map(|run| (run.log, run.first..run.end))
    }

    /// The messages of the last commit that are not to be delivered at once, and when they are due.
    #[inline]
    pub fn deferred(&self) -> &[Deferred] {
        &self.draft.deferred
    }

    /// The messages of the last commit that have a priority.
    #[inline]
    pub fn prioritized(&self) -> &[Prioritized] {
        &self.draft.prioritized
    }

    /// Applies what was committed. The new messages come first: only what follows them in the frame
    /// can say anything of them.
    #[inline]
    fn apply(&mut self, ops: &[Op<'_>], lsn: Lsn) -> Result<(), Malformed> {
        let Store { draft, state, .. } = self;
        for run in &draft.runs {
            state.apply(&Change::Run(run.of(&draft.frame)), Lsn(lsn.0 + run.at as u64))?;
        }
        for it in draft.deferred.iter().filter(|it| it.is_new) {
            state.apply(&it.change(), lsn)?;
        }
        for it in &draft.prioritized {
            state.apply(&it.change(), lsn)?;
        }
        for change in ops.iter().filter_map(Op::change) {
            state.apply(&change, lsn)?;
        }
        Ok(())
    }

    /// Whether messages are moved that were let in before, or come back from a timetable: commits may
    /// have been larger then.
    #[cold]
    fn moves(&self, ops: &[Op<'_>]) -> bool {
        ops.iter().any(|op| match op {
            Op::Append { messages, .. } => messages.iter().any(Message::is_moved),
            Op::Ack { cursor, .. } => {
                let entity = self.state.catalog.get(cursor.0);
                entity.is_some_and(|it| matches!(it.kind, EntityKind::Timetable { .. }))
            }
            _ => false,
        })
    }

    #[inline]
    fn journal_is_full(&self, urgency: Urgency) -> bool {
        let most = match urgency {
            Urgency::Ordinary => 2 * self.config.journal_bytes,
            Urgency::Freeing => 3 * self.config.journal_bytes,
        };
        self.journal.bytes_behind() >= most
    }
}

/// A message that is not to be delivered before it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    pub cursor: CursorId,
    pub offset: Offset,
    pub attempts: u32,
    pub due: Timestamp,
    /// Whether it has come with this commit.
    pub is_new: bool,
}

/// Messages that follow each other and have one priority, which is not the lowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prioritized {
    pub cursor: CursorId,
    pub offsets: Range<u64>,
    pub priority: u8,
}

impl Deferred {
    #[inline]
    fn change(&self) -> Change<'static> {
        let Deferred { cursor, offset, attempts, due, .. } = *self;
        Change::Defer { cursor, offset, attempts, due }
    }
}

impl Prioritized {
    fn change(&self) -> Change<'static> {
        let Prioritized { cursor, offsets: Range { start, end }, priority } = self.clone();
        Change::Prioritize { cursor, first: Offset(start), count: end - start, priority }
    }
}

fn too_large(bytes: usize, most: u64) -> Error {
    let what =
        format!("a commit has {bytes} bytes; at most {most} are configured (commit_bytes_max)");
    Error::new(ErrorKind::TooLarge, what)
}

/// A commit that is being put into bytes. Kept between commits for its memory.
#[derive(Debug, Default)]
pub struct Draft {
    frame: Vec<u8>,
    runs: Vec<RunAt>,
    deferred: Vec<Deferred>,
    prioritized: Vec<Prioritized>,
}

/// A run, and where in the frame it begins.
#[derive(Debug)]
struct RunAt {
    log: LogId,
    first: Offset,
    end: Offset,
    at: usize,
    /// Where its records begin, counted from its first byte.
    body_at: usize,
    len: usize,
    timestamp: Timestamp,
}

impl RunAt {
    #[inline]
    fn of<'a>(&self, frame: &'a [u8]) -> Run<'a> {
        Run {
            log: self.log,
            first: self.first,
            count: (self.end.0 - self.first.0) as u32,
            timestamp: self.timestamp,
            body: &frame[self.at + self.body_at..self.at + self.len],
            body_at: self.body_at,
        }
    }
}

impl Draft {
    #[inline]
    fn begin(&mut self) {
        begin_frame(&mut self.frame);
        self.runs.clear();
        self.deferred.clear();
        self.prioritized.clear();
    }

    /// Checks an operation, and adds it.
    fn add(&mut self, state: &State, config: &Config, op: &Op<'_>, now: Now) -> Result<()> {
        if let Op::Append { log, messages, delay_ms } = *op {
            return self.add_append(state, config, log, messages, delay_ms, now);
        }
        op.change().map_or(Ok(()), |change| self.add_change(state, &change))
    }

    fn add_change(&mut self, state: &State, change: &Change<'_>) -> Result<()> {
        check(state, change)?;
        change.put(&mut self.frame);
        if let Change::Defer { cursor, offset, attempts, due } = *change {
            self.deferred.push(Deferred { cursor, offset, attempts, due, is_new: false });
        }
        Ok(())
    }

    fn add_append(
        &mut self,
        state: &State,
        config: &Config,
        log: LogId,
        messages: &[Message<'_>],
        delay_ms: u64,
        now: Now,
    ) -> Result<()> {
        let Some(found) = state.logs.get(&log) else {
            return Err(gone("the queue, topic or stream was deleted"));
        };
        let next = match self.runs.iter().rev().find(|run| run.log == log) {
            Some(run) => run.end,
            None => found.next(),
        };
        // A stream keeps its records: they have no end of life that the clock could bring near.
        let now_of = if found.keeps_acked { Now::from(now.stamp) } else { now };
        self.add_messages(log, next, messages, config.message_bytes_max, now_of)?;
        if delay_ms > 0 || messages.iter().any(Message::has_more) {
            check_lives(found, messages, now.steady)?;
            self.add_delays(state, (log, next), messages, delay_ms, now.steady)?;
            self.add_priorities(state, (log, next), messages)?;
        }
        Ok(())
    }

    fn add_messages(
        &mut self,
        log: LogId,
        mut first: Offset,
        messages: &[Message<'_>],
        bytes_max: u64,
        now: Now,
    ) -> Result<()> {
        for messages in messages.chunks(RUN_MESSAGES_MAX) {
            let at = self.frame.len();
            let run = begin_run(&mut self.frame, log, first, messages.len(), now.stamp);
            for message in messages {
                if message.headers().any(|(name, _)| name.is_empty()) {
                    return Err(Error::invalid("header", "a header without a name"));
                }
                let record = RecordParts::living(message, now);
                let weight = record.weight();
                if weight > bytes_max && !message.is_moved() {
                    return Err(message_too_large(weight, bytes_max));
                }
                record.put(&mut self.frame, now.stamp);
            }
            let body = finish_run(&mut self.frame, run);
            let end = Offset(first.0 + messages.len() as u64);
            let (body_at, len, timestamp) = (body - at, self.frame.len() - at, now.stamp);
            self.runs.push(RunAt { log, first, end, at, body_at, len, timestamp });
            first = end;
        }
        Ok(())
    }
}

/// Whether what a change speaks of is there.
#[inline]
fn check(state: &State, change: &Change<'_>) -> Result<()> {
    let (is_there, what) = match change {
        Change::Run(_) | Change::Create(_) => return Ok(()),
        Change::Delete { entity } => {
            (state.catalog.get(*entity).is_some(), "it was deleted before")
        }
        Change::Trim { log, .. } => (state.logs.contains_key(log), "the stream was deleted"),
        Change::Ack { cursor, .. }
        | Change::Defer { cursor, .. }
        | Change::Seek { cursor, .. }
        | Change::Prioritize { cursor, .. }
        | Change::Shelve { cursor, .. } => {
            (state.cursors.contains_key(cursor), "the queue, subscription or group was deleted")
        }
    };
    if is_there { Ok(()) } else { Err(gone(what)) }
}

fn check_lives(log: &Log, messages: &[Message<'_>], now: Timestamp) -> Result<()> {
    if messages.iter().all(|it| it.lives_ms().is_none()) {
        return Ok(());
    }
    if log.keeps_acked {
        let what = "a stream keeps its records until it is trimmed; set no expire_after";
        return Err(Error::invalid("expire_after", what));
    }
    if messages.iter().any(|it| it.lives_ms() == Some(0)) {
        let what = "the message would live for no time: give it 1 ms or more";
        return Err(Error::invalid("expire_after", what));
    }
    // One that is moved has lived before.
    let never_comes = |it: &Message<'_>| match (it.delay(), it.lives_ms()) {
        (Some(Delay::After(ms)), Some(life)) => life <= ms && !it.is_moved(),
        (Some(Delay::At(at)), Some(life)) => life <= at.0.saturating_sub(now.0) && !it.is_moved(),
        _ => false,
    };
    if messages.iter().any(never_comes) {
        let what = "the message's life would be over before it is due: let it live for longer than it \
                    is delayed";
        return Err(Error::invalid("expire_after", what));
    }
    Ok(())
}

impl Draft {
    /// Keeps messages back that were just added.
    fn add_delays(
        &mut self,
        state: &State,
        (log, first): (LogId, Offset),
        messages: &[Message<'_>],
        delay_ms: u64,
        now: Timestamp,
    ) -> Result<()> {
        if delay_ms == 0 && messages.iter().all(|it| it.delay().is_none()) {
            return Ok(());
        }
        let cursor = CursorId(log.0);
        if !state.cursors.contains_key(&cursor) {
            let what = "only messages of queues can be delivered later, not those of topics and \
                        streams; set no deliver_after and no deliver_at";
            let is_at = messages.iter().any(|it| matches!(it.delay(), Some(Delay::At(_))));
            let field = if is_at { "deliver_at" } else { "deliver_after" };
            return Err(Error::invalid(field, what));
        }
        for (n, message) in messages.iter().enumerate() {
            let due = match message.delay() {
                None if delay_ms == 0 => continue,
                None => now.0.saturating_add(delay_ms),
                Some(Delay::After(ms)) => now.0.saturating_add(ms),
                Some(Delay::At(at)) if at < now => {
                    let what = format!("deliver_at is {at}, which has passed; it is {now}");
                    return Err(Error::invalid("deliver_at", what));
                }
                Some(Delay::At(at)) => at.0,
            };
            if due > now.0 {
                let (offset, due) = (Offset(first.0 + n as u64), Timestamp(due));
                let deferred = Deferred { cursor, offset, attempts: 0, due, is_new: true };
                deferred.change().put(&mut self.frame);
                self.deferred.push(deferred);
            }
        }
        Ok(())
    }
}

impl Draft {
    /// Gives messages their priorities that were just added.
    fn add_priorities(
        &mut self,
        state: &State,
        (log, Offset(first)): (LogId, Offset),
        messages: &[Message<'_>],
    ) -> Result<()> {
        if messages.iter().all(|it| it.priority_set() == 0) {
            return Ok(());
        }
        let cursor = CursorId(log.0);
        let queue = state.catalog.get(log.0).and_then(Entity::delivering);
        let is_ordered = queue.is_some_and(|it| it.is_ordered);
        if is_ordered && messages.iter().all(Message::is_moved) {
            // It was let in elsewhere, and here the order counts.
            return Ok(());
        }
        let takes_priorities = queue.is_some() && !is_ordered;
        messages.iter().try_for_each(|it| it.check_priority(takes_priorities))?;
        let mut at = 0;
        for same in messages.chunk_by(|a, b| a.priority_set() == b.priority_set()) {
            let offsets = first + at..first + at + same.len() as u64;
            at += same.len() as u64;
            let priority = same[0].priority_set();
            if priority > 0 {
                let prioritized = Prioritized { cursor, offsets, priority };
                prioritized.change().put(&mut self.frame);
                self.prioritized.push(prioritized);
            }
        }
        Ok(())
    }
}

fn message_too_large(weight: u64, most: u64) -> Error {
    let what = format!(
        "a message has {weight} bytes with key and headers; at most {most} are configured \
         (message_bytes_max)"
    );
    Error::new(ErrorKind::TooLarge, what)
}
