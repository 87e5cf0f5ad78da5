//! The store's [`AckSet`] as the [`Acked`] of deliveries.

use crate::{
    delivery::Acked,
    ids::{Due, Offset},
    store::AckSet,
};

impl Acked for AckSet {
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset> {
        AckSet::next_unacked(self, from.to(end))
    }

    #[inline]
    fn priority(&self, offset: Offset) -> u8 {
        AckSet::priority(self, offset)
    }

    fn due(&self, offset: Offset) -> Due {
        AckSet::due(self, offset)
    }
}
