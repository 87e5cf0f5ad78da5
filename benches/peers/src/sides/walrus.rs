//! walrus-rust: a write-ahead log with topics.
//!
//! Buffered: the mapped backend and `NoFsync`, its fastest. walrus syncs its batches in any case, so a
//! buffered batch is a sequence of single appends here. This is faster, if not atomic. Sync: `SyncEach` on
//! the backend with file descriptors, which then opens its files with `O_SYNC`. Consuming is `read_next` with
//! a checkpoint, receive and ack in one. Its place is written after each 250 messages, as yaque does it; with
//! its default, `StrictlyAtOnce`, it is written after each message. At the end of the log it reads from the
//! block that is still written to, and consumes some hundred messages a second in either form.
//!
//! It finds its directory by a variable of the environment, which `main` sets, and by a key.

use std::{path::Path, sync::Arc};

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// walrus-rust.
pub struct WalrusSide;

const TOPIC: &str = "t";
/// After how many acks its place is written.
const PLACE_EACH: u32 = 250;
/// It takes up to 2000 entries in a batch.
const BATCH_MAX: u64 = 2000;

impl Side for WalrusSide {
    fn name(&self) -> &'static str {
        "walrus"
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Transact(_) => Err("it has no transactions over topics"),
            Job::HandOver(_) => Err("a reader cannot wait"),
            Job::QueueMany(_) => Err("a topic has one reader"),
            Job::Queue(Durability::Buffered) => {
                Ok("survives the process; place written each 250 acks")
            }
            Job::Append(Durability::Buffered) | Job::Replay => Ok("survives the process; no fsync"),
            Job::Append(Durability::Sync) | Job::AppendMany(Durability::Sync) => {
                Ok("O_SYNC and fsync each")
            }
            _ => Err("it is not asked"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        let key = dir.file_name().and_then(|name| name.to_str()).ok_or("it needs a plain name")?;
        let store = Opened { key: key.to_owned(), job, walrus: open(key, job)? };
        Ok(Box::new(store))
    }
}

fn open(key: &str, job: Job) -> Result<Arc<Walrus>> {
    let schedule = match job.durability() {
        Durability::Buffered => FsyncSchedule::NoFsync,
        Durability::Sync => FsyncSchedule::SyncEach,
    };
    match job.durability() {
        Durability::Buffered => walrus_rust::disable_fd_backend(),
        Durability::Sync => walrus_rust::enable_fd_backend(),
    }
    let consistency = match job {
        // A replay that would be written down could be made once only.
        Job::Replay => ReadConsistency::AtLeastOnce { persist_every: u32::MAX },
        _ => ReadConsistency::AtLeastOnce { persist_every: PLACE_EACH },
    };
    Ok(Arc::new(Walrus::with_consistency_and_schedule_for_key(key, consistency, schedule)?))
}

struct Opened {
    key: String,
    job: Job,
    walrus: Arc<Walrus>,
}

impl Opened {
    fn handle(&self) -> Handle {
        let synced = self.job.durability() == Durability::Sync;
        Handle { walrus: Arc::clone(&self.walrus), synced }
    }
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.handle()))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(self.handle()))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Reader { key: self.key.clone(), job: self.job, walrus: None }))
    }
}

struct Handle {
    walrus: Arc<Walrus>,
    synced: bool,
}

impl Writer for Handle {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.walrus.append_for_topic(TOPIC, payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        if !self.synced || size == 1 {
            return self.append(payloads, size * count);
        }
        for _ in 0..count {
            let batch: Vec<&[u8]> = payloads.many(size.min(BATCH_MAX)).collect();
            self.walrus.batch_append_for_topic(TOPIC, &batch)?;
        }
        Ok(())
    }
}

impl Taker for Handle {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let Some(entry) = self.walrus.read_next(TOPIC, true)? else {
                return Ok(taken);
            };
            std::hint::black_box(entry.data);
        }
        Ok(count)
    }
}

/// Its reader goes on where it was, so it is opened anew for each replay.
struct Reader {
    key: String,
    job: Job,
    walrus: Option<Arc<Walrus>>,
}

impl Replay for Reader {
    fn rewind(&mut self) -> Result<()> {
        self.walrus = None;
        self.walrus = Some(open(&self.key, self.job)?);
        Ok(())
    }

    fn replay(&mut self) -> Result<Seen> {
        let walrus = self.walrus.as_ref().ok_or("it was not rewound")?;
        let mut seen = Seen::default();
        loop {
            let batch = walrus.batch_read_for_topic(TOPIC, 1 << 20, true)?;
            if batch.is_empty() {
                return Ok(seen);
            }
            batch.iter().for_each(|entry| seen.see(&entry.data));
        }
    }
}
