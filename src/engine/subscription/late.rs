//! The start of a subscription that comes late: which of the messages that its topic retains it gets.
//!
//! The keeper of the topic knows what is retained, and a filter of the subscription what it asks for. With a filter the
//! messages are read, without the lock, before the subscription is created. Those that come meanwhile are read in further
//! rounds, and the last few hundred of them in the hold that creates it: a publisher would overtake the reader for ever. They have
//! just come to the journal, so their pages are in memory.
//! One commit creates the subscription, and acks for it what it does not get.

use crate::{
    audit,
    engine::{
        commit::{committer::Committer, definition::Beginning},
        core::Core,
        stream::Start,
    },
    error::{Error, ErrorKind, Result},
    format::{commit::Run, filter::Filter, record::Headers},
    ids::{CursorId, EntityId, LogId, Lsn, Offset, OffsetRange},
    segment::SegmentReader,
    store::{Chunk, damaged_run},
    subject::Trie,
};

/// So many messages are matched in the hold that creates a subscription. Each of the first rounds that were overtaken doubles the
/// number.
const REST: u64 = 256;
const DOUBLED_MAX: u32 = 4;

/// So many bytes of messages are read in that hold.
const REST_BYTES: u64 = 4 << 20;

/// After so many rounds the bounds are four times as large with each further one: a creation ends also where publishers are faster
/// than it reads.
const ROUNDS_MAX: u32 = 8;

/// So many ranges of messages may match. The commit that creates the subscription is one hold of the core, and holds them all.
const RANGES_MAX: usize = 1 << 20;

/// Where a subscription begins, as far as that was found out without the lock.
#[derive(Debug)]
pub struct Late {
    start: Start,
    /// The place of a time.
    found: Option<Offset>,
    matching: Option<Matching>,
}

/// Which messages a filter lets pass.
#[derive(Debug)]
struct Matching {
    filter: Filter,
    trie: Trie<CursorId>,
    matched: Vec<OffsetRange>,
    /// All messages before were looked at, from the beginning on.
    upto: Option<Offset>,
    rounds: u32,
}

impl Matching {
    fn new(filter: Filter) -> Matching {
        let mut trie = Trie::default();
        filter.patterns().for_each(|pattern| trie.insert(pattern, CursorId(0)));
        Matching { filter, trie, matched: Vec::new(), upto: None, rounds: 0 }
    }

    fn see(&mut self, offset: Offset, headers: Headers<'_>, topic: &str) -> Result<()> {
        audit::step();
        let mut matches = false;
        self.trie.find(headers.subject().unwrap_or(topic), &mut |_| matches = true);
        if matches && self.filter.admits(headers) { self.add(offset.only()) } else { Ok(()) }
    }

    fn add(&mut self, range: OffsetRange) -> Result<()> {
        let is_full = self.matched.len() == RANGES_MAX;
        match self.matched.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if is_full => {
                return Err(too_many_gaps());
            }
            _ => self.matched.push(range),
        }
        Ok(())
    }

    /// Looks at the messages of a chunk from an offset on. Returns where the look goes on. A message of a segment that cannot be
    /// read may match: its consumer is told. A damaged journal is an error.
    fn look(
        &mut self,
        committer: &Committer,
        of: &Of,
        chunk: Chunk,
        from: Offset,
    ) -> Result<Offset> {
        match chunk {
            Chunk::Segment { segment, end, .. } => match committer.open_segment(of.log, segment) {
                Ok(None) => Ok(from),
                Ok(Some(reader)) => {
                    let mut from = from;
                    while let Some(index) = reader.block_at(from) {
                        let entry = &reader.table()[index];
                        let behind = entry.last.next();
                        let known = (self.matched.len(), self.matched.last().copied());
                        match self.look_at_block(&reader, index, from, &of.topic) {
                            Ok(()) => {}
                            Err(error) if error.kind() == ErrorKind::Corrupt => {
                                self.matched.truncate(known.0);
                                self.matched
                                    .last_mut()
                                    .zip(known.1)
                                    .into_iter()
                                    .for_each(|(last, before)| *last = before);
                                self.add(entry.first.max(from).to(behind))?;
                            }
                            Err(error) => return Err(error),
                        }
                        from = behind;
                    }
                    Ok(end)
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.add(from.to(end))?;
                    Ok(end)
                }
                Err(error) => Err(error),
            },
            Chunk::Runs(runs) => {
                let mut upto = from;
                for run in runs.each() {
                    let lsn = run.lsn;
                    let bytes = run.bytes.read()?;
                    let run = Run::decode(&bytes).map_err(|what| damaged_run(what, lsn))?;
                    for record in run.records() {
                        let (offset, spans) = record.map_err(|what| damaged_run(what, lsn))?;
                        if offset >= from {
                            let headers = Headers::new(spans.headers(run.body));
                            self.see(offset, headers, &of.topic)?;
                        }
                    }
                    upto = run.end();
                }
                Ok(upto)
            }
        }
    }

    fn look_at_block(
        &mut self,
        reader: &SegmentReader,
        index: usize,
        from: Offset,
        topic: &str,
    ) -> Result<()> {
        let block = reader.block(index)?;
        let mut place = block.seek(from);
        while let Some((offset, spans)) = block.step(&mut place)? {
            self.see(offset, Headers::new(spans.headers(block.body())), topic)?;
        }
        Ok(())
    }

    /// The parts of sorted ranges that match.
    fn within(&self, ranges: &[OffsetRange]) -> Vec<OffsetRange> {
        let (mut both, mut matched) = (Vec::new(), self.matched.iter().peekable());
        for range in ranges {
            while let Some(next) = matched.peek().filter(|it| it.start < range.end) {
                audit::step();
                let part = next.start.max(range.start).to(next.end.min(range.end));
                if part.start < part.end {
                    both.push(part);
                }
                if next.end > range.end {
                    break;
                }
                matched.next();
            }
        }
        both
    }
}

/// The topic of a subscription.
#[derive(Debug)]
pub struct Of {
    pub id: EntityId,
    pub topic: std::sync::Arc<str>,
    pub log: LogId,
}

impl Late {
    /// `None` if it begins with what is published next.
    pub fn new(start: Start, filter: Option<Filter>) -> Option<Late> {
        let matching = filter.map(Matching::new);
        (start != Start::Latest).then_some(Late { start, found: None, matching })
    }

    /// Reads what is to be known before the subscription is created: what has come up to the beginning of this call.
    pub fn prepare(&mut self, committer: &Committer, of: &Of) -> Result<()> {
        // Letters that were redriven to others are not retained: their turns come first.
        committer.pass_all("create");
        let (first, end) = {
            let core = committer.lock_open("create")?;
            let first = core.store.state().retained_from(of.log);
            (first.ok_or_else(|| core.store.deleted(of.id))?, core.bounds(of.log)?.1)
        };
        if self.found.is_none() {
            self.found = self.start.find_offset(committer, of.log, first)?;
        }
        let Some(matching) = &mut self.matching else { return Ok(()) };
        let begins = match self.start {
            Start::Offset(offset) => offset,
            _ => self.found.unwrap_or(first),
        };
        matching.rounds += 1;
        let mut upto = matching.upto.unwrap_or(begins).max(first);
        while upto < end {
            let mut core = committer.lock_open("create")?;
            let Some(chunk) = core.store.scan(of.log, upto, Lsn(u64::MAX))? else {
                // What comes last was for others, and is gone.
                upto = end;
                break;
            };
            drop(core);
            upto = matching.look(committer, of, chunk, upto)?;
        }
        matching.upto = Some(upto);
        Ok(())
    }

    /// Where it begins, and what it does not get from there on. `None` if more is to be read before.
    pub fn begin(
        &mut self,
        core: &mut Core,
        committer: &Committer,
        of: &Of,
    ) -> Result<Option<Beginning>> {
        let topic = core.store.entity(of.id).ok_or_else(|| core.store.deleted(of.id))?;
        let Some(keeper) = topic.keeper() else {
            let what = format!(
                "topic {:?} retains nothing for a subscription that comes late. Have it retain messages, with \
                 retain_age(), retain_bytes() or retain_messages() and create_or_update(); or leave out start()",
                of.topic
            );
            return Err(Error::invalid("start", what));
        };
        if core.store.awaits_turn(keeper, of.log) {
            return Ok(None);
        }
        let (first, end) = (core.store.acks_of(keeper)?.floor(), core.bounds(of.log)?.1);
        let start = match (self.start, self.found) {
            (Start::Earliest | Start::Latest, _) => first,
            (Start::Time(_), None) => return Ok(None),
            (Start::Time(_), Some(found)) => found.clamp(first, end),
            (Start::Offset(offset), _) if (first..=end).contains(&offset) => offset,
            (Start::Offset(offset), _) => {
                let what = format!(
                    "topic {:?} retains the offsets from {first} on, and ends at {end}: {offset} is none of these. Start \
                     at Start::Earliest, or at an offset from {first} to {end}",
                    of.topic
                );
                return Err(Error::invalid("start", what));
            }
        };
        let all = start.to(end);
        if let Some(matching) = &mut self.matching
            && !matching.reaches(core, committer, of, all)?
        {
            return Ok(None);
        }
        let mut needed = core.store.acks_of(keeper)?.unacked_in(all);
        if seeded!(LateGetsAll) {
            needed = vec![all];
        }
        if let Some(matching) = &self.matching {
            needed = matching.within(&needed);
        }
        if needed.len() > RANGES_MAX {
            return Err(too_many_gaps());
        }
        Ok(Some(Beginning { starts: vec![start], acked: gaps(all, &needed) }))
    }
}

impl Matching {
    /// Whether all messages of a range were looked at. Looks at the last few of them.
    fn reaches(
        &mut self,
        core: &mut Core,
        committer: &Committer,
        of: &Of,
        all: OffsetRange,
    ) -> Result<bool> {
        let Some(mut upto) = self.upto else { return Ok(false) };
        let beyond = 2 * self.rounds.saturating_sub(ROUNDS_MAX).min(12);
        let doubled = self.rounds.saturating_sub(1).min(DOUBLED_MAX) + beyond;
        let mut bytes = REST_BYTES << beyond;
        if all.end.0.saturating_sub(upto.0) > REST << doubled {
            return Ok(false);
        }
        // They were written a moment ago: a read of them waits for no disk.
        let _unchecked = audit::Unchecked::begin("the last messages of the journal");
        while upto < all.end {
            let Some(chunk) = core.store.scan(of.log, upto, Lsn(u64::MAX))? else { break };
            match &chunk {
                Chunk::Runs(runs) if runs.len() <= bytes => bytes -= runs.len(),
                _ => return Ok(false),
            }
            upto = self.look(committer, of, chunk, upto)?;
            self.upto = Some(upto);
        }
        Ok(true)
    }
}

fn too_many_gaps() -> Error {
    let what = format!(
        "what matches has more than {RANGES_MAX} gaps between the messages that the topic retains: begin later, or with \
         other patterns, or read a stream"
    );
    Error::new(ErrorKind::TooLarge, what)
}

/// The parts of a range outside sorted ranges within it.
fn gaps(all: OffsetRange, ranges: &[OffsetRange]) -> Vec<OffsetRange> {
    let (mut gaps, mut at) = (Vec::new(), all.start);
    for range in ranges {
        audit::step();
        gaps.push(at.to(range.start));
        at = range.end;
    }
    gaps.push(at.to(all.end));
    gaps.retain(|gap| !gap.is_empty());
    gaps
}
