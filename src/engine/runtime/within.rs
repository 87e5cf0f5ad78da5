//! A mark on threads that do the engine's own work. Shutdown must not wait on such a thread.

use std::cell::Cell;

thread_local! {
    static WITHIN: Cell<u32> = const { Cell::new(0) };
}

/// Marks this thread as doing the engine's work, until it is dropped. It stays on its thread.
#[derive(Debug)]
pub struct Within(std::marker::PhantomData<*const ()>);

impl Within {
    pub fn enter() -> Within {
        WITHIN.set(WITHIN.get() + 1);
        Within(std::marker::PhantomData)
    }

    pub fn is_here() -> bool {
        WITHIN.get() > 0
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(WITHIN.get() - 1);
    }
}
