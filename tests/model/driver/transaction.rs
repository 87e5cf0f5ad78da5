//! Transactions over all models.

use std::collections::BTreeSet;

use posthouse::{Error, Message, Offset, Ticket, Transaction};

use super::{
    Driver, Held, Settling, WAIT, Whose, capacity::is_refused, durability, queue_name, seek_in,
    settle_in, text,
};
use crate::{
    action::{How, TxPart},
    state::{BOUNDED, MESSAGES_MAX, REFUSING, State},
};

/// A transaction that is being built, and what the model knows of it.
struct Draft {
    tx: Transaction,
    state: State,
    /// The deliveries that it settles, by their places among the held deliveries.
    settled: Vec<usize>,
    /// The messages that it sends.
    born: Vec<(Whose, u64)>,
    /// The full queue to which it sends a message, and does nothing else.
    full: Option<String>,
    /// The partitions in which it expects an end.
    expecting: BTreeSet<(String, u32)>,
    /// An end that it expects, and that is wrong: the partition, what it expects, and what is there.
    conflict: Option<(u32, u64, u64)>,
}

impl Driver<'_> {
    pub(super) fn transact(&mut self, parts: &[TxPart], how: How) -> Result<Option<()>, Error> {
        let (state, mut tx) = (self.now().clone(), self.engine().transaction());
        let waits_since = self.waits_since.clone();
        tx.durability(durability(how));
        let mut draft = Draft {
            tx,
            state,
            settled: Vec::new(),
            born: Vec::new(),
            full: None,
            expecting: BTreeSet::new(),
            conflict: None,
        };
        for part in parts {
            self.add_part(part, &mut draft);
        }
        let Draft { tx, mut state, mut settled, born, full, conflict, .. } = draft;
        let result = match how {
            How::Ticket => tx.commit_ticket().map(drop),
            How::Waited => tx.commit_ticket().and_then(Ticket::wait).map(drop),
            _ => tx.commit().map(drop),
        };
        if let Some(conflict) = conflict {
            self.waits_since = waits_since;
            return self.expect_conflict(result, conflict, how);
        }
        if let Some(name) = full {
            let is_refused = is_refused(&result);
            let dropped = self.make_room(&name, 1, is_refused);
            if is_refused {
                self.waits_since = waits_since;
                // If it was wrong, a look at what is over has failed.
                return Ok(dropped.is_none().then_some(()));
            }
            let Some(dropped) = dropped else { return Ok(None) };
            let there = &self.now().queues[&name];
            let stays = |n: &u64| *n >= there.next || there.unacked.contains_key(n);
            let unacked = &mut state.queues.get_mut(&name).unwrap().unacked;
            unacked.retain(|n, _| stays(n) && !dropped.contains(n));
        }
        // An empty transaction is no commit.
        let how = if state == *self.now() { How::Buffered } else { how };
        let letters = self.letters();
        let done = self.commit_as(how, result, |now| *now = state)?;
        self.bear_letters(letters);
        for (whose, offset) in born {
            self.bear(&whose, offset, 1);
        }
        if done.is_none() {
            return Ok(None);
        }
        settled.sort_unstable();
        for index in settled.into_iter().rev() {
            let held = self.held.remove(index);
            assert!(held.delivery.ack().is_err(), "it was settled by the transaction");
        }
        Ok(done)
    }

    fn add_part(&mut self, part: &TxPart, draft: &mut Draft) {
        match part {
            TxPart::Send(name)
            | TxPart::SendLater(name)
            | TxPart::SendBrief(name)
            | TxPart::SendUrgent(name) => self.add_send(part, queue_name(*name), draft),
            TxPart::Publish(name) => self.add_publish(&text("topic", *name), draft),
            TxPart::Append(name) => self.add_append(&text("stream", *name), draft),
            TxPart::AppendIf(name, at) => self.add_append_if(text("stream", *name), *at, draft),
            TxPart::Ack(n) => self.add_settling(*n, Settling::Ack, draft),
            TxPart::Nack(n) => self.add_settling(*n, Settling::Nack, draft),
            TxPart::NackAfter(n) => self.add_settling(*n, Settling::NackAfter, draft),
            TxPart::Seek { stream, group, to } => {
                self.add_seek(&text("stream", *stream), &text("group", *group), *to, draft);
            }
        }
    }

    fn add_send(&mut self, part: &TxPart, name: String, draft: &mut Draft) {
        let message = self.messages(1, 50).remove(0);
        let message = match part {
            TxPart::SendBrief(_) => message.brief(),
            TxPart::SendUrgent(_) => message.urgent(),
            _ => message,
        };
        let (Some(queue), Ok(handle)) = (draft.state.queues.get_mut(&name), self.queue(&name))
        else {
            return;
        };
        let (whose, offset) = (Whose::Queue(name), queue.next);
        let Whose::Queue(name) = &whose else { unreachable!("it is a queue") };
        let is_bounded = [BOUNDED, REFUSING].contains(&&**name);
        if is_bounded && queue.unacked.len() as u64 >= MESSAGES_MAX {
            // The capacity that it finds must not depend on the other parts of the transaction.
            let settles = |n: &usize| self.held[*n].whose == whose;
            let sends = draft.born.iter().any(|(other, _)| *other == whose);
            if draft.full.is_some() || sends || draft.settled.iter().any(settles) {
                return;
            }
            draft.full = Some(name.clone());
        }
        draft.born.push((whose.clone(), offset));
        match part {
            TxPart::SendLater(_) => {
                draft.tx.send(&handle, message.message().deliver_after(WAIT));
                queue.send(&[message], self.time);
                queue.unacked.get_mut(&offset).unwrap().waits = true;
                self.waits_since.insert((whose, offset), self.time);
            }
            _ => {
                draft.tx.send(&handle, message.message());
                queue.send(&[message], self.time);
            }
        }
    }

    fn add_publish(&mut self, name: &str, draft: &mut Draft) {
        let message = self.messages(1, 50);
        if let (Some(topic), Ok(handle)) = (draft.state.topics.get_mut(name), self.topic(name)) {
            for subscription in topic.subscriptions.keys() {
                let whose = Whose::Subscription(name.to_owned(), subscription.clone());
                draft.born.push((whose, topic.next));
            }
            topic.publish(name, &message, self.time);
            draft.tx.publish(&handle, message[0].message());
        }
    }

    fn add_append(&mut self, name: &str, draft: &mut Draft) {
        let mut message = self.messages(1, 50).remove(0);
        message.key = Some(b"tx".to_vec());
        if let (Some(stream), Ok(handle)) = (draft.state.streams.get_mut(name), self.stream(name)) {
            stream.append(&message);
            draft.tx.append(&handle, Message::from(&message.message()));
        }
    }

    fn add_append_if(&mut self, name: String, at: u8, draft: &mut Draft) {
        let mut message = self.messages(1, 50).remove(0);
        let (Some(stream), Ok(handle), None) =
            (draft.state.streams.get_mut(&name), self.stream(&name), draft.conflict)
        else {
            return;
        };
        let (number, expected) = Self::end_expected(&stream.partitions, at);
        self.for_partition(&mut message, number);
        let next = stream.partitions[number as usize].next;
        let own = next - self.now().streams[&name].partitions[number as usize].next;
        let is_first = draft.expecting.insert((name, number));
        if expected != next {
            if !is_first || expected < own {
                // It would contradict itself, which is another error.
                return;
            }
            draft.conflict = Some((number, expected - own, next - own));
        }
        let partition = handle.partition(number).expect("there are two");
        draft.tx.append_if(&partition, Offset(expected), Message::from(&message.message()));
        stream.append_to(number, &message);
    }

    fn add_settling(&mut self, n: u8, how: Settling, draft: &mut Draft) {
        let index = usize::from(n) % self.held.len().max(1);
        if index >= self.held.len() || draft.settled.contains(&index) {
            return;
        }
        let Held { whose, delivery, .. } = &self.held[index];
        if draft.full.as_ref().is_some_and(|name| *whose == Whose::Queue(name.clone())) {
            return;
        }
        draft.settled.push(index);
        let is_bounded = *whose == Whose::Queue(BOUNDED.to_owned());
        let waits = how == Settling::NackAfter;
        let how = if is_bounded && waits { Settling::Nack } else { how };
        let (offset, attempt) = (delivery.offset().0, delivery.attempt());
        settle_in(&mut draft.state, whose, (offset, attempt), how, self.time);
        match how {
            Settling::Ack => draft.tx.ack(delivery),
            Settling::Nack => draft.tx.nack(delivery),
            _ => draft.tx.nack_after(delivery, WAIT),
        };
        let whose = whose.clone();
        self.note_wait(&whose, offset, how);
    }

    fn add_seek(&mut self, stream: &str, group: &str, to: u8, draft: &mut Draft) {
        if let Some((partition, offset)) = self.seek_target(stream, group, to)
            && let Ok(handle) = self.stream(stream)
            && let Ok(handle) = handle.group(group).open()
        {
            draft.tx.commit_offset(&handle, partition, Offset(offset));
            seek_in(&mut draft.state, stream, group, partition, offset);
        }
    }
}
