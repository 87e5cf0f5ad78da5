//! Reads a journal as far as it can be read, damaged or not. Nothing is changed or synced.
//!
//! Recovery stops at the first frame that does not verify and checks whether it was durable. The survey makes the same
//! checks, but reads on behind the damage. A frame counts if it verifies, if no recovery has cut it off, and if
//! something proves that the journal reached that far.

use std::{path::PathBuf, sync::Arc};

use super::{
    found::{Finding, SurveyedFile, find},
    frames::{FoundFile, FrameReader},
};
use crate::{
    disk::Disk,
    error::Result,
    format::{
        frame::FrameKind,
        journal::{JournalHeader, Link},
        wire::ALIGN,
    },
    ids::{Lsn, StoreId},
    layout::Layout,
};

/// The most bytes that missing files without a trace may have held.
const MISSING_BYTES: u64 = 1 << 30;

/// The content of a journal, and its damage.
#[derive(Debug)]
pub struct JournalSurvey {
    layout: Layout,
    /// Sorted by start.
    files: Vec<SurveyedFile>,
    stretches: Vec<Stretch>,
    pub damage: Vec<JournalDamage>,
    /// Files that cannot be read, or that other files refer to.
    hints: Vec<(Lsn, PathBuf)>,
    /// Files that the journal does not need.
    pub spare: Vec<PathBuf>,
    /// The end of the journal.
    pub end: Lsn,
}

/// A part of the journal that is missing or damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalDamage {
    pub path: PathBuf,
    /// The byte position in that file.
    pub position: u64,
    pub from: Lsn,
    /// The end of the missing part. The same as `from` if nothing is missing.
    pub to: Lsn,
    pub what: &'static str,
}

/// Frames that follow each other without a gap.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    file: usize,
    from: Lsn,
    to: Lsn,
    watermark: Lsn,
    rolls: bool,
}

/// The place of one frame.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace {
    /// The file, to be asked for with [`JournalSurvey::file`].
    pub file: usize,
    pub lsn: Lsn,
    pub len: u64,
}

/// Receives a frame: its place, its kind, its payload.
pub type EachFrame<'a> = dyn FnMut(FramePlace, FrameKind, &[u8]) -> Result<()> + 'a;

/// The part of a journal that is surveyed.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// `None`: from the first frame that there is.
    pub from: Option<Lsn>,
    /// Everything before this position is known to have been durable.
    pub proven: Lsn,
    /// Nothing from this position on is read.
    pub until: Lsn,
}

/// Surveys the files in a journal's directory.
pub fn survey(
    disk: &dyn Disk,
    layout: &Layout,
    store: StoreId,
    range: Range,
) -> Result<JournalSurvey> {
    let found = find(disk, layout, store)?;
    JournalSurvey::of(layout, found, range)
}

/// Surveys the known files of a journal.
pub fn survey_files(
    layout: &Layout,
    files: Vec<(JournalHeader, PathBuf, Arc<dyn crate::disk::DiskFile>)>,
    range: Range,
) -> Result<JournalSurvey> {
    let known = |(header, path, file): (JournalHeader, _, _)| {
        let len = header.capacity;
        SurveyedFile { found: FoundFile { header, path, file, len }, guessed: false }
    };
    let files = files.into_iter().map(known).collect();
    JournalSurvey::of(layout, Finding { files, ..Finding::default() }, range)
}

impl JournalSurvey {
    /// Whether there is no file of the journal. A store has one at any time.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn of(layout: &Layout, found: Finding, range: Range) -> Result<JournalSurvey> {
        let Finding { files, mut spare, trouble, empty } = found;
        let spoken_of = files.iter().filter_map(|file| match file.found.header.link {
            Link::Recovery { start, .. } => Some((start, layout.journal_file(start))),
            _ => None,
        });
        let mut hints: Vec<(Lsn, PathBuf)> = spoken_of.collect();
        hints.extend(trouble.iter().map(|it| (it.start, it.path.clone())));
        hints.extend(empty);
        hints.sort_unstable();
        let mut survey = JournalSurvey {
            layout: layout.clone(),
            files,
            stretches: Vec::new(),
            damage: Vec::new(),
            hints,
            spare: Vec::new(),
            end: range.proven,
        };
        let first = survey.first_file(range.from);
        let cuts = survey.walk(first, range)?;
        let proof = survey.proof(first, range);
        survey.judge(first, range, proof, &cuts);
        for trouble in trouble {
            // A file before the surveyed part is no longer needed. It may have been about to be
            // filled again.
            let is_old = range.from.is_some()
                && survey.files.get(first).is_some_and(|file| trouble.start < file.start());
            if is_old {
                spare.push(trouble.path);
            } else {
                let (path, at, what) = (trouble.path, trouble.start, trouble.what);
                survey.damage.push(JournalDamage { path, position: 0, from: at, to: at, what });
            }
        }
        survey.damage.sort_by_key(|damage| (damage.from, damage.to));
        spare.sort_unstable();
        survey.spare.append(&mut spare);
        Ok(survey)
    }

    /// The file that holds a position, or the next one.
    fn first_file(&self, from: Option<Lsn>) -> usize {
        let Some(from) = from else { return 0 };
        let behind = self.files.partition_point(|file| file.start() <= from);
        match behind.checked_sub(1) {
            Some(n) if from <= self.files[n].found.header.end() => n,
            _ => behind,
        }
    }

    /// Finds the frames of all files, and the positions that were cut off by recoveries.
    fn walk(&mut self, first: usize, range: Range) -> Result<Vec<(Lsn, Lsn)>> {
        let mut cuts: Vec<(Lsn, Lsn)> = Vec::new();
        for file in &self.files[first.min(self.files.len())..] {
            if let (false, Link::Recovery { end, .. }) = (file.guessed, file.found.header.link) {
                cuts.push((end, file.start()));
            }
        }
        for n in first..self.files.len() {
            if let Some(cut) = self.unsaid_cut(n, first) {
                self.stretches.retain_mut(|stretch| stretch.clip(cut));
                // A remaining header tells that there was another file in between.
                let (before, file) = (&self.files[n - 1], &self.files[n]);
                let until = if file.guessed { file.start() } else { before.end() };
                cuts.push((cut, until.min(file.start())));
            }
            let file = &self.files[n];
            let (start, end) = (file.found.header.first_frame(), file.end());
            let from = range.from.map_or(start, |from| from.max(start));
            let touching = cuts.iter().filter(|(cut, until)| *cut < end && start < *until);
            let end = touching.fold(end.min(range.until), |end, (cut, _)| end.min(*cut));
            if from < end {
                walk_file(n, file, from, end, &mut self.stretches)?;
            }
        }
        cuts.sort_unstable();
        Ok(cuts)
    }

    /// Where a recovery cut off the files before one, if the header of that recovery is lost. It is the first
    /// place that does not verify and that no frame of that epoch proves to be durable.
    fn unsaid_cut(&self, n: usize, first: usize) -> Option<Lsn> {
        let (before, file) = (self.files[first..n].last()?, &self.files[n]);
        let (of_before, header) = (&before.found.header, &file.found.header);
        let linked = match header.link {
            Link::Recovery { start, .. } => !file.guessed && start <= of_before.start,
            Link::Roll | Link::First => of_before.epoch == header.epoch,
        };
        let of_life: Vec<&Stretch> = self
            .stretches
            .iter()
            .filter(|stretch| self.files[stretch.file].found.header.epoch == of_before.epoch)
            .collect();
        let last = of_life.last()?;
        if linked || (last.rolls && last.file + 1 == n) {
            return None;
        }
        let mut proof = of_life.iter().map(|stretch| stretch.watermark).max()?;
        let in_life = |file: &&SurveyedFile| file.found.header.epoch == of_before.epoch;
        let watermarks = self.files[first..n].iter().filter(in_life);
        proof = watermarks.fold(proof, |proof, file| proof.max(file.found.header.watermark));
        let ends = of_life.iter().filter(|stretch| stretch.to >= proof && !stretch.rolls);
        ends.map(|stretch| stretch.to).min()
    }

    /// Everything before this position was durable: a watermark, or the header of a recovery, proves it.
    fn proof(&self, first: usize, range: Range) -> Lsn {
        let mut proof = range.proven;
        for file in self.files.iter().skip(first).filter(|file| !file.guessed) {
            let header = &file.found.header;
            proof = proof.max(header.watermark);
            if let Link::Recovery { end, .. } = header.link {
                proof = proof.max(end);
            }
        }
        let watermarks = self.stretches.iter().map(|stretch| stretch.watermark);
        watermarks.fold(proof, Lsn::max).min(range.until)
    }

    /// Tells missing parts from a torn tail.
    fn judge(&mut self, first: usize, range: Range, proof: Lsn, cuts: &[(Lsn, Lsn)]) {
        let files = &self.files[first.min(self.files.len())..];
        let headers = files.iter().map(|file| (file.start(), file.found.header.first_frame()));
        let mut covered: Vec<(Lsn, Lsn)> = headers.collect();
        covered.extend(self.stretches.iter().map(|stretch| (stretch.from, stretch.to)));
        covered.extend(cuts.iter().filter(|(from, to)| from < to));
        covered.sort_unstable();
        let start = files.first().map_or(range.proven, |file| file.found.header.first_frame());
        let mut at = range.from.unwrap_or(start);
        let mut torn = None;
        if range.from.is_some() && start > at && at >= proof {
            self.note_missing(at, at);
        }
        for (from, to) in covered {
            if from > at {
                if at >= proof && !self.leads_on(at, range) && !self.is_cut_short(at) {
                    torn = Some(at);
                    break;
                }
                self.note_missing(at, from);
            }
            at = at.max(to);
        }
        if torn.is_none() && self.leads_on(at, range) {
            // Nothing is known of the content of that file, and of later files.
            self.note_missing(at, Lsn(at.0 + MISSING_BYTES));
        } else if torn.is_none() && (at < proof || self.is_cut_short(at)) {
            // Behind the damage there may have been more frames, up to the file's end.
            let holder = self.files.iter().find(|file| file.start() <= at && at < file.end());
            let end = holder.map_or(proof, |file| file.end().max(proof)).min(range.until);
            self.note_missing(at, end);
            at = end;
        }
        let end = torn.unwrap_or(at);
        self.end = end;
        self.stretches.retain(|stretch| stretch.from < end);
        let is_used = |file: &SurveyedFile| {
            let whole = (file.start(), file.end());
            let inside = cuts.iter().any(|(from, to)| *from <= whole.0 && whole.1 <= *to);
            file.found.header.first_frame() <= end && !inside
        };
        for (n, file) in self.files.iter().enumerate() {
            if n < first || !is_used(file) {
                self.spare.push(file.found.path.clone());
            } else if file.found.len < file.found.header.capacity {
                let what = "a journal file is shorter than it was made";
                let at = Lsn(file.start().0 + file.found.len);
                let (path, position) = (file.found.path.clone(), file.found.len);
                self.damage.push(JournalDamage { path, position, from: at, to: at, what });
            }
        }
    }

    /// Whether a roll frame leads to a position. Then the file there was durable, with its name.
    fn leads_on(&self, at: Lsn, range: Range) -> bool {
        at < range.until && self.stretches.iter().any(|it| it.rolls && it.to == at)
    }

    /// Whether a position lies in the missing end of a file, where frames may have been.
    fn is_cut_short(&self, at: Lsn) -> bool {
        let mut files = self.files.iter();
        let holder = files.find(|file| file.start() <= at && at < file.end());
        holder.is_some_and(|file| file.found.len < file.found.header.capacity)
    }

    fn note_missing(&mut self, from: Lsn, to: Lsn) {
        let holder =
            self.files.iter().find(|file| file.start() <= from && from < file.found.header.end());
        let (path, position, what) = match holder {
            Some(file) => {
                let what = "the journal is damaged: a frame that was durable does not verify";
                (file.found.path.clone(), from.0 - file.start().0, what)
            }
            None => (self.missing_path(from, to), 0, "a file of the journal is missing"),
        };
        self.damage.push(JournalDamage { path, position, from, to, what });
    }

    /// The name of a missing file, if it is known; else the directory.
    fn missing_path(&self, from: Lsn, to: Lsn) -> PathBuf {
        let behind = self.hints.partition_point(|(start, _)| *start <= from);
        let is_gone = |start: Lsn| self.files.iter().all(|file| file.start() != start);
        let before = self.hints[..behind].iter().rev().find(|(start, _)| is_gone(*start));
        // No other file lies between it and the missing part.
        let reaches =
            |start: Lsn| self.files.iter().all(|file| file.start() < start || file.start() >= from);
        let inside = self.hints[behind..].iter().find(|(start, _)| *start < to);
        let hint = before.filter(|(start, _)| reaches(*start)).or(inside);
        match hint {
            Some((_, path)) => path.clone(),
            None if self.stretches.iter().any(|it| it.rolls && it.to == from) => {
                self.layout.journal_file(from)
            }
            None => self.layout.journal_dir(),
        }
    }

    /// The files that hold frames.
    pub fn files(&self) -> usize {
        let mut files: Vec<usize> = self.stretches.iter().map(|stretch| stretch.file).collect();
        files.dedup();
        files.len()
    }

    /// The last file that holds frames, or the directory.
    pub fn last_path(&self) -> PathBuf {
        let last = self.stretches.last();
        last.map_or(self.layout.journal_dir(), |it| self.files[it.file].found.path.clone())
    }

    pub fn file(&self, n: usize) -> &FoundFile {
        &self.files[n].found
    }

    /// Passes all frames to `each`, in the order of the journal.
    pub fn frames(&self, each: &mut EachFrame<'_>) -> Result<()> {
        for stretch in &self.stretches {
            let mut reader = FrameReader::new(&self.files[stretch.file].found);
            let mut lsn = stretch.from;
            while lsn < stretch.to {
                // A frame that verified before may fail now. Then it is left out.
                let Some((header, payload)) = reader.frame(lsn)? else { break };
                let place = FramePlace { file: stretch.file, lsn, len: header.frame_len() };
                each(place, header.kind, payload)?;
                lsn = Lsn(lsn.0 + header.frame_len());
            }
        }
        Ok(())
    }
}

impl Stretch {
    /// Ends the stretch at a cut. Returns `false` if nothing is left.
    fn clip(&mut self, cut: Lsn) -> bool {
        self.to = self.to.min(cut);
        self.from < self.to
    }
}

fn walk_file(
    n: usize,
    file: &SurveyedFile,
    from: Lsn,
    end: Lsn,
    stretches: &mut Vec<Stretch>,
) -> Result<()> {
    let mut reader = FrameReader::new(&file.found);
    let (mut at, mut current) = (from, None::<Stretch>);
    while at < end {
        let header = match reader.frame(at)? {
            Some((header, _)) if at.0 + header.frame_len() <= end.0 => header,
            _ => {
                stretches.extend(current.take());
                at = Lsn(at.0 + ALIGN);
                continue;
            }
        };
        let behind = Lsn(at.0 + header.frame_len());
        let rolls = header.kind == FrameKind::Roll;
        // The rest of the file holds nothing.
        let to = if rolls { file.end() } else { behind };
        let (from, watermark) = (at, header.watermark);
        let stretch = current.get_or_insert(Stretch { file: n, from, to, watermark, rolls });
        (stretch.to, stretch.rolls) = (to, rolls);
        stretch.watermark = stretch.watermark.max(header.watermark);
        if rolls {
            break;
        }
        at = behind;
    }
    stretches.extend(current);
    Ok(())
}
