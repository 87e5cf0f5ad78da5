//! Consuming by acks: what queues and subscriptions have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    core::{Core, deleted},
    delivery::Delivery,
    handle::Engine,
    latency::{Histograms, Latencies},
    seat::Seat,
    shared::Shared,
    wait::{Attempt, Awaited, Watch, blocking},
};
use crate::{
    config::Durability,
    delivery::{LeaseKey, Retry},
    error::{Error, Result},
    format::entity::{DeadLetters, Delivering},
    ids::{CursorId, LogId, Offset, Timestamp},
    journal::Urgency,
    prims::{Mutex, MutexGuard},
    store::{Op, Outcome, Source, Stored},
};

/// One ack cursor, as its handles share it.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub engine: Engine,
    pub name: Arc<str>,
    pub cursor: CursorId,
    pub log: LogId,
    pub(super) watch: Arc<Watch>,
    pub(super) lease: Duration,
    pub life_ms: u64,
    pub retry: Retry,
    /// Those who receive from a queue that is ordered by key take turns.
    pub turn: Arc<Mutex<()>>,
    pub is_ordered: bool,
    pub is_exclusive: bool,
    pub(super) latencies: Arc<Histograms>,
    /// Which consumer this is, where that matters.
    pub seat: Option<Arc<Seat>>,
    /// What dead letters are to say of where they come from.
    pub origin: Arc<str>,
    pub durability: Durability,
}

/// A message that was leased, and where to read it.
pub struct Picked {
    pub offset: Offset,
    pub key: LeaseKey,
    pub source: Source,
    pub dealt: Dealt,
    /// Where it belongs instead, as it was tried too often.
    pub grave: Option<DeadLetters>,
}

/// What is known of a delivery beside its message.
#[derive(Clone, Copy, Debug)]
pub struct Dealt {
    pub attempt: u32,
    pub priority: u8,
    /// When it was to be delivered, if not at once; of the first delivery.
    pub due: Timestamp,
    /// When it was leased.
    pub leased: Duration,
}

impl Consumer {
    pub fn attach(
        engine: &Engine,
        (name, origin): (&str, &str),
        (cursor, log): (CursorId, LogId),
        delivering: &Delivering,
        is_queue: bool,
    ) -> Result<Consumer> {
        let shared = engine.shared();
        let retry = Retry::of(delivering);
        let mut core = shared.lock_open()?;
        let origin: Arc<str> = origin.into();
        let is_ordered = delivering.is_ordered;
        let (turn, latencies) = core.begin_consuming(cursor, log, delivering, &origin)?;
        let watch = core.watch(std::iter::once(log), is_queue);
        let seat = Seat::of(engine, &mut core, cursor, delivering)?;
        let wakes = core.take_wakes();
        drop(core);
        shared.wake(wakes);
        let durability = shared.config.durability;
        // The clock is as late as its last tick: no lease ends early for that.
        let lease = Duration::from_millis(delivering.lease_ms) + shared.disk.tick();
        let (engine, name) = (engine.clone(), name.into());
        Ok(Consumer {
            engine,
            name,
            cursor,
            log,
            watch,
            lease,
            life_ms: delivering.life_ms,
            retry,
            turn,
            is_ordered,
            is_exclusive: delivering.is_exclusive,
            latencies,
            seat,
            origin,
            durability,
        })
    }

    pub fn with_durability(&self, durability: Durability) -> Consumer {
        Consumer { durability, ..self.clone() }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
    }

    /// Leases and reads up to `most` messages, or waits.
    fn attempt(self: &Arc<Consumer>, most: usize) -> Result<Attempt<Vec<Delivery>>> {
        if self.reads_first() {
            return self.attempt_each(most);
        }
        loop {
            let picked =
                match self.lease_with(|core, elapsed| self.pick_many(core, elapsed, most))? {
                    Attempt::Got(picked) => picked,
                    Attempt::Wait(waiting) => return Ok(Attempt::Wait(waiting)),
                };
            let deliveries = self.read(picked)?;
            if !deliveries.is_empty() {
                return Ok(Attempt::Got(deliveries));
            }
        }
    }

    /// Whether something is to be done with a message once it was read, and before it is delivered.
    fn reads_first(&self) -> bool {
        self.is_ordered || self.retry.counts_first()
    }

    /// The same for one message.
    fn attempt_one(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        if self.reads_first() {
            return self.attempt_read();
        }
        loop {
            let picked = match self.lease_with(|core, elapsed| self.pick(core, elapsed))? {
                Attempt::Got(picked) => picked,
                Attempt::Wait(waiting) => return Ok(Attempt::Wait(waiting)),
            };
            let key = picked.key;
            match self.read_one(picked) {
                Ok(Some(delivery)) => return Ok(Attempt::Got(delivery)),
                Ok(None) => {}
                Err(error) => {
                    self.put_back(std::iter::once(key));
                    return Err(error);
                }
            }
        }
    }

    /// Leases what `pick` finds, or waits.
    #[inline(always)]
    pub fn lease_with<T>(
        &self,
        pick: impl FnOnce(&mut Core, Duration) -> Result<Option<T>>,
    ) -> Result<Attempt<T>> {
        let (mut core, elapsed) = self.lock_expired()?;
        if let Some(seat) = &self.seat
            && let Err(waiting) = core.room_of(seat)?
        {
            self.finish_picking(core);
            return Ok(Attempt::Wait(waiting));
        }
        let picked = pick(&mut core, elapsed);
        let waiting = matches!(picked, Ok(None)).then(|| self.watch.begin());
        let damage = waiting.as_ref().and_then(|_| core.timetable_damage(self.cursor));
        self.finish_picking(core);
        if let Some(damage) = damage {
            return Err(damage);
        }
        match (picked?, waiting) {
            (Some(picked), _) => Ok(Attempt::Got(picked)),
            (None, waiting) => Ok(Attempt::Wait(waiting.expect("there was none to be picked"))),
        }
    }

    /// Counts a message as tried, before anyone sees it. If that cannot be for now, its lease is ended.
    pub fn count(
        &self,
        (offset, key, attempts): (Offset, LeaseKey, u32),
    ) -> Result<Option<Outcome>> {
        let (cursor, shared) = (self.cursor, self.shared());
        // On a full disk the reserve is for acks, and not for this.
        let (due, urgency) = (Timestamp(0), Urgency::Ordinary);
        let mut core = shared.lock_open()?;
        let outcome = core
            .commit(&[Op::Defer { cursor, offset, attempts, due, urgency }], shared.now_plain());
        let is_counted = matches!(outcome, Ok(Outcome::Done(_)));
        if !is_counted {
            core.take_back(cursor, key);
        }
        let wakes = core.take_wakes();
        drop(core);
        shared.wake(wakes);
        if is_counted {
            shared.flusher.soon(shared);
            return Ok(None);
        }
        outcome.map(Some)
    }

    /// Takes the core, with all leases ended whose time has come, and their failures counted.
    pub fn lock_expired(&self) -> Result<(MutexGuard<'_, Core>, Duration)> {
        let shared = self.shared();
        let mut core = shared.lock_open()?;
        let elapsed = shared.elapsed();
        if core.wants_block(self.cursor, elapsed) {
            drop(core);
            // If it fails they come later, or whoever finds nothing is told why.
            shared.unshelve(self.cursor);
            core = shared.lock_open()?;
        }
        core.expire(self.cursor, elapsed);
        if core.has_failures() {
            core = shared.count_failures(core);
            shared.check_open(&core)?;
        }
        if core.has_lapsed() && !shared.flusher.has_thread() {
            drop(core);
            shared.bury_lapsed();
            core = shared.lock_open()?;
        }
        if !core.alarmed.is_empty()
            && !shared.flusher.has_thread()
            && core.take_look(self.cursor, elapsed)
        {
            drop(core);
            shared.look_at_age(self.cursor);
            core = shared.lock_open()?;
        }
        Ok((core, elapsed))
    }

    /// Lets go of the core after messages were leased.
    #[inline]
    fn finish_picking(&self, mut core: MutexGuard<'_, Core>) {
        core.arm(self.cursor);
        let wakes = core.take_wakes();
        drop(core);
        self.shared().wake(wakes);
    }

    /// Leases the next messages. If one cannot be found, those before it are delivered; the next
    /// attempt meets the error again.
    fn pick_many(
        &self,
        core: &mut Core,
        elapsed: Duration,
        most: usize,
    ) -> Result<Option<Vec<Picked>>> {
        let mut picked = Vec::new();
        let most = match &self.seat {
            Some(seat) => core.room_of(seat)?.map_or(0, |room| (most as u64).min(room) as usize),
            None => most,
        };
        while picked.len() < most {
            match self.pick(core, elapsed) {
                Ok(Some(one)) => picked.push(one),
                Ok(None) => break,
                Err(error) if picked.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok((!picked.is_empty()).then_some(picked))
    }

    /// Leases the next message.
    pub fn pick(&self, core: &mut Core, elapsed: Duration) -> Result<Option<Picked>> {
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
        if let Some(seat) = &self.seat {
            consumption.deliveries.assign(key, seat.number());
        }
        let tried = view.acks.attempts(offset);
        let priority = view.acks.priority(offset);
        let grave = self.retry.grave(tried);
        let attempt = if grave.is_some() { tried } else { tried.saturating_add(1) };
        let due = if tried == 0 { view.acks.due(offset) } else { Timestamp(0) };
        let dealt = Dealt { attempt, priority, due, leased: elapsed };
        let located = match run {
            Some(run) => store.at_run(run),
            None => store.locate(self.log, offset),
        };
        match located {
            Ok(source) => {
                consumption.counts.delivered += 1;
                consumption.counts.redelivered += u64::from(tried > 0);
                Ok(Some(Picked { offset, key, source, dealt, grave }))
            }
            Err(error) => {
                // It stays in the queue: damage is reported, not skipped.
                core.put_back(self.cursor, key);
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
                Ok(delivery) => deliveries.extend(delivery),
                Err(error) => {
                    let unread = std::iter::once(key).chain(picked.map(|one| one.key));
                    self.put_back(unread);
                    return if deliveries.is_empty() { Err(error) } else { Ok(deliveries) };
                }
            }
        }
        Ok(deliveries)
    }

    #[inline(always)]
    pub fn load(&self, source: Source, offset: Offset) -> Result<Stored> {
        let (stored, block) = source.load(offset)?;
        if let Some(block) = block {
            self.shared().lock().store.remember(self.log, block);
        }
        Ok(stored)
    }

    /// Reads one message. `None` if it is none to be delivered.
    #[inline]
    fn read_one(self: &Arc<Consumer>, picked: Picked) -> Result<Option<Delivery>> {
        let Picked { offset, key, source, dealt, grave } = picked;
        let stored = self.load(source, offset)?;
        if self.discards(&stored, key, dealt.attempt, grave)? {
            return Ok(None);
        }
        Ok(Some(Delivery::new(Arc::clone(self), key, stored, dealt)))
    }

    /// Ends leases of messages that nobody has seen: that is no failed attempt.
    pub fn put_back(&self, keys: impl Iterator<Item = LeaseKey>) {
        let mut core = self.shared().lock();
        for key in keys {
            core.put_back(self.cursor, key);
        }
        let wakes = core.take_wakes();
        drop(core);
        self.shared().wake(wakes);
    }

    pub fn receive(self: &Arc<Consumer>, timeout: Option<Duration>) -> Result<Option<Delivery>> {
        blocking(timeout, || self.shared().disk.stopwatch(), || self.attempt_one())
    }

    /// Receives the next message, and waits for one. `None` if it is told to stop: whoever says so
    /// then has all wake up.
    pub fn receive_unless(
        self: &Arc<Consumer>,
        is_stopped: &AtomicBool,
    ) -> Result<Option<Delivery>> {
        let stopwatch = || self.shared().disk.stopwatch();
        let received = blocking(None, stopwatch, || {
            if is_stopped.load(Ordering::SeqCst) {
                return Ok(Attempt::Got(None));
            }
            Ok(match self.attempt_one()? {
                Attempt::Got(delivery) => Attempt::Got(Some(delivery)),
                // Asked once more when those who wake up can see that this one waits.
                Attempt::Wait(_) if is_stopped.load(Ordering::SeqCst) => Attempt::Got(None),
                Attempt::Wait(waiting) => Attempt::Wait(waiting),
            })
        });
        Ok(received?.flatten())
    }

    /// Has all who wait look again.
    pub fn wake_all(&self) {
        self.watch.wake(usize::MAX);
        if self.seat.is_some() {
            let mut core = self.shared().lock();
            core.wake_seats(self.cursor);
            let wakes = core.take_wakes();
            drop(core);
            self.shared().wake(wakes);
        }
    }

    pub fn lease(&self) -> Duration {
        self.lease
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

    pub fn ack_batch<'d>(&self, deliveries: impl IntoIterator<Item = &'d Delivery>) -> Result<()> {
        let mut tx = self.engine.transaction();
        tx.durability(self.durability);
        for delivery in deliveries {
            tx.ack(delivery);
        }
        tx.commit().map(drop)
    }

    /// How many messages are not acked, as far as they are committed.
    pub fn depth(&self) -> Result<u64> {
        let core = self.shared().lock_open()?;
        let (_, end) = core.store.bounds(self.log).ok_or_else(deleted)?;
        Ok(core.store.acks(self.cursor).ok_or_else(deleted)?.unacked(end))
    }

    pub fn in_flight(&self) -> Result<u64> {
        self.looked(|core| Ok(core.consumption(self.cursor)?.deliveries.in_flight()))
    }

    pub fn delayed(&self) -> Result<u64> {
        self.looked(|core| {
            let waiting = core.consumption(self.cursor)?.deliveries.waiting();
            Ok(waiting + core.shelved(self.cursor))
        })
    }

    pub fn oldest_age(&self) -> Result<Option<Duration>> {
        let shared = self.shared();
        let oldest = shared.oldest(self.cursor)?;
        Ok(oldest.map(|oldest| oldest.age(shared.now().stamp)))
    }

    pub fn latencies(&self) -> Result<Latencies> {
        // A queue that was deleted has none.
        self.depth()?;
        Ok(self.latencies.snapshot())
    }
}
