//! Trims streams with limits: before a checkpoint, so that what leaves is not moved into segments; behind it, as segments grew;
//! and when the oldest record of a partition comes of age. `store/retaining.rs` says which partitions are looked at.
//!
//! A look reads no more than the table of one segment, two of its blocks, and old records that are in the journal still. A
//! look that fails takes nothing, and another one comes.

use super::{committer::Committer, sweep::BreaksOff};
use crate::{
    config::CLOCKLESS,
    engine::core::commit::Receipt,
    error::{ErrorKind, Result},
    format::{commit::Run, segment::TableEntry},
    ids::{Offset, Timestamp},
    segment::SegmentReader,
    store::{
        Aged, Chunk, JournalRun, Kept, Occasion, Op, RetentionLook, RetentionRound, SegmentSource,
        Turn, Weighed, damaged_run,
    },
};

const OPERATION: &str = "retention";

/// Partitions that come of age so soon are looked at with the others.
const SOON_MS: u64 = 50;

/// What could not be trimmed or read is looked at again after so many milliseconds.
const AGAIN_MS: u64 = 60_000;

/// A record stays for so much longer than its age at most, so that records leave together: a share of the age, in bounds.
const REST_SHARE: u64 = 16;
const REST_MS: std::ops::RangeInclusive<u64> = 10_000..=3_600_000;

/// What was found out of some records: the first young one ends the look.
#[derive(Clone, Copy, Debug)]
struct Ages {
    /// The offset behind the last one that is known to be old.
    old_upto: Option<Offset>,
    /// When the first young record came.
    young: Option<Timestamp>,
    /// The look has come so far.
    upto: Offset,
}

impl Ages {
    fn from(offset: Offset) -> Ages {
        Ages { old_upto: None, young: None, upto: offset }
    }

    /// Adds the next record. Returns whether it is young.
    fn see(&mut self, offset: Offset, stamp: Timestamp, oldest: Timestamp) -> bool {
        self.upto = offset.next();
        if stamp >= oldest {
            self.young = Some(stamp);
        } else if stamp >= CLOCKLESS {
            self.old_upto = Some(offset.next());
        }
        self.young.is_some()
    }
}

impl Committer {
    /// Trims the records that are beyond the limits of their streams, where the occasion has it looked at. It asks after each
    /// partition whether it `breaks_off`: then the others are looked at later.
    ///
    /// # Errors
    ///
    /// `Poisoned` or `Closed`. A partition that cannot be read or trimmed is looked at again later.
    pub fn retain(&self, occasion: Occasion, breaks_off: Option<BreaksOff<'_>>) -> Result<()> {
        let now = self.now().stamp;
        let mut round = RetentionRound::new(occasion, later(now, SOON_MS));
        let mut again = None;
        loop {
            let some = self.lock_open(OPERATION)?.store.next_to_retain(&mut round);
            if some.is_empty() {
                break;
            }
            let mut rest = some.into_iter();
            for turn in rest.by_ref() {
                if !self.retain_now(turn, now)? {
                    again = Some(later(now, AGAIN_MS));
                } else if breaks_off.is_some_and(|breaks_off| breaks_off()) {
                    again = Some(now);
                }
                if again.is_some() {
                    break;
                }
            }
            if let Some(again) = again {
                let mut core = self.lock_open(OPERATION)?;
                rest.for_each(|turn| core.store.retain_at(turn.log, again));
                break;
            }
        }
        self.lock_open(OPERATION)?.arm_lives();
        Ok(())
    }

    /// Whether a partition is to be looked at by itself.
    pub(super) fn wants_retention(&self) -> bool {
        let due = self.lock(OPERATION).store.retention_due();
        due.is_some_and(|due| due <= later(self.now().stamp, SOON_MS))
    }

    /// Looks at a partition, and has it looked at again if that fails. Returns whether the others are to be looked at: on a
    /// full disk each would try in vain.
    fn retain_now(&self, turn: Turn, now: Timestamp) -> Result<bool> {
        let is_full = match self.retain_log(turn, now) {
            Ok(true) => return Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed) => {
                return Err(error);
            }
            Err(error) => error.kind() == ErrorKind::DiskFull,
            Ok(false) => false,
        };
        self.lock_open(OPERATION)?.store.retain_at(turn.log, later(now, AGAIN_MS));
        Ok(!is_full)
    }

    /// Returns `false` if the partition is to be looked at again, although nothing has come.
    fn retain_log(&self, turn: Turn, now: Timestamp) -> Result<bool> {
        let begun = self.lock_open(OPERATION)?.store.begin_retaining(turn);
        let Some(mut look) = begun else { return Ok(true) };
        if look.is_spared {
            return Ok(false);
        }
        let weighed = self.weigh(&mut look);
        let aged = match look.limits.max_age_ms.filter(|_| look.asks_age) {
            Some(age) => self.age(&mut look, age, now),
            None => Ok(None),
        };
        // What one of them has found counts although the other one failed.
        let is_done = self.trim(&look, *aged.as_ref().unwrap_or(&None))?;
        weighed.and(aged)?;
        Ok(is_done)
    }

    /// Finds the records before which all may leave by `max_bytes` and `max_records`.
    pub(super) fn weigh(&self, look: &mut RetentionLook) -> Result<()> {
        loop {
            let weighed = self.lock_open(OPERATION)?.store.weigh_some(look);
            match weighed {
                Weighed::GoOn => {}
                Weighed::All => return Ok(()),
                Weighed::Within(segment, kept) => {
                    if let Some(reader) = self.open_segment(look.log, segment)? {
                        look.start = look.start.max(first_kept(&reader, kept));
                        return Ok(());
                    }
                    // It was replaced: it is found again.
                }
            }
        }
    }

    /// Finds the records that are too old. Returns when the next one is.
    fn age(&self, look: &mut RetentionLook, age: u64, now: Timestamp) -> Result<Option<Timestamp>> {
        let oldest = Timestamp(now.0.saturating_sub(age));
        let rest = (age / REST_SHARE).clamp(*REST_MS.start(), *REST_MS.end());
        // What comes from now on comes of age later.
        let latest = later(now, age.max(rest));
        loop {
            let aged = {
                let mut core = self.lock_open(OPERATION)?;
                let visible = core.visible();
                core.store.age_some(look, oldest, visible)?
            };
            let found = match aged {
                Aged::GoOn => continue,
                Aged::End => return Ok(Some(latest)),
                Aged::Spared => return Ok(Some(later(now, AGAIN_MS).min(latest))),
                Aged::Read(chunk, newest) => self.ages_in(look, chunk, newest, oldest)?,
            };
            look.aged = found.upto;
            look.start = look.start.max(found.old_upto.unwrap_or_default());
            if let Some(young) = found.young {
                // A record of a clock that was ahead does not keep those behind it from being looked at.
                let due = later(young, age.saturating_add(1)).min(latest);
                return Ok(Some(due.max(later(now, rest))));
            }
        }
    }

    /// `newest` is the time of the newest record, if they are in a segment.
    fn ages_in(
        &self,
        look: &RetentionLook,
        chunk: Chunk,
        newest: Option<Timestamp>,
        oldest: Timestamp,
    ) -> Result<Ages> {
        let mut ages = Ages::from(look.aged);
        match chunk {
            Chunk::Segment { segment, end, .. } => {
                match self.ages_in_segment(look, segment, end, oldest) {
                    Ok(found) => return Ok(found),
                    Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                    // It stays as long as its newest record does, or leaves with what is behind it.
                    Err(_) => {
                        ages.young = newest.filter(|newest| *newest >= oldest);
                        ages.upto = end;
                    }
                }
            }
            Chunk::Runs(runs) => {
                for run in runs.each() {
                    if ages_in_run(run, look.aged, oldest, &mut ages)? {
                        break;
                    }
                }
            }
        }
        Ok(ages)
    }

    fn ages_in_segment(
        &self,
        look: &RetentionLook,
        segment: SegmentSource,
        end: Offset,
        oldest: Timestamp,
    ) -> Result<Ages> {
        let mut ages = Ages::from(look.aged);
        let Some(reader) = self.open_segment(look.log, segment)? else { return Ok(ages) };
        let table = reader.table();
        let young = reader.block_at_time(oldest).unwrap_or(table.len());
        // The blocks before it are old: an old record stands behind them.
        let known = last_known(&table[..young]);
        ages.old_upto = known.map(|index| table[index].first);
        match reader.block_at(look.aged) {
            // What was trimmed may have been younger.
            Some(first) if known.is_some() || young < table.len() => {
                let from = known.unwrap_or(young).max(first);
                ages_in_block(&reader, from, look.aged, oldest, &mut ages)?;
            }
            _ => ages.upto = end,
        }
        Ok(ages)
    }

    /// Trims a partition to the start that a look has found. `false` if it keeps more for a group, or if its limits have changed
    /// meanwhile: then the look does not count.
    pub(super) fn trim(&self, look: &RetentionLook, due: Option<Timestamp>) -> Result<bool> {
        let log = look.log;
        let (is_done, receipt) = self.commit_sweep(|core| {
            let Some((limits, start, spared)) = core.store.retained(log) else {
                return Ok((true, Receipt::NOTHING));
            };
            if limits != look.limits {
                return Ok((false, Receipt::NOTHING));
            }
            let mut receipt = Receipt::NOTHING;
            let upto = look.start.min(spared);
            if upto > start {
                let ranges = [start.to(upto)];
                let leave = match core.store.state().keeper_of(log) {
                    Some(cursor) => Op::AckRanges { cursor, ranges: &ranges },
                    None => Op::Trim { log, start: upto },
                };
                receipt = core.commit(&[leave], self.now_plain())?;
            }
            if let Some(due) = due {
                core.store.retain_at(log, due);
            }
            // What a group has it keep leaves once the group has passed it.
            Ok((upto == look.start, receipt))
        })?;
        if receipt != Receipt::NOTHING {
            self.sync_soon();
        }
        Ok(is_done)
    }
}

fn later(time: Timestamp, ms: u64) -> Timestamp {
    Timestamp(time.0.saturating_add(ms))
}

/// The first offset of a segment that stays.
fn first_kept(reader: &SegmentReader, kept: Kept) -> Offset {
    let table = reader.table();
    let by_bytes = kept.bytes.map(|most| {
        let mut sum = 0;
        let is_kept = |entry: &&TableEntry| {
            let is_kept = sum < most;
            sum += u64::from(entry.length);
            is_kept
        };
        table.iter().rev().take_while(is_kept).last().map(|entry| entry.first)
    });
    let by_records = kept.records.map(|most| {
        let mut left = most;
        let mut first = None;
        for (index, entry) in table.iter().enumerate().rev() {
            if left == 0 {
                break;
            }
            let count = u64::from(entry.count);
            let is_dense = entry.first.to(entry.last.next()).len() == count;
            first = Some(if is_dense {
                Offset(entry.last.next().0 - left.min(count))
            } else if left >= count {
                entry.first
            } else {
                // Which of the offsets are missing, the table does not tell. A block that cannot be read stays.
                nth_in_block(reader, index, (count - left) as u32).unwrap_or(entry.first)
            });
            left = left.saturating_sub(count);
        }
        first
    });
    let end = table.last().map_or(Offset(0), |entry| entry.last.next());
    let both = [by_bytes, by_records].into_iter().flatten();
    both.map(|first| first.unwrap_or(end)).max().unwrap_or_default()
}

/// The offset of a record of a block, by its number.
fn nth_in_block(reader: &SegmentReader, index: usize, nth: u32) -> Option<Offset> {
    let (offset, _) = reader.block(index).ok()?.nth(nth).ok()??;
    Some(offset)
}

/// The last of these blocks that surely has a record of a known time: one that is later than those before it. The table has
/// the latest time so far.
fn last_known(blocks: &[TableEntry]) -> Option<usize> {
    let latest = blocks.last()?.max_time;
    (latest >= CLOCKLESS).then(|| blocks.partition_point(|entry| entry.max_time < latest))
}

fn ages_in_block(
    reader: &SegmentReader,
    index: usize,
    from: Offset,
    oldest: Timestamp,
    ages: &mut Ages,
) -> Result<()> {
    let block = match reader.block(index) {
        Ok(block) => block,
        // The table tells of what cannot be read.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let entry = &reader.table()[index];
            ages.upto = entry.last.next();
            if entry.max_time >= oldest {
                ages.young = Some(entry.max_time);
            } else if entry.max_time >= CLOCKLESS {
                ages.old_upto = Some(ages.upto);
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut place = block.seek(from);
    while let Some((offset, spans)) = block.step(&mut place)? {
        if ages.see(offset, spans.timestamp, oldest) {
            return Ok(());
        }
    }
    // Its young record was trimmed, or one before it was younger: the look goes on behind it.
    ages.upto = ages.upto.max(block.last().next());
    Ok(())
}

/// Returns whether a young record was found.
fn ages_in_run(run: JournalRun, from: Offset, oldest: Timestamp, ages: &mut Ages) -> Result<bool> {
    let JournalRun { bytes, lsn } = run;
    let bytes = bytes.read()?;
    let run = Run::decode(&bytes).map_err(|what| damaged_run(what, lsn))?;
    for record in run.records() {
        let (offset, spans) = record.map_err(|what| damaged_run(what, lsn))?;
        if offset >= from && ages.see(offset, spans.timestamp, oldest) {
            return Ok(true);
        }
    }
    ages.upto = ages.upto.max(run.end());
    Ok(false)
}
