//! Reads the newest metalog when the store is opened.

use std::path::{Path, PathBuf};

use super::MetaPlace;
use crate::{
    disk::{DiskFile, Open, read_exact_at},
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        frame::{FRAME_HEADER_BYTES, FrameHeader, decode_frame},
        header::UNSUPPORTED,
        meta::{CheckpointState, META_HEADER_BYTES, MetaEntry, MetaHeader, entries},
        wire::ALIGN,
    },
    ids::{Lsn, StoreId},
    layout::{Named, meta_name},
};

/// The newest metalog.
#[derive(Debug)]
pub struct Loaded {
    pub store: StoreId,
    pub number: u64,
    pub checkpoint: CheckpointState,
    /// The length of the metalog.
    pub bytes: u64,
    /// Older files and unfinished files. They may be removed.
    pub leftovers: Vec<PathBuf>,
}

/// Loads the newest metalog: passes the entries of its checkpoints to `apply`, in their order, and makes durable
/// everything that it has read. `None` if there is no metalog.
///
/// # Errors
///
/// `Corrupt` with file and position, an input or output error, or what `apply` returns.
pub fn load(
    place: &MetaPlace,
    apply: &mut dyn FnMut(MetaEntry) -> Result<(), Malformed>,
) -> Result<Option<Loaded>> {
    let dir = place.layout.meta_dir();
    let names = place.disk.list(&dir);
    let names = names.map_err(|error| Error::io(error, "the metalog cannot be listed", &dir))?;
    let (mut newest, mut leftovers) = (None, Vec::new());
    for name in names {
        match meta_name(&name) {
            Named::Unknown => {}
            Named::Unfinished => leftovers.push(dir.join(name)),
            Named::Real(_) if seeded!(OldestMetalogWins) && newest.is_some() => {}
            Named::Real(number) => {
                let older = newest.replace((number, dir.join(name)));
                leftovers.extend(older.map(|(_, path)| path));
            }
        }
    }
    let Some((number, path)) = newest else {
        return Ok(None);
    };
    let failed = |error| Error::io(error, "the metalog cannot be read", &path);
    let file = place.disk.open(&path, Open::Existing).map_err(failed)?;
    let bytes = read_all(&*file).map_err(failed)?;
    let Decoded { store, checkpoint, proven, end } = decode(&bytes, number, &path, apply)?;

    // Bytes that nothing proves to be durable are written again. After a failed sync, the system treats the
    // pages that it could not write as clean, and the next sync reports success. The padding of the last frame
    // may be missing.
    let upto = bytes.len().min(end as usize);
    let again = &bytes[upto.min(proven as usize)..upto];
    if !again.is_empty() && !seeded!(MetalogBelievesTheCache) {
        let what = "the metalog cannot be written again";
        file.write_at(proven, again).map_err(|error| Error::io(error, what, &path).at(proven))?;
    }
    let failed = |error, file: &Path| {
        let what = "a sync of the metalog failed; open the store again";
        Error::new(ErrorKind::Poisoned, what).in_file(file).because(error)
    };
    file.sync().map_err(|error| failed(error, &path))?;
    let opened = place.disk.open_dir(&dir);
    let opened = opened
        .map_err(|error| Error::io(error, "the metalog's directory cannot be opened", &dir))?;
    opened.sync().map_err(|error| failed(error, &dir))?;
    Ok(Some(Loaded { store, number, checkpoint, bytes: end, leftovers }))
}

fn read_all(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    read_exact_at(file, 0, &mut bytes)?;
    Ok(bytes)
}

struct Decoded {
    store: StoreId,
    checkpoint: CheckpointState,
    /// Everything before this position is durable: it was durable before a later frame was written.
    proven: u64,
    /// The end of the last checkpoint.
    end: u64,
}

fn decode(
    bytes: &[u8],
    number: u64,
    path: &Path,
    apply: &mut dyn FnMut(MetaEntry) -> Result<(), Malformed>,
) -> Result<Decoded> {
    let header = MetaHeader::decode(bytes).map_err(|what| {
        if what == UNSUPPORTED {
            return Error::new(ErrorKind::UnsupportedVersion, what.0).in_file(path);
        }
        Error::corrupt(what.0, path, 0)
    })?;
    if header.number != number {
        return Err(Error::corrupt("a metalog that belongs under another name", path, 0));
    }
    let frames = Frames { bytes, header };
    let end = frames.committed_end(path)?;
    let mut at = META_HEADER_BYTES;
    let (mut last, mut proven) = (None, 0);
    while at < end {
        let (frame, payload) = frames.frame(at).expect("it was verified a moment ago");
        proven = frame.watermark.0.max(proven);
        let applied = entries(payload).try_for_each(|entry| match entry? {
            MetaEntry::Checkpoint(checkpoint) => {
                if last.replace(checkpoint).is_none() {
                    // The first checkpoint was durable before the file got its name.
                    proven = at + frame.frame_len();
                }
                Ok(())
            }
            entry => apply(entry),
        });
        applied.map_err(|what| Error::corrupt(what.0, path, at))?;
        at += frame.frame_len();
    }
    let checkpoint = last
        .ok_or_else(|| Error::corrupt("a metalog without a checkpoint", path, META_HEADER_BYTES))?;
    // A watermark cannot lie behind its own frame.
    Ok(Decoded { store: header.store, checkpoint, proven: proven.min(end), end })
}

struct Frames<'a> {
    bytes: &'a [u8],
    header: MetaHeader,
}

impl<'a> Frames<'a> {
    fn frame(&self, at: u64) -> Result<(FrameHeader, &'a [u8]), Malformed> {
        decode_frame(&self.bytes[at as usize..], Lsn(at), self.header.seed())
    }

    /// The end of the last checkpoint. Entries behind it were not committed. A frame that does not verify is
    /// damage if a later frame proves that it was durable.
    fn committed_end(&self, path: &Path) -> Result<u64> {
        let (mut at, mut end) = (META_HEADER_BYTES, META_HEADER_BYTES);
        while let Ok((frame, payload)) = self.frame_within(at) {
            at += frame.frame_len();
            if matches!(MetaEntry::decode(payload), Ok(MetaEntry::Checkpoint(_))) {
                end = at;
            }
        }
        let mut behind = at;
        while behind + FRAME_HEADER_BYTES as u64 <= self.bytes.len() as u64 {
            let peeked = FrameHeader::peek(&self.bytes[behind as usize..], Lsn(behind));
            if peeked.is_ok_and(|frame| frame.watermark > Lsn(at)) && self.frame(behind).is_ok() {
                let what = "the metalog is damaged: an entry that was durable does not verify";
                return Err(Error::corrupt(what, path, at));
            }
            behind += ALIGN;
        }
        Ok(end)
    }

    fn frame_within(&self, at: u64) -> Result<(FrameHeader, &'a [u8]), Malformed> {
        if at > self.bytes.len() as u64 {
            return Err(Malformed("the file ends"));
        }
        self.frame(at)
    }
}
