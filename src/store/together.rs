//! Reads several messages of one log together: a run or a block is read once for all of its messages.

use std::sync::Arc;

use super::{
    ReadParts, Source, Store, Stored,
    cache::SegmentSource,
    read::{damaged_run, missing, stored_in},
};
use crate::{
    audit,
    error::{Error, Result},
    format::{commit::Run, lives::Lives},
    ids::{LogId, Lsn, Offset},
    segment::{Block, SegmentReader},
};

/// Messages that are in one place.
#[derive(Debug)]
pub struct Together {
    source: Source,
    pub offsets: Vec<Offset>,
}

/// Where messages are.
#[derive(Debug, Default)]
pub struct Located {
    pub places: Vec<Together>,
    /// Messages that are in no place.
    pub lost: Vec<(Offset, Error)>,
}

/// What a group of messages has in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Run(Lsn),
    Segment(Offset),
}

/// Messages that were read, or could not be.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The messages in the order of their offsets: all, or as many as were to be read at once.
    pub messages: Vec<(Offset, Result<Stored>)>,
    /// The segment that was opened, and the block that was read last.
    pub parts: ReadParts,
}

impl Store {
    /// The places of messages that are not dead. The offsets grow. Fails only if the log was deleted.
    pub fn locate_all(&mut self, log: LogId, offsets: &[Offset]) -> Result<Located> {
        let Located { mut places, mut lost } = Located::default();
        let mut last = None;
        for offset in offsets.iter().copied() {
            audit::step();
            let place = self.place_of(log, offset)?;
            let source = match place {
                None => Err(missing(offset)),
                Some(_) if place == last => Ok(None),
                Some(_) => self.source_of(log, offset).map(Some),
            };
            match (source, places.last_mut()) {
                (Ok(None), Some(group)) => group.offsets.push(offset),
                (Ok(source), _) => {
                    let source = source.expect("the first message of a place has its source");
                    places.push(Together { source, offsets: vec![offset] });
                    last = place;
                }
                (Err(error), _) => lost.push((offset, error)),
            }
        }
        Ok(Located { places, lost })
    }

    fn place_of(&self, log: LogId, offset: Offset) -> Result<Option<Place>> {
        let log = self.state.log(log)?;
        if offset >= log.moved {
            return Ok(log.tail.find(offset).map(|run| Place::Run(run.lsn)));
        }
        Ok(log.segment_of(offset).map(|segment| Place::Segment(segment.base)))
    }

    /// The source of a message, as a whole: no block that was read before.
    fn source_of(&mut self, log: LogId, offset: Offset) -> Result<Source> {
        let found = self.state.log(log)?;
        match found.segment_of(offset).filter(|_| offset < found.moved) {
            Some(segment) => Ok(Source::Segment(self.cache.source(&self.segments, segment))),
            None => self.locate(log, offset),
        }
    }

    /// As [`locate_all`](Store::locate_all), for messages that were located before. Those that are dead by now are left
    /// out.
    pub fn locate_all_again(&mut self, log: LogId, mut offsets: Vec<Offset>) -> Result<Located> {
        let found = self.state.log(log)?;
        audit::steps(offsets.len() as u64);
        offsets.retain(|offset| !self.state.is_dead(found, *offset));
        self.locate_all(log, &offsets)
    }
}

impl Together {
    /// Whether the messages of another place would be read from the same one.
    pub fn is_same(&self, other: &Together) -> bool {
        match (&self.source, &other.source) {
            (Source::Segment(a), Source::Segment(b)) => a.is_same(b),
            (Source::Run(a), Source::Run(b)) => a.lsn == b.lsn,
            _ => false,
        }
    }

    /// Reads the messages from one on, until `bytes` are used up: no run or block is read then, except for the first
    /// message.
    pub fn load(&self, from: usize, bytes: &mut usize) -> Loaded {
        let offsets = &self.offsets[from..];
        match &self.source {
            Source::Segment(segment) => load_blocks(segment, offsets, bytes),
            source => load_run(source, offsets, bytes),
        }
    }
}

/// All messages with the same error.
fn all_failed(offsets: &[Offset], error: &Error) -> Loaded {
    let messages = offsets.iter().map(|offset| (*offset, Err(error.again()))).collect();
    Loaded { messages, parts: ReadParts::default() }
}

fn load_run(source: &Source, offsets: &[Offset], left: &mut usize) -> Loaded {
    let Source::Run(run) = source else {
        let load = |offset: &Offset| (*offset, source.clone().load(*offset).map(|it| it.0));
        return Loaded {
            messages: offsets.iter().map(load).collect(),
            parts: ReadParts::default(),
        };
    };
    let bytes = match run.bytes.clone().read() {
        Ok(bytes) => bytes,
        Err(error) => return all_failed(offsets, &error),
    };
    *left = left.saturating_sub(bytes.len());
    let decoded = match Run::decode(&bytes) {
        Ok(decoded) => decoded,
        Err(what) => return all_failed(offsets, &damaged_run(what, run.lsn)),
    };
    let load = |offset: &Offset| {
        let spans = decoded.record(*offset).map_err(|what| damaged_run(what, run.lsn));
        (*offset, spans.map(|spans| Stored::in_run(&bytes, &decoded, spans, *offset)))
    };
    Loaded { messages: offsets.iter().map(load).collect(), parts: ReadParts::default() }
}

fn load_blocks(segment: &SegmentSource, offsets: &[Offset], left: &mut usize) -> Loaded {
    let (reader, opened) = match segment.clone().open() {
        Ok(opened) => opened,
        Err(error) => return all_failed(offsets, &error),
    };
    let mut messages = Vec::with_capacity(offsets.len());
    // The block that was read last, or why it could not be.
    let mut last: Option<(usize, Result<Block>)> = None;
    for offset in offsets.iter().copied() {
        let Some(index) = reader.block_at(offset) else {
            messages.push((offset, Err(missing(offset))));
            continue;
        };
        if last.as_ref().is_none_or(|(read, _)| *read != index) {
            if *left == 0 && !messages.is_empty() {
                break;
            }
            let block = reader.block(index);
            *left = left.saturating_sub(block.as_ref().map_or(0, |block| block.body().len()));
            last = Some((index, block));
        }
        let stored = match &last.as_ref().expect("it was read above").1 {
            Ok(block) => stored_in(block, offset),
            Err(error) => Err(error.again()),
        };
        messages.push((offset, stored));
    }
    let block = last.and_then(|(_, block)| block.ok()).map(Arc::new);
    Loaded { messages, parts: ReadParts { opened, block } }
}

impl SegmentSource {
    /// Reads all messages of the segment, and returns their lives. It holds one block at a time.
    pub fn read_lives(&self) -> Result<Lives> {
        let (reader, _) = self.clone().open()?;
        let mut lives = Lives::NONE;
        for index in 0..reader.table().len() {
            lives.add(lives_in(&reader, index)?);
        }
        Ok(lives)
    }
}

fn lives_in(reader: &SegmentReader, index: usize) -> Result<Lives> {
    let block = reader.block(index)?;
    let (mut place, mut lives) = (block.seek(block.first()), Lives::NONE);
    while let Some((_, spans)) = block.step(&mut place)? {
        lives.add(Lives::of(spans.timestamp, spans.headers(block.body())));
    }
    Ok(lives)
}
