//! Frees space: drops dead segments, and rewrites neighbouring segments that are mostly dead as one segment. Offsets
//! never change.

use super::{
    checkpoint::{LogChange, Shared, Work, keep_going},
    log::Log,
    state::State,
};
use crate::{
    audit,
    config::REWRITE_SHARE,
    error::{ErrorKind, Result},
    format::{meta::SegmentState, record::RecordParts},
    ids::{LogId, Offset},
    segment::{SegmentReader, SegmentWriter},
};

/// The most segments of one log that are rewritten in one checkpoint.
const REWRITTEN_MAX: usize = 8;

/// The decision of a checkpoint about one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Rewrite,
    Drop,
}

fn judge(state: &State, log: &Log, segment: &SegmentState) -> Verdict {
    let range = segment.base.to(segment.end);
    let offsets = range.len();
    // Offsets that the segment does not hold are dead, too. In a salvaged stream they may be lost.
    let dead = state.dead(log, range).saturating_sub(offsets.saturating_sub(segment.records));
    let live = segment.records.saturating_sub(dead);
    if live == 0 {
        Verdict::Drop
    } else if segment.sealed && live < segment.records / REWRITE_SHARE {
        Verdict::Rewrite
    } else {
        Verdict::Keep
    }
}

impl Work {
    /// Drops segments, and rewrites segments if `may_rewrite`, by the acks of this moment.
    pub(super) fn retain(&mut self, shared: &impl Shared, may_rewrite: bool) -> Result<()> {
        let logs = shared.with(|store| {
            audit::steps(store.state.logs.len() as u64);
            let with_segments = store.state.logs.values().filter(|log| !log.segments.is_empty());
            let mut ids: Vec<LogId> = with_segments.map(|log| log.id).collect();
            ids.sort_unstable();
            ids
        });
        for id in logs {
            let verdicts = shared.with(|store| {
                let log = store.state.logs.get(&id)?;
                audit::steps(log.segments.len() as u64);
                let judged = log
                    .segments
                    .values()
                    .map(|segment| (segment.clone(), judge(&store.state, log, segment)));
                let judged: Vec<_> = judged.collect();
                let idle = judged.iter().all(|(_, verdict)| *verdict == Verdict::Keep);
                (!idle).then_some((judged, log.moved))
            });
            let Some((verdicts, moved)) = verdicts else {
                continue;
            };
            let mut change = self.changes.remove(&id).unwrap_or(LogChange {
                log: id,
                moved,
                gone: Vec::new(),
                put: Vec::new(),
            });
            self.carry_out(shared, verdicts, may_rewrite, &mut change)?;
            self.changes.insert(id, change);
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        shared: &impl Shared,
        verdicts: Vec<(SegmentState, Verdict)>,
        may_rewrite: bool,
        change: &mut LogChange,
    ) -> Result<()> {
        // Neighbours are rewritten together. A segment that stays ends a group.
        let mut groups: Vec<Vec<SegmentState>> = vec![Vec::new()];
        let mut rewritten = 0;
        for (segment, verdict) in verdicts {
            // A segment that this checkpoint has added to is left to the next checkpoint.
            let is_fresh = change.put.iter().any(|put| put.base == segment.base);
            match verdict {
                Verdict::Drop if !is_fresh => change.gone.push(segment),
                Verdict::Rewrite if !is_fresh && may_rewrite && rewritten < REWRITTEN_MAX => {
                    rewritten += 1;
                    groups.last_mut().expect("there is one").push(segment);
                }
                _ => groups.push(Vec::new()),
            }
        }
        for group in groups.iter().filter(|group| !group.is_empty()) {
            // A rewrite is optional: it is skipped if the disk is full or a block is damaged.
            match self.rewrite(shared, group, change) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {}
                rewritten => drop(keep_going(rewritten)?),
            }
        }
        Ok(())
    }

    /// Writes the live messages of neighbouring segments into one new segment.
    fn rewrite(
        &mut self,
        shared: &impl Shared,
        old: &[SegmentState],
        change: &mut LogChange,
    ) -> Result<()> {
        let (first, last) = (&old[0], &old[old.len() - 1]);
        let generation = old.iter().map(|segment| segment.generation).max().unwrap_or(0);
        let generation =
            if seeded!(RewriteKeepsItsGeneration) { generation } else { generation + 1 };
        let mut writer = self.begin_segment(first.log, first.base, generation, false)?;
        let copied = self.copy_live(shared, old, &mut writer).and_then(|()| {
            writer.extend_to(last.end);
            writer.seal()
        });
        if copied.is_err() || writer.state().records == 0 {
            writer.abandon();
            copied?;
        } else {
            self.finish_writer(writer, change)?;
        }
        change.gone.extend(old.iter().cloned());
        Ok(())
    }

    fn copy_live(
        &self,
        shared: &impl Shared,
        old: &[SegmentState],
        writer: &mut SegmentWriter,
    ) -> Result<()> {
        let log = old[0].log;
        for segment in old {
            let reader = SegmentReader::open(&self.segments, segment)?;
            for index in 0..reader.table().len() {
                let block = reader.block(index)?;
                let mut records = Vec::new();
                let mut place = block.seek(Offset(0));
                while let Some(record) = block.step(&mut place)? {
                    records.push(record);
                }
                shared.with(|store| {
                    let log = store.state.logs.get(&log);
                    let dead = |offset| log.is_none_or(|log| store.state.is_dead(log, offset));
                    records.retain(|(offset, _)| !dead(*offset));
                });
                for (offset, spans) in &records {
                    writer.push(*offset, &RecordParts::stored(block.body(), spans))?;
                }
            }
        }
        Ok(())
    }
}
