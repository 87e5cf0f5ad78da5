//! Copying one log, message by message.

use roaring::RoaringTreemap;

use super::{Report, acks_may_be_lost, lost};
use crate::{
    error::Result,
    format::{
        delay_index,
        entity::{Entity, EntityKind},
        meta::{LogState, MetaEntry},
        record::RecordParts,
    },
    ids::{CursorId, Due, EntityId, LogId, Offset, OffsetRange},
    inspect::{
        survey::{Survey, problem},
        verify::take_within,
    },
    segment::{Held, Output, Packing},
    store::{Progress, join},
};

/// One log of the new store.
pub struct Copying<'a> {
    out: &'a mut Output,
    log: LogId,
    packing: Packing,
    put: Vec<MetaEntry>,
    messages: u64,
    bytes: u64,
    /// If the log is a delay index: the messages whose times it holds.
    timed: Option<RoaringTreemap>,
}

impl Copying<'_> {
    pub fn new(out: &mut Output, log: LogId) -> Copying<'_> {
        let (packing, put) = (Packing::new(log, None), Vec::new());
        let (messages, bytes, timed) = (0, 0, None);
        Copying { out, log, packing, put, messages, bytes, timed }
    }

    /// Copies all messages of the log that a cursor needs, and acks lost ones.
    pub fn copy(
        &mut self,
        survey: &mut Survey,
        report: &mut Report,
        entries: &mut Vec<MetaEntry>,
    ) -> Result<()> {
        let log = self.log;
        let state = survey.state.logs.get(&log).filter(|log| log.keeps_acked);
        let is_stream = state.is_some();
        if let Some(log) = state {
            // A segment covers all offsets up to its end, and a missing message within counts as gone. So a stream's
            // segments follow each other without a gap.
            self.packing = Packing::from(self.log, log.start);
        }
        let queue = survey.state.catalog.get(log.entity()).and_then(queue_of_delay_index);
        self.timed = queue.map(|_| RoaringTreemap::new());
        let walked = survey.walk(log, true, &mut |offset, record| self.push(offset, record))?;
        let end = is_stream.then(|| survey.next(log).max(walked.end));
        let put = self.packing.finish(self.out, end, true)?;
        self.put.extend(put.into_iter().map(MetaEntry::Segment));
        if self.timed.is_none() {
            report.messages += self.messages;
            report.bytes += self.bytes;
        }
        report.read.segments += walked.segments;
        report.read.blocks += walked.blocks;
        report.read.records += walked.records;

        for spot in &walked.spots {
            report.problems.push(problem(&spot.path, spot.position, spot.what));
        }
        let name = survey.name(log);
        let mut certain = walked.lost;
        let mut open = Vec::new();
        if let Some(beyond) = survey.logs.get(&log).and_then(|known| known.beyond) {
            open = take_within(&mut certain, beyond);
        }
        let mut settled = certain.clone();
        settled.extend(&open);
        if survey.metas.damaged || acks_may_be_lost(survey, log) {
            // Messages that an undamaged segment does not hold were dead when it was written.
            for intact in &walked.intact {
                take_within(&mut certain, *intact);
            }
            open.append(&mut certain);
            join(&mut open);
        }
        report.lost.extend(lost(name.clone(), &certain, true));
        report.lost.extend(lost(name, &open, false));
        self.settle(survey, &settled, walked.end, entries);
        if let (Some(queue), Some(timed)) = (queue, &self.timed) {
            free_untimed(survey, queue, timed);
        }
        Ok(())
    }

    fn push(&mut self, offset: Offset, record: &RecordParts<'_>) -> Result<()> {
        self.packing.add(self.out, Held::of(offset, record))?;
        if let Some(timed) = &mut self.timed {
            let entries = delay_index::decode(record.payload).unwrap_or_default();
            timed.extend(entries.into_iter().map(|(_, offset)| offset.0));
        }
        self.messages += 1;
        self.bytes += record.weight();
        Ok(())
    }

    /// Acks lost messages, so that consumers do not wait for them, and sets the next offset, so
    /// that none is given twice.
    fn settle(
        &mut self,
        survey: &mut Survey,
        settled: &[OffsetRange],
        end: Offset,
        entries: &mut Vec<MetaEntry>,
    ) {
        let next = survey.next(self.log).max(end);
        let Some(log) = survey.state.logs.get(&self.log) else { return };
        let mut next = next.max(log.start);
        let cursors: Vec<CursorId> = log.cursors.clone();
        // A stream without messages begins at its end.
        let is_empty = log.keeps_acked && self.messages == 0;
        let start = if is_empty { next } else { log.start };
        for id in cursors {
            let cursor = survey.state.cursors.get_mut(&id);
            if let Some(Progress::Acks(acks)) = cursor.map(|cursor| &mut cursor.progress) {
                settled.iter().for_each(|range| acks.ack(*range));
                next = next.max(acks.end());
            }
        }
        survey.state.end_doubts(self.log, next);
        let log = self.log;
        entries.push(MetaEntry::Log(LogState { log, start, moved: next, next }));
        entries.append(&mut self.put);
    }
}

/// The queue of a delay index.
pub fn queue_of_delay_index(entity: &Entity) -> Option<EntityId> {
    match entity.kind {
        EntityKind::DelayIndex { queue } => Some(queue),
        _ => None,
    }
}

/// Makes spilled messages whose due times are lost deliverable at once.
pub fn free_untimed(survey: &mut Survey, queue: EntityId, timed: &RoaringTreemap) {
    let cursor = survey.state.cursors.get_mut(&queue.cursor(0));
    let Some(Progress::Acks(acks)) = cursor.map(|cursor| &mut cursor.progress) else { return };
    let untimed: Vec<Offset> = acks.all_spilled().filter(|it| !timed.contains(it.0)).collect();
    for offset in untimed {
        acks.defer(offset, acks.attempts(offset), Due::NOW);
    }
}
