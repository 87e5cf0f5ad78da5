//! Whether a call may wait for space in the journal. A task must not block its thread, so its calls *ask*: where a call
//! would have to wait for space, it fails with an error of its own kind and says what it lacks. The task awaits that space,
//! and calls again. A callback or a waker that such a call runs is code of the application: its calls may wait.

use std::cell::RefCell;

use crate::{
    engine::runtime::application,
    error::{Error, Result},
    store::Shortage,
};

thread_local! {
    static ASKING: RefCell<Option<Asking>> = const { RefCell::new(None) };
}

/// A call that asks for space and does not wait.
#[derive(Debug)]
struct Asking {
    /// The [depth](application::depth) of the call. Code of the application that the call runs is deeper, and does not ask.
    depth: u32,
    past: Past,
    lacks: Option<Shortage>,
}

/// What the earlier attempts of a call have led to.
#[derive(Debug, Default)]
pub struct Past {
    /// Why space could not be made. The call gets this error instead of space.
    pub failure: Option<Error>,
    /// How far expired messages were looked for: see `core/room.rs`.
    pub looked: u64,
}

impl Asking {
    fn is_of_this_call(&self) -> bool {
        self.depth == application::depth()
    }
}

/// Runs a call that asks. `past` says what came of the space that it lacked before. Returns the result and, if the call
/// lacked space, what it lacked.
pub fn ask<T>(past: Past, call: impl FnOnce() -> T) -> (T, Option<Shortage>) {
    let asking = Asking { depth: application::depth(), past, lacks: None };
    // In a thread that ends, the mark may be gone already. Then the call waits.
    let before = ASKING.try_with(|mark| mark.replace(Some(asking)));
    // A panic must not leave the mark on this thread.
    let restore = before.map(Restore);
    let value = call();
    let lacks = ASKING.try_with(|mark| mark.borrow().as_ref().and_then(|asking| asking.lacks));
    drop(restore);
    (value, lacks.unwrap_or_default())
}

struct Restore(Option<Asking>);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = ASKING.try_with(|mark| mark.replace(self.0.take()));
    }
}

/// Whether this thread runs a call that asks.
pub fn is_asking() -> bool {
    ASKING
        .try_with(|mark| mark.borrow().as_ref().is_some_and(Asking::is_of_this_call))
        .unwrap_or(false)
}

/// How far the earlier attempts of a call that asks have looked for expired messages.
pub fn looked() -> u64 {
    let looked = |asking: &Asking| if asking.is_of_this_call() { asking.past.looked } else { 0 };
    ASKING.try_with(|mark| mark.borrow().as_ref().map_or(0, looked)).unwrap_or(0)
}

/// The answer to a call that lacks space: an error if it asks, and nothing if it may wait.
pub fn answer(shortage: Shortage) -> Result<()> {
    let answered = ASKING.try_with(|mark| {
        let mut mark = mark.borrow_mut();
        let Some(asking) = mark.as_mut().filter(|asking| asking.is_of_this_call()) else {
            return Ok(());
        };
        if let Some(failure) = asking.past.failure.take() {
            return Err(failure);
        }
        asking.lacks = Some(shortage);
        Err(Error::lacks_space())
    });
    answered.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_asks_is_told_and_gets_the_failure_of_the_last_time() {
        let lacks = Shortage::Checkpoint { urgency: crate::journal::Urgency::Ordinary };
        assert!(answer(lacks).is_ok() && !is_asking(), "others wait");
        let (answered, lacked) = ask(Past::default(), || answer(lacks));
        assert!(answered.unwrap_err().is_lack_of_space());
        assert_eq!(lacked, Some(lacks));
        let failure = Error::new(crate::ErrorKind::DiskFull, "full");
        let past = Past { failure: Some(failure), looked: 0 };
        let (answered, lacked) = ask(past, || answer(lacks));
        assert_eq!(answered.unwrap_err().kind(), crate::ErrorKind::DiskFull);
        assert!(lacked.is_none() && !is_asking());
    }

    #[test]
    fn code_of_the_application_within_a_call_that_asks_may_wait() {
        let lacks = Shortage::Checkpoint { urgency: crate::journal::Urgency::Ordinary };
        let (outcome, lacked) = ask(Past::default(), || {
            let inside = application::call(|| {
                let (inner, _) = ask(Past::default(), || answer(lacks));
                (is_asking(), answer(lacks).is_ok(), inner.is_err())
            });
            (inside, is_asking())
        });
        assert_eq!(outcome, (Ok((false, true, true)), true));
        assert_eq!(lacked, None, "a call of the application does not answer for the engine's");
    }
}
