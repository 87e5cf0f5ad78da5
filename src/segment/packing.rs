//! The messages of one log on their way into segments. It decides how they are stored: few become a part of a shared file,
//! many a file of their own.

use std::sync::Arc;

use super::{Output, SegmentWriter, skip_unreadable};
use crate::{
    disk::Slice,
    error::Result,
    format::{
        meta::SegmentState,
        record::{RecordParts, RecordSpans},
    },
    ids::{LogId, Offset},
};

/// A record takes up about so many bytes beside what the application has put into it.
const RECORD_BYTES: u64 = 8;

/// Messages that were read together, to be written into a segment. The offsets grow.
#[derive(Clone, Debug)]
pub struct Held {
    /// The bytes that the spans refer to.
    pub body: Slice,
    pub records: Vec<(Offset, RecordSpans)>,
}

impl Held {
    /// A copy of one record.
    pub fn of(offset: Offset, record: &RecordParts<'_>) -> Held {
        let mut body = record.key.unwrap_or_default().to_vec();
        record.headers.put(&mut body);
        body.extend_from_slice(record.payload);
        let lens =
            (record.key.map(<[u8]>::len), record.headers.encoded_len(), record.payload.len());
        let spans = RecordSpans::of(record.timestamp, 0, lens, body.len());
        let spans = spans.expect("a record is below 4 GiB");
        Held { body: Slice::heap(Arc::new(body)), records: vec![(offset, spans)] }
    }

    /// The records, to be written.
    pub fn records(&self) -> impl Iterator<Item = (Offset, RecordParts<'_>)> {
        self.records.iter().map(|(offset, spans)| (*offset, RecordParts::stored(&self.body, spans)))
    }

    /// About how many bytes the records take up.
    pub fn weight(&self) -> u64 {
        self.records().map(|(_, record)| record.weight() + RECORD_BYTES).sum()
    }
}

/// Takes the messages of one log in the order of their offsets.
#[derive(Debug)]
pub struct Packing {
    log: LogId,
    /// Where the next segment begins. `None`: at its first message.
    base: Option<Offset>,
    /// The messages that are not written yet. They are as many as fit into a part, at most.
    held: Vec<Held>,
    weight: u64,
    /// A segment of the log that can be gone on with.
    open: Option<SegmentState>,
    writer: Option<SegmentWriter>,
    put: Vec<SegmentState>,
}

impl Packing {
    /// Segments that begin at their first messages. `open` is a segment that they may go on with.
    pub fn new(log: LogId, open: Option<SegmentState>) -> Packing {
        let (base, held, put) = (None, Vec::new(), Vec::new());
        Packing { log, base, held, weight: 0, open, writer: None, put }
    }

    /// Segments that stand for all offsets from one on, without a gap between them.
    pub fn from(log: LogId, base: Offset) -> Packing {
        Packing { base: Some(base), ..Packing::new(log, None) }
    }

    /// The bytes of the messages that wait to be written.
    pub fn waiting(&self) -> u64 {
        self.weight
    }

    /// Puts messages of lower offsets in front of those that wait. `base` is the begin of their segment.
    pub fn put_before(&mut self, base: Offset, mut held: Vec<Held>) {
        debug_assert!(self.writer.is_none() && self.put.is_empty());
        held.retain(|it| !it.records.is_empty());
        self.weight += held.iter().map(Held::weight).sum::<u64>();
        held.append(&mut self.held);
        self.held = held;
        self.base = Some(base);
    }

    /// Lets the segments go on with one.
    pub fn go_on_with(&mut self, open: Option<SegmentState>) {
        self.open = open;
    }

    /// Adds messages that wait until all of them are known.
    pub fn hold(&mut self, held: Held) {
        if held.records.is_empty() {
            return;
        }
        self.weight += held.weight();
        self.held.push(held);
    }

    /// Adds messages. Once they are many, they go into a file of their own.
    pub fn add(&mut self, out: &mut Output, held: Held) -> Result<()> {
        if self.writer.is_some() && !held.records.is_empty() {
            return self.write(out, &held);
        }
        self.hold(held);
        if self.weight > out.part_bytes() { self.leave_memory(out) } else { Ok(()) }
    }

    /// The messages that wait go into a file of their own.
    pub fn leave_memory(&mut self, out: &mut Output) -> Result<()> {
        let mut held = std::mem::take(&mut self.held).into_iter();
        self.weight = 0;
        while let Some(next) = held.next() {
            self.write(out, &next)?;
            if self.writer.is_none() && !self.held.is_empty() {
                // A segment became full: the rest begins anew.
                for rest in held {
                    self.add(out, rest)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes messages to the segment in its own file. If it becomes full, the rest waits for the next one.
    fn write(&mut self, out: &mut Output, held: &Held) -> Result<()> {
        let first = held.records.first().map_or(Offset(0), |(offset, _)| *offset);
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin(out, first)?,
        };
        for (n, (offset, record)) in held.records().enumerate() {
            if writer.bytes() >= out.segment_bytes() {
                if let Err(error) = writer.seal() {
                    self.writer = Some(writer);
                    return Err(error);
                }
                self.base = self.base.map(|_| writer.state().end);
                self.put.push(out.finish(writer)?);
                let rest = Held { body: held.body.clone(), records: held.records[n..].to_vec() };
                return self.add(out, rest);
            }
            if let Err(error) = writer.push(offset, &record) {
                self.writer = Some(writer);
                return Err(error);
            }
        }
        self.writer = Some(writer);
        Ok(())
    }

    fn begin(&mut self, out: &mut Output, first: Offset) -> Result<SegmentWriter> {
        if let Some(open) = self.open.take()
            && let Some(reopened) = skip_unreadable(out.reopen(open))?
        {
            return Ok(reopened);
        }
        out.begin(self.log, self.base.unwrap_or(first))
    }

    /// Ends the last segment. It stands for all offsets before `end`, if that is given. With `seal`, nothing is ever
    /// added to it. Returns the states of all segments.
    pub fn finish(
        &mut self,
        out: &mut Output,
        end: Option<Offset>,
        seal: bool,
    ) -> Result<Vec<SegmentState>> {
        if !self.held.is_empty() && self.weight > out.part_bytes() {
            self.leave_memory(out)?;
        }
        if let Some(mut writer) = self.writer.take() {
            writer.extend_to(end.unwrap_or_default());
            if seal && let Err(error) = writer.seal() {
                writer.abandon();
                return Err(error);
            }
            self.put.push(out.finish(writer)?);
        } else if let Some((first, _)) = self.held.first().and_then(|it| it.records.first()) {
            let range = self.base.unwrap_or(*first).to(end.unwrap_or_default());
            self.put.push(out.add_part(self.log, range, &self.held)?);
        }
        Ok(std::mem::take(&mut self.put))
    }

    /// Gives up what was written, after a failure.
    pub fn give_up(&mut self, out: &mut Output) {
        if let Some(writer) = self.writer.take() {
            writer.abandon();
        }
        out.give_up(&self.put);
    }
}
