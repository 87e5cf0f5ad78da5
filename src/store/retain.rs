//! Frees space: drops dead segments, and rewrites neighbouring segments that are mostly dead as one segment. Offsets
//! never change.

use super::{
    Store,
    acks::{AckSet, chunks_of},
    checkpoint::{LogChange, Shared, Work},
    log::Log,
    needed::needed,
    state::{State, dead_in},
};
use crate::{
    audit,
    config::REWRITE_SHARE,
    error::{ErrorKind, Result},
    format::meta::{Place, SegmentState},
    ids::{LogId, Offset, OffsetRange},
    segment::skip_unreadable,
};

/// The most segments of one log that are rewritten in one checkpoint.
const REWRITTEN_MAX: usize = 8;

/// The most bytes of segments that are rewritten in one checkpoint, in full segments.
const REWRITTEN_SEGMENTS: u64 = 8;

/// The decision of a checkpoint about one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// It stays while the store is busy, and is rewritten once the store is idle.
    KeepWhileBusy,
    Rewrite,
    Drop,
}

/// How many segments are judged in one access to the store.
const JUDGED_AT_ONCE: usize = 16;
/// So many chunks of acks are looked at in one access to the store. A segment with more is looked at in slices.
const CHUNKS_AT_ONCE: u64 = 256;

/// The segments of one log that were judged so far, and others that stand between them.
type Judged = Vec<(SegmentState, Verdict)>;

/// `sets` are the acks of the log's cursors.
fn judge(log: &Log, sets: &[&AckSet], segment: &SegmentState) -> Verdict {
    let range = segment.base.to(segment.end);
    let offsets = range.len();
    let dead = dead_in(log, sets, range);
    // Offsets that the segment does not hold are dead, too. In a salvaged stream they may be lost.
    let dead = dead.saturating_sub(offsets.saturating_sub(segment.records));
    verdict(segment, segment.records.saturating_sub(dead))
}

fn verdict(segment: &SegmentState, live: u64) -> Verdict {
    if live == 0 {
        Verdict::Drop
    } else if live < segment.records / REWRITE_SHARE {
        Verdict::Rewrite
    } else if live < enough(segment) {
        Verdict::KeepWhileBusy
    } else {
        Verdict::Keep
    }
}

/// So many live messages keep a segment in an idle store: half of them, or three quarters in a part of a shared file, which
/// may waste space beside its parts.
fn enough(segment: &SegmentState) -> u64 {
    match segment.place {
        Place::Own | Place::Former => segment.records.div_ceil(2),
        Place::Part(_) => (3 * segment.records).div_ceil(4),
    }
}

impl Verdict {
    /// What it comes to in a store that is idle or not.
    fn then(self, is_idle: bool) -> Verdict {
        match self {
            Verdict::KeepWhileBusy if is_idle => Verdict::Rewrite,
            verdict => verdict,
        }
    }

    fn keeps(self) -> bool {
        matches!(self, Verdict::Keep | Verdict::KeepWhileBusy)
    }
}

impl State {
    /// Has all segments judged, as after an open.
    pub fn suspect_all(&mut self) {
        for log in self.logs.values_mut().filter(|log| !log.segments.is_empty()) {
            self.changed.unjudged = true;
            self.changed.suspect(log, Offset(0).to(log.moved));
        }
    }

    /// Judges some of the segments of a log in which messages became dead, from an offset on.
    fn judge_some(&mut self, id: LogId, from: Offset, is_idle: bool, judged: &mut Judged) -> Next {
        let Some(log) = self.logs.get(&id) else { return Next::Nothing };
        let cursors = if log.keeps_acked { 0 } else { log.cursors.len() as u64 };
        let sets = if cursors > CHUNKS_AT_ONCE { Vec::new() } else { self.ack_sets(log) };
        let mut looked = 0;
        let (mut at, mut kept, mut next) = (from, Vec::new(), Next::Nothing);
        let mut stay = Vec::new();
        while let Some(range) = log.judging.suspect.next(at) {
            if kept.len() >= JUDGED_AT_ONCE {
                next = Next::From(at);
                break;
            }
            at = at.max(range.start);
            let found = log.segment_at_or_behind(at).filter(|it| it.base < range.end);
            let Some(segment) = found else {
                kept.push(at.to(range.end));
                at = range.end;
                continue;
            };
            audit::step();
            let whole = segment.base.to(segment.end.max(segment.base.next()));
            if let Some((before, _)) = judged.last()
                && let Some(between) = log.segments.range(before.end..segment.base).next()
            {
                judged.push((between.clone(), Verdict::Keep));
            }
            let cost = cursors * chunks_of(whole);
            if cost > CHUNKS_AT_ONCE {
                // It is listed again if it does not stay.
                kept.push(whole);
                next = Next::Wide(segment.clone());
                break;
            }
            looked += cost;
            if looked > CHUNKS_AT_ONCE {
                next = Next::From(at);
                break;
            }
            let verdict = judge(log, &sets, segment).then(is_idle);
            judged.push((segment.clone(), verdict));
            stay.push((segment.base, verdict == Verdict::KeepWhileBusy));
            // An empty range for a segment that is dropped or rewritten: it stays suspect until it is gone.
            kept.push(if verdict.keeps() { whole } else { whole.end.to(whole.end) });
            at = whole.end;
        }
        let log = self.logs.get_mut(&id).expect("it is there");
        kept.iter().for_each(|range| self.changed.judged(log, *range));
        for (base, is_wasteful) in stay {
            self.changed.stays(id, base, is_wasteful);
        }
        next
    }

    fn suspect(&mut self, id: LogId, range: OffsetRange) {
        if let Some(log) = self.logs.get_mut(&id) {
            self.changed.suspect(log, range);
        }
    }
}

/// What is to be judged next.
enum Next {
    Nothing,
    /// Segments from an offset on.
    From(Offset),
    /// A segment for which many chunks of acks are to be looked at.
    Wide(SegmentState),
}

/// Judges the segments of a log in which messages became dead.
fn judge_all(shared: &impl Shared, log: LogId, is_idle: bool) -> Judged {
    let (mut judged, mut from) = (Judged::new(), Offset(0));
    loop {
        match shared.with(|store| store.state.judge_some(log, from, is_idle, &mut judged)) {
            Next::Nothing => return judged,
            Next::From(next) => from = next,
            Next::Wide(segment) => {
                let whole = segment.base.to(segment.end);
                let needed = needed(shared, log, whole, enough(&segment));
                let live = needed.iter().map(|range| range.len()).sum::<u64>();
                let verdict = verdict(&segment, live.min(segment.records)).then(is_idle);
                shared.with(|store| {
                    let stays = verdict == Verdict::KeepWhileBusy;
                    store.state.changed.stays(log, segment.base, stays);
                    if !verdict.keeps() {
                        store.state.suspect(log, whole);
                    }
                });
                from = segment.end.max(segment.base.next());
                judged.push((segment, verdict));
            }
        }
    }
}

impl Work {
    /// Has the segments judged again that stayed because the store was busy.
    pub(super) fn suspect_wasteful(&self, shared: &impl Shared) {
        let more = |store: &mut Store| {
            let taken = store.state.changed.take_wasteful(self.slice);
            for (log, base) in &taken {
                store.state.suspect(*log, base.only());
            }
            !taken.is_empty()
        };
        while self.is_idle && shared.with(more) {}
    }

    /// Drops segments, and rewrites segments if it may, by the acks of this moment. It looks at segments in which messages
    /// became dead since it looked last.
    pub(super) fn retain(&mut self, shared: &impl Shared) -> Result<()> {
        let mut last = None;
        while let Some(id) = shared.with(|store| store.state.changed.suspect_behind(last)) {
            last = Some(id);
            let judged = judge_all(shared, id, self.is_idle);
            if judged.iter().all(|(_, verdict)| verdict.keeps()) {
                continue;
            }
            let Some(begun) = shared.with(|store| store.begin_change(id)) else { continue };
            let mut change = self.changes.remove(&id).unwrap_or(begun);
            let carried_out = self.carry_out(shared, judged, &mut change);
            self.changes.insert(id, change);
            carried_out?;
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        shared: &impl Shared,
        verdicts: Judged,
        change: &mut LogChange,
    ) -> Result<()> {
        // Neighbours are rewritten together. A segment that stays ends a group.
        let mut groups: Vec<Vec<SegmentState>> = vec![Vec::new()];
        let (mut rewritten, mut left) = (0, 0);
        let most = REWRITTEN_SEGMENTS * self.out.segment_bytes();
        let mut bytes = self.rewritten;
        for (segment, verdict) in verdicts {
            // A segment that this checkpoint has added to is left to the next checkpoint.
            let is_fresh = change.is_fresh(&segment);
            match verdict {
                Verdict::Drop if !is_fresh => change.gone.push(segment),
                Verdict::Rewrite
                    if !is_fresh
                        && self.may_rewrite
                        && rewritten < REWRITTEN_MAX
                        && bytes < most =>
                {
                    rewritten += 1;
                    bytes += segment.len();
                    groups.last_mut().expect("there is one").push(segment);
                }
                _ => {
                    left += u32::from(verdict == Verdict::Rewrite && !is_fresh);
                    groups.push(Vec::new());
                }
            }
        }
        for group in groups.iter().filter(|group| !group.is_empty()) {
            // A rewrite is optional: it is skipped if the disk is full, or a block is damaged or cannot be read.
            match self.rewrite(shared, group, change) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {}
                // Damaged ones stay, so only those that were rewritten let others have their turn.
                rewritten => {
                    if skip_unreadable(rewritten)?.is_some() {
                        self.has_more |= left > 0;
                        self.rewritten += group.iter().map(SegmentState::len).sum::<u64>();
                    }
                }
            }
        }
        // The rest has its turn in the next checkpoint.
        self.has_more |= left > 0 && self.rewritten >= most;
        Ok(())
    }
}
