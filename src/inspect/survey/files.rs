//! The segments that the files on the disk say they hold. No entry of the metalog need name them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::metas::{dirs, fans};
use crate::{
    disk::{Disk, is_no_dir},
    error::{Error, Result},
    format::{
        meta::{Place, SegmentState},
        segment::SegmentHeader,
        wire::NUMBER_CEILING,
    },
    ids::{LogId, Offset, StoreId, Timestamp},
    layout::{Layout, Named, former_segment_name, segment_name},
    segment::{PartsSurvey, header_of},
};

/// Segment files, by what stands in them.
#[derive(Debug, Default)]
pub struct SegmentFiles {
    /// The segments of each log. The lengths of those that have a file of their own are not known.
    found: BTreeMap<LogId, Vec<SegmentState>>,
    /// Files that have another file's name, by the keys in their headers.
    misplaced: BTreeMap<(LogId, Offset, u64), PathBuf>,
}

impl SegmentFiles {
    /// Looks into all files.
    pub fn read(disk: &dyn Disk, layout: &Layout, store: StoreId) -> Result<SegmentFiles> {
        let mut files = SegmentFiles::default();
        for (log, dir) in dirs(disk, layout)? {
            for name in names(disk, &dir)? {
                if let Named::Real((base, generation)) = former_segment_name(&name) {
                    let header = SegmentHeader { store, log, base, generation };
                    files.take_former(disk, dir.join(name), header)?;
                }
            }
        }
        for (_, dir) in fans(disk, layout)? {
            for name in names(disk, &dir)? {
                if let Named::Real(number) = segment_name(&name) {
                    files.take(disk, &dir.join(name), store, number)?;
                }
            }
        }
        Ok(files)
    }

    /// A file of version 1 or 2, with the header that belongs to its name.
    fn take_former(
        &mut self,
        disk: &dyn Disk,
        path: PathBuf,
        expected: SegmentHeader,
    ) -> Result<()> {
        let found = header_of(disk, &path)?.filter(|found| found.store == expected.store);
        if let Some(found) = found.filter(|found| *found != expected) {
            self.misplaced.insert(found.key(), path);
        }
        self.add(expected, Place::Former, 0);
        Ok(())
    }

    fn take(&mut self, disk: &dyn Disk, path: &Path, store: StoreId, number: u64) -> Result<()> {
        let found = header_of(disk, path)?.filter(|found| found.store == store);
        if let Some(found) = found {
            if found.generation != number {
                self.misplaced.insert(found.key(), path.to_owned());
            }
            if !found.is_shared() {
                self.add(found, Place::Own, 0);
                return Ok(());
            }
        }
        // A file whose header is damaged may be shared: then the headers of its parts verify.
        let number = found.map_or(number, |found| found.generation);
        let Some(mut survey) = PartsSurvey::open(disk, path, store, number)? else {
            return Ok(());
        };
        while let Some(part) = survey.next()? {
            if let Ok(part) = part {
                let (log, base) = (part.header.log, part.header.base);
                let header = SegmentHeader { store, log, base, generation: number };
                self.add(header, Place::Part(part.at), part.at + part.header.len());
            }
        }
        Ok(())
    }

    fn add(&mut self, header: SegmentHeader, place: Place, bytes: u64) {
        let SegmentHeader { log, base, generation, .. } = header;
        if base.0 >= NUMBER_CEILING {
            return;
        }
        self.found.entry(log).or_default().push(SegmentState {
            log,
            base,
            generation,
            end: base,
            bytes,
            records: 0,
            max_time: Timestamp(0),
            sealed: false,
            lives: None,
            place,
        });
    }

    /// The logs that have segments.
    pub fn logs(&self) -> BTreeSet<LogId> {
        self.found.keys().copied().collect()
    }

    /// The segments of a log.
    pub fn of(&self, log: LogId) -> &[SegmentState] {
        self.found.get(&log).map_or(&[], Vec::as_slice)
    }

    /// The file that has this header and another file's name.
    pub fn misplaced(&self, header: &SegmentHeader) -> Option<&PathBuf> {
        self.misplaced.get(&header.key())
    }
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if is_no_dir(&error) => Ok(Vec::new()),
        names => names.map_err(|error| Error::io(error, "segments cannot be listed", dir)),
    }
}
