//! How far the timers of all cursors were set anew, after the clock was set. `times.rs` goes on with it, in slices.

use crate::ids::{CursorId, EntityId};

/// The timer with this cursor sets those of all cursors. No cursor has this number.
pub const EVERY_CURSOR: CursorId = CursorId(0);

/// So many entities are looked at in a slice.
pub const AT_ONCE: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Arming {
    /// The entity at which the next slice begins.
    pub next: EntityId,
    /// Whether the ages that are watched are looked at.
    pub ages: bool,
}
