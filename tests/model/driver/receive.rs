//! Receiving: which message may come, and which may be withheld.

use posthouse::{Delivery, Error};

use super::{Driver, Held, WAIT, Whose, unacked, unacked_mut};
use crate::state::{Entry, Msg, RETRIED, Unacked};

/// The messages of a receive.
struct Offered {
    /// The messages that were not on lease.
    free: Unacked,
    /// Those that the receive may have dropped, or moved to the dead letters.
    doomed: Vec<u64>,
    /// Those that it has dropped or moved.
    gone: Vec<u64>,
}

impl Driver<'_> {
    pub(super) fn receive(&mut self, whose: Whose) -> Result<Option<()>, Error> {
        let Some(unacked) = unacked(self.now(), &whose) else {
            return Ok(Some(()));
        };
        let is_other = |it: &Held| it.whose == whose && it.is_admitted;
        if self.is_exclusive(&whose) && self.held.iter().any(is_other) {
            return self.stand_by(&whose);
        }
        let (depth, is_retried) = (unacked.len(), whose.is_retried());
        let free = self.free(&whose, unacked);
        let doomed: Vec<u64> = free
            .iter()
            .filter(|(_, entry)| self.may_be_over(entry) || whose.is_worn_out(entry))
            .map(|(offset, _)| *offset)
            .collect();
        let received = match &whose {
            Whose::Queue(name) => self.queue(name).and_then(|queue| queue.try_receive()),
            Whose::Subscription(topic, name) => {
                self.subscription(topic, name).and_then(|it| it.try_receive())
            }
        };
        let received = self.outcome(received)?;
        let gone = self.find_gone(&whose, &doomed);
        if received.is_some() && !self.doomed {
            let left = self.depth(&whose)?;
            assert_eq!(
                left,
                (depth - gone.len()) as u64,
                "one is lost, and its time to live is not over"
            );
        }
        if is_retried {
            if received.is_none() {
                self.may_have_counted(&free, &gone);
                return Ok(None);
            }
            gone.iter().for_each(|offset| self.commit_dead_letter(*offset));
        } else {
            self.commit_sweep(vec![(whose.clone(), gone.clone())]);
        }
        let Some(received) = received else {
            return Ok(None);
        };
        let offered = Offered { free, doomed, gone };
        match received {
            Some(delivery) => {
                assert!(!self.is_paused(&whose), "{whose:?} is paused");
                let token = delivery.fencing_token();
                let last = self.tokens.insert(whose.clone(), token);
                assert!(last.is_none_or(|last| last < token), "a fencing token went back");
                self.delivered(whose, delivery, &offered);
            }
            None => self.check_withheld(&whose, &offered),
        }
        Ok(Some(()))
    }

    /// Each receive here is by a consumer of its own. One that is not the active one gets nothing.
    fn stand_by(&mut self, whose: &Whose) -> Result<Option<()>, Error> {
        let Whose::Queue(name) = whose else { unreachable!("it is a queue") };
        let received = self.queue(name).and_then(|queue| queue.try_receive());
        let received = self.outcome(received)?;
        Ok(received.map(|got| assert!(got.is_none(), "{name} has another active consumer")))
    }

    pub(super) fn is_exclusive(&self, whose: &Whose) -> bool {
        let Whose::Queue(name) = whose else { return false };
        self.now().queues.get(name).is_some_and(|queue| queue.is_exclusive)
    }

    /// The messages that are not on lease.
    pub(super) fn free(&self, whose: &Whose, unacked: &Unacked) -> Unacked {
        let held = self.held.iter().filter(|it| it.whose == *whose);
        let held: Vec<u64> = held.map(|it| it.delivery.offset().0).collect();
        let free = unacked.iter().filter(|(n, _)| !held.contains(n));
        free.map(|(n, entry)| (*n, entry.clone())).collect()
    }

    /// No message came: each free message must be withheld for a reason.
    fn check_withheld(&self, whose: &Whose, offered: &Offered) {
        for (offset, entry) in offered.free.iter().filter(|(n, _)| !offered.gone.contains(n)) {
            let may_be = self.may_be_withheld(whose, *offset, entry);
            assert!(may_be, "message {offset} is withheld");
        }
    }

    /// A message came, and is on lease from now on.
    fn delivered(&mut self, whose: Whose, delivery: Delivery, offered: &Offered) {
        let offset = delivery.offset().0;
        self.check_delivery(&whose, &delivery, offered);
        self.check_order(&whose, offset, offered);
        if self.hides_unsynced {
            let born = self.born.get(&(whose.clone(), offset)).copied().unwrap_or(0);
            self.floor = self.floor.max(born);
        }
        if whose.is_retried() && self.was_counted(&delivery) {
            self.committed(|state| {
                let entry = unacked_mut(state, &whose).get_mut(&offset).expect("it was delivered");
                entry.attempts += 1;
                entry.waits = false;
            });
        }
        self.granted += 1;
        let until = self.time + whose.lease().as_millis() as u64;
        let is_admitted = self.is_exclusive(&whose);
        self.held.push(Held { whose, delivery, granted: self.granted, until, is_admitted });
    }

    /// The delivered message may come now, and no message of a higher priority could.
    fn check_delivery(&self, whose: &Whose, delivery: &Delivery, offered: &Offered) {
        let Offered { free, doomed, .. } = offered;
        let offset = delivery.offset().0;
        let Some(entry) = free.get(&offset) else {
            panic!("message {offset} of {whose:?} was delivered, which is acked or on lease");
        };
        assert_eq!(entry.msg, Msg::of_delivery(delivery));
        assert_eq!(entry.attempts + 1, delivery.attempt());
        let too_early = entry.waits && self.is_due(whose, offset) == Some(false);
        assert!(!too_early, "message {offset} of {whose:?} came too early");
        let is_over = self.is_over(entry) == Some(true);
        assert!(!is_over, "message {offset} of {whose:?} came when its time to live was over");
        if whose.is_ordered() && entry.msg.key.is_some() {
            assert_eq!(
                self.first_of_key(whose, entry),
                offset,
                "an earlier message of its key is not done"
            );
        }
        let priority = entry.msg.priority;
        for (n, other) in
            free.iter().filter(|(n, it)| it.msg.priority > priority && !doomed.contains(n))
        {
            let may_be = self.may_be_withheld(whose, *n, other);
            assert!(may_be, "message {offset} was preferred to {n}, which is more urgent");
        }
    }

    /// Fresh messages of one priority come in order.
    fn check_order(&mut self, whose: &Whose, offset: u64, offered: &Offered) {
        let Offered { free, doomed, gone } = offered;
        let entry = &free[&offset];
        // A message that has waited, or was there before, is not in the order of the fresh messages.
        let is_fresh = !entry.waits && !self.seen.contains(&(whose.clone(), offset));
        let is_fresh = is_fresh && !whose.is_ordered();
        let priority = entry.msg.priority;
        let last = self.fresh.entry((whose.clone(), priority)).or_insert(0);
        self.seen.insert((whose.clone(), offset));
        if is_fresh && offset >= *last {
            let mut skipped = free.range(*last..offset);
            let seen = |n: &u64| self.seen.contains(&(whose.clone(), *n));
            let is_fresh = |n: &u64, entry: &Entry| {
                let is_alike = !entry.waits && entry.msg.priority == priority;
                is_alike && !doomed.contains(n) && !gone.contains(n) && !seen(n)
            };
            let skipped = skipped.find(|(n, entry)| is_fresh(n, entry));
            assert!(skipped.is_none(), "{skipped:?} was skipped by {offset}");
            *last = offset + 1;
        }
    }

    pub(super) fn depth(&self, whose: &Whose) -> Result<u64, Error> {
        match whose {
            Whose::Queue(name) => self.queue(name)?.depth(),
            Whose::Subscription(topic, name) => self.subscription(topic, name)?.depth(),
        }
    }

    pub(super) fn in_flight(&self, whose: &Whose) -> Result<u64, Error> {
        match whose {
            Whose::Queue(name) => self.queue(name)?.in_flight(),
            Whose::Subscription(topic, name) => self.subscription(topic, name)?.in_flight(),
        }
    }

    /// Whether a message that is not on lease must not be delivered, as far as the model knows.
    pub(super) fn may_be_withheld(&self, whose: &Whose, offset: u64, entry: &Entry) -> bool {
        let born = self.born.get(&(whose.clone(), offset)).copied().unwrap_or(0);
        let is_hidden = self.hides_unsynced && born > self.floor;
        let may_wait = entry.waits && self.is_due(whose, offset) != Some(true);
        // A message that cannot be moved to the dead letters stays, and is not delivered.
        let is_doomed = self.doomed && whose.is_retried();
        let is_behind = whose.is_ordered() && self.first_of_key(whose, entry) < offset;
        is_hidden || may_wait || is_doomed || is_behind || self.is_paused(whose)
    }

    /// The first message with the same key that is not acked.
    pub(super) fn first_of_key(&self, whose: &Whose, entry: &Entry) -> u64 {
        let unacked = unacked(self.now(), whose).expect("it is there");
        let key = &entry.msg.key;
        let same = unacked.iter().find(|(_, other)| key.is_some() && other.msg.key == *key);
        same.map_or(u64::MAX, |(offset, _)| *offset)
    }

    /// Whether a message that waits is due; `None` if the model does not know.
    pub(super) fn is_due(&self, whose: &Whose, offset: u64) -> Option<bool> {
        let since = self.waits_since.get(&(whose.clone(), offset))?;
        let due = since + WAIT.as_millis() as u64;
        (!self.time_is_lost).then_some(due <= self.time)
    }

    /// Whether the time to live of a message is over; `None` if the model does not know.
    pub(super) fn is_over(&self, entry: &Entry) -> Option<bool> {
        match entry.end() {
            None => Some(false),
            Some(_) if self.time_is_lost => None,
            Some(end) => Some(end <= self.time),
        }
    }

    pub(super) fn may_be_over(&self, entry: &Entry) -> bool {
        self.is_over(entry) != Some(false)
    }

    /// Whether a delivery of [`RETRIED`] was counted: on a full disk it is not.
    pub(super) fn was_counted(&self, delivery: &Delivery) -> bool {
        if !self.doomed {
            return true;
        }
        let browsed = self.queue(RETRIED).and_then(|queue| queue.browse());
        let browsed = browsed.ok().into_iter().flatten().filter_map(Result::ok);
        let mut same = browsed.filter(|it| it.offset() == delivery.offset());
        same.next().is_none_or(|it| it.attempts() == delivery.attempt())
    }
}
