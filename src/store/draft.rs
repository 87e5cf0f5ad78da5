//! A draft: operations are checked and encoded before their commit is written.

use super::{commit::Op, log::Log, state::State};
use crate::{
    audit,
    config::{Config, DELAY_MAX_MS, RUN_MESSAGES_MAX, no_priority},
    error::{Error, ErrorKind, Result},
    format::{
        commit::{Change, PlainRun, Run, begin_run, finish_run},
        entity::Entity,
        frame::{FRAME_HEADER_BYTES, begin_frame},
        lives::Lives,
        record::RecordParts,
    },
    ids::{CursorId, Due, EntityId, IdMap, LogId, Now, Offset, OffsetRange, Timestamp},
    message::{Delay, Kept, Message},
};

/// A delay or a retry of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    pub cursor: CursorId,
    pub offset: Offset,
    pub attempts: u32,
    pub due: Due,
    /// Whether the message itself is new in this commit.
    pub is_new: bool,
}

/// Messages that follow each other and share a priority above the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prioritized {
    pub cursor: CursorId,
    pub offsets: OffsetRange,
    pub priority: u8,
}

impl Deferred {
    #[inline]
    pub fn change(&self) -> Change<'static> {
        let Deferred { cursor, offset, attempts, due, .. } = *self;
        Change::Defer { cursor, offset, attempts, due }
    }
}

impl Prioritized {
    pub fn change(&self) -> Change<'static> {
        let Prioritized { cursor, offsets, priority } = *self;
        Change::Prioritize { cursor, first: offsets.start, count: offsets.len(), priority }
    }
}

/// A commit that is being encoded. The store keeps one, so that its memory is used again.
#[derive(Debug, Default)]
pub struct Draft {
    pub frame: Vec<u8>,
    pub runs: Vec<RunAt>,
    pub deferred: Vec<Deferred>,
    pub prioritized: Vec<Prioritized>,
    /// Whether the messages of a batch, which was encoded elsewhere, were committed beside it.
    pub has_batch: bool,
    /// How many bytes of the frame are messages, with their delays and priorities.
    pub messages_len: usize,
    /// The entity that this commit creates last.
    created: Option<EntityId>,
    ends: Ends,
}

/// The ends of logs that a draft adds to. A draft of a few runs does not use it.
#[derive(Debug, Default)]
struct Ends {
    by_log: IdMap<LogId, Offset>,
    /// How many runs are in it.
    runs: usize,
}

/// So few runs are looked through one by one.
const RUNS_FEW: usize = 8;
/// Longer lists are freed before the next commit.
const RUNS_KEPT: usize = 4096;

/// Messages that enter a log: the parts of [`Op::Append`].
#[derive(Clone, Copy)]
struct Append<'a> {
    log: LogId,
    messages: &'a [Message<'a>],
    delay_ms: u64,
}

/// A run, and the place in the frame at which it begins.
#[derive(Debug)]
pub struct RunAt {
    pub log: LogId,
    pub first: Offset,
    pub end: Offset,
    pub at: usize,
    /// Where its records begin, counted from its first byte.
    body_at: usize,
    len: usize,
    timestamp: Timestamp,
    /// Whether all lives of its messages begin at its timestamp, and no message has a time to live of its own.
    is_plain: bool,
}

impl RunAt {
    /// The lives of its messages.
    #[inline]
    pub fn lives(&self, frame: &[u8]) -> Lives {
        if !self.is_plain {
            return Lives::of_run(&self.of(frame));
        }
        let plain = Lives { begin: self.timestamp, end: None };
        debug_assert_eq!(plain, Lives::of_run(&self.of(frame)));
        plain
    }

    #[inline]
    pub fn of<'a>(&self, frame: &'a [u8]) -> Run<'a> {
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
    pub fn begin(&mut self) {
        begin_frame(&mut self.frame);
        if self.ends.runs > 0 {
            self.ends = Ends::default();
        }
        let longest = self.runs.capacity().max(self.deferred.capacity());
        if longest.max(self.prioritized.capacity()) > RUNS_KEPT {
            (self.runs, self.deferred, self.prioritized) = (Vec::new(), Vec::new(), Vec::new());
        }
        self.runs.clear();
        self.deferred.clear();
        self.prioritized.clear();
        self.has_batch = false;
        self.created = None;
        self.messages_len = 0;
    }

    /// Begins a commit of one message that has only a payload, and that is encoded elsewhere.
    #[inline]
    pub fn begin_plain(&mut self, run: &PlainRun<'_>, of: (LogId, Offset, Timestamp)) {
        let (log, first, timestamp) = of;
        self.begin();
        let (end, at, body_at, len) = (first.next(), FRAME_HEADER_BYTES, run.body_at, run.len());
        self.runs.push(RunAt { log, first, end, at, body_at, len, timestamp, is_plain: true });
    }

    /// The end of a log, if this draft adds to it.
    #[inline]
    fn end_of(&mut self, log: LogId) -> Option<Offset> {
        if self.runs.len() > RUNS_FEW {
            return self.looked_up_end_of(log);
        }
        let mut before = self.runs.iter().rev().inspect(|_| audit::step());
        Some(before.find(|run| run.log == log)?.end)
    }

    #[cold]
    fn looked_up_end_of(&mut self, log: LogId) -> Option<Offset> {
        let Ends { by_log, runs } = &mut self.ends;
        by_log.extend(self.runs[*runs..].iter().map(|run| (run.log, run.end)));
        *runs = self.runs.len();
        by_log.get(&log).copied()
    }

    /// Checks an operation, and adds it.
    pub fn add(&mut self, state: &State, config: &Config, op: &Op<'_>, now: Now) -> Result<()> {
        if let Op::Append { log, messages, delay_ms } = *op {
            return self.add_append(state, config, Append { log, messages, delay_ms }, now);
        }
        match op.change() {
            Some(change) => self.add_change(state, &change),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn add_change(&mut self, state: &State, change: &Change<'_>) -> Result<()> {
        match change {
            Change::Create(creation) => self.created = Some(creation.entity.id),
            // What a cursor does not get that this commit makes.
            Change::Ack { cursor, .. } if self.created == Some(cursor.entity()) => {}
            _ => state.check_target(change)?,
        }
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
        append: Append<'_>,
        now: Now,
    ) -> Result<()> {
        let Append { log, messages, .. } = append;
        let found = state.log(log)?;
        let first = self.end_of(log).unwrap_or(found.next());
        // A stream's records never expire, so they need no even time.
        let now_of = if found.keeps_acked { Now::from(now.stamp) } else { now };
        let begin = self.frame.len();
        self.add_messages(log, messages, first, config.message_bytes_max, now_of)?;
        if append.delay_ms > 0 || messages.iter().any(Message::has_more) {
            self.add_settings(state, &append, first, now)?;
        }
        // What the store has accepted before, and is moved, does not count.
        if !messages.iter().any(Message::is_moved) {
            self.messages_len += self.frame.len() - begin;
        }
        Ok(())
    }

    /// Adds delays and priorities. Most messages have none, so this is kept out of their way.
    #[inline(never)]
    fn add_settings(
        &mut self,
        state: &State,
        append: &Append<'_>,
        first: Offset,
        now: Now,
    ) -> Result<()> {
        // The log is looked up once more: a parameter for it costs all other appends 15 instructions.
        if let Some(log) = state.logs.get(&append.log) {
            check_expiry(log, append, now.stamp)?;
        }
        self.add_delays(state, append, first, now)?;
        self.add_priorities(state, append, first)
    }

    fn add_messages(
        &mut self,
        log: LogId,
        messages: &[Message<'_>],
        mut first: Offset,
        bytes_max: u64,
        now: Now,
    ) -> Result<()> {
        for messages in messages.chunks(RUN_MESSAGES_MAX) {
            let at = self.frame.len();
            let run = begin_run(&mut self.frame, log, first, messages.len(), now.stamp);
            let mut is_plain = true;
            for message in messages {
                is_plain &= put_message(&mut self.frame, message, bytes_max, now)?;
            }
            let body = finish_run(&mut self.frame, run);
            let end = Offset(first.0 + messages.len() as u64);
            let (body_at, len, timestamp) = (body - at, self.frame.len() - at, now.stamp);
            self.runs.push(RunAt { log, first, end, at, body_at, len, timestamp, is_plain });
            first = end;
        }
        Ok(())
    }
}

/// Checks a message, and appends its record. Returns whether its life begins at the time of the run around it, and has no
/// end of its own.
#[inline]
pub fn put_message(
    out: &mut Vec<u8>,
    message: &Message<'_>,
    bytes_max: u64,
    now: Now,
) -> Result<bool> {
    let record = RecordParts::with_time_to_live(message, now);
    // Most messages have no headers.
    let headers_len = record.headers.encoded_len();
    if headers_len > 0 {
        message.check_headers()?;
    }
    let weight = record.weight_with(headers_len);
    if weight > bytes_max && !message.is_moved() {
        return Err(message_too_large(weight, bytes_max));
    }
    Ok(record.put_with(out, now.stamp, headers_len))
}

fn check_expiry(log: &Log, append: &Append<'_>, now: Timestamp) -> Result<()> {
    let Append { messages, delay_ms, .. } = *append;
    if messages.iter().all(|it| it.time_to_live_ms().is_none()) {
        return Ok(());
    }
    if log.keeps_acked {
        let what = "a stream keeps its records until it is trimmed; set no expire_after";
        return Err(Error::invalid("expire_after", what));
    }
    if messages.iter().any(|it| it.time_to_live_ms() == Some(0)) {
        let what = "a time to live of 0 ms: give the message 1 ms or more";
        return Err(Error::invalid("expire_after", what));
    }
    let waits_ms = |it: &Message<'_>| match it.delay() {
        None => delay_ms,
        Some(Delay::After(ms)) => ms,
        Some(Delay::At(at)) => at.0.saturating_sub(now.0),
        Some(Delay::Until(_)) => 0,
    };
    // The time to live of a moved message began earlier.
    let never_comes = |it: &Message<'_>| {
        !it.is_moved() && it.time_to_live_ms().is_some_and(|ms_to_live| ms_to_live <= waits_ms(it))
    };
    if messages.iter().any(never_comes) {
        let what = "the message would expire before it is due: give it a time to live that is longer \
                    than its delay, or than the delay of the queue";
        return Err(Error::invalid("expire_after", what));
    }
    Ok(())
}

impl Draft {
    /// Delays messages that were just added.
    fn add_delays(
        &mut self,
        state: &State,
        append: &Append<'_>,
        first: Offset,
        now: Now,
    ) -> Result<()> {
        let Append { log, messages, delay_ms } = *append;
        if delay_ms == 0 && messages.iter().all(|it| it.delay().is_none() && it.kept().is_none()) {
            return Ok(());
        }
        let cursor = log.queue_cursor();
        // The keeper of a topic has the id that a queue's cursor has.
        if !state.cursors.contains_key(&cursor) || state.keeper_of(log).is_some() {
            let what = "only messages of queues can be delivered later, not those of topics and \
                        streams; set no deliver_after and no deliver_at";
            let is_at = messages.iter().any(|it| matches!(it.delay(), Some(Delay::At(_))));
            let field = if is_at { "deliver_at" } else { "deliver_after" };
            return Err(Error::invalid(field, what));
        }
        for (n, message) in messages.iter().enumerate() {
            if let Some(Kept { attempts, due }) = message.kept() {
                let due = state.kept_due(log, due, now);
                self.keep(cursor, Offset(first.0 + n as u64), attempts, due);
                continue;
            }
            let after = |ms| Due::even(Timestamp(now.start.0.saturating_add(ms)));
            let due = match message.delay() {
                None if delay_ms == 0 => continue,
                Some(Delay::After(0)) => continue,
                None => after(delay_ms),
                Some(Delay::After(ms)) if ms > DELAY_MAX_MS => return Err(too_late(ms)),
                Some(Delay::After(ms)) => after(ms),
                Some(Delay::At(at)) if !is_plausible(at) => return Err(implausible(at)),
                Some(Delay::At(at)) if at <= now.stamp => continue,
                Some(Delay::At(at)) => Due::day(at),
                Some(Delay::Until(due)) => due,
            };
            if due.waits() {
                let offset = Offset(first.0 + n as u64);
                let deferred = Deferred { cursor, offset, attempts: 0, due, is_new: true };
                deferred.change().put(&mut self.frame);
                self.deferred.push(deferred);
            }
        }
        Ok(())
    }
}

impl Draft {
    /// Notes the attempts and the due time of a message that was moved as it is.
    fn keep(&mut self, cursor: CursorId, offset: Offset, attempts: u32, due: Due) {
        if attempts > 0 || due.waits() {
            let deferred = Deferred { cursor, offset, attempts, due, is_new: true };
            deferred.change().put(&mut self.frame);
            self.deferred.push(deferred);
        }
    }

    /// Sets the priorities of messages that were just added.
    fn add_priorities(&mut self, state: &State, append: &Append<'_>, first: Offset) -> Result<()> {
        let Append { log, messages, .. } = *append;
        if messages.iter().all(|it| it.priority_set() == 0) {
            return Ok(());
        }
        let cursor = log.queue_cursor();
        let queue = state.catalog.get(log.entity()).and_then(Entity::delivering);
        let is_ordered = queue.is_some_and(|it| it.is_ordered);
        if is_ordered && messages.iter().all(Message::is_moved) {
            // Another queue has accepted the message with its priority. This queue delivers in
            // order.
            return Ok(());
        }
        let refusal = no_priority(queue.is_some(), is_ordered);
        messages.iter().try_for_each(|it| it.check_priority(refusal))?;
        let mut at = first;
        for same in messages.chunk_by(|a, b| a.priority_set() == b.priority_set()) {
            let end = Offset(at.0 + same.len() as u64);
            let offsets = at.to(end);
            at = end;
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

/// The times of day at which a message can be delivered: the years 2000 to 9999. Another time is a mistake, such as
/// seconds in the place of milliseconds.
fn is_plausible(at: Timestamp) -> bool {
    (946_684_800_000..253_402_300_800_000).contains(&at.0)
}

fn too_late(ms: u64) -> Error {
    let what = format!(
        "deliver_after is {ms} ms; it must be a year at most. For a later time use deliver_at"
    );
    Error::invalid("deliver_after", what)
}

fn implausible(at: Timestamp) -> Error {
    let what = format!(
        "deliver_at is {at}, which is not in the years 2000 to 9999: give milliseconds since 1970"
    );
    Error::invalid("deliver_at", what)
}

fn message_too_large(weight: u64, most: u64) -> Error {
    let what = format!(
        "a message has {weight} bytes with key and headers; at most {most} are configured: \
         split it, or raise Options::message_bytes_max"
    );
    Error::new(ErrorKind::TooLarge, what)
}
