//! The first step of a checkpoint: live messages before a position of the journal are moved into
//! segments.

use super::{
    Store,
    checkpoint::{LogChange, Shared, Work},
    log::Log,
    needed::{Needed, needed},
    read::damaged_run,
};
use crate::{
    audit,
    error::Result,
    format::{
        block::BLOCK_HEADER_BYTES,
        commit::Run,
        meta::{Place, SegmentState},
        part::PART_HEADER_BYTES,
    },
    ids::{LogId, Lsn, Offset, OffsetRange},
    journal::JournalBytes,
    segment::{Held, Packing, skip_unreadable},
};

/// The most runs that are taken in one access to the store.
const RUNS_AT_ONCE: usize = 512;
/// What a part takes up beside its messages: its header, and that of a block.
const HEADERS_BYTES: u64 = PART_HEADER_BYTES + BLOCK_HEADER_BYTES as u64;
/// Messages that are looked at together. A checkpoint looks once at all cursors for them.
const WINDOW_OFFSETS: u64 = 1 << 18;

/// A log whose last segments are so many parts of shared files takes some of them along when it is moved.
const PARTS_MOST: usize = 14;
/// From so many on it does so at one checkpoint in `TURNS`. The logs that get messages at the same checkpoints have their
/// turns at different ones, so that no checkpoint is much larger than the others.
const PARTS_SOME: usize = 6;
const TURNS: u64 = 4;
/// A checkpoint takes along so many times the bytes of its new messages, and as many more as parts of this number may have.
const ABSORBED_SHARE: u64 = 4;
const ABSORBED_PARTS: u64 = 16;
/// No more parts than this are taken along at once.
const PARTS_LOOKED_AT: usize = 64;

/// A run of the journal, and one bit for each of its messages that is set if the message is live.
struct LiveRun {
    bytes: JournalBytes,
    lsn: Lsn,
    live: u32,
}

/// The segments that take the messages of one log.
struct Destination {
    packing: Packing,
    /// The parts of shared files that are the log's last segments, from the newest on.
    parts: Vec<SegmentState>,
    /// The segment before them, if it can be gone on with.
    open: Option<SegmentState>,
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

/// Whether a log with so many parts takes some of them along. `from` is the first offset that is moved.
fn has_turn(log: LogId, from: Offset, parts: usize) -> bool {
    // Neighbouring logs and offsets come to different numbers.
    let mixed = (log.0.rotate_left(32) ^ from.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
    parts >= PARTS_MOST || parts >= PARTS_SOME && mixed.is_multiple_of(TURNS)
}

impl Log {
    /// Where its next messages go.
    fn destination(&self) -> Destination {
        let mut segments = self.segments.values().rev().inspect(|_| audit::step()).peekable();
        let mut parts = Vec::new();
        while let Some(part) = segments.next_if(|it| matches!(it.place, Place::Part(_))) {
            parts.push(part.clone());
            if parts.len() == PARTS_LOOKED_AT {
                break;
            }
        }
        let open = segments.peek().filter(|segment| segment.is_open()).copied().cloned();
        Destination { packing: Packing::new(self.id, None), parts, open }
    }
}

impl Work {
    /// Moves the live messages of one log that stand before T into segments.
    pub(super) fn move_log(&mut self, shared: &impl Shared, log: LogId) -> Result<()> {
        let Some((mut change, end, mut into)) = shared.with(|store| {
            let found = store.state.logs.get(&log)?;
            let end = found.tail.first_at_or_behind(self.upto);
            if end <= found.moved {
                return None;
            }
            let into = found.destination();
            Some((store.begin_change(log)?, end, into))
        }) else {
            return Ok(());
        };
        if into.parts.is_empty() {
            into.packing.go_on_with(into.open.take());
        }
        let mut at = change.moved;
        if seeded!(LaterPartGoesFirst) && self.is_part && self.judges {
            let behind = |store: &Store| store.journal.second_file();
            let behind = shared.with(|store| behind(store));
            let found = |store: &Store| {
                store.state.logs.get(&log).map_or(at, |it| it.tail.first_at_or_behind(behind))
            };
            at = at.max(shared.with(|store| found(store))).min(end);
        }
        let has_turn = has_turn(log, at, into.parts.len());
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
                    self.add_run(shared, &run, &mut into, &mut change)?;
                }
                window.start = next;
            }
        }
        self.moved += into.packing.waiting();
        if has_turn && into.packing.waiting() > 0 {
            self.absorb(shared, &mut into, &mut change)?;
        }
        change.put.append(&mut into.packing.finish(&mut self.out, None, false)?);
        self.changes.insert(log, change);
        Ok(())
    }

    fn add_run(
        &mut self,
        shared: &impl Shared,
        run: &LiveRun,
        into: &mut Destination,
        change: &mut LogChange,
    ) -> Result<()> {
        let damaged = |what| damaged_run(what, run.lsn);
        let bytes = run.bytes.clone().read()?;
        let decoded = Run::decode(&bytes).map_err(damaged)?;
        let mut records = Vec::with_capacity(run.live.count_ones() as usize);
        for record in decoded.records() {
            let (offset, spans) = record.map_err(damaged)?;
            if run.live >> (offset.0 - decoded.first.0) & 1 == 1 {
                records.push((offset, spans));
            }
        }
        let (from, to) = (decoded.body_at, decoded.len());
        let held = Held { body: bytes.narrow(from, to), records };
        if into.parts.is_empty() {
            return into.packing.add(&mut self.out, held);
        }
        into.packing.hold(held);
        if into.packing.waiting() > self.out.part_bytes() {
            self.moved += into.packing.waiting();
            self.absorb(shared, into, change)?;
            into.parts.clear();
            into.packing.leave_memory(&mut self.out)?;
        }
        Ok(())
    }

    /// Takes the messages of the log's last parts along, so that a log never has many. Small parts are written again seldom:
    /// each time, what they are in is half as large again at least. If all of it goes into a file of its own, so do all
    /// of these parts, and a segment before them is gone on with.
    fn absorb(
        &mut self,
        shared: &impl Shared,
        into: &mut Destination,
        change: &mut LogChange,
    ) -> Result<()> {
        let mut absorbed = 0;
        if self.may_rewrite {
            for part in &into.parts {
                let waiting = into.packing.waiting();
                // The headers of a part take up more than a small message.
                if part.len() > 2 * (waiting + HEADERS_BYTES) && waiting <= self.out.part_bytes() {
                    break;
                }
                // The rest has its turn in a later checkpoint.
                let bound = ABSORBED_PARTS * self.out.part_bytes();
                if self.absorbed + part.len() > ABSORBED_SHARE * self.moved + bound {
                    break;
                }
                // A damaged part, or one that cannot be read, stays, and so do those before it.
                let Some(held) = skip_unreadable(self.read_live(shared, part))? else { break };
                self.absorbed += part.len();
                into.packing.put_before(part.base, held);
                if seeded!(AbsorbedPartsGoAtOnce) {
                    shared.with(|store| store.forget_now(part));
                    absorbed += 1;
                    continue;
                }
                change.replaced.push(part.clone());
                absorbed += 1;
            }
        }
        if absorbed == into.parts.len() {
            into.packing.go_on_with(into.open.take());
        }
        Ok(())
    }
}
