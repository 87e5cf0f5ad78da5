//! A receive drops messages, or moves them to the dead letters.

use std::collections::BTreeMap;

use posthouse::{Engine, Error, ErrorKind, sim};

use super::{Driver, Whose, move_to_dead_letters, offsets_of};
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
        let found = self.on_copy(|engine| {
            let there = offsets_of(engine, whose)?;
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
            Ok::<_, Error>(gone)
        });
        found.unwrap_or_else(|error| panic!("cannot browse: {error}"))
    }

    /// Reads a copy of the disk, on which nothing happens in time. The engine is read itself if there can be no copy.
    pub(super) fn on_copy<T>(&self, read: impl FnOnce(&Engine) -> T) -> T {
        let copy = self.world.copy();
        let copy = copy.map(|copy| copy.open().unwrap_or_else(|it| panic!("cannot recover: {it}")));
        sim::still(|| read(copy.as_ref().unwrap_or(self.engine())))
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
