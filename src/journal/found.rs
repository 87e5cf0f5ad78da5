//! Lists the files in a journal's directory, for the survey, which reads without recovering.

use std::{path::PathBuf, sync::Arc};

use super::frames::FoundFile;
use crate::{
    disk::{Disk, DiskFile, Open, is_no_dir, is_not_a_file},
    error::{Error, Result},
    format::{
        frame::{FRAME_HEADER_BYTES, FrameHeader, decode_frame},
        journal::{JOURNAL_HEADER_BYTES, JournalHeader, Link},
        wire::{ALIGN, Seed},
    },
    ids::{Lsn, StoreId},
    layout::{Layout, Named, journal_name},
};

/// For a file with a damaged header, this many epochs around the known ones are tried.
const EPOCHS_TRIED: u64 = 64;
const PIECE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct SurveyedFile {
    pub found: FoundFile,
    /// Whether the header is damaged, and was reconstructed from the name and the frames.
    pub guessed: bool,
}

impl SurveyedFile {
    pub fn start(&self) -> Lsn {
        self.found.header.start
    }

    pub fn end(&self) -> Lsn {
        self.found.header.end()
    }
}

#[derive(Debug, Default)]
pub struct Finding {
    /// Sorted by start.
    pub files: Vec<SurveyedFile>,
    /// Files that were never in use.
    pub spare: Vec<PathBuf>,
    pub trouble: Vec<Trouble>,
    /// Empty files. Only the newest file may be empty. Another empty file has lost its content.
    pub empty: Vec<(Lsn, PathBuf)>,
}

/// A file whose content does not fit its name.
#[derive(Debug)]
pub struct Trouble {
    pub start: Lsn,
    pub path: PathBuf,
    pub what: &'static str,
}

/// A file whose header cannot be used.
struct Headless {
    start: Lsn,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
}

const NOT_A_FILE: &str =
    "there is something else than a regular file in the place of a journal file";

/// Reads the headers of all files.
pub fn find(disk: &dyn Disk, layout: &Layout, store: StoreId) -> Result<Finding> {
    let mut found = Finding::default();
    let mut headless = Vec::new();
    for (start, path) in names(disk, layout, &mut found.spare)? {
        let failed = |error| Error::io(error, "a journal file cannot be read", &path);
        let file = match disk.open(&path, Open::Reading) {
            Err(error) if is_not_a_file(&error) => {
                found.trouble.push(Trouble { start, path, what: NOT_A_FILE });
                continue;
            }
            file => file.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        if len == 0 {
            found.spare.push(path.clone());
            found.empty.push((start, path));
            continue;
        }
        let mut page = vec![0; JOURNAL_HEADER_BYTES as usize];
        let read = file.read_at(0, &mut page).map_err(failed)?;
        let what = match JournalHeader::decode(&page[..read]) {
            Ok(header) if header.store != store => "a journal file that belongs to another store",
            Ok(header) => {
                if header.start != start {
                    let what = "a journal file that belongs under another name";
                    found.trouble.push(Trouble { start, path: path.clone(), what });
                }
                let found_file = FoundFile { header, path, file, len };
                found.files.push(SurveyedFile { found: found_file, guessed: false });
                continue;
            }
            Err(malformed) => {
                headless.push(Headless { start, path: path.clone(), file, len });
                malformed.0
            }
        };
        found.trouble.push(Trouble { start, path, what });
    }
    let mut epochs: Vec<u64> = found.files.iter().map(|file| file.found.header.epoch).collect();
    epochs.sort_unstable();
    for file in headless {
        found.files.extend(file.guess(store, &epochs)?);
    }
    // If two files have the same header, the one with the right name comes first.
    let misnamed = |it: &SurveyedFile| it.found.path != layout.journal_file(it.start());
    found.files.sort_by_key(|it| (it.start(), it.guessed, misnamed(it)));
    found.files.dedup_by_key(|file| file.start());
    Ok(found)
}

/// The names of a journal's files. Unfinished ones go into `spare`.
fn names(
    disk: &dyn Disk,
    layout: &Layout,
    spare: &mut Vec<PathBuf>,
) -> Result<Vec<(Lsn, PathBuf)>> {
    let dir = layout.journal_dir();
    let names = match disk.list(&dir) {
        Err(error) if is_no_dir(&error) => Vec::new(),
        names => names.map_err(|error| Error::io(error, "the journal cannot be listed", &dir))?,
    };
    let mut real = Vec::new();
    for name in names {
        match journal_name(&name) {
            Named::Unknown => {}
            Named::Unfinished => spare.push(dir.join(name)),
            Named::Real(start) => real.push((start, dir.join(name))),
        }
    }
    Ok(real)
}

/// The names of all files of a journal, finished or not.
pub fn all_names(disk: &dyn Disk, layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let real = names(disk, layout, &mut all)?;
    all.extend(real.into_iter().map(|(_, path)| path));
    all.sort_unstable();
    Ok(all)
}

/// The store's id and the epoch, as a file's header has them. `None` if it is damaged.
pub fn header_of(disk: &dyn Disk, path: &PathBuf) -> Result<Option<JournalHeader>> {
    let failed = |error| Error::io(error, "a journal file cannot be read", path);
    let file = match disk.open(path, Open::Reading) {
        Err(error) if is_not_a_file(&error) => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut page = vec![0; JOURNAL_HEADER_BYTES as usize];
    let read = file.read_at(0, &mut page).map_err(failed)?;
    Ok(JournalHeader::decode(&page[..read]).ok())
}

impl Headless {
    /// Finds the epoch from the frames: the name gives the file's start, and a frame verifies only under the
    /// right epoch.
    fn guess(self, store: StoreId, known: &[u64]) -> Result<Option<SurveyedFile>> {
        let newest = known.last().copied().unwrap_or(1);
        let mut epochs: Vec<u64> = known.to_vec();
        epochs.extend(newest.saturating_sub(EPOCHS_TRIED).max(1)..=newest + EPOCHS_TRIED);
        epochs.sort_unstable();
        epochs.dedup();
        let start = self.start;
        let aligned = start.0.is_multiple_of(4096) && start.0 < crate::format::wire::NUMBER_CEILING;
        let Some(epoch) = (if aligned { self.epoch(store, &epochs)? } else { None }) else {
            return Ok(None);
        };
        let Headless { start, path, file, len } = self;
        let capacity = len.next_multiple_of(4096).max(JOURNAL_HEADER_BYTES);
        let (watermark, link) = (Lsn(0), Link::Roll);
        let header = JournalHeader { store, start, capacity, epoch, watermark, link };
        let found = FoundFile { header, path, file, len };
        Ok(Some(SurveyedFile { found, guessed: true }))
    }

    /// The epoch of the first frame that verifies under one of `epochs`.
    fn epoch(&self, store: StoreId, epochs: &[u64]) -> Result<Option<u64>> {
        let failed = |error| Error::io(error, "a journal file cannot be read", &self.path);
        let mut at = JOURNAL_HEADER_BYTES;
        while at < self.len {
            let mut piece = vec![0; PIECE_BYTES + FRAME_HEADER_BYTES];
            let read = self.file.read_at(at, &mut piece).map_err(failed)?;
            for n in (0..PIECE_BYTES.min(read)).step_by(ALIGN as usize) {
                let place = at + n as u64;
                let lsn = Lsn(self.start.0 + place);
                let Ok(header) = FrameHeader::peek(&piece[n..read], lsn) else { continue };
                if header.frame_len() > self.len - place {
                    continue;
                }
                let mut frame = vec![0; header.frame_len() as usize];
                let read = self.file.read_at(place, &mut frame).map_err(failed)?;
                let verifies = |epoch: &&u64| {
                    decode_frame(&frame[..read], lsn, Seed::new(store, &[**epoch])).is_ok()
                };
                if let Some(epoch) = epochs.iter().find(verifies) {
                    return Ok(Some(*epoch));
                }
            }
            at += PIECE_BYTES as u64;
        }
        Ok(None)
    }
}
