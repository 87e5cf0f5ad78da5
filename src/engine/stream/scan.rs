//! Reads chunks of a log outside the core.

use std::sync::Arc;

use crate::{
    engine::commit::committer::Committer,
    error::{Error, ErrorKind, Result},
    format::commit::Run,
    ids::{LogId, Offset, Timestamp},
    segment::SegmentReader,
    store::{Chunk, JournalRun, SegmentSource, damaged_run},
};

/// Opens a segment. See [`Committer::open_segment`].
pub fn open_segment(
    committer: &Committer,
    log: LogId,
    segment: SegmentSource,
) -> Result<Option<Arc<SegmentReader>>> {
    committer.open_segment(log, segment)
}

/// The place of the first record from a time on.
pub enum FromTime {
    At(Offset),
    /// Not in the chunk that was read. The search goes on here.
    Behind(Offset),
}

/// Finds the first record of a chunk, from an offset on, with a timestamp at or after a time. Where damaged records may hold
/// it, it is the first of those: reading says that they are damaged, and can skip them.
pub fn first_from_time(
    committer: &Committer,
    log: LogId,
    chunk: Chunk,
    from: Offset,
    time: Timestamp,
) -> Result<FromTime> {
    match chunk {
        Chunk::Segment { segment, from, end } => {
            match committer.open_segment(log, segment) {
                Ok(Some(reader)) => first_in_segment(&reader, from, end, time),
                Ok(None) => Ok(FromTime::Behind(from)),
                // A record of that time is in the segment, or was.
                Err(error) => at_damage(error, from),
            }
        }
        Chunk::Runs(runs) => {
            let mut next = from;
            for run in runs.each() {
                match first_in_run(run, from, time) {
                    Ok(FromTime::Behind(end)) => next = end,
                    Ok(found) => return Ok(found),
                    Err(error) => return at_damage(error, next),
                }
            }
            Ok(FromTime::Behind(next))
        }
    }
}

/// Reading begins at damage. Another error may pass.
fn at_damage(error: Error, from: Offset) -> Result<FromTime> {
    if error.kind() == ErrorKind::Corrupt { Ok(FromTime::At(from)) } else { Err(error) }
}

fn first_in_run(run: JournalRun, from: Offset, time: Timestamp) -> Result<FromTime> {
    let JournalRun { bytes, lsn } = run;
    let bytes = bytes.read()?;
    let run = Run::decode(&bytes).map_err(|what| damaged_run(what, lsn))?;
    for record in run.records() {
        let (offset, spans) = record.map_err(|what| damaged_run(what, lsn))?;
        if offset >= from && spans.timestamp >= time {
            return Ok(FromTime::At(offset));
        }
    }
    Ok(FromTime::Behind(run.end()))
}

fn first_in_segment(
    reader: &SegmentReader,
    from: Offset,
    end: Offset,
    time: Timestamp,
) -> Result<FromTime> {
    let Some(first) = reader.block_at_time(time) else { return Ok(FromTime::Behind(end)) };
    for (index, entry) in reader.table().iter().enumerate().skip(first) {
        match first_in_block(reader, index, from, time) {
            Ok(Some(offset)) => return Ok(FromTime::At(offset)),
            Ok(None) => {}
            Err(error) => return at_damage(error, from.max(entry.first)),
        }
    }
    Ok(FromTime::Behind(end))
}

fn first_in_block(
    reader: &SegmentReader,
    index: usize,
    from: Offset,
    time: Timestamp,
) -> Result<Option<Offset>> {
    let block = reader.block(index)?;
    let mut place = block.seek(from);
    while let Some((offset, spans)) = block.step(&mut place)? {
        if spans.timestamp >= time {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}
