//! Calls code of the application: callbacks, wakers and handlers. That code may panic, and it may call the engine. A panic
//! of it ends no thread and no loop of the engine.

use std::{
    any::Any,
    cell::Cell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// How many calls of code of the application this thread is in, one within the other. A mark that the engine sets on a
/// thread for a call of its own does not hold for the code that this call runs.
pub fn depth() -> u32 {
    DEPTH.get()
}

/// Calls code of the application. `Err` has the text of its panic. The panic hook has reported the panic by then.
pub fn call<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    let _inside = Inside::enter();
    catch_unwind(AssertUnwindSafe(code)).map_err(text)
}

/// Calls code of the application whose panic is of no concern to the engine.
pub fn run(code: impl FnOnce()) {
    let _ = call(code);
}

/// As [`run`]. Returns whether it came to its end.
pub fn has_run(code: impl FnOnce()) -> bool {
    call(code).is_ok()
}

struct Inside;

impl Inside {
    fn enter() -> Inside {
        DEPTH.set(DEPTH.get() + 1);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// The text of a panic. Dropping the payload is code of the application, too, and may panic.
fn text(panic: Box<dyn Any + Send>) -> String {
    let found = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let found = found.or_else(|| panic.downcast_ref::<String>().cloned());
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
    found.unwrap_or_else(|| "with no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn panics_are_texts_and_leave_no_mark() {
        assert_eq!(call(|| (depth(), call(depth))), Ok((1, Ok(2))));
        assert_eq!(call::<()>(|| panic!("at {}", 7)), Err("at 7".to_owned()));
        let unnamed = call::<()>(|| panic_any(PanicsWhenDropped));
        assert_eq!(unnamed, Err("with no message".to_owned()));
        assert_eq!(depth(), 0);
    }
}
