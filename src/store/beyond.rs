//! Which records of a partition are beyond the limits of its stream: by the segments' sizes, numbers of records and times. What
//! is to be read for that is read without the store, in `engine/commit/retention.rs`.

use super::{Store, cache::SegmentSource, log::Log, retaining::Turn, scan::Chunk, state::State};
use crate::{
    audit,
    config::CLOCKLESS,
    error::Result,
    format::{entity::Retention, meta::SegmentState},
    ids::{LogId, Lsn, Offset, Timestamp},
};

/// So many segments are looked at in one hold.
const AT_ONCE: usize = 64;

/// A look at one partition.
#[derive(Clone, Debug)]
pub struct RetentionLook {
    pub log: LogId,
    /// The limits that it goes by.
    pub limits: Retention,
    /// The first record that stays, as far as was found out.
    pub start: Offset,
    /// The first record that a group has it keep.
    pub spared: Offset,
    /// Whether that is its first one.
    pub is_spared: bool,
    /// Whether the age of its oldest record is to be looked at.
    pub asks_age: bool,
    /// The look for `max_age` has come so far.
    pub aged: Offset,
    weighed: Option<Sum>,
}

/// What the records from an offset on come to.
#[derive(Clone, Copy, Debug)]
struct Sum {
    from: Offset,
    /// In segments.
    bytes: u64,
    records: u64,
    /// Records from here on were in the journal. A checkpoint that moves some has the sum begun anew.
    moved: Offset,
}

impl Sum {
    /// What is in the journal, from an offset on.
    fn new(log: &Log, start: Offset) -> Sum {
        let moved = log.moved;
        let records = log.next().0.saturating_sub(moved.max(start).0);
        Sum { from: Offset(u64::MAX), bytes: 0, records, moved }
    }
}

/// How much of a segment stays: so many of the last bytes and of the last records. `None` if a limit lets all of it stay.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub bytes: Option<u64>,
    pub records: Option<u64>,
}

/// What comes next in a look at bytes and records.
#[derive(Debug)]
pub enum Weighed {
    /// Segments were added up. There are more.
    GoOn,
    /// A part of this segment stays, and all behind it.
    Within(SegmentSource, Kept),
    /// All of it stays.
    All,
}

/// What comes next in a look at ages.
#[derive(Debug)]
pub enum Aged {
    /// Segments were passed over in which all is old. There are more.
    GoOn,
    /// It is to be read which of these records are old. The latest of them is of this time, if they are in a segment.
    Read(Chunk, Option<Timestamp>),
    /// There is nothing more.
    End,
    /// What follows is spared.
    Spared,
}

impl Store {
    /// Begins to look at a partition. `None` if it has no limits, or was deleted.
    pub fn begin_retaining(&self, turn: Turn) -> Option<RetentionLook> {
        let State { retaining, logs, .. } = &self.state;
        let (limits, log) = (retaining.limits_of(turn.log)?, logs.get(&turn.log)?);
        let start = self.state.retained_from(turn.log)?;
        let (next, sum) = (log.next(), Sum::new(log, start));
        let spared = self.state.spared(turn.log);
        let is_spared = spared <= start && start < next;
        let most = limits.max_records.map(|most| most - u64::from(seeded!(RetentionTakesTooMuch)));
        // Of the records in the journal none is missing.
        let most_in_journal = most.filter(|most| *most <= sum.records);
        let start = most_in_journal.map_or(start, |most| Offset(next.0 - most).max(start));
        let weighs = limits.max_bytes.is_some() || most.is_some() && most_in_journal.is_none();
        Some(RetentionLook {
            log: turn.log,
            limits,
            start,
            spared,
            is_spared,
            asks_age: limits.max_age_ms.is_some() && !retaining.is_due_later(turn.log),
            aged: start,
            weighed: (turn.is_whole && weighs).then_some(sum),
        })
    }

    /// Adds up some more segments, from the newest on, until they have what stays.
    pub fn weigh_some(&mut self, look: &mut RetentionLook) -> Weighed {
        let Some(sum) = &mut look.weighed else { return Weighed::All };
        let Some(log) = self.state.logs.get(&look.log) else { return Weighed::All };
        let Retention { max_bytes, max_records, .. } = look.limits;
        if sum.moved != log.moved {
            *sum = Sum::new(log, look.start);
        }
        let before = sum.from;
        for segment in log.segments.range(..before).rev().take(AT_ONCE) {
            audit::step();
            if segment.end <= look.start {
                return Weighed::All;
            }
            if segment.end > sum.from {
                // It holds segments that were counted.
                *sum = Sum::new(log, look.start);
                return Weighed::GoOn;
            }
            let (bytes, records) = (sum.bytes + segment.len(), sum.records + segment.records);
            let too_many = |most: Option<u64>, sum, with| {
                most.filter(|most| with > *most).map(|most: u64| most.saturating_sub(sum))
            };
            let kept = Kept {
                bytes: too_many(max_bytes, sum.bytes, bytes),
                records: too_many(max_records, sum.records, records),
            };
            if kept.bytes.or(kept.records).is_some() {
                return Weighed::Within(self.cache.source(&self.segments, segment), kept);
            }
            *sum = Sum { from: segment.base, bytes, records, ..*sum };
        }
        if sum.from == before { Weighed::All } else { Weighed::GoOn }
    }

    /// Passes over some more segments in which all records are older than `oldest`, from the oldest on. Records before `limit`
    /// in the journal are looked at.
    pub fn age_some(
        &mut self,
        look: &mut RetentionLook,
        oldest: Timestamp,
        limit: Lsn,
    ) -> Result<Aged> {
        let log = self.state.log(look.log)?;
        look.aged = look.aged.max(log.start);
        let is_segment = look.aged < log.moved;
        let first = log.segment_at_or_behind(look.aged).filter(|_| is_segment).map(|it| it.base);
        let mut rest = first.into_iter().flat_map(|first| log.segments.range(first..)).peekable();
        let (mut latest, mut left) = (None, AT_ONCE);
        if look.aged >= look.spared {
            return Ok(Aged::Spared);
        }
        while let Some(segment) = rest.next() {
            audit::step();
            if left == 0 {
                return Ok(Aged::GoOn);
            }
            // Behind its last old record, records without a date may stand. If a later segment has an old one, they are old.
            let is_passed = rest.peek().is_some_and(|next| is_old(next, oldest));
            if !is_passed || !is_old(segment, oldest) {
                latest = Some(segment.max_time);
                break;
            }
            look.aged = segment.end;
            look.start = look.start.max(segment.end);
            left -= 1;
        }
        let chunk = self.scan(look.log, look.aged, limit)?;
        Ok(chunk.map_or(Aged::End, |chunk| Aged::Read(chunk, latest)))
    }
}

/// Whether a segment has records with a date, and all of those are older than a time. It may have records without a date, too: of a
/// machine that did not know it.
fn is_old(segment: &SegmentState, oldest: Timestamp) -> bool {
    (CLOCKLESS..oldest).contains(&segment.max_time)
}
