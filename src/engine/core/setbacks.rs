//! How often the clock was set back. `early.rs` has messages wait again whose time of day is still to come.

use std::collections::BTreeMap;

use super::consumption::Consumption;
use crate::ids::{CursorId, Offset, Skew};

/// How often the clock was set back, and how far its messages were looked at since.
#[derive(Debug, Default)]
pub struct Setbacks {
    pub(super) count: u32,
    /// Cursors of which a part was looked at, with the offset at which the next slice begins.
    pub(super) begun: BTreeMap<CursorId, Offset>,
}

impl Setbacks {
    /// Notes a setting of the clock.
    pub(super) fn note(&mut self, before: Skew, after: Skew) {
        if after.0 > before.0 {
            self.count += 1;
            self.begun.clear();
        }
    }

    /// Whether messages that are due may have to wait again.
    #[inline]
    pub(super) fn concern(&self, consumption: &mut Consumption) -> bool {
        if consumption.setbacks != self.count && consumption.deliveries.due() == 0 {
            consumption.setbacks = self.count;
        }
        consumption.setbacks != self.count
    }
}
