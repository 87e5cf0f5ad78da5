//! Consumers that are told apart: the one that is active, where only one may be, and those that hold
//! so many deliveries at most.
//!
//! A handle, with all its clones and its deliveries, is one consumer, and has a *seat*. Where neither
//! matters there are no seats.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    consumer::Consumer,
    core::Core,
    handle::Engine,
    wait::{Waiting, Watch},
};
use crate::{
    delivery::SeatId,
    error::{Error, Result},
    format::entity::Delivering,
    ids::CursorId,
};

/// One consumer among others. It ends when its last handle and its last delivery are dropped.
#[derive(Debug)]
pub struct Seat {
    engine: Engine,
    cursor: CursorId,
    number: SeatId,
    /// Whether only one consumer may be active.
    is_exclusive: bool,
    /// How many deliveries it may hold.
    most: u64,
    /// Where it waits while another one is active.
    standby: Arc<Watch>,
    /// Its place among those who stand by. Changed with the core in hand.
    place: AtomicU64,
}

/// The consumers of one cursor.
#[derive(Debug, Default)]
pub struct Seats {
    given: SeatId,
    active: Option<SeatId>,
    /// Where those wait who are not active: those first who have waited longest.
    standby: BTreeMap<u64, (SeatId, Arc<Watch>)>,
    places: u64,
    /// Where those wait who hold as much as they may.
    pub sated: Option<Arc<Watch>>,
}

impl Seats {
    /// Where anyone waits.
    pub fn watches(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.standby.values().map(|(_, watch)| watch).chain(&self.sated)
    }

    /// Begins to wait until another one is not active any more.
    fn stand_by(&mut self, seat: &Seat) -> Waiting {
        if !seat.standby.has_waiters() {
            self.standby.remove(&seat.place.load(Ordering::Relaxed));
            self.places += 1;
            seat.place.store(self.places, Ordering::Relaxed);
            self.standby.insert(self.places, (seat.number, Arc::clone(&seat.standby)));
        }
        seat.standby.begin()
    }

    /// A consumer is gone. Says who is to look, if another one is active by that: all who wait for that
    /// one, and nobody who comes by takes its place.
    fn leave(&mut self, seat: &Seat) -> Option<Arc<Watch>> {
        self.standby.remove(&seat.place.load(Ordering::Relaxed));
        if self.active != Some(seat.number) {
            return None;
        }
        let next = self.standby.iter().find(|(_, (_, watch))| watch.has_waiters());
        let next = next.map(|(place, _)| *place).and_then(|place| self.standby.remove(&place));
        self.active = next.as_ref().map(|(number, _)| *number);
        next.map(|(_, watch)| watch)
    }
}

impl Seat {
    /// The seat of a handle that was opened.
    pub fn of(
        engine: &Engine,
        core: &mut Core,
        cursor: CursorId,
        delivering: &Delivering,
    ) -> Result<Option<Arc<Seat>>> {
        let is_exclusive = delivering.is_exclusive;
        is_exclusive.then(|| Seat::new(engine, core, cursor, (is_exclusive, u64::MAX))).transpose()
    }

    fn new(
        engine: &Engine,
        core: &mut Core,
        cursor: CursorId,
        (is_exclusive, most): (bool, u64),
    ) -> Result<Arc<Seat>> {
        let seats = &mut core.consumption(cursor)?.seats;
        seats.given += 1;
        let (engine, number) = (engine.clone(), seats.given);
        let (standby, place) = (Arc::default(), AtomicU64::new(0));
        Ok(Arc::new(Seat { engine, cursor, number, is_exclusive, most, standby, place }))
    }

    pub fn number(&self) -> SeatId {
        self.number
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.is_exclusive {
            return;
        }
        let shared = self.engine.shared();
        let mut core = shared.lock();
        core.leave(self);
        let wakes = core.take_wakes();
        drop(core);
        shared.wake(wakes);
    }
}

impl Core {
    /// How many messages a consumer may lease now; if none, where it is to wait.
    pub fn room_of(&mut self, seat: &Seat) -> Result<std::result::Result<u64, Waiting>> {
        let consumption = self.consumption(seat.cursor)?;
        let seats = &mut consumption.seats;
        if seat.is_exclusive && *seats.active.get_or_insert(seat.number) != seat.number {
            return Ok(Err(seats.stand_by(seat)));
        }
        let room = seat.most.saturating_sub(consumption.deliveries.held_by(seat.number));
        if room > 0 {
            return Ok(Ok(room));
        }
        let waiting = seats.sated.get_or_insert_default().begin();
        // Whoever was woken for a message and cannot take it has another one woken instead.
        let log = consumption.log;
        self.wake_one(log);
        Ok(Err(waiting))
    }

    /// Has all look who wait for anything but messages.
    pub fn wake_seats(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get(&cursor) {
            let watches = consumption.seats.watches();
            self.wakes.extend(watches.map(|watch| (Arc::clone(watch), usize::MAX)));
        }
    }

    fn leave(&mut self, seat: &Seat) {
        let consumption = self.consumers.get_mut(&seat.cursor);
        if let Some(next) = consumption.and_then(|it| it.seats.leave(seat)) {
            self.wakes.push((next, usize::MAX));
        }
    }
}

impl Consumer {
    /// The same, for those who only look: who looks does not keep others from being active.
    pub fn aside(&self) -> Arc<Consumer> {
        Arc::new(Consumer { seat: None, ..self.clone() })
    }

    /// The same, as a consumer of its own that holds so many deliveries at most.
    pub fn with_max_in_flight(&self, most: u64) -> Result<Consumer> {
        if most == 0 {
            return Err(Error::invalid("max_in_flight", "a consumer that may hold no message"));
        }
        let mut core = self.shared().lock_open()?;
        let seat = Seat::new(&self.engine, &mut core, self.cursor, (self.is_exclusive, most))?;
        drop(core);
        Ok(Consumer { seat: Some(seat), ..self.clone() })
    }

    /// Whether this consumer is the one that receives.
    pub fn is_active(&self) -> Result<bool> {
        let mut core = self.shared().lock_open()?;
        let active = core.consumption(self.cursor)?.seats.active;
        Ok(match &self.seat {
            Some(seat) if seat.is_exclusive => active == Some(seat.number),
            _ => true,
        })
    }
}
