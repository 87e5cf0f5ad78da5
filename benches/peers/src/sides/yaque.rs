//! yaque: a queue in files, one sender and one receiver.
//!
//! It never calls fsync, so it has no Sync form. Its receiver writes down its place after each 250 messages,
//! its default. So a crash delivers up to 250 messages again, where other sides ack each message. Waiting is
//! asynchronous; the future runs on a small executor.

use std::path::{Path, PathBuf};

use yaque::{Receiver, Sender, TryRecvError};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// yaque.
pub struct Yaque;

impl Side for Yaque {
    fn name(&self) -> &'static str {
        "yaque"
    }

    fn offer(&self, job: Job) -> Offer {
        if job.durability() == Durability::Sync {
            return Err("it never calls fsync");
        }
        match job {
            Job::Transact(_) => Err("it has no transactions over queues"),
            Job::AppendMany(_) | Job::QueueMany(_) => Err("it has one sender and one receiver"),
            Job::Queue(_) => Ok("survives the process; place written each 250 acks"),
            _ => Ok("survives the process; no fsync"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        // It is made; one sender at a time is opened by who needs it.
        Sender::open(dir)?;
        Ok(Box::new(Opened(dir.to_owned())))
    }
}

struct Opened(PathBuf);

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Sending(Sender::open(&self.0)?)))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(Receiving(Receiver::open(&self.0)?)))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Iterating(self.0.clone())))
    }
}

struct Sending(Sender);

impl Writer for Sending {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.try_send(payloads.next()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let batch: Vec<&[u8]> = payloads.many(size).collect();
            self.0.try_send_batch(batch).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

struct Receiving(Receiver);

impl Taker for Receiving {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            match self.0.try_recv() {
                Ok(message) => {
                    std::hint::black_box(&*message);
                    message.commit()?;
                }
                Err(TryRecvError::QueueEmpty) => return Ok(taken),
                Err(TryRecvError::Io(error)) => return Err(error.into()),
            }
        }
        Ok(count)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        // A timer for the end of the wait would need a thread: the measurement sends one more
        // message when it is over instead.
        let message = futures_executor::block_on(self.0.recv())?;
        got();
        message.commit()?;
        Ok(true)
    }
}

struct Iterating(PathBuf);

impl Replay for Iterating {
    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        for message in yaque::QueueIter::open(&self.0)? {
            seen.see(&message?);
        }
        Ok(seen)
    }
}
