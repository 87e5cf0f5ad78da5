//! Reads the frames of one file in order, in large pieces. It uses read calls and no map: an unreadable sector then
//! gives an error and never a signal.

use std::{path::PathBuf, sync::Arc};

use crate::{
    disk::DiskFile,
    error::{Error, Result},
    format::{
        frame::{FRAME_HEADER_BYTES, FrameHeader, decode_frame},
        journal::JournalHeader,
        wire::{ALIGN, Seed},
    },
    ids::Lsn,
};

pub const PIECE_BYTES: usize = 1 << 20;

/// A journal file with a valid header, as recovery finds it.
#[derive(Debug)]
pub struct FoundFile {
    pub header: JournalHeader,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// The file's real length. A file that is shorter than its capacity is read up to here.
    pub len: u64,
}

pub struct FrameReader<'a> {
    found: &'a FoundFile,
    seed: Seed,
    buffer: Vec<u8>,
    /// The place in the file at which the buffer begins.
    at: u64,
}

impl<'a> FrameReader<'a> {
    pub fn new(found: &'a FoundFile) -> FrameReader<'a> {
        let seed = found.header.frame_seed();
        FrameReader { found, seed, buffer: Vec::new(), at: 0 }
    }

    fn bytes_end(&self) -> u64 {
        self.found.len.min(self.found.header.capacity)
    }

    /// The frame at a position. `None` if no frame there is valid.
    pub fn frame(&mut self, lsn: Lsn) -> Result<Option<(FrameHeader, &[u8])>> {
        let at = lsn.0 - self.found.header.start.0;
        self.load(at, FRAME_HEADER_BYTES as u64)?;
        let Ok(header) = FrameHeader::peek(self.loaded(at), lsn) else {
            return Ok(None);
        };
        if header.frame_len() > self.bytes_end().saturating_sub(at) {
            return Ok(None);
        }
        self.load(at, header.frame_len())?;
        Ok(decode_frame(self.loaded(at), lsn, self.seed).ok())
    }

    /// Whether there is a valid frame from `from` on whose watermark lies beyond `position`. Such a frame proves
    /// that the frame at `position` was durable.
    pub fn evidence(&mut self, from: Lsn, position: Lsn) -> Result<bool> {
        let mut at = from.0 - self.found.header.start.0;
        while at + FRAME_HEADER_BYTES as u64 <= self.bytes_end() {
            let lsn = Lsn(self.found.header.start.0 + at);
            self.load(at, FRAME_HEADER_BYTES as u64)?;
            // A cheap check first: a frame repeats its position, so most positions fail here.
            if FrameHeader::peek(self.loaded(at), lsn).is_ok_and(|it| it.watermark > position)
                && self.frame(lsn)?.is_some()
            {
                return Ok(true);
            }
            at += ALIGN;
        }
        Ok(false)
    }

    fn loaded(&self, at: u64) -> &[u8] {
        &self.buffer[((at - self.at) as usize).min(self.buffer.len())..]
    }

    /// Fills the buffer with `bytes` bytes from `at` on, or with all that there are.
    fn load(&mut self, at: u64, bytes: u64) -> Result<()> {
        let wanted_end = (at + bytes).min(self.bytes_end());
        if at >= self.at && wanted_end <= self.at + self.buffer.len() as u64 {
            return Ok(());
        }
        let piece = bytes.max(PIECE_BYTES as u64).min(self.bytes_end().saturating_sub(at));
        self.buffer.resize(piece as usize, 0);
        self.at = at;
        let read = self.found.file.read_at(at, &mut self.buffer);
        let failed = |error| Error::io(error, "a journal file cannot be read", &self.found.path);
        let read = read.map_err(|error| failed(error).at(at))?;
        self.buffer.truncate(read);
        Ok(())
    }
}
