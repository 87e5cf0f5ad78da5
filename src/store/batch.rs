//! Batches: many messages, or large ones, that are encoded before the store is locked.
//!
//! Without the lock a batch is checked and encoded, its checksums are made, and the messages of each log are brought
//! together. What is left needs the offsets that the messages get: under the lock each log is looked up once, and the heads
//! of its runs are written. The runs go from the batch into the journal, without a copy in between.
//!
//! Each log takes its runs before the frame is written. So it is looked up once, and not once for its offsets and once more
//! to add to it. If the commit turns out to be impossible, the logs that have taken runs give them back. Nobody sees that:
//! the store is locked.

use std::sync::Arc;

use super::{
    Store,
    commit::{Op, Receipt, Refused, check_messages, make_space, shrink, too_large},
    draft::put_message,
    early::EarlyMatches,
    state::State,
    tail::{RunPlace, Spare},
};
use crate::{
    audit,
    config::{COMMIT_BYTES_CEILING, Config, RUN_MESSAGES_MAX},
    disk::Ahead,
    error::{Error, Result},
    format::{encoded::EncodedRuns, frame::FRAME_HEADER_BYTES, lives::Lives},
    ids::{LogId, Lsn, Now, Offset},
    journal::Urgency,
    message::Message,
};

/// A message, and the log to which it is appended.
#[derive(Clone, Copy, Debug)]
pub struct BatchedMessage<'a> {
    pub log: LogId,
    pub message: &'a Message<'a>,
    /// Whether the log is a stream's. Its records never expire.
    pub keeps_acked: bool,
}

/// The messages that a batch adds to one log.
#[derive(Debug)]
pub(super) struct BatchLog {
    pub log: LogId,
    pub messages: u64,
    /// The offset of the first one, once it is committed.
    pub first: Offset,
    pub runs: usize,
    /// Memory for them in the index of the log.
    spare: Spare,
    /// Whether the log had messages that no checkpoint has moved.
    was_listed: bool,
}

/// The logs of a batch, and how many messages come to each. They may wait until the messages are visible.
pub type BatchArrivals = Arc<[(LogId, u64)]>;

/// Encoded messages, by log.
#[derive(Debug)]
pub struct Batch {
    pub(super) runs: EncodedRuns,
    pub(super) logs: Vec<BatchLog>,
    /// The places of the messages in the order in which they were given, by log. Empty if all are of one log.
    order: Vec<u32>,
    arrivals: BatchArrivals,
    now: Now,
    /// The journal file whose pages were made ready for the batch.
    ready: Option<Lsn>,
    /// Whether messages may be among them that expire, so that their even time matters.
    may_expire: bool,
    /// What its messages match, if that was found before the commit.
    pub(super) early: Option<EarlyMatches>,
}

impl Batch {
    /// Checks and encodes messages. In each log they are in the order in which they are given.
    ///
    /// # Errors
    ///
    /// If a message is too large, or has a header without a name.
    pub fn of(config: &Config, messages: &[BatchedMessage<'_>], now: Now) -> Result<Batch> {
        let is_one_log = messages.windows(2).all(|pair| pair[0].log == pair[1].log);
        let mut order: Vec<u32> = Vec::new();
        if !is_one_log {
            order.extend(0..messages.len() as u32);
            order.sort_by_key(|at| messages[*at as usize].log);
        }
        let at = |n: usize| messages[order.get(n).map_or(n, |at| *at as usize)];
        let logs = divide(messages.len(), |n| at(n).log);
        let runs = logs.iter().map(|log| log.runs).sum();
        let bytes = messages.iter().map(|it| bytes_of(it.message)).sum();
        let mut encoded = EncodedRuns::with_capacity(now.stamp, runs, bytes);
        let mut begin = 0;
        for log in &logs {
            let end = begin + log.messages as usize;
            while begin < end {
                let upto = end.min(begin + RUN_MESSAGES_MAX);
                encoded.add(log.log, upto - begin, |out| {
                    let mut is_plain = true;
                    for n in begin..upto {
                        let BatchedMessage { message, keeps_acked, .. } = at(n);
                        let now = if keeps_acked { Now::from(now.stamp) } else { now };
                        is_plain &= put_message(out, message, config.message_bytes_max, now)?;
                    }
                    Ok::<bool, Error>(is_plain)
                })?;
                begin = upto;
            }
        }
        let arrivals = logs.iter().map(|it| (it.log, it.messages)).collect();
        let may_expire = messages.iter().any(|it| !it.keeps_acked);
        Ok(Batch {
            runs: encoded,
            logs,
            order,
            arrivals,
            now,
            ready: None,
            may_expire,
            early: None,
        })
    }

    /// The logs that get messages.
    pub fn arrivals(&self) -> BatchArrivals {
        Arc::clone(&self.arrivals)
    }

    /// The offset of the first message of the first log, once it is committed.
    pub fn first(&self) -> Offset {
        self.logs.first().map_or(Offset(0), |log| log.first)
    }

    pub fn may_expire(&self) -> bool {
        self.may_expire
    }

    /// The time of its messages.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The offsets of the messages once they are committed, in the order in which they were given.
    pub fn offsets(&self) -> Vec<Offset> {
        let all = self.logs.iter().flat_map(|log| log.first.to(Offset(log.first.0 + log.messages)));
        if self.order.is_empty() {
            return all.collect();
        }
        let mut offsets = vec![Offset(0); self.order.len()];
        self.order.iter().zip(all).for_each(|(at, offset)| offsets[*at as usize] = offset);
        offsets
    }
}

/// About how many bytes the record of a message has.
fn bytes_of(message: &Message<'_>) -> usize {
    const LENGTHS_BYTES: usize = 12;
    let headers = message.headers().map(|(name, value)| name.len() + value.len() + LENGTHS_BYTES);
    let key = message.key_bytes().map_or(0, <[u8]>::len);
    let subject = message.subject_set().map_or(0, |it| it.len() + LENGTHS_BYTES);
    message.payload().len() + key + headers.sum::<usize>() + subject + LENGTHS_BYTES
}

/// Divides messages into logs, which follow each other.
fn divide(messages: usize, log_of: impl Fn(usize) -> LogId) -> Vec<BatchLog> {
    let mut logs: Vec<(LogId, u64)> = Vec::new();
    for n in 0..messages {
        match logs.last_mut().filter(|(last, _)| *last == log_of(n)) {
            Some((_, count)) => *count += 1,
            None => logs.push((log_of(n), 1)),
        }
    }
    let of = |(log, messages): (LogId, u64)| {
        let runs = (messages as usize).div_ceil(RUN_MESSAGES_MAX);
        let (first, spare) = (Offset(0), Spare::of(runs));
        BatchLog { log, messages, first, runs, spare, was_listed: false }
    };
    logs.into_iter().map(of).collect()
}

/// The pages of a larger batch are made ready before it is committed.
const READY_BYTES_MIN: usize = 256 << 10;

impl Store {
    /// The pages that a large batch is going to take up in the journal. The caller has them made ready without the lock, and
    /// then commits the batch. `None` if they are ready, or if that does not matter.
    pub fn pages_of(&mut self, batch: &mut Batch) -> Option<Ahead> {
        let len = batch.runs.len_max();
        if len < READY_BYTES_MIN {
            return None;
        }
        let (file, pages) = self.journal.ahead(len as u64)?;
        (batch.ready.replace(file) != Some(file)).then_some(pages)
    }

    /// Commits a batch and operations as one: all of it, or nothing. The operations append no messages. They come before the
    /// messages of the batch.
    ///
    /// # Errors
    ///
    /// The same as of [`commit`](Store::commit).
    pub fn commit_batch(&mut self, ops: &[Op<'_>], batch: &mut Batch) -> Result<Receipt, Refused> {
        self.draft.begin();
        self.state.filtering.matched.clear();
        for op in ops {
            audit::step();
            debug_assert!(!matches!(op, Op::Append { .. }), "its messages are in the batch");
            self.draft.add(&self.state, &self.config, op, batch.now)?;
        }
        let changes_len = self.draft.frame.len() - FRAME_HEADER_BYTES;
        check_messages(batch.runs.records_len(), &self.config)?;
        let urgency = Urgency::Ordinary;
        let len_max = changes_len + batch.runs.len_max();
        make_space(&mut self.journal, &self.config, (urgency, self.may_outgrow), len_max)?;
        let begin = Lsn(self.journal.tail().0 + self.draft.frame.len() as u64);
        self.state.take_batch(batch, begin)?;
        let payload_len = changes_len + batch.runs.len();
        let written = check_messages(batch.runs.len(), &self.config).and_then(|()| {
            if payload_len as u64 > COMMIT_BYTES_CEILING {
                return Err(too_large(payload_len, COMMIT_BYTES_CEILING));
            }
            self.journal.append_split(&mut self.draft.frame, &batch.runs)
        });
        let lsn = match written {
            Ok(lsn) => lsn,
            Err(error) => {
                self.state.give_back_batch(&batch.logs);
                return Err(error.into());
            }
        };
        self.apply(ops, lsn).expect("the operations were checked before");
        if self.state.has_filters() {
            self.match_batch(batch);
        }
        self.draft.has_batch = true;
        shrink(&mut self.draft.frame);
        Ok(Receipt { end: self.journal.tail() })
    }
}

impl State {
    /// Adds the runs of a batch to their logs. The first run stands at `at` in the journal. Changes nothing if a log does not
    /// exist.
    fn take_batch(&mut self, batch: &mut Batch, mut at: Lsn) -> Result<()> {
        let Batch { runs, logs: into, .. } = batch;
        runs.begin();
        let mut next_run = 0;
        for n in 0..into.len() {
            let it = &mut into[n];
            audit::steps(it.runs as u64);
            let Some(log) = self.logs.get_mut(&it.log) else {
                let error = self.catalog.deleted(it.log.entity());
                self.give_back_batch(&into[..n]);
                return Err(error);
            };
            it.first = log.next();
            it.was_listed = log.unmoved_from.is_some();
            if !seeded!(BatchIsNotListed) {
                self.changed.log(log);
                self.changed.arrival(log, at);
            }
            let mut first = it.first;
            for n in next_run..next_run + it.runs {
                let run = runs.place(n, first);
                let lives = if log.keeps_acked { Lives::NONE } else { run.lives };
                let place = RunPlace { first, lsn: at, len: run.len };
                log.tail.push_with(place, run.end, lives, &mut it.spare);
                if !log.keeps_acked {
                    self.expiring.note(log, lives);
                }
                at = Lsn(at.0 + run.len as u64);
                first = run.end;
            }
            next_run += it.runs;
        }
        Ok(())
    }

    /// Takes the runs of a batch out of their logs, because its commit was not made.
    #[cold]
    fn give_back_batch(&mut self, logs: &[BatchLog]) {
        audit::steps(logs.len() as u64);
        for it in logs {
            let Some(log) = self.logs.get_mut(&it.log) else { continue };
            log.tail.cut(it.first);
            if !it.was_listed {
                self.changed.never_arrived(log);
            }
        }
    }
}
