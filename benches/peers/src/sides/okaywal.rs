//! okaywal: a write-ahead log whose commits share fsyncs.
//!
//! Every commit is durable, so it has no Buffered form. It keeps entries until a checkpoint, and
//! this one keeps nothing: its cheapest. Files are of 64 MiB instead of 1 MiB, so that checkpoints
//! are rare.

use std::path::Path;

use okaywal::{
    Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog,
};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Result, Side, Store, Writer},
};

/// okaywal.
pub struct Okaywal;

impl Side for Okaywal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Sync) | Job::AppendMany(Durability::Sync) => {
                Ok("fdatasync, shared by those who wait")
            }
            Job::Append(_) | Job::AppendMany(_) => Err("each of its commits is synced"),
            Job::Replay => Err("it is read when it recovers, and at no other time"),
            _ => Err("it is a log alone"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        let configuration = Configuration::default_for(dir)
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(48 << 20);
        Ok(Box::new(Log(configuration.open(Forget)?)))
    }
}

/// Reads what it is given, and keeps nothing.
#[derive(Debug)]
struct Forget;

impl LogManager for Forget {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            chunk.read_all()?;
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct Log(WriteAheadLog);

impl Store for Log {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Writer for Log {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.append_batches(payloads, 1, count)
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut entry = self.0.begin_entry()?;
            for _ in 0..size {
                entry.write_chunk(payloads.next())?;
            }
            entry.commit()?;
        }
        Ok(())
    }
}
