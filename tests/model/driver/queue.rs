//! Queues: sending, removing, purging and redriving.

use posthouse::{Backoff, Error, ErrorKind, Offset, Overflow, Queue, Ticket};

use super::{
    Driver, Handle, LEASE, RETRIED_NAME, Settling, WAIT, Whose, capacity::is_refused, durability,
    queue_name, unacked, unacked_mut,
};
use crate::{
    action::{How, Name},
    state::{
        ATTEMPTS_MAX, BOUNDED, BYTES_MAX, DEAD, EXPIRING, MESSAGES_MAX, MOMENT, Msg, QueueState,
        REFUSING, RETRIED, TIME_TO_LIVE,
    },
};

impl Driver<'_> {
    pub(super) fn queue(&self, name: &str) -> Result<Queue, Error> {
        let open = || Ok(Handle::Queue(self.engine().queue(name).open()?));
        match self.handle(Whose::Queue(name.to_owned()), open)? {
            Handle::Queue(queue) => Ok(queue),
            Handle::Subscription(_) => unreachable!("a queue has queues"),
        }
    }

    pub(super) fn create_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = queue_name(name);
        let builder = self.engine().queue(&name);
        // The queue of the dead letters has the lease and the backoff with which it was created beside its queue.
        let builder =
            if name == DEAD { builder } else { builder.lease(LEASE).backoff(Backoff::None) };
        let is_retried = name == RETRIED;
        // A queue of dead letters that was not created on its own has no time to live.
        let can_expire = [RETRIED, EXPIRING].contains(&&*name)
            || (name == DEAD && !self.now().queues.contains_key(DEAD));
        let time_to_live = can_expire.then_some(TIME_TO_LIVE);
        let builder = match time_to_live {
            Some(time_to_live) => builder.time_to_live(time_to_live),
            None => builder,
        };
        let builder = match &*name {
            RETRIED => builder.max_attempts(ATTEMPTS_MAX),
            BOUNDED => builder.max_messages(MESSAGES_MAX).overflow(Overflow::DropOldest),
            REFUSING => builder.max_messages(MESSAGES_MAX),
            EXPIRING => builder.max_bytes(BYTES_MAX),
            _ => builder,
        };
        let made = builder.create().map(drop);
        let max_bytes = (name == EXPIRING).then_some(BYTES_MAX);
        let differs = |there: &QueueState| {
            (can_expire && there.time_to_live != time_to_live)
                || (max_bytes.is_some() && there.max_bytes != max_bytes)
        };
        if self.now().queues.get(&name).is_some_and(differs) {
            return self.expect(made, ErrorKind::AlreadyExists);
        }
        self.commit(made, |state| {
            if is_retried && !state.queues.contains_key(RETRIED) {
                state.queues.entry(DEAD.to_owned()).or_default();
            }
            state.queues.entry(name).or_insert_with(|| QueueState {
                max_bytes,
                time_to_live,
                ..QueueState::default()
            });
        })
    }

    /// Changes the limit in bytes, or takes it away.
    pub(super) fn update_queue(&mut self, name: Name, n: u8) -> Result<Option<()>, Error> {
        let name = queue_name(name);
        if !self.now().queues.contains_key(&name) {
            return Ok(Some(()));
        }
        let builder = self.engine().queue(&name);
        let max_bytes = (!n.is_multiple_of(3)).then_some(BYTES_MAX + u64::from(n));
        let builder = match max_bytes {
            Some(bytes) => builder.max_bytes(bytes),
            None => builder.without_max_bytes(),
        };
        // It stays so: what is not given is not changed.
        let becomes_exclusive = n.is_multiple_of(4);
        let builder =
            if becomes_exclusive { builder.single_active_consumer(true) } else { builder };
        let updated = builder.create_or_update().map(drop);
        self.commit(updated, |state| {
            let queue = state.queues.get_mut(&name).unwrap();
            queue.max_bytes = max_bytes;
            queue.is_exclusive |= becomes_exclusive;
        })
    }

    pub(super) fn delete_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = queue_name(name);
        if !self.now().queues.contains_key(&name) {
            let error = self.engine().queue(&name).delete();
            return self.expect(error, ErrorKind::NotFound);
        }
        let of = |whose: &Whose| *whose == Whose::Queue(name.clone());
        if self.doomed && name == RETRIED && self.held.iter().any(|it| of(&it.whose)) {
            // Whether the deliveries that are dropped with it become dead letters before is not known.
            return Ok(Some(()));
        }
        self.forget_held(of);
        let gone = self.engine().queue(&name).delete();
        self.commit(gone, |state| drop(state.queues.remove(&name)))
    }

    pub(super) fn send(
        &mut self,
        queue: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let count = if is_bounded(&queue_name(queue)) { count % 8 } else { count };
        let messages = self.messages(count, bytes);
        self.send_all(&queue_name(queue), &messages, how)
    }

    /// Sends a batch of messages, of which some have times to live of their own: short and long ones.
    pub(super) fn send_mixed(
        &mut self,
        queue: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let lives = self.numbered as usize;
        let messages = self.messages(1 + count % 7, bytes).into_iter().enumerate();
        let messages: Vec<Msg> = messages
            .map(|(n, message)| match [0, 1, 3, 0, 6, 40][(lives + n) % 6] {
                0 => message,
                moments => message.living(moments),
            })
            .collect();
        self.send_all(&queue_name(queue), &messages, how)
    }

    pub(super) fn send_all(
        &mut self,
        name: &str,
        messages: &[Msg],
        how: How,
    ) -> Result<Option<()>, Error> {
        let Some(first) = self.now().queues.get(name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        let queue = self.queue(name)?;
        let sent = match how {
            _ if messages.len() != 1 => {
                let batch = messages.iter().map(Msg::message);
                queue.durability(durability(how)).send_batch(batch).map(|range| range.start)
            }
            How::Ticket => queue.send_ticket(messages[0].message()).map(|it| *it.value().unwrap()),
            How::Waited => queue.send_ticket(messages[0].message()).and_then(Ticket::wait),
            how => queue.durability(durability(how)).send(messages[0].message()),
        };
        let is_refused = is_refused(&sent);
        let Some(dropped) = self.make_room(name, messages.len(), is_refused) else {
            return Ok(is_refused.then_some(()));
        };
        if is_refused {
            // A look at what is over has failed.
            return Ok(None);
        }
        // An empty batch is no commit.
        let how = if messages.is_empty() { How::Buffered } else { how };
        let how = if messages.len() > 1 && how == How::Waited { How::Sync } else { how };
        let (count, now) = (messages.len() as u64, self.time);
        let done = self.commit_as(how, sent, |state| {
            let queue = state.queues.get_mut(name).unwrap();
            queue.unacked.retain(|offset, _| !dropped.contains(offset));
            queue.send(messages, now);
        })?;
        self.bear(&Whose::Queue(name.to_owned()), first, count);
        Ok(done.map(|offset| assert_eq!(offset, Offset(first))))
    }

    pub(super) fn send_later(
        &mut self,
        queue: Name,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let Some(offset) = self.now().queues.get(&name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        // Sometimes there are so many that they are spilled.
        let count = if self.numbered.is_multiple_of(3) { 9 } else { 1 };
        let messages = self.messages(count, bytes);
        let (message, now) = (messages[0].message().deliver_after(WAIT), self.time);
        let queue = self.queue(&name)?;
        let sent = match how {
            _ if count > 1 => {
                let batch = messages.iter().map(|it| it.message().deliver_after(WAIT));
                queue.durability(durability(how)).send_batch(batch).map(|range| range.start)
            }
            How::Ticket => queue.send_ticket(message).map(|it| *it.value().unwrap()),
            How::Waited => queue.send_ticket(message).and_then(Ticket::wait),
            how => queue.durability(durability(how)).send(message),
        };
        let done = self.commit_as(how, sent, |state| {
            let queue = state.queues.get_mut(&name).unwrap();
            queue.send(&messages, now);
            queue.unacked.range_mut(offset..).for_each(|(_, entry)| entry.waits = true);
        })?;
        let whose = Whose::Queue(name);
        self.bear(&whose, offset, u64::from(count));
        for offset in offset..offset + u64::from(count) {
            self.waits_since.insert((whose.clone(), offset), self.time);
        }
        Ok(done.map(|sent| assert_eq!(sent, Offset(offset))))
    }

    pub(super) fn send_brief(
        &mut self,
        queue: Name,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let message = self.messages(1, bytes).remove(0).brief();
        self.send_all(&queue_name(queue), &[message], how)
    }

    pub(super) fn send_urgent(
        &mut self,
        queue: Name,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let message = self.messages(1, bytes).remove(0).urgent();
        self.send_all(&queue_name(queue), &[message], how)
    }

    /// The messages of a queue that are not on lease.
    pub(super) fn idle(&self, name: &str) -> Option<Vec<u64>> {
        self.idle_of(&Whose::Queue(name.to_owned()))
    }

    pub(super) fn idle_of(&self, whose: &Whose) -> Option<Vec<u64>> {
        let held =
            |n: &u64| self.held.iter().any(|it| it.whose == *whose && it.delivery.offset().0 == *n);
        let unacked = unacked(self.now(), whose)?;
        Some(unacked.keys().copied().filter(|n| !held(n)).collect())
    }

    pub(super) fn remove(&mut self, queue: Name, which: u8) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let idle = self.idle(&name).unwrap_or_default();
        if idle.is_empty() {
            return Ok(Some(()));
        }
        let offset = idle[usize::from(which) % idle.len()];
        let removed = self.queue(&name).and_then(|queue| queue.remove(Offset(offset)));
        let done = self.commit(removed, |state| {
            state.queues.get_mut(&name).unwrap().unacked.remove(&offset);
        })?;
        Ok(done.map(|removed| assert!(removed, "message {offset} was there")))
    }

    pub(super) fn purge(&mut self, whose: &Whose) -> Result<Option<()>, Error> {
        let Some(idle) = self.idle_of(whose) else { return Ok(Some(())) };
        let purged = match whose {
            Whose::Queue(name) => self.queue(name).and_then(|queue| queue.purge()),
            Whose::Subscription(topic, name) => {
                self.subscription(topic, name).and_then(|it| it.purge())
            }
        };
        let done = self.commit(purged, |state| {
            unacked_mut(state, whose).retain(|offset, _| !idle.contains(offset));
        })?;
        Ok(done.map(|purged| assert_eq!(purged, idle.len() as u64)))
    }

    pub(super) fn redrive(&mut self) -> Result<Option<()>, Error> {
        let (Some(idle), true) = (self.idle(DEAD), self.now().queues.contains_key(RETRIED)) else {
            return Ok(Some(()));
        };
        let redriven = self.queue(DEAD).and_then(|dead| dead.redrive().run());
        // Messages that are not visible yet stay, and so do messages that cannot be read.
        let done = self.outcome(redriven)?;
        let dead = Whose::Queue(DEAD.to_owned());
        let moved = self.find_gone(&dead, &idle);
        if let Some(done) = done {
            assert_eq!(done.moved, moved.len() as u64);
        }
        let (first, now) = (self.now().queues[RETRIED].next, self.time);
        for (n, offset) in moved.iter().copied().enumerate() {
            self.committed(|state| {
                let letter = state.queues.get_mut(DEAD).unwrap().unacked.remove(&offset).unwrap();
                let message = Msg { note: None, ..letter.msg };
                state.queues.get_mut(RETRIED).unwrap().send(&[message], now);
            });
            self.bear(&Whose::Queue(RETRIED.to_owned()), first + n as u64, 1);
        }
        if done.is_some() && self.hides_unsynced && !moved.is_empty() {
            self.is_durable();
        }
        Ok(done.map(drop))
    }

    pub(super) fn churn(&mut self, queue: Name, rounds: u8, how: How) -> Result<Option<()>, Error> {
        // Either they are acked in the journal, or they are acked in segments.
        let at_once = rounds.is_multiple_of(2);
        // Some live longer than the rest of the churn takes: their lives go on in segments that are rewritten.
        let lives = rounds.is_multiple_of(3);
        if at_once {
            for _ in 0..rounds {
                if self.send_round(queue, lives, how)?.is_none() {
                    return Ok(None);
                }
            }
            if self.checkpoint()?.is_none() {
                return Ok(None);
            }
        }
        for round in 0..rounds {
            if !at_once && self.send_round(queue, lives, how)?.is_none() {
                return Ok(None);
            }
            // One in seven stays.
            for n in 0..6 {
                let held = self.held.len();
                if self.receive(Whose::Queue(queue_name(queue)))?.is_none() {
                    return Ok(None);
                }
                let is_new = self.held.len() > held;
                if is_new && (u32::from(round) * 6 + n) % 7 != 0 && self.settle_last()?.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    }

    fn send_round(&mut self, queue: Name, lives: bool, how: How) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let messages = self.messages(6, 190).into_iter().enumerate();
        let messages: Vec<Msg> = messages
            .map(|(n, message)| if lives && n % 2 == 0 { message.living(4) } else { message })
            .collect();
        self.send_all(&name, &messages, how)
    }

    /// A message comes, and is moved to the dead letters after some moments.
    pub(super) fn die(&mut self, moments: u8, how: How) -> Result<Option<()>, Error> {
        if self.send(RETRIED_NAME, 1, 60, how)?.is_none() {
            return Ok(None);
        }
        if self.time_passes(MOMENT * u32::from(moments))?.is_none() {
            return Ok(None);
        }
        let held = self.held.len();
        if self.receive(Whose::Queue(RETRIED.to_owned()))?.is_none() {
            return Ok(None);
        }
        if self.held.len() == held {
            return Ok(Some(()));
        }
        self.settle_at(held, Settling::Reject)
    }
}

fn is_bounded(name: &str) -> bool {
    [BOUNDED, REFUSING].contains(&name)
}
