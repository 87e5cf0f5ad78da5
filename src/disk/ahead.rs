//! The pages of a map that are about to be written to.

use super::map::Region;
use crate::prims::Arc;

/// A part of a map that is about to be written.
#[derive(Debug)]
pub struct Ahead {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

const PAGE_BYTES: usize = 4096;

impl Ahead {
    /// The pages of `len` bytes from a position on, as far as the map reaches.
    pub(super) fn of(region: &Arc<Region>, at: u64, len: u64) -> Ahead {
        let all = region.map.len();
        let within = |at: u64| usize::try_from(at).map_or(all, |at| at.min(all));
        let start = within(at) / PAGE_BYTES * PAGE_BYTES;
        let len = within(at.saturating_add(len)) - start;
        Ahead { region: Arc::clone(region), start, len }
    }

    /// Makes the pages ready for writes. Else each of them is made ready when it is first written to, which takes several
    /// times as long. The next sync writes all of them back.
    pub fn make_ready(&self) {
        // This is a hint. It stores nothing, so a failure does no harm.
        #[cfg(target_os = "linux")]
        let _ = self.region.map.advise_range(memmap2::Advice::PopulateWrite, self.start, self.len);
        #[cfg(not(target_os = "linux"))]
        let _ = (&self.region, self.start, self.len);
    }
}
