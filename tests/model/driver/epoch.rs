//! The begin and the end of an epoch, which is the time from one opening of the store to the next: opening,
//! closing, crashes and recovery.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use posthouse::{Delivery, Error, ErrorKind};

use super::{Driver, Held, Settling, Whose, history::History, settle_in, unacked, unacked_mut};
use crate::state::{ATTEMPTS_MAX, State, dump};

impl Driver<'_> {
    pub(super) fn open(&mut self) {
        let engine = self.world.open().unwrap_or_else(|error| panic!("cannot open: {error}"));
        self.engine = Some(engine);
        self.held.clear();
        self.fresh.clear();
        self.seen.clear();
        self.born.clear();
        self.doomed = false;
        self.powerless = false;
    }

    /// Ends the epoch by closing the engine.
    pub(super) fn reopen(&mut self) {
        self.kept.borrow_mut().clear();
        self.engine().close().unwrap();
        // What is on lease was not settled, and the close has taken back the attempts that were counted first.
        let held = std::mem::take(&mut self.held);
        self.committed(|state| {
            for Held { whose, delivery, .. } in held.iter().filter(|it| it.whose.is_retried()) {
                let unacked = unacked_mut(state, whose);
                if let Some(entry) = unacked.get_mut(&delivery.offset().0) {
                    entry.attempts -= 1;
                }
            }
        });
        drop(held);
        self.engine = None;
        self.is_durable();
        self.recovered();
    }

    /// Ends the epoch by a power cut or a kill, and finds out which state is left.
    pub(super) fn crash(&mut self, power: bool) {
        self.kept.borrow_mut().clear();
        let cuts = power || self.powerless;
        // A sync that fails loses what the system has cached: it may be what the store has recorded of the clocks.
        self.time_is_lost |= (cuts || self.doomed) && self.clock_was_set;
        let crashed = if cuts { self.world.cut_power() } else { self.world.kill() };
        if !crashed {
            return self.reopen();
        }
        if !power && !self.doomed {
            // Commits are in the system's memory, and that memory has stayed.
            self.is_durable();
        }
        self.held.clear();
        self.engine = None;
        self.recovered();
    }

    fn recovered(&mut self) {
        let known = match self.world.copy() {
            Some(copy) => {
                let engine = copy.open().unwrap_or_else(|error| panic!("cannot recover: {error}"));
                let found = dump(&engine).unwrap_or_else(|error| panic!("cannot read: {error}"));
                let known = self.history.find(&found, self.floor);
                known.unwrap_or_else(|| panic!("{}", self.history.unexpected(&found, self.floor)))
            }
            None => Rc::clone(self.history.now()),
        };
        self.forget_lost_waits(&known);
        self.history_before = std::mem::replace(&mut self.history, History::new(known));
        self.proven = vec![0];
        (self.floor, self.floor_then) = (0, 0);
        self.epoch += 1;
        self.open();
    }

    /// A nack that the crash has undone does not tell when its message is due: an earlier nack does, of
    /// which the time is not known any more.
    fn forget_lost_waits(&mut self, recovered: &State) {
        let last = Rc::clone(self.history.now());
        let attempts = |state: &State, (whose, offset): &(Whose, u64)| {
            unacked(state, whose).and_then(|it| it.get(offset)).map(|entry| entry.attempts)
        };
        self.waits_since.retain(|key, _| attempts(recovered, key) == attempts(&last, key));
    }

    /// Moves the clock, and makes no call.
    pub(super) fn pass_time(&mut self, by: Duration) -> bool {
        let is_moved = self.world.advance(by);
        if is_moved {
            self.time += by.as_millis() as u64;
            self.day = self.day.map(|day| day.saturating_add(by.as_millis() as u64));
        }
        if is_moved && !by.is_zero() {
            self.floor_then = self.floor;
        }
        is_moved
    }

    pub(super) fn time_passes(&mut self, by: Duration) -> Result<Option<()>, Error> {
        if !self.pass_time(by) {
            return Ok(Some(()));
        }
        let now = self.time;
        let mut ended: BTreeMap<Whose, Vec<Delivery>> = BTreeMap::new();
        let mut expired: Vec<Held> = self.held.extract_if(.., |it| it.until <= now).collect();
        expired.sort_unstable_by_key(|it| it.granted);
        for Held { whose, delivery, .. } in expired {
            ended.entry(whose).or_default().push(delivery);
        }
        let Some(whose) = ended.keys().next() else { return self.catch_up() };
        // The first call of all counts the failures, and takes what is over. It is a late ack; a look if they may be forgotten,
        // as that tells more.
        if self.doomed {
            let looked = self.in_flight(whose);
            self.outcome(looked)?;
            self.ran_out(&ended);
            self.all_were_swept(false);
            // If the power was off, no caller was told. Dropping the deliveries now would count them, or not; they end with
            // this epoch.
            let held = |whose: Whose| {
                move |delivery| Held {
                    whose: whose.clone(),
                    delivery,
                    granted: 0,
                    until: 0,
                    is_admitted: false,
                }
            };
            self.held.extend(
                ended.into_iter().flat_map(|(whose, all)| all.into_iter().map(held(whose))),
            );
            return Ok(None);
        }
        assert_eq!(ended[whose][0].ack().expect_err("too late").kind(), ErrorKind::LeaseLost);
        self.ran_out(&ended);
        self.all_were_swept(true);
        for delivery in ended.values().flatten() {
            assert_eq!(delivery.ack().expect_err("too late").kind(), ErrorKind::LeaseLost);
            let mut tx = self.engine().transaction();
            tx.ack(delivery);
            assert_eq!(tx.commit().expect_err("too late").kind(), ErrorKind::LeaseLost);
        }
        self.catch_up()
    }

    /// The first call after leases have run out counts the failures, those of all queues and subscriptions in one commit.
    /// Then messages with no attempts left move to the dead letters, each in a commit.
    fn ran_out(&mut self, ended: &BTreeMap<Whose, Vec<Delivery>>) {
        let now = self.time;
        if self.doomed {
            // A failure that cannot be counted is forgotten, and the call goes on all the same.
            let before = self.now().clone();
            self.moved_last(ended);
            self.all_were_swept(false);
            self.committed(|state| *state = before);
        }
        self.committed(|state| {
            for (whose, deliveries) in ended {
                for delivery in deliveries.iter().filter(|it| !is_last(whose, it)) {
                    let message = (delivery.offset().0, delivery.attempt());
                    settle_in(state, whose, message, Settling::RunOut, now);
                }
            }
        });
        for (whose, deliveries) in ended {
            for delivery in deliveries {
                self.note_wait(whose, delivery.offset().0, Settling::RunOut);
            }
        }
        self.moved_last(ended);
    }

    /// Messages whose last leases have run out have moved to the dead letters.
    fn moved_last(&mut self, ended: &BTreeMap<Whose, Vec<Delivery>>) {
        for (whose, deliveries) in ended {
            let last = deliveries.iter().filter(|it| is_last(whose, it));
            let last: Vec<u64> = last.map(|it| it.offset().0).collect();
            let gone = self.find_gone(whose, &last);
            let stays = last.into_iter().filter(|it| !gone.contains(it)).collect::<Vec<_>>();
            for offset in gone.iter().chain(&stays) {
                self.commit_dead_letter(*offset);
            }
        }
    }
}

fn is_last(whose: &Whose, delivery: &Delivery) -> bool {
    whose.is_retried() && delivery.attempt() >= ATTEMPTS_MAX
}
