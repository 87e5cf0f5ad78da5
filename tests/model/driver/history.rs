//! The states to which the commits have led, and the ones that a crash may leave of them.

use std::{collections::BTreeMap, rc::Rc};

use super::{Whose, move_to_dead_letters, unacked, unacked_mut};
use crate::state::State;

/// The states since an opening. The first one is the recovered state, and each commit has led to the next one.
#[derive(Debug)]
pub struct History {
    pub(super) states: Vec<Rc<State>>,
    /// The sweeps, by the states to which they have led. A sweep is many commits. So a crash may leave a part of it.
    sweeps: BTreeMap<usize, Sweep>,
}

/// Messages that have left queues and subscriptions because their times to live were over.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// They leave one queue after another, in an order that is not known. That of letters is known.
    pub(super) gone: Vec<(Whose, Vec<u64>)>,
    /// The time. The lives of letters begin then.
    pub(super) now: u64,
}

impl Sweep {
    /// What the sweep makes of a state, as far as `is_gone` says.
    fn of(&self, before: &State, is_gone: impl Fn(&Whose, &u64) -> bool) -> State {
        let mut state = before.clone();
        for (whose, gone) in &self.gone {
            for offset in gone {
                match is_gone(whose, offset) {
                    true => take(&mut state, whose, *offset, self.now),
                    // Letters are in their order.
                    false if whose.is_retried() => break,
                    false => {}
                }
            }
        }
        state
    }

    pub(super) fn whole(&self, before: &State) -> State {
        self.of(before, |_, _| true)
    }

    /// The state that the sweep has left of `before`, if a crash has led to `found`.
    fn part(&self, before: &State, found: &State) -> State {
        self.of(before, |whose, offset| {
            unacked(found, whose).is_some_and(|there| !there.contains_key(offset))
        })
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

impl History {
    pub(super) fn new(first: Rc<State>) -> History {
        History { states: vec![first], sweeps: BTreeMap::new() }
    }

    /// The next state is what a sweep leads to.
    pub(super) fn note_sweep(&mut self, sweep: Sweep) {
        self.sweeps.insert(self.states.len(), sweep);
    }

    pub fn now(&self) -> &Rc<State> {
        self.states.last().expect("there is one")
    }

    /// The model's own state for one that was found after a crash, if the crash may lead from state number `from`, or a later
    /// one, to that. It has the things that the engine does not show.
    pub fn find(&self, found: &State, from: usize) -> Option<Rc<State>> {
        // The model follows what leaves a stream with limits. A crash may undo that, and what looks at the state after it may
        // have it leave again. So of the states that may be meant, the one counts from which least has left.
        let states = self.states[from..].iter().rev().filter(|it| it.may_become(found));
        states.min_by_key(|it| it.has_left()).cloned().or_else(|| {
            let mut parts = self.sweeps.range(from + 1..).rev();
            parts.find_map(|(at, sweep)| {
                let part = sweep.part(&self.states[at - 1], found);
                part.may_become(found).then(|| Rc::new(part))
            })
        })
    }

    /// Why a state is none of those that it may be.
    pub fn unexpected(&self, found: &State, from: usize) -> String {
        let (states, sweeps) = (&self.states[from..], self.sweeps.range(from + 1..));
        format!(
            "recovered a state that is none of the {} that it may be\nfound: {found:#?}\n\
             first: {:#?}\nlast: {:#?}\nsweeps: {:?}",
            states.len(),
            states[0],
            states[states.len() - 1],
            sweeps.collect::<Vec<_>>()
        )
    }
}

/// The state in which a sweep of all queues and subscriptions has left `before`, if it has led to `found`. The messages that
/// are missing there may be over.
pub fn after_sweep(
    before: &State,
    found: &State,
    may_be_over: impl Fn(&crate::state::Entry) -> bool,
    now: u64,
) -> State {
    let gone = whose_of(before).into_iter().filter_map(|whose| {
        let (all, there) = (unacked(before, &whose)?, unacked(found, &whose)?);
        let is_gone = |offset: &u64, entry| !there.contains_key(offset) && may_be_over(entry);
        let gone = all.iter().filter(|(offset, entry)| is_gone(offset, entry));
        let gone = gone.map(|(offset, _)| *offset).collect();
        Some((whose, gone))
    });
    Sweep { gone: gone.collect(), now }.whole(before)
}

/// All queues and subscriptions.
pub(super) fn whose_of(state: &State) -> Vec<Whose> {
    let queues = state.queues.keys().cloned().map(Whose::Queue);
    let subscriptions = state.topics.iter().flat_map(|(topic, it)| {
        let of = |name: &String| Whose::Subscription(topic.clone(), name.clone());
        it.subscriptions.keys().map(of).collect::<Vec<_>>()
    });
    queues.chain(subscriptions).collect()
}
