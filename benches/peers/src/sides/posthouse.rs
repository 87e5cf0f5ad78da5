//! Posthouse itself, through its public face.
//!
//! Appends go to a stream, and queue workloads to a queue. The settings are the defaults but for the journal:
//! it has 256 MiB where messages are appended in bursts, so that no checkpoint cuts a burst in two. The
//! sustained row includes the cost of the checkpoint.

use std::{path::Path, time::Duration};

use posthouse::{Engine, Options, Queue, Start, Stream, Topic};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Kind, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// Posthouse.
pub struct Posthouse;

/// The name of this side in tables.
pub const NAME: &str = "posthouse";

/// The durability in the words of this program, in those of the engine.
pub fn durability(wanted: Durability) -> posthouse::Durability {
    match wanted {
        Durability::Buffered => posthouse::Durability::Buffered,
        Durability::Sync => posthouse::Durability::Sync,
    }
}

/// The settings for a job.
pub fn options(job: Job) -> Options {
    let options = Options::new().durability(durability(job.durability()));
    match job {
        Job::Append(_) | Job::AppendMany(_) => options.journal_bytes(256 << 20),
        _ => options,
    }
}

/// A durability in words.
pub fn words(durability: Durability) -> &'static str {
    match durability {
        Durability::Buffered => "survives the process; synced each 100 ms",
        Durability::Sync => "durable when it returns",
    }
}

impl Side for Posthouse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> Kind {
        Kind::Ours
    }

    fn offer(&self, job: Job) -> Offer {
        Ok(words(job.durability()))
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        let engine = options(job).open(dir)?;
        let queue = engine.queue("q").create()?;
        let topic = engine.topic("t").create()?;
        let stream = engine.stream("s").create()?;
        let to_queue = matches!(job, Job::Queue(_) | Job::QueueMany(_) | Job::HandOver(_));
        Ok(Box::new(Opened { places: Places { engine, queue, topic, stream }, to_queue }))
    }
}

#[derive(Clone)]
struct Places {
    engine: Engine,
    queue: Queue,
    topic: Topic,
    stream: Stream,
}

struct Opened {
    places: Places,
    to_queue: bool,
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(match self.to_queue {
            true => Box::new(Sender(self.places.queue.clone())),
            false => Box::new(Appender(self.places.clone())),
        })
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(Receiver(self.places.queue.clone())))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Reader(self.places.stream.clone())))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.places.engine.sync()?)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.places.engine.checkpoint()?)
    }
}

struct Sender(Queue);

impl Writer for Sender {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.send(payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.send_batch(payloads.many(size))?;
        }
        Ok(())
    }
}

struct Appender(Places);

impl Writer for Appender {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.stream.append(payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.stream.append_batch(payloads.many(size))?;
        }
        Ok(())
    }

    fn transact(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        let Places { engine, queue, topic, stream } = &self.0;
        for _ in 0..count {
            let payload = payloads.next();
            let mut transaction = engine.transaction();
            transaction.send(queue, payload).publish(topic, payload).append(stream, payload);
            transaction.commit()?;
        }
        Ok(())
    }
}

struct Receiver(Queue);

impl Taker for Receiver {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let Some(delivery) = self.0.try_receive()? else {
                return Ok(taken);
            };
            std::hint::black_box(delivery.payload());
            delivery.ack()?;
        }
        Ok(count)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        let Some(delivery) = self.0.receive(Duration::from_millis(100))? else {
            return Ok(false);
        };
        got();
        delivery.ack()?;
        Ok(true)
    }
}

struct Reader(Stream);

impl Replay for Reader {
    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut reader = self.0.reader(Start::Earliest)?;
        while let Some(record) = reader.try_read()? {
            seen.see(record.payload());
        }
        Ok(seen)
    }
}
