//! fjall: a log-structured key-value store, as a log and as a queue: a keyspace from number to
//! payload.
//!
//! Buffered: plain `insert`, which hands its journal to the system each time
//! (`PersistMode::Buffer`). Sync: a batch with `PersistMode::SyncData`, the cheaper of its two. A
//! queue's receive reads the first entry behind the last one taken, so that it does not walk over
//! tombstones, and its ack removes it with `remove_weak`, made for keys that are written once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// fjall.
pub struct Fjall;

impl Side for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn offer(&self, job: Job) -> Offer {
        match (job, job.durability()) {
            (Job::HandOver(_), _) => Err("a reader cannot wait"),
            (Job::QueueMany(_), _) => Err("it has no leases"),
            (_, Durability::Buffered) => Ok("survives the process (PersistMode::Buffer)"),
            (_, Durability::Sync) => Ok("PersistMode::SyncData"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        let database = Database::builder(dir).open()?;
        let open = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let places = [open("messages")?, open("topic")?, open("stream")?];
        let last = places[0].last_key_value().map(fjall::Guard::key).transpose()?;
        let next = last.map_or(0, |key| number(&key) + 1);
        let sync = job.durability() == Durability::Sync;
        let next = Arc::new(AtomicU64::new(next));
        Ok(Box::new(Opened { database, places, next, sync }))
    }
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

#[derive(Clone)]
struct Opened {
    database: Database,
    places: [Keyspace; 3],
    next: Arc<AtomicU64>,
    sync: bool,
}

impl Opened {
    fn mode(&self) -> PersistMode {
        if self.sync { PersistMode::SyncData } else { PersistMode::Buffer }
    }

    fn key(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(Remover { opened: self.clone(), next: 0 }))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(self.clone()))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

impl Writer for Opened {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        if self.sync {
            return self.append_batches(payloads, 1, count);
        }
        for _ in 0..count {
            self.places[0].insert(self.key(), payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut batch = self.database.batch().durability(Some(self.mode()));
            for _ in 0..size {
                batch.insert(&self.places[0], self.key(), payloads.next());
            }
            batch.commit()?;
        }
        Ok(())
    }

    fn transact(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut batch = self.database.batch().durability(Some(self.mode()));
            let key = self.key();
            for place in &self.places {
                batch.insert(place, key, payloads.next());
            }
            batch.commit()?;
        }
        Ok(())
    }
}

struct Remover {
    opened: Opened,
    /// Where to look: everything before it was taken.
    next: u64,
}

impl Taker for Remover {
    fn take(&mut self, count: u64) -> Result<u64> {
        let place = &self.opened.places[0];
        for taken in 0..count {
            let Some(first) = place.range(self.next.to_be_bytes()..).next() else {
                return Ok(taken);
            };
            let (key, payload) = first.into_inner()?;
            std::hint::black_box(payload);
            self.next = number(&key) + 1;
            place.remove_weak(key)?;
        }
        Ok(count)
    }
}

impl Replay for Opened {
    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        for entry in self.places[0].iter() {
            seen.see(&entry.value()?);
        }
        Ok(seen)
    }
}
