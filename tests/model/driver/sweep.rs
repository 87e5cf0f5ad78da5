//! Sweeps: each call first drops the messages whose times to live are over, or moves them to the dead letters, in all queues
//! and subscriptions. The model has a call do that before each action and after it, and whenever time has passed.

use posthouse::Error;

use super::{
    Driver, Ended, Whose,
    history::{Sweep, whose_of},
    is_of_power, unacked,
};
use crate::state::{DEAD, State};

impl Driver<'_> {
    /// All queues and subscriptions.
    pub(super) fn all_whose(&self) -> Vec<Whose> {
        whose_of(self.now())
    }

    /// The messages of a queue or a subscription that a sweep may take.
    pub(super) fn over(&self, whose: &Whose) -> Vec<u64> {
        let Some(all) = unacked(self.now(), whose) else { return Vec::new() };
        let free = self.free(whose, all);
        free.iter().filter(|(_, it)| self.may_be_over(it)).map(|(offset, _)| *offset).collect()
    }

    /// Has a call take what is over. Any call does: it looks at one queue or subscription, and takes it from all.
    pub(super) fn catch_up(&mut self) -> Result<Option<()>, Error> {
        let mut all = self.all_whose();
        if all.iter().all(|whose| self.over(whose).is_empty()) {
            return Ok(Some(()));
        }
        self.looks += 1;
        let whose = all.swap_remove(self.looks / 2 % all.len());
        let looked =
            if self.looks.is_multiple_of(2) { self.depth(&whose) } else { self.in_flight(&whose) };
        let looked = self.outcome(looked)?;
        self.all_were_swept(looked.is_some());
        Ok(looked.map(drop))
    }

    pub(super) fn caught_up(&mut self) -> Ended {
        match self.catch_up() {
            Ok(Some(())) => Ended::Fine,
            Ok(None) => Ended::Dead,
            Err(error) if self.doomed && is_of_power(&error) => Ended::Dead,
            Err(error) => panic!("catching up: {error:?}"),
        }
    }

    /// A call has taken what was over from all queues and subscriptions. If it `is_done`, nothing may be left that is
    /// visible.
    pub(super) fn all_were_swept(&mut self, is_done: bool) {
        let mut all: Vec<_> = self.all_whose().into_iter().map(|it| (self.over(&it), it)).collect();
        all.retain(|(over, _)| !over.is_empty());
        let mut swept = Vec::new();
        for (over, whose) in all {
            let gone = self.find_gone(&whose, &over);
            if is_done && !self.doomed {
                self.check_swept(&whose, &over, &gone);
            }
            swept.push((whose, gone));
        }
        self.commit_sweep(swept);
    }

    /// The engine has looked at all messages of a queue or a subscription: of those that may be `over`, these are `gone`.
    pub(super) fn check_swept(&self, whose: &Whose, over: &[u64], gone: &[u64]) {
        for offset in over.iter().filter(|offset| !gone.contains(offset)) {
            let entry = &unacked(self.now(), whose).expect("it is there")[offset];
            // What was hidden when the engine looked is looked at again a second later.
            let born = self.born.get(&(whose.clone(), *offset)).copied().unwrap_or(0);
            let may_hide = self.hides_unsynced && born > self.floor_then;
            let may_stay = may_hide || self.is_over(entry) != Some(true);
            assert!(may_stay, "message {offset} of {whose:?} is over, and stays");
        }
    }

    /// Messages have left queues and subscriptions.
    pub(super) fn commit_sweep(&mut self, gone: Vec<(Whose, Vec<u64>)>) {
        let sweep = Sweep { gone, now: self.time };
        let (all, before) = (sweep.whole(self.now()), self.letters());
        if all == *self.now() {
            return;
        }
        self.history.note_sweep(sweep);
        self.push_new(&all);
        // No letter of a sweep is visible before all of it is durable.
        self.bear(&Whose::Queue(DEAD.to_owned()), before, self.letters() - before);
    }

    pub(super) fn push_new(&mut self, state: &State) {
        if state != self.now() {
            self.committed(|now| *now = state.clone());
        }
    }

    /// Makes a checkpoint, which begins with a sweep.
    pub(super) fn checkpoint(&mut self) -> Result<Option<()>, Error> {
        let made = self.engine().checkpoint();
        self.all_were_swept(made.is_ok());
        self.durably(made)
    }
}
