//! Reads the headers of the parts of a shared file, damaged or not. Nothing is changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Segments, reader::is_broken};
use crate::{
    disk::{Disk, DiskFile, Open, is_no_dir, is_not_a_file},
    error::{Error, Result},
    format::{
        Malformed,
        part::{PART_HEADER_BYTES, PartHeader},
        segment::SEGMENT_HEADER_BYTES,
        wire::ALIGN,
    },
    ids::StoreId,
};

const PIECE_BYTES: usize = 256 << 10;

/// A part that was found in a shared file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundPart {
    pub header: PartHeader,
    /// The position of its header.
    pub at: u64,
}

/// A shared file, read part by part.
#[derive(Debug)]
pub struct PartsSurvey {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    store: StoreId,
    number: u64,
    len: u64,
    at: u64,
    /// A piece of the file, and where it begins.
    piece: Vec<u8>,
    piece_at: u64,
}

impl PartsSurvey {
    /// Opens the shared file with a number, which need not be under its own name. `None` if there is no such regular file.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        store: StoreId,
        number: u64,
    ) -> Result<Option<PartsSurvey>> {
        let failed = |error| Error::io(error, "a segment cannot be read", path);
        let file = match disk.open(path, Open::Reading) {
            Err(error) if is_not_a_file(&error) || is_no_dir(&error) => return Ok(None),
            file => file.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        let (path, at) = (path.to_owned(), SEGMENT_HEADER_BYTES);
        let (piece, piece_at) = (Vec::new(), 0);
        Ok(Some(PartsSurvey { path, file, store, number, len, at, piece, piece_at }))
    }

    /// The bytes at a position, as far as there are any.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = at.saturating_add(len as u64).min(self.len);
        let is_there = at >= self.piece_at && end <= self.piece_at + self.piece.len() as u64;
        if !is_there {
            let wanted = (PIECE_BYTES.max(len) as u64).min(self.len.saturating_sub(at));
            self.piece.resize(wanted as usize, 0);
            // What a device cannot read may come back.
            let read = match self.file.read_at(at, &mut self.piece) {
                Err(error) if is_broken(&error) => self.file.read_at(at, &mut self.piece),
                read => read,
            };
            let read = read
                .map_err(|error| Error::io(error, "a segment cannot be read", &self.path).at(at))?;
            self.piece.truncate(read);
            self.piece_at = at;
        }
        let from = (at - self.piece_at) as usize;
        let to = (from + len).min(self.piece.len());
        Ok(self.piece.get(from..to).unwrap_or_default())
    }

    fn part_at(&mut self, at: u64) -> Result<Result<FoundPart, Malformed>> {
        let (store, number, len) = (self.store, self.number, self.len);
        let bytes = self.bytes(at, PART_HEADER_BYTES as usize)?;
        Ok(PartHeader::decode(bytes, store, number, at).and_then(|header| {
            if at + header.len() > len {
                return Err(Malformed("a part reaches past the end of its file"));
            }
            Ok(FoundPart { header, at })
        }))
    }

    /// The next part, or the position of the next damage, behind which the next header that verifies is looked for. `None` at
    /// the end.
    pub fn next(&mut self) -> Result<Option<Result<FoundPart, (u64, Malformed)>>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let at = self.at;
        Ok(Some(match self.part_at(at)? {
            Ok(part) => {
                self.at = at + part.header.len();
                Ok(part)
            }
            Err(what) => {
                self.at += ALIGN;
                while self.at < self.len && self.part_at(self.at)?.is_err() {
                    self.at += ALIGN;
                }
                Err((at, what))
            }
        }))
    }
}

/// The parts of a sound shared file.
///
/// # Errors
///
/// `Corrupt` if a header does not verify.
pub fn parts_of(segments: &Segments, number: u64) -> Result<Vec<FoundPart>> {
    let path = segments.layout.segment_file(number);
    let opened = PartsSurvey::open(&*segments.disk, &path, segments.store, number)?;
    let missing = || Error::corrupt("a segment is missing", &path, 0);
    let mut survey = opened.ok_or_else(missing)?;
    let mut parts = Vec::new();
    while let Some(part) = survey.next()? {
        parts.push(part.map_err(|(at, what)| Error::corrupt(what.0, &path, at))?);
    }
    Ok(parts)
}
