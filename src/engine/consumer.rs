//! Consuming by acks: what queues and subscriptions have in common.

use std::{sync::Arc, time::Duration};

use super::{
    core::{Core, deleted},
    delivery::Delivery,
    handle::Engine,
    shared::Shared,
    wait::{Attempt, Awaited, Watch, blocking},
};
use crate::{
    config::Durability,
    delivery::LeaseKey,
    error::{Error, Result},
    ids::{CursorId, LogId, Offset},
    prims::MutexGuard,
    store::Source,
};

/// One ack cursor, as its handles share it.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub engine: Engine,
    pub name: Arc<str>,
    pub cursor: CursorId,
    pub log: LogId,
    watch: Arc<Watch>,
    lease: Duration,
    pub durability: Durability,
}

/// A message that was leased, and where to read it.
struct Picked {
    offset: Offset,
    key: LeaseKey,
    source: Source,
    attempt: u32,
}

impl Consumer {
    pub fn attach(
        engine: &Engine,
        name: &str,
        cursor: CursorId,
        log: LogId,
        lease_ms: u64,
        is_queue: bool,
    ) -> Result<Consumer> {
        let shared = engine.shared();
        let mut core = shared.lock_open()?;
        core.begin_consuming(cursor, log)?;
        let watch = core.watch(std::iter::once(log), is_queue);
        let durability = shared.config.durability;
        // The clock is as late as its last tick: no lease ends early for that.
        let lease = Duration::from_millis(lease_ms) + shared.disk.tick();
        let (engine, name) = (engine.clone(), name.into());
        Ok(Consumer { engine, name, cursor, log, watch, lease, durability })
    }

    pub fn with_durability(&self, durability: Durability) -> Consumer {
        Consumer { durability, ..self.clone() }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
    }

    /// Leases and reads up to `most` messages, or waits.
    fn attempt(self: &Arc<Consumer>, most: usize) -> Result<Attempt<Vec<Delivery>>> {
        let (mut core, elapsed) = self.lock_expired()?;
        let mut picked = Vec::new();
        let mut failure = None;
        while picked.len() < most {
            match self.pick(&mut core, elapsed) {
                Ok(Some(one)) => picked.push(one),
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if picked.is_empty() && failure.is_none() {
            return Ok(Attempt::Wait(self.watch.begin()));
        }
        self.finish_picking(core);
        match failure {
            // What was leased before is delivered; the next attempt meets the error again.
            Some(error) if picked.is_empty() => Err(error),
            _ => self.read(picked).map(Attempt::Got),
        }
    }

    /// The same for one message.
    fn attempt_one(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        let (mut core, elapsed) = self.lock_expired()?;
        let picked = self.pick(&mut core, elapsed);
        if let Ok(None) = picked {
            return Ok(Attempt::Wait(self.watch.begin()));
        }
        self.finish_picking(core);
        let picked = picked?.expect("there is one, as was just looked");
        let key = picked.key;
        let read = self.read_one(picked);
        if read.is_err() {
            self.put_back(std::iter::once(key));
        }
        read.map(Attempt::Got)
    }

    /// Takes the core, with all leases ended whose time has come, and their failures counted.
    fn lock_expired(&self) -> Result<(MutexGuard<'_, Core>, Duration)> {
        let shared = self.shared();
        let mut core = shared.lock_open()?;
        let elapsed = shared.elapsed();
        core.expire(self.cursor, elapsed);
        if core.has_failures() {
            core = shared.count_failures(core);
            shared.check_open(&core)?;
        }
        Ok((core, elapsed))
    }

    /// Lets go of the core after messages were leased.
    fn finish_picking(&self, mut core: MutexGuard<'_, Core>) {
        let wakes = core.take_wakes();
        let timer = core.consumption(self.cursor).ok().filter(|it| !it.armed).and_then(|it| {
            it.armed = true;
            it.deliveries.next_deadline()
        });
        drop(core);
        wakes.wake();
        if let Some(at) = timer {
            self.shared().flusher.at_lease_end(at, self.cursor);
        }
    }

    /// Leases the next message.
    fn pick(&self, core: &mut Core, elapsed: Duration) -> Result<Option<Picked>> {
        let visible = core.visible();
        let (store, consumption) = core.store_and(self.cursor)?;
        let view = store.view(self.cursor, self.log).ok_or_else(deleted)?;
        let mut run = None;
        let is_visible = |offset| {
            let found = view.run(offset);
            let is_visible = match found {
                Some(run) => run.lsn < visible,
                None => view.is_moved(offset),
            };
            if is_visible {
                // It is the one that is leased.
                run = found;
            }
            is_visible
        };
        let deadline = elapsed + self.lease;
        let leased = consumption.deliveries.lease_next(view.acks, view.end(), deadline, is_visible);
        let Some((offset, key)) = leased else {
            return Ok(None);
        };
        let attempt = view.acks.attempts(offset).saturating_add(1);
        let located = match run {
            Some(run) => store.at_run(run),
            None => store.locate(self.log, offset),
        };
        match located {
            Ok(source) => Ok(Some(Picked { offset, key, source, attempt })),
            Err(error) => {
                // It stays in the queue: damage is reported, not skipped.
                consumption.deliveries.release(key);
                core.wake_one(self.log);
                Err(error)
            }
        }
    }

    /// Reads what was leased. If one cannot be read, those before it are delivered, and it and
    /// those behind it stay in the queue; the next attempt meets the error again.
    fn read(self: &Arc<Consumer>, picked: Vec<Picked>) -> Result<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(picked.len());
        let mut picked = picked.into_iter();
        while let Some(one) = picked.next() {
            let key = one.key;
            match self.read_one(one) {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    let unread = std::iter::once(key).chain(picked.map(|one| one.key));
                    self.put_back(unread);
                    return if deliveries.is_empty() { Err(error) } else { Ok(deliveries) };
                }
            }
        }
        Ok(deliveries)
    }

    fn read_one(self: &Arc<Consumer>, picked: Picked) -> Result<Delivery> {
        let Picked { offset, key, source, attempt } = picked;
        let (stored, block) = source.load(offset)?;
        if let Some(block) = block {
            self.shared().lock().store.remember(self.log, block);
        }
        Ok(Delivery::new(Arc::clone(self), key, stored, attempt))
    }

    /// Ends leases of messages that nobody has seen: that is no failed attempt.
    fn put_back(&self, keys: impl Iterator<Item = LeaseKey>) {
        let mut core = self.shared().lock();
        for key in keys {
            core.put_back(self.cursor, key);
        }
        let wakes = core.take_wakes();
        drop(core);
        wakes.wake();
    }

    pub fn receive(self: &Arc<Consumer>, timeout: Option<Duration>) -> Result<Option<Delivery>> {
        blocking(timeout, || self.shared().disk.stopwatch(), || self.attempt_one())
    }

    pub fn try_receive(self: &Arc<Consumer>) -> Result<Option<Delivery>> {
        Ok(match self.attempt_one()? {
            Attempt::Got(delivery) => Some(delivery),
            Attempt::Wait(_) => None,
        })
    }

    pub fn receive_batch(
        self: &Arc<Consumer>,
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<Delivery>> {
        if most == 0 {
            return Err(Error::invalid("most", "a batch of at most 0 messages"));
        }
        let got =
            blocking(Some(timeout), || self.shared().disk.stopwatch(), || self.attempt(most))?;
        Ok(got.unwrap_or_default())
    }

    pub fn receive_async(
        self: &Arc<Consumer>,
    ) -> impl Future<Output = Result<Delivery>> + Send + Unpin + use<> {
        let consumer = Arc::clone(self);
        Awaited::new(move || consumer.attempt_one())
    }

    /// How many messages are not acked, as far as they are committed.
    pub fn depth(&self) -> Result<u64> {
        let core = self.shared().lock_open()?;
        let (_, end) = core.store.bounds(self.log).ok_or_else(deleted)?;
        Ok(core.store.acks(self.cursor).ok_or_else(deleted)?.unacked(end))
    }

    pub fn in_flight(&self) -> Result<u64> {
        let (mut core, _) = self.lock_expired()?;
        let in_flight = core.consumption(self.cursor)?.deliveries.in_flight();
        let wakes = core.take_wakes();
        drop(core);
        wakes.wake();
        Ok(in_flight)
    }

    pub fn oldest_age(&self) -> Result<Option<Duration>> {
        let shared = self.shared();
        let (offset, source) = {
            let mut core = shared.lock_open()?;
            let (_, end) = core.store.bounds(self.log).ok_or_else(deleted)?;
            let acks = core.store.acks(self.cursor).ok_or_else(deleted)?;
            let Some(oldest) = acks.next_unacked(acks.floor().0..end.0) else {
                return Ok(None);
            };
            (oldest, core.store.locate(self.log, oldest)?)
        };
        let (stored, _) = source.load(offset)?;
        let age = shared.now().0.saturating_sub(stored.timestamp().0);
        Ok(Some(Duration::from_millis(age)))
    }
}
