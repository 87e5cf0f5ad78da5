//! commitlog: a log in segments with an index.
//!
//! Its `flush` does not call fsync for messages, so it has no Sync form. Segments of 1 GiB and an
//! index of 10 million, its defaults but for the index, so that segments are not cut short.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use commitlog::{
    CommitLog, LogOptions, ReadLimit,
    message::{MessageBuf, MessageSet},
};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Writer},
};

/// commitlog.
pub struct Commitlog;

impl Side for Commitlog {
    fn name(&self) -> &'static str {
        "commitlog"
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Buffered) | Job::Replay => Ok("survives the process; no fsync"),
            Job::Append(_) | Job::AppendMany(_) => Err("its flush does not call fsync"),
            _ => Err("it is a log alone"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        let mut options = LogOptions::new(dir);
        options.segment_max_bytes(1 << 30).index_max_items(10_000_000).message_max_bytes(4 << 20);
        Ok(Box::new(Log(Arc::new(Mutex::new(CommitLog::new(options)?)))))
    }
}

#[derive(Clone)]
struct Log(Arc<Mutex<CommitLog>>);

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
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            log.append_msg(payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            let mut batch: MessageBuf = payloads.many(size).collect();
            log.append(&mut batch)?;
        }
        Ok(())
    }
}

impl Replay for Log {
    fn replay(&mut self) -> Result<Seen> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen::default();
        let mut next = 0;
        let end = log.next_offset();
        while next < end {
            // 256 KiB at a time was the fastest of several sizes.
            let batch = log.read(next, ReadLimit::max_bytes(256 << 10))?;
            for message in batch.iter() {
                seen.see(message.payload());
                next = message.offset() + 1;
            }
        }
        Ok(seen)
    }
}
