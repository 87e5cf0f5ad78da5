//! honker: queues and streams on SQLite, as a library.
//!
//! Buffered is its own default, `synchronous=NORMAL`; Sync sets `FULL` on its connection. Appends go
//! to one of its streams, queue workloads to one of its queues, payloads as the JSON text that it
//! takes. Waiting is its `claim_waker`, with its default poll of 1 ms.

use std::{path::Path, sync::Arc};

use honker::{ClaimWaker, Database, EnqueueOpts, Queue, QueueOpts};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// honker.
pub struct Honker;

const WORKER: &str = "w";
const READ_MOST: i64 = 1000;

impl Side for Honker {
    fn name(&self) -> &'static str {
        "honker"
    }

    fn offer(&self, job: Job) -> Offer {
        match (job, job.durability()) {
            (Job::Transact(_), _) => Err("it is SQLite, which has a row of its own"),
            (_, Durability::Buffered) => Ok("survives the process (WAL, NORMAL)"),
            (_, Durability::Sync) => Ok("WAL, synchronous=FULL"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let database = Database::open(dir.join("honker"))?;
        if job.durability() == Durability::Sync {
            database
                .with_conn(|connection| connection.execute_batch("PRAGMA synchronous = FULL"))?;
        }
        let queue = database.queue("q", QueueOpts::default());
        let to_queue = matches!(job, Job::Queue(_) | Job::QueueMany(_) | Job::HandOver(_));
        Ok(Box::new(Opened { database: Arc::new(database), queue, to_queue }))
    }
}

#[derive(Clone)]
struct Opened {
    database: Arc<Database>,
    queue: Queue,
    to_queue: bool,
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(Claimer { queue: self.queue.clone(), waker: None }))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(self.clone()))
    }
}

impl Writer for Opened {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        let stream = self.database.stream("s");
        for _ in 0..count {
            if self.to_queue {
                self.queue.enqueue(&payloads.next_text(), EnqueueOpts::default())?;
            } else {
                stream.publish(&payloads.next_text())?;
            }
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        let stream = self.database.stream("s");
        for _ in 0..count {
            let begun = self.database.transaction()?;
            for _ in 0..size {
                if self.to_queue {
                    let options = EnqueueOpts::default();
                    self.queue.enqueue_tx(&begun, &payloads.next_text(), options)?;
                } else {
                    stream.publish_tx(&begun, &payloads.next_text())?;
                }
            }
            begun.commit()?;
        }
        Ok(())
    }
}

struct Claimer {
    queue: Queue,
    waker: Option<ClaimWaker>,
}

impl Taker for Claimer {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let Some(job) = self.queue.claim_one(WORKER)? else {
                return Ok(taken);
            };
            std::hint::black_box(&job.payload);
            job.ack()?;
        }
        Ok(count)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        let waker = self.waker.get_or_insert_with(|| self.queue.claim_waker());
        let Some(job) = waker.next(WORKER)? else {
            return Ok(false);
        };
        got();
        job.ack()?;
        Ok(true)
    }
}

impl Replay for Opened {
    fn replay(&mut self) -> Result<Seen> {
        let stream = self.database.stream("s");
        let mut seen = Seen::default();
        let mut offset = 0;
        loop {
            let events = stream.read_since(offset, READ_MOST)?;
            let Some(last) = events.last() else {
                return Ok(seen);
            };
            offset = last.offset;
            // The payload is a JSON string: what is between the quotes was sent.
            for event in &events {
                seen.see(&event.payload[1..event.payload.len() - 1]);
            }
        }
    }
}
