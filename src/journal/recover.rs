//! Recovery: finds the files of the journal, replays them, finds the end of the journal, and tells damage from a torn
//! tail.
//!
//! An invalid frame is a *torn tail* if nothing proves that it was ever durable. Then recovery cuts it and everything
//! behind it. It is *corruption* if there is such a proof: a watermark beyond it, a roll frame that leads into a
//! missing file, or a metalog that reflects later frames.
//!
//! The part that was cut must never be read again. So the journal goes on in a new file, beyond all others, whose
//! header says where the old file ended. This file becomes durable before anything new is written.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
};

use super::{
    file::{JournalFile, sync_failed},
    frames::{FoundFile, FrameReader, PIECE_BYTES},
    grain::Grain,
    supply::{Supply, capacity_for, make_after_recovery},
    writer::Journal,
};
use crate::{
    disk::{Open, Purpose, read_exact_at, window},
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        frame::FrameKind,
        header::UNSUPPORTED,
        journal::{JOURNAL_HEADER_BYTES, JournalHeader, Link},
        wire::NUMBER_CEILING,
    },
    ids::Lsn,
    layout::{Named, journal_name},
};

/// Applies a commit, given its position and its payload.
pub type Apply<'a> = dyn FnMut(Lsn, &[u8]) -> Result<(), Malformed> + 'a;

/// A journal that can be appended to again.
#[derive(Debug)]
pub struct Recovered {
    pub journal: Journal,
    /// Files that no longer belong to the journal. They may be removed.
    pub leftovers: Vec<PathBuf>,
}

/// Reads the journal from `replay_from` on, passes the commits to `apply` in their order, makes durable everything that
/// it has read, and begins a new file. The journal must reach up to `reflects`, because it was durable up to there
/// before the metalog was written.
///
/// # Errors
///
/// `Corrupt` with file and position, also for a commit that `apply` refuses; or an input or output error. After an
/// error the journal is unchanged. There may be an unfinished file that is no part of it.
pub fn recover(
    supply: Supply,
    replay_from: Lsn,
    reflects: Lsn,
    apply: &mut Apply<'_>,
) -> Result<Recovered> {
    let mut found = find(&supply)?;
    found.check_headers(replay_from)?;
    let mut walk = Walk { found: &found.files, chain: Vec::new(), proven: reflects };
    let tail = walk.run(&supply, replay_from, apply)?;
    let (mut chain, proven) = (walk.chain, walk.proven);
    if tail < reflects {
        let last = found.last_of(&chain);
        let what = "the journal ends before the position that the metalog reflects: durable \
                    commits are missing";
        return Err(Error::corrupt(what, &last.path, tail.0 - last.header.start.0));
    }
    found.check_nothing_durable_behind(&chain, tail)?;

    for Part { start, end } in &chain {
        let file = &found.files[start];
        if seeded!(RecoveryDoesNotSync) {
            continue;
        }
        if !seeded!(RecoveryBelievesTheCache) {
            write_again(file, proven, *end)?;
        }
        file.file.sync().map_err(|error| sync_failed(error, &file.path))?;
    }
    let header = found.next_header(&supply, &mut chain, replay_from, tail)?;
    let first = chain.first().map_or(Lsn(0), |part| part.start);
    let older = found.files.range(..first).map(|(_, file)| &file.path);
    let useless: Vec<PathBuf> = older.chain(&found.others).cloned().collect();
    let (fresh, reserve) = make_after_recovery(&supply, header, &found.unfinished, &useless)?;

    let mut files = VecDeque::new();
    for Part { start, .. } in &chain {
        let file = found.files.remove(start).expect("the chain consists of files");
        files.push_back(reopen(&supply, file)?);
    }
    files.push_back(fresh);
    let leftovers = found.files.into_values().map(|file| file.path).chain(found.others).collect();
    let mut journal = Journal::new(supply, files);
    journal.adopt_reserve(reserve);
    Ok(Recovered { journal, leftovers })
}

/// Writes the bytes again, unchanged, that nothing proves to be durable. A sync alone is not enough. After a failed
/// sync, the system treats the pages that it could not write as clean, and the next sync reports success.
fn write_again(found: &FoundFile, proven: Lsn, end: Lsn) -> Result<()> {
    let mut at = proven.max(found.header.first_frame());
    let mut bytes = Vec::new();
    while at < end {
        bytes.resize((end.0 - at.0).min(PIECE_BYTES as u64) as usize, 0);
        let place = at.0 - found.header.start.0;
        let failed = |error| {
            let what = "a journal file cannot be written again";
            Error::io(error, what, &found.path).at(place)
        };
        read_exact_at(&*found.file, place, &mut bytes).map_err(failed)?;
        found.file.write_at(place, &bytes).map_err(failed)?;
        at = Lsn(at.0 + bytes.len() as u64);
    }
    Ok(())
}

/// The content of the journal's directory.
#[derive(Default)]
struct Found {
    /// Files with a valid header, by their start.
    files: BTreeMap<Lsn, FoundFile>,
    /// Files with a real name whose header does not fit it.
    spoiled: Vec<(Lsn, PathBuf, Malformed)>,
    /// Files that are ignored: they are empty, or no longer needed.
    others: Vec<PathBuf>,
    /// Files that were never in use.
    unfinished: Vec<PathBuf>,
    /// No file reaches further.
    end: Lsn,
}

fn find(supply: &Supply) -> Result<Found> {
    let dir = supply.layout.journal_dir();
    let names = supply.disk.list(&dir);
    let names = names.map_err(|error| Error::io(error, "the journal cannot be listed", &dir))?;
    let mut found = Found::default();
    for name in names {
        let path = dir.join(&name);
        match journal_name(&name) {
            Named::Unknown => {}
            Named::Unfinished => found.unfinished.push(path),
            Named::Real(start) => found.classify(supply, start, path)?,
        }
    }
    Ok(found)
}

impl Found {
    fn classify(&mut self, supply: &Supply, start: Lsn, path: PathBuf) -> Result<()> {
        let failed = |error| Error::io(error, "a journal file cannot be read", &path);
        let file = supply.disk.open(&path, Open::Existing).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        // A new file never takes the name of an existing one.
        self.end = self.end.max(Lsn(start.0.saturating_add(JOURNAL_HEADER_BYTES)));
        if len == 0 {
            self.others.push(path);
            return Ok(());
        }
        let mut page = vec![0; JOURNAL_HEADER_BYTES as usize];
        let read = file.read_at(0, &mut page).map_err(failed)?;
        match JournalHeader::decode(&page[..read]) {
            Ok(header) if header.store != supply.store => {
                let what = "a journal file that belongs to another store";
                Err(Error::corrupt(what, path, 0))
            }
            Ok(header) if header.start == start => {
                self.end = self.end.max(header.end());
                self.files.insert(start, FoundFile { header, path, file, len });
                Ok(())
            }
            Err(malformed) if malformed == UNSUPPORTED => {
                Err(Error::new(ErrorKind::UnsupportedVersion, malformed.0).in_file(path))
            }
            Ok(_) => {
                let what = Malformed("a journal file that belongs under another name");
                self.spoiled.push((start, path, what));
                Ok(())
            }
            Err(malformed) => {
                self.spoiled.push((start, path, malformed));
                Ok(())
            }
        }
    }

    /// Fails if a needed file has no valid header. A file gets its real name only once its header is durable, so
    /// a file without a header is damaged. Files before `replay_from` are not needed: such a file may have been
    /// about to be filled again.
    fn check_headers(&mut self, replay_from: Lsn) -> Result<()> {
        let first = self.files.range(..=replay_from).next_back().map(|(start, _)| *start);
        for (start, path, what) in self.spoiled.drain(..) {
            if first.is_none_or(|first| start > first) {
                return Err(Error::corrupt(what.0, path, 0));
            }
            self.others.push(path);
        }
        Ok(())
    }

    fn last_of(&self, chain: &[Part]) -> &FoundFile {
        &self.files[&chain.last().expect("a walk has a file").start]
    }

    /// Fails if a file proves that something beyond the tail was durable.
    fn check_nothing_durable_behind(&self, chain: &[Part], tail: Lsn) -> Result<()> {
        match self.files.values().find(|file| file.header.watermark > tail) {
            None => Ok(()),
            Some(witness) => Err(lost(self.last_of(chain), tail, &witness.path)),
        }
    }

    /// The header of the file in which the journal goes on. Drops an empty file at the end of the chain, which a
    /// recovery without later commits has left. So such files do not pile up.
    fn next_header(
        &self,
        supply: &Supply,
        chain: &mut Vec<Part>,
        replay_from: Lsn,
        tail: Lsn,
    ) -> Result<JournalHeader> {
        let last = &self.last_of(chain).header;
        let link = match last.link {
            link @ Link::Recovery { .. }
                if tail == last.first_frame() && replay_from < last.start && chain.len() > 1 =>
            {
                chain.pop();
                link
            }
            _ => Link::Recovery { start: last.start, end: tail },
        };
        let epoch = self.files.values().map(|file| file.header.epoch).max().unwrap_or(0);
        let capacity = capacity_for(supply.file_bytes_min, 0);
        let behind = if seeded!(PositionsAreUsedAgain) { tail } else { self.end };
        let start = behind.0.checked_next_multiple_of(4096);
        let start = start.filter(|start| *start < NUMBER_CEILING - capacity).ok_or_else(|| {
            let what =
                "a journal file's name is a position at the limit, so no position can follow it";
            Error::corrupt(what, supply.layout.journal_file(self.end), 0)
        })?;
        let (store, start, watermark) = (supply.store, Lsn(start), tail);
        Ok(JournalHeader { store, start, capacity, epoch: epoch + 1, watermark, link })
    }
}

/// A file of the journal, and the position up to which it belongs to the journal.
struct Part {
    start: Lsn,
    end: Lsn,
}

/// The walk from file to file.
struct Walk<'a> {
    found: &'a BTreeMap<Lsn, FoundFile>,
    chain: Vec<Part>,
    /// Everything before this position is durable: a watermark or the metalog proves it.
    proven: Lsn,
}

impl<'a> Walk<'a> {
    /// Reads all frames from a position on. Returns where they end.
    fn run(&mut self, supply: &Supply, replay_from: Lsn, apply: &mut Apply<'_>) -> Result<Lsn> {
        let first = self.found.range(..=replay_from).next_back().map(|(_, file)| file);
        let holds = |file: &&FoundFile| {
            (file.header.first_frame()..=file.header.end()).contains(&replay_from)
        };
        let Some(mut file) = first.filter(holds) else {
            let what = format!("the journal file that holds position {replay_from} is missing");
            return Err(Error::corrupt(what, supply.layout.journal_dir(), replay_from.0));
        };
        let mut at = replay_from;
        loop {
            if file.len < file.header.capacity {
                let what = "a journal file is shorter than it was made";
                return Err(Error::corrupt(what, &file.path, file.len));
            }
            self.proven = self.proven.max(file.header.watermark);
            let (end, next) = self.read(file, at, apply)?;
            self.chain.push(Part { start: file.header.start, end });
            let Some(next) = next else {
                return Ok(end);
            };
            file = next;
            at = file.header.first_frame();
        }
    }

    /// Reads one file from a position on. Returns where it ends, and the file in which the journal
    /// goes on.
    fn read(
        &mut self,
        file: &'a FoundFile,
        mut at: Lsn,
        apply: &mut Apply<'_>,
    ) -> Result<(Lsn, Option<&'a FoundFile>)> {
        let successor = self.recovered_successor(file);
        let limit = successor.map(|(end, _)| end);
        let mut reader = FrameReader::new(file);
        loop {
            if limit == Some(at) {
                return Ok((at, successor.map(|(_, next)| next)));
            }
            let (header, payload) = match reader.frame(at)? {
                Some((header, _))
                    if limit.is_some_and(|limit| at.0 + header.frame_len() > limit.0) =>
                {
                    return Err(damaged(file, at));
                }
                Some(frame) => frame,
                None if limit.is_some() => return Err(damaged(file, at)),
                None => {
                    self.check_torn(file, &mut reader, at)?;
                    return Ok((at, None));
                }
            };
            self.proven = self.proven.max(header.watermark);
            match header.kind {
                FrameKind::Commit => apply(at, payload).map_err(|what| {
                    Error::corrupt(what.0, &file.path, at.0 - file.header.start.0)
                })?,
                FrameKind::Watermark | FrameKind::Close => {}
                FrameKind::Roll => {
                    let Some(next) = self.rolled_successor(file) else {
                        let next = file.header.end();
                        let what = format!("the journal file that begins at {next} is missing");
                        return Err(Error::corrupt(what, &file.path, at.0 - file.header.start.0));
                    };
                    return Ok((Lsn(at.0 + header.frame_len()), Some(next)));
                }
            }
            at = Lsn(at.0 + header.frame_len());
        }
    }

    /// The file that a recovery began after it had read this one, and the position up to which it had found this
    /// one valid. Of several such files the newest counts: the others never held a commit.
    fn recovered_successor(&self, file: &FoundFile) -> Option<(Lsn, &'a FoundFile)> {
        let linked = self.found.values().filter_map(|next| match next.header.link {
            Link::Recovery { start, end } if start == file.header.start => Some((end, next)),
            _ => None,
        });
        linked.max_by_key(|(_, next)| next.header.epoch)
    }

    fn rolled_successor(&self, file: &FoundFile) -> Option<&'a FoundFile> {
        let next = self.found.get(&file.header.end())?;
        let belongs = next.header.link == Link::Roll && next.header.epoch == file.header.epoch;
        belongs.then_some(next)
    }

    /// Checks that an invalid frame is a torn tail. Fails if something proves that it was durable.
    fn check_torn(&self, file: &FoundFile, reader: &mut FrameReader<'_>, at: Lsn) -> Result<()> {
        if seeded!(DamageIsCut) {
            return Ok(());
        }
        if reader.evidence(at, at)? || seeded!(TornTailIsRefused) {
            return Err(damaged(file, at));
        }
        let mut next = self.rolled_successor(file);
        while let Some(behind) = next {
            let first = behind.header.first_frame();
            if behind.header.watermark > at || FrameReader::new(behind).evidence(first, at)? {
                return Err(lost(file, at, &behind.path));
            }
            next = self.rolled_successor(behind);
        }
        Ok(())
    }
}

fn damaged(file: &FoundFile, at: Lsn) -> Error {
    let what = "the journal is damaged: a frame that was durable does not verify";
    Error::corrupt(what, &file.path, at.0 - file.header.start.0)
}

fn lost(file: &FoundFile, at: Lsn, witness: &std::path::Path) -> Error {
    let what = format!(
        "the journal is damaged: {} proves that commits were durable which do not verify",
        witness.display()
    );
    Error::corrupt(what, &file.path, at.0 - file.header.start.0)
}

fn reopen(supply: &Supply, found: FoundFile) -> Result<JournalFile> {
    let FoundFile { header, path, file, len } = found;
    let window = window(&file, len.min(header.capacity), supply.access, Purpose::Read);
    let window =
        window.map_err(|error| Error::io(error, "a journal file cannot be mapped", &path))?;
    let grain = Grain::Fine;
    Ok(JournalFile { header, path, file, window, grain, of_this_epoch: false })
}

/// Whether there is a journal that holds commits, or may have held some. A store without a metalog is new if not,
/// and damaged otherwise.
pub fn holds_commits(supply: &Supply) -> Result<bool> {
    let dir = supply.layout.journal_dir();
    let names = supply.disk.list(&dir);
    let names = names.map_err(|error| Error::io(error, "the journal cannot be listed", &dir))?;
    let mut real = names.iter().filter_map(|name| match journal_name(name) {
        Named::Real(start) => Some((start, dir.join(name))),
        _ => None,
    });
    let Some((start, path)) = real.next() else {
        return Ok(false);
    };
    if start != Lsn(0) || real.next().is_some() {
        return Ok(true);
    }
    let failed = |error| Error::io(error, "a journal file cannot be read", &path);
    let file = supply.disk.open(&path, Open::Existing).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    let mut page = vec![0; JOURNAL_HEADER_BYTES as usize];
    let read = file.read_at(0, &mut page).map_err(failed)?;
    let Ok(header) = JournalHeader::decode(&page[..read]) else {
        return Ok(true);
    };
    let found = FoundFile { header, path, file, len };
    Ok(FrameReader::new(&found).frame(header.first_frame())?.is_some())
}
