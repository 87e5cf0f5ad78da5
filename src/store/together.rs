//! Reads several messages of one log together: a run or a block is read once for all of its messages.

use super::{
    ReadParts, Source, Store, Stored,
    cache::SegmentSource,
    read::{missing, stored_in},
};
use crate::{
    audit,
    error::Result,
    ids::{LogId, Lsn, Offset},
    segment::Block,
};

/// Messages that are in one place.
#[derive(Debug)]
pub struct Together {
    source: Source,
    pub offsets: Vec<Offset>,
}

/// What a group of messages has in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Run(Lsn),
    Segment(Offset),
}

impl Store {
    /// The places of messages that are not dead. The offsets grow.
    pub fn locate_all(&mut self, log: LogId, offsets: &[Offset]) -> Result<Vec<Together>> {
        let mut all: Vec<Together> = Vec::new();
        let mut last = None;
        for offset in offsets.iter().copied() {
            audit::step();
            let found = self.state.log(log)?;
            let (place, source) = if offset >= found.moved {
                let run = found.tail.find(offset).ok_or_else(|| missing(offset))?;
                let place = Place::Run(run.lsn);
                (place, if last == Some(place) { None } else { Some(self.at_run(run)?) })
            } else {
                let segment = found.segment_of(offset).ok_or_else(|| missing(offset))?;
                let place = Place::Segment(segment.base);
                let is_new = last != Some(place);
                let source = is_new.then(|| self.cache.source(&self.segments, segment));
                (place, source.map(Source::Segment))
            };
            last = Some(place);
            match (source, all.last_mut()) {
                (None, Some(group)) => group.offsets.push(offset),
                (Some(source), _) => all.push(Together { source, offsets: vec![offset] }),
                (None, None) => unreachable!("the first message begins a group"),
            }
        }
        Ok(all)
    }
}

impl Together {
    /// Reads the messages. Also returns the segment that was opened for them.
    pub fn load(&self) -> Result<(Vec<Stored>, ReadParts)> {
        match &self.source {
            Source::Segment(segment) => self.load_blocks(segment.clone()),
            source => {
                let load = |offset: &Offset| Ok(source.clone().load(*offset)?.0);
                let stored = self.offsets.iter().map(load).collect::<Result<_>>()?;
                Ok((stored, ReadParts::default()))
            }
        }
    }

    fn load_blocks(&self, segment: SegmentSource) -> Result<(Vec<Stored>, ReadParts)> {
        let (reader, opened) = segment.open()?;
        let (mut all, mut block) = (Vec::with_capacity(self.offsets.len()), None::<Block>);
        for offset in self.offsets.iter().copied() {
            block = block.filter(|it| (it.first()..=it.last()).contains(&offset));
            let block = match &mut block {
                Some(block) => block,
                none => {
                    let index = reader.block_at(offset).ok_or_else(|| missing(offset))?;
                    none.insert(reader.block(index)?)
                }
            };
            all.push(stored_in(block, offset)?);
        }
        Ok((all, ReadParts { opened, block }))
    }
}
