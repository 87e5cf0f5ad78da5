//! Reads chunks of a log outside the core.

use std::sync::Arc;

use crate::{
    engine::commit::committer::Committer,
    error::Result,
    format::commit::Run,
    ids::{LogId, Offset, Timestamp},
    segment::SegmentReader,
    store::{Chunk, JournalRun, ReadParts, SegmentSource, damaged_run},
};

/// Opens a segment. `None` if a checkpoint has replaced it since it was found: the caller finds it again.
pub fn open_segment(
    committer: &Committer,
    log: LogId,
    segment: SegmentSource,
) -> Result<Option<Arc<SegmentReader>>> {
    let found = segment.clone();
    let error = match segment.open() {
        Ok((reader, None)) => return Ok(Some(reader)),
        Ok((reader, opened)) => {
            committer.lock("read").store.keep(log, ReadParts { opened, block: None });
            return Ok(Some(reader));
        }
        Err(error) => error,
    };
    let base = found.closed_base().unwrap_or_default();
    let there = committer.lock_open("read")?.store.upcoming(log, base);
    if there.is_some_and(|there| there.is_same(&found)) { Err(error) } else { Ok(None) }
}

/// The place of the first record from a time on.
pub enum FromTime {
    At(Offset),
    /// Not in the chunk that was read. The search goes on here.
    Behind(Offset),
}

/// Finds the first record of a chunk, from an offset on, with a timestamp at or after a time.
pub fn first_from_time(
    committer: &Committer,
    log: LogId,
    chunk: Chunk,
    from: Offset,
    time: Timestamp,
) -> Result<FromTime> {
    match chunk {
        Chunk::Segment { segment, from, end } => {
            let Some(reader) = open_segment(committer, log, segment)? else {
                return Ok(FromTime::Behind(from));
            };
            first_in_segment(&reader, from, end, time)
        }
        Chunk::Runs(runs) => {
            let mut next = from;
            for JournalRun { bytes, lsn } in runs {
                let bytes = bytes.read()?;
                let run = Run::decode(&bytes).map_err(|what| damaged_run(what, lsn))?;
                for record in run.records() {
                    let (offset, spans) = record.map_err(|what| damaged_run(what, lsn))?;
                    if offset >= from && spans.timestamp >= time {
                        return Ok(FromTime::At(offset));
                    }
                }
                next = run.end();
            }
            Ok(FromTime::Behind(next))
        }
    }
}

fn first_in_segment(
    reader: &SegmentReader,
    from: Offset,
    end: Offset,
    time: Timestamp,
) -> Result<FromTime> {
    let Some(first) = reader.block_at_time(time) else { return Ok(FromTime::Behind(end)) };
    for index in first..reader.table().len() {
        let block = reader.block(index)?;
        let mut place = block.seek(from);
        while let Some((offset, spans)) = block.step(&mut place)? {
            if spans.timestamp >= time {
                return Ok(FromTime::At(offset));
            }
        }
    }
    Ok(FromTime::Behind(end))
}
