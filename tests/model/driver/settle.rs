//! Settling deliveries, and the messages on lease.

use posthouse::{Delivery, Error, ErrorKind};

use super::{Driver, Held, Settling, WAIT, Whose, settle_in};
use crate::state::BOUNDED;

impl Driver<'_> {
    /// Settles a delivery. If the power was cut, it may be settled or not.
    pub(super) fn note_wait(&mut self, whose: &Whose, offset: u64, how: Settling) {
        let key = (whose.clone(), offset);
        if self.doomed {
            self.waits_since.remove(&key);
        } else if how == Settling::NackAfter {
            self.waits_since.insert(key, self.time);
        } else {
            self.waits_since.remove(&key);
        }
    }

    pub(super) fn settle(&mut self, n: u8, how: Settling) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        self.settle_at(usize::from(n) % self.held.len(), how)
    }

    pub(super) fn settle_at(&mut self, index: usize, how: Settling) -> Result<Option<()>, Error> {
        if how == Settling::Reject && !self.held[index].whose.is_retried() {
            let error = self.held[index].delivery.reject("no").unwrap_err().kind();
            assert_eq!(error, ErrorKind::InvalidInput { field: "dead_letter_queue" });
            return Ok(Some(()));
        }
        let Held { whose, delivery, granted, until, is_admitted } = self.held.swap_remove(index);
        let is_bounded = whose == Whose::Queue(BOUNDED.to_owned());
        // The model does not know which of the waiting messages are dropped.
        let how = if is_bounded && how == Settling::NackAfter { Settling::Nack } else { how };
        let result = match how {
            Settling::Ack => delivery.ack(),
            Settling::Nack => delivery.nack(),
            Settling::NackAfter => delivery.nack_after(WAIT),
            Settling::Reject => delivery.reject("no"),
            Settling::Drop | Settling::RunOut => unreachable!("these are no calls"),
        };
        let (offset, attempt) = (delivery.offset().0, delivery.attempt());
        let failed = result.is_err();
        let (letters, now) = (self.letters(), self.time);
        let settled =
            self.commit(result, |state| settle_in(state, &whose, (offset, attempt), how, now))?;
        self.bear_letters(letters);
        self.note_wait(&whose, offset, how);
        if failed {
            // Dropping it now might count a failure; it ends with this epoch.
            self.held.push(Held { whose, delivery, granted, until, is_admitted });
        } else if !self.doomed {
            let again = delivery.ack().expect_err("it was settled");
            assert_eq!(again.kind(), ErrorKind::LeaseLost);
        }
        Ok(settled)
    }

    pub(super) fn settle_last(&mut self) -> Result<Option<()>, Error> {
        let last = self.held.len() - 1;
        self.settle_at(last, Settling::Ack)
    }

    pub(super) fn drop_delivery(&mut self, n: u8) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        let index = usize::from(n) % self.held.len();
        let Held { whose, delivery, .. } = self.held.swap_remove(index);
        self.drop_one(&whose, delivery);
        // If the power was off, no caller was told.
        Ok(if self.doomed { None } else { Some(()) })
    }

    pub(super) fn drop_one(&mut self, whose: &Whose, delivery: Delivery) {
        let (offset, attempt) = (delivery.offset().0, delivery.attempt());
        drop(delivery);
        let (letters, now) = (self.letters(), self.time);
        self.committed(|state| settle_in(state, whose, (offset, attempt), Settling::Drop, now));
        self.note_wait(whose, offset, Settling::Drop);
        self.bear_letters(letters);
        // The message may be over. A failure is met again.
        let _ = self.catch_up();
    }

    /// The deliveries of something that is about to be deleted. Their leases end with it.
    pub(super) fn forget_held(&mut self, of: impl Fn(&Whose) -> bool) {
        self.kept.borrow_mut().retain(|whose, _| !of(whose));
        // The other deliveries stay on lease meanwhile.
        let ended: Vec<Held> = self.held.extract_if(.., |held| of(&held.whose)).collect();
        for Held { whose, delivery, .. } in ended {
            // This counts a failure of a message that is about to be gone.
            self.drop_one(&whose, delivery);
        }
        self.fresh.retain(|(whose, _), _| !of(whose));
        self.seen.retain(|(whose, _)| !of(whose));
        self.waits_since.retain(|(whose, _), _| !of(whose));
        self.born.retain(|(whose, _), _| !of(whose));
    }
}
