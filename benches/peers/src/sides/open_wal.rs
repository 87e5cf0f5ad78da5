//! open-wal: a write-ahead log with one writer, whose commits are synced.
//!
//! What is appended lies in its memory until a commit, so it has no Buffered form. Its records have a CRC-32C. Segments of
//! 128 MiB, its default, and records of up to 16 MiB.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use open_wal::{Lsn, Wal, WalConfig};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Writer},
};

/// open-wal.
pub struct OpenWal;

impl Side for OpenWal {
    fn name(&self) -> &'static str {
        "open-wal"
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Sync) | Job::Replay => Ok("fdatasync each"),
            Job::Append(_) => Err("what is not synced is in its memory"),
            Job::AppendMany(_) => Err("it has one writer"),
            _ => Err("it is a log alone"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        let config = WalConfig { max_record_size: 16 << 20, ..WalConfig::default() };
        Ok(Box::new(Log(Arc::new(Mutex::new(Wal::open(dir, config)?.0)))))
    }
}

#[derive(Clone)]
struct Log(Arc<Mutex<Wal>>);

impl Store for Log {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(self.clone()))
    }
}

impl Writer for Log {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.append_batches(payloads, 1, count)
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        let mut wal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            for _ in 0..size {
                wal.append(payloads.next())?;
            }
            wal.commit()?;
        }
        Ok(())
    }
}

impl Replay for Log {
    fn replay(&mut self) -> Result<Seen> {
        let wal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen::default();
        let mut reader = wal.reader_from(Lsn(0))?;
        while let Some(record) = reader.next() {
            seen.see(record?.1);
        }
        Ok(seen)
    }
}
