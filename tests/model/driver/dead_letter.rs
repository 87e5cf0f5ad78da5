//! A receive drops messages, or moves them to the dead letters.

use std::collections::BTreeMap;

use posthouse::{Error, ErrorKind};

use super::{Driver, Whose, move_to_dead_letters, offsets_of, sweep::rotations, unacked_mut};
use crate::state::{ATTEMPTS_MAX, DEAD, RETRIED, Unacked};

impl Driver<'_> {
    /// Dead letters that would come back to their own queue are refused.
    pub(super) fn close_the_circle(&mut self) -> Result<Option<()>, Error> {
        if !self.now().queues.contains_key(RETRIED) {
            return Ok(Some(()));
        }
        let builder = self.engine().queue(DEAD).max_attempts(ATTEMPTS_MAX);
        let updated = builder.dead_letter_queue(RETRIED).create_or_update().map(drop);
        self.expect(updated, ErrorKind::InvalidInput { field: "dead_letter_queue" })
    }

    /// Finds the messages that are no longer there, in the order in which they have become dead letters, if
    /// they have. It reads a copy of the disk, which also has what is not durable yet.
    pub(super) fn find_gone(&self, whose: &Whose, doomed: &[u64]) -> Vec<u64> {
        if doomed.is_empty() {
            return Vec::new();
        }
        let copy = self.world.copy();
        let copy = copy.map(|copy| copy.open().unwrap_or_else(|it| panic!("cannot recover: {it}")));
        let engine = copy.as_ref().unwrap_or(self.engine());
        let found = offsets_of(engine, whose).and_then(|there| {
            let mut gone: Vec<u64> =
                doomed.iter().copied().filter(|it| !there.contains(it)).collect();
            if whose.is_retried() {
                let mut letters = BTreeMap::new();
                for letter in engine.queue(DEAD).open()?.browse()? {
                    let letter = letter?;
                    let note = letter.dead_letter()?.expect("it is a dead letter");
                    letters.insert(note.offset.0, letter.offset().0);
                }
                gone.sort_by_key(|offset| letters.get(offset).copied());
            }
            Ok(gone)
        });
        found.unwrap_or_else(|error| panic!("cannot browse: {error}"))
    }

    /// The messages among some that have become dead letters since the last commit that the model knows, in their order.
    pub(super) fn find_letters(&self, whose: &Whose, doomed: &[u64]) -> Vec<u64> {
        if doomed.is_empty() || !whose.is_retried() {
            return Vec::new();
        }
        let copy = self.world.copy();
        let copy = copy.map(|copy| copy.open().unwrap_or_else(|it| panic!("cannot recover: {it}")));
        let engine = copy.as_ref().unwrap_or(self.engine());
        let found = (|| {
            let mut letters = Vec::new();
            for letter in engine.queue(DEAD).open()?.browse()? {
                let letter = letter?;
                if letter.offset().0 >= self.letters() {
                    letters.push(letter.dead_letter()?.expect("it is a dead letter").offset.0);
                }
            }
            Ok::<_, Error>(letters)
        })();
        let mut found = found.unwrap_or_else(|error| panic!("cannot browse: {error}"));
        found.retain(|offset| doomed.contains(offset));
        found
    }

    /// Messages were dropped, each in a commit of its own: the fresh messages in one of the orders in which a
    /// [look](rotations) comes to them, and the others in any order.
    pub(super) fn commit_drops(&mut self, whose: &Whose, fresh: &[u64], others: &[u64]) {
        let base = self.now().clone();
        for some in 0..1 << others.len() {
            let mut state = base.clone();
            let unacked = unacked_mut(&mut state, whose);
            for (n, offset) in others.iter().enumerate() {
                if some >> n & 1 == 1 {
                    unacked.remove(offset);
                }
            }
            for order in rotations(fresh) {
                let mut state = state.clone();
                self.push_new(&state);
                for offset in order {
                    unacked_mut(&mut state, whose).remove(&offset);
                    self.push_new(&state);
                }
            }
        }
    }

    /// A receive was cut off, between any two of its commits: some messages have become dead letters, and one
    /// more may have been counted.
    pub(super) fn may_have_counted(&mut self, free: &Unacked, moved: &[u64]) {
        let others: Vec<u64> = free.keys().copied().filter(|it| !moved.contains(it)).collect();
        for count in 0..=moved.len() {
            if let Some(last) = count.checked_sub(1) {
                self.commit_dead_letter(moved[last]);
            }
            let base = self.now().clone();
            for offset in &others {
                let mut counted = base.clone();
                let unacked = &mut counted.queues.get_mut(RETRIED).unwrap().unacked;
                let entry = unacked.get_mut(offset).unwrap();
                entry.attempts += 1;
                entry.waits = false;
                self.committed(|state| *state = counted);
            }
            self.committed(|state| *state = base);
        }
    }

    /// A message was moved to the dead letters, in a commit of its own.
    pub(super) fn commit_dead_letter(&mut self, offset: u64) {
        let letter = self.now().queues[DEAD].next;
        let now = self.time;
        self.committed(|state| move_to_dead_letters(state, offset, now));
        self.bear(&Whose::Queue(DEAD.to_owned()), letter, 1);
    }

    /// The dead letters that came with the last commit.
    pub(super) fn bear_letters(&mut self, before: u64) {
        let after = self.letters();
        self.bear(&Whose::Queue(DEAD.to_owned()), before, after - before);
    }

    /// The number of dead letters that there have ever been.
    pub(super) fn letters(&self) -> u64 {
        self.now().queues.get(DEAD).map_or(0, |queue| queue.next)
    }
}
