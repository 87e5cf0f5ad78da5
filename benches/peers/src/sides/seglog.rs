//! seglog: segment files of records with a CRC-32C, one writer each.
//!
//! The crate knows single files. This side begins a new one when a record does not fit, as its users must. Files of
//! 128 MiB. Buffered: its own buffer is written out with each commit, so that a commit survives the process. Sync: its
//! commit, which is a marker and `fdatasync`. Readers see what is synced, so a replay begins behind a sync.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use seglog::{read::Reader as SegmentReader, write::Writer as SegmentWriter};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Writer},
};

/// seglog.
pub struct Seglog;

const SEGMENT: usize = 128 << 20;
/// More than it writes in front of and behind a record.
const HEADER: u64 = 64;

impl Side for Seglog {
    fn name(&self) -> &'static str {
        "seglog"
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Buffered) => Ok("survives the process; no fsync"),
            Job::Replay => Ok("CRC-32C verified"),
            Job::Append(Durability::Sync) => Ok("a commit marker and fdatasync each"),
            Job::AppendMany(_) => Err("it has one writer"),
            _ => Err("it is a log alone"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let mut segments = Segments { dir: dir.to_owned(), full: 0, writer: None, commits: 0 };
        segments.open()?;
        Ok(Box::new(Log { segments: Arc::new(Mutex::new(segments)), durability: job.durability() }))
    }
}

struct Segments {
    dir: PathBuf,
    /// The number of full segments, which have the numbers below.
    full: usize,
    writer: Option<SegmentWriter<0>>,
    /// The number of commits, which the newest marker has.
    commits: u64,
}

impl Segments {
    fn path(&self, n: usize) -> PathBuf {
        self.dir.join(format!("{n}.seg"))
    }

    /// Goes on in the newest segment, or makes the first one.
    fn open(&mut self) -> Result<()> {
        while self.path(self.full + 1).exists() {
            self.full += 1;
        }
        let path = self.path(self.full);
        let mut writer = if path.exists() {
            SegmentWriter::<0>::open(path, SEGMENT, 0)?
        } else {
            SegmentWriter::<0>::create(path, SEGMENT, 0)?
        };
        writer.set_max_record(16 << 20);
        self.writer = Some(writer);
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        self.commit()?;
        self.full += 1;
        let mut writer = SegmentWriter::<0>::create(self.path(self.full), SEGMENT, 0)?;
        writer.set_max_record(16 << 20);
        self.writer = Some(writer);
        Ok(())
    }

    /// Writes a marker, and syncs. Records without a marker behind them are dropped when a segment is opened again.
    fn commit(&mut self) -> Result<()> {
        self.commits += 1;
        let n = self.commits;
        self.writer()?.commit(n)?;
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut SegmentWriter<0>> {
        self.writer.as_mut().ok_or_else(|| "there is no segment".into())
    }
}

#[derive(Clone)]
struct Log {
    segments: Arc<Mutex<Segments>>,
    durability: Durability,
}

impl Store for Log {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(self.clone()))
    }

    fn sync(&self) -> Result<()> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).commit()
    }
}

impl Writer for Log {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.append_batches(payloads, 1, count)
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            for payload in payloads.many(size) {
                if segments.writer()?.remaining_bytes() < payload.len() as u64 + HEADER {
                    segments.begin()?;
                }
                segments.writer()?.append_data(payload)?;
            }
            match self.durability {
                Durability::Buffered => segments.writer()?.flush_writer()?,
                Durability::Sync => segments.commit()?,
            }
        }
        Ok(())
    }
}

impl Replay for Log {
    fn rewind(&mut self) -> Result<()> {
        self.sync()
    }

    fn replay(&mut self) -> Result<Seen> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = segments.writer()?.flushed_offset();
        let mut seen = Seen::default();
        for n in 0..=segments.full {
            // A full segment is read up to the end of its records.
            let end = (n == segments.full).then(|| flushed.clone());
            let mut reader = SegmentReader::<0>::open_read_only(segments.path(n), end)?;
            let mut records = reader.iter(0);
            while let Some(record) = records.next_record()? {
                seen.see(&record.data);
            }
        }
        Ok(seen)
    }
}
