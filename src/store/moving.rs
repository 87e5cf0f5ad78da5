//! The first step of a checkpoint: live messages before a position of the journal are moved into
//! segments.

use super::{
    Store,
    checkpoint::{LogChange, Shared, Work, keep_going},
    needed::{Needed, needed},
    read::damaged_run,
};
use crate::{
    audit,
    error::Result,
    format::{commit::Run, meta::SegmentState, record::RecordParts},
    ids::{LogId, Lsn, Offset, OffsetRange},
    journal::JournalBytes,
    segment::SegmentWriter,
};

/// The most runs that are taken in one access to the store.
const RUNS_AT_ONCE: usize = 512;
/// Messages that are looked at together. A checkpoint looks once at all cursors for them.
const WINDOW_OFFSETS: u64 = 1 << 18;

/// A run of the journal, and one bit for each of its messages that is set if the message is live.
struct LiveRun {
    bytes: JournalBytes,
    lsn: Lsn,
    live: u32,
}

/// The segments that take the messages of one log.
struct Destination {
    /// The log's segment that is not sealed.
    open: Option<SegmentState>,
    writer: Option<SegmentWriter>,
    /// Whether the log has no segment yet, and perhaps no directory.
    is_first: bool,
}

impl Store {
    /// The part of a log from an offset on that is looked at together. It ends where a run ends.
    fn window(&self, id: LogId, from: Offset, end: Offset) -> OffsetRange {
        let far = Offset(from.0 + WINDOW_OFFSETS);
        let run = self.state.logs.get(&id).and_then(|log| log.tail.find(far));
        let run = run.filter(|run| run.first > from);
        from.to(run.map_or(end, |run| run.first.min(end)))
    }

    /// The next runs of a log in a window, and the offset behind them. Runs without a live message are left out.
    /// `needed` are the offsets that a cursor needs, in their order.
    fn live_runs(
        &self,
        id: LogId,
        window: OffsetRange,
        needed: &mut Needed<'_>,
    ) -> Result<(Vec<LiveRun>, Offset)> {
        let (from, end) = (window.start, window.end);
        let Some(log) = self.state.logs.get(&id) else {
            return Ok((Vec::new(), from));
        };
        let from = from.max(log.tail.start());
        let (mut runs, mut at) = (Vec::new(), end);
        let mut places = log.tail.runs_from(from).take_while(|run| run.first < end).peekable();
        let mut taken = 0;
        while let Some(place) = places.next() {
            audit::step();
            let run_end = places.peek().map_or(end, |next| next.first);
            let live = needed.bits(place.first.to(run_end));
            if live != 0 {
                let bytes = self.journal.bytes(place.lsn, place.len)?;
                runs.push(LiveRun { bytes, lsn: place.lsn, live });
            }
            taken += 1;
            if taken == RUNS_AT_ONCE {
                at = run_end;
                break;
            }
        }
        Ok((runs, at))
    }
}

impl Work {
    /// Moves the live messages of one log that stand before T into segments.
    pub(super) fn move_log(&mut self, shared: &impl Shared, log: LogId) -> Result<()> {
        let Some((mut change, end, open, is_first)) = shared.with(|store| {
            let found = store.state.logs.get(&log)?;
            let open = found.segments.values().next_back().filter(|segment| !segment.sealed);
            let (open, is_first) = (open.cloned(), found.segments.is_empty());
            let end = found.tail.first_at_or_behind(self.upto);
            if end <= found.moved {
                return None;
            }
            Some((store.begin_change(log)?, end, open, is_first))
        }) else {
            return Ok(());
        };
        let mut into = Destination { open, writer: None, is_first };
        let mut at = change.moved;
        change.moved = if seeded!(MovedTooFar) { Offset(end.0 + 1) } else { end };
        while at < end {
            let mut window = shared.with(|store| store.window(log, at, end));
            let needed = needed(shared, log, window, u64::MAX);
            let mut needed = Needed::of(&needed);
            at = window.end;
            while !window.is_empty() {
                let (runs, next) =
                    shared.with(|store| store.live_runs(log, window, &mut needed))?;
                if next <= window.start {
                    // The log was deleted meanwhile.
                    at = end;
                    break;
                }
                for run in runs {
                    self.add_run(&run, &mut into, &mut change)?;
                }
                window.start = next;
            }
        }
        if let Some(writer) = into.writer {
            self.finish_writer(writer, &mut change)?;
        }
        self.changes.insert(log, change);
        Ok(())
    }

    fn add_run(
        &mut self,
        run: &LiveRun,
        into: &mut Destination,
        change: &mut LogChange,
    ) -> Result<()> {
        let damaged = |what| damaged_run(what, run.lsn);
        let bytes = run.bytes.clone().read()?;
        let decoded = Run::decode(&bytes).map_err(damaged)?;
        for record in decoded.records() {
            let (offset, spans) = record.map_err(damaged)?;
            if run.live >> (offset.0 - decoded.first.0) & 1 == 1 {
                let writer = self.writer_with_space(offset, into, change)?;
                writer.push(offset, &RecordParts::stored(decoded.body, &spans))?;
            }
        }
        Ok(())
    }

    /// The writer for the record with an offset. It is the current writer, the log's unsealed
    /// segment, or a new segment.
    fn writer_with_space<'w>(
        &mut self,
        offset: Offset,
        into: &'w mut Destination,
        change: &mut LogChange,
    ) -> Result<&'w mut SegmentWriter> {
        let Destination { open, writer, is_first } = into;
        if let Some(mut full) = writer.take_if(|writer| writer.bytes() >= self.segment_bytes) {
            // Damage in the older part of the segment only keeps the segment from being sealed.
            keep_going(full.seal())?;
            self.finish_writer(full, change)?;
        }
        if writer.is_none() {
            let reopened = match open.take() {
                Some(state) => keep_going(self.reopen_segment(state))?,
                None => None,
            };
            *writer = Some(match reopened {
                Some(reopened) => reopened,
                None => self.begin_segment(change.log, offset, 0, *is_first)?,
            });
        }
        Ok(writer.as_mut().expect("there is one by now"))
    }
}
