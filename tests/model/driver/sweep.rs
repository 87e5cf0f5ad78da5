//! Sweeps: calls in which the engine drops messages whose times to live are over, or moves them to the dead letters,
//! though nobody receives.

use posthouse::Error;

use super::{Driver, Whose, move_to_dead_letters, unacked, unacked_mut};
use crate::state::{DEAD, State};

/// How many queues and subscriptions a checkpoint sweeps.
const SWEPT_AT_ONCE: usize = 3;

/// The messages that a sweep has taken from one queue or subscription, in its order.
pub(super) struct Swept {
    pub(super) whose: Whose,
    pub(super) gone: Vec<u64>,
}

impl Swept {
    /// The orders in which the messages may have left. That of letters is known.
    fn orders(&self) -> impl Iterator<Item = Vec<u64>> {
        rotations(&self.gone).take(if self.whose.is_retried() { 1 } else { usize::MAX })
    }
}

/// The orders in which a look may come to messages: from one of them on, and then those before it. It goes on where the last
/// one ended, and what is in segments leaves in a commit of its own.
pub(super) fn rotations(messages: &[u64]) -> impl Iterator<Item = Vec<u64>> {
    (0..messages.len().max(1)).map(|n| {
        let mut order = messages.to_vec();
        order.rotate_left(n);
        order
    })
}

impl Driver<'_> {
    /// All queues and subscriptions.
    pub(super) fn all_whose(&self) -> Vec<Whose> {
        let state = self.now();
        let queues = state.queues.keys().cloned().map(Whose::Queue);
        let subscriptions = state.topics.iter().flat_map(|(topic, it)| {
            let of = |name: &String| Whose::Subscription(topic.clone(), name.clone());
            it.subscriptions.keys().map(of).collect::<Vec<_>>()
        });
        queues.chain(subscriptions).collect()
    }

    /// The messages of a queue or a subscription that a sweep may take.
    pub(super) fn over(&self, whose: &Whose) -> Vec<u64> {
        let Some(all) = unacked(self.now(), whose) else { return Vec::new() };
        let free = self.free(whose, all);
        free.iter().filter(|(_, it)| self.may_be_over(it)).map(|(offset, _)| *offset).collect()
    }

    /// A call has looked at all messages whose times to live may be over.
    pub(super) fn all_were_swept(&mut self, is_done: bool) {
        let all = self.all_whose();
        self.were_swept(all, is_done);
    }

    /// A call has looked at the messages of some queues and subscriptions. Each loses a number of its messages, in
    /// [one of some orders](Swept::orders); one after the other, in an order that is not known here. If the call `is_done`, none may be left that
    /// is visible.
    pub(super) fn were_swept(&mut self, all: Vec<Whose>, is_done: bool) {
        let mut swept = Vec::new();
        for whose in all {
            let over = self.over(&whose);
            let gone = self.find_gone(&whose, &over);
            if is_done && !self.doomed {
                self.check_swept(&whose, &over, &gone);
            }
            if !gone.is_empty() {
                swept.push(Swept { whose, gone });
            }
        }
        self.commit_sweeps(&swept);
    }

    /// The engine has looked at all messages of a queue or a subscription: of those that may be `over`, these are `gone`.
    pub(super) fn check_swept(&self, whose: &Whose, over: &[u64], gone: &[u64]) {
        for offset in over.iter().filter(|offset| !gone.contains(offset)) {
            let entry = &unacked(self.now(), whose).expect("it is there")[offset];
            // What was on lease or hidden when the engine looked is looked at again a second later.
            let key = (whose.clone(), *offset);
            let born = self.born.get(&key).copied().unwrap_or(0);
            let may_hide = self.hides_unsynced && born > self.floor_then;
            let may_stay =
                may_hide || self.seen.contains(&key) || self.is_over(entry) != Some(true);
            assert!(may_stay, "message {offset} of {whose:?} is over, and stays");
        }
    }

    /// Messages have left queues and subscriptions: all of some, and the first ones of one more.
    pub(super) fn commit_sweeps(&mut self, swept: &[Swept]) {
        let (base, now) = (self.now().clone(), self.time);
        let before = self.letters();
        for done in 0..1u32 << swept.len() {
            let is_done = |n: usize| done >> n & 1 == 1;
            let mut state = base.clone();
            for (_, it) in swept.iter().enumerate().filter(|(n, _)| is_done(*n)) {
                it.gone.iter().for_each(|offset| take(&mut state, &it.whose, *offset, now));
            }
            self.push_new(&state);
            for (_, it) in swept.iter().enumerate().filter(|(n, _)| !is_done(*n)) {
                for order in it.orders() {
                    let mut state = state.clone();
                    for offset in order {
                        take(&mut state, &it.whose, offset, now);
                        self.push_new(&state);
                    }
                }
            }
        }
        let mut all = base;
        for it in swept {
            it.gone.iter().for_each(|offset| take(&mut all, &it.whose, *offset, now));
        }
        let first = self.states.len();
        self.push_new(&all);
        // A letter may be seen before the rest of the sweep is durable.
        for letter in before..self.letters() {
            let has = |state: &State| {
                state.queues.get(DEAD).is_some_and(|it| it.unacked.contains_key(&letter))
            };
            let born = self.states[self.floor..].iter().position(|state| has(state));
            let born = born.map_or(first, |n| n + self.floor);
            self.born.insert((Whose::Queue(DEAD.to_owned()), letter), born);
        }
    }

    pub(super) fn push_new(&mut self, state: &State) {
        if state != self.now() {
            self.committed(|now| *now = state.clone());
        }
    }

    /// Makes a checkpoint, which begins with a sweep.
    pub(super) fn checkpoint(&mut self) -> Result<Option<()>, Error> {
        // In which order it would sweep many queues is not known.
        let mut many = self.all_whose();
        many.retain(|whose| !self.over(whose).is_empty());
        for whose in many.into_iter().skip(SWEPT_AT_ONCE) {
            let looked = match &whose {
                Whose::Queue(name) => self.queue(name).and_then(|it| it.delayed()),
                Whose::Subscription(topic, name) => {
                    self.subscription(topic, name).and_then(|it| it.delayed())
                }
            };
            let looked = self.outcome(looked)?;
            self.were_swept(vec![whose], looked.is_some());
            if looked.is_none() {
                return Ok(None);
            }
        }
        let made = self.engine().checkpoint();
        self.all_were_swept(made.is_ok());
        self.durably(made)
    }
}

/// Drops a message, or moves it to the dead letters.
fn take(state: &mut State, whose: &Whose, offset: u64, now: u64) {
    if whose.is_retried() {
        move_to_dead_letters(state, offset, now);
    } else {
        unacked_mut(state, whose).remove(&offset);
    }
}

/// The state in which a sweep has left `before`, if it has led to `found`. The messages that are missing there may be
/// over.
pub fn after_sweep(
    before: &State,
    found: &State,
    may_be_over: impl Fn(&crate::state::Entry) -> bool,
    now: u64,
) -> State {
    let mut state = before.clone();
    for (name, queue) in &before.queues {
        let whose = Whose::Queue(name.clone());
        let there = unacked(found, &whose);
        for (offset, entry) in &queue.unacked {
            let is_missing = there.is_some_and(|it| !it.contains_key(offset));
            if is_missing && may_be_over(entry) {
                take(&mut state, &whose, *offset, now);
            }
        }
    }
    for (topic, it) in &before.topics {
        for (name, all) in &it.subscriptions {
            let whose = Whose::Subscription(topic.clone(), name.clone());
            let there = unacked(found, &whose);
            for (offset, entry) in &all.unacked {
                let is_missing = there.is_some_and(|it| !it.contains_key(offset));
                if is_missing && may_be_over(entry) {
                    take(&mut state, &whose, *offset, now);
                }
            }
        }
    }
    state
}
