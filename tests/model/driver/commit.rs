//! The commits that the model knows, and the outcomes of commits.

use std::rc::Rc;

use posthouse::{Error, ErrorKind};

use super::{Driver, Whose, is_of_power};
use crate::{action::How, state::State};

impl Driver<'_> {
    pub(super) fn committed(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        // A commit that changes nothing, such as creating something that exists, may have written no frame.
        let proven = if state == *self.now() {
            self.proven[self.history.states.len() - 1]
        } else {
            self.floor
        };
        self.history.states.push(Rc::new(state));
        self.proven.push(proven);
    }

    pub(super) fn is_durable(&mut self) {
        self.floor = self.history.states.len() - 1;
    }

    /// Takes the outcome of a commit: its result, or its error if that error was expected.
    pub(super) fn outcome<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.doomed && is_of_power(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn durably(&mut self, result: Result<(), Error>) -> Result<Option<()>, Error> {
        let done = self.outcome(result)?;
        if done.is_some() {
            self.is_durable();
        }
        Ok(done)
    }

    /// A commit of the engine's own durability.
    pub(super) fn commit<T>(
        &mut self,
        result: Result<T, Error>,
        change: impl FnOnce(&mut State),
    ) -> Result<Option<T>, Error> {
        let done = self.outcome(result)?;
        self.committed(change);
        if done.is_some() && self.hides_unsynced {
            self.is_durable();
        }
        Ok(done)
    }

    /// Takes the outcome of a commit of any durability.
    pub(super) fn commit_as<T>(
        &mut self,
        how: How,
        result: Result<T, Error>,
        change: impl FnOnce(&mut State),
    ) -> Result<Option<T>, Error> {
        let done = self.outcome(result)?;
        self.committed(change);
        if done.is_some() && matches!(how, How::Sync | How::Waited) {
            self.is_durable();
        }
        Ok(done)
    }

    pub(super) fn expect(
        &mut self,
        result: Result<(), Error>,
        kind: ErrorKind,
    ) -> Result<Option<()>, Error> {
        match result {
            Err(error) if error.kind() == kind => Ok(Some(())),
            Ok(()) => panic!("{kind:?} was expected"),
            Err(error) => self.outcome(Err(error)),
        }
    }

    pub(super) fn bear(&mut self, whose: &Whose, first: u64, count: u64) {
        let state = self.history.states.len() - 1;
        for offset in first..first + count {
            self.born.insert((whose.clone(), offset), state);
        }
    }
}
