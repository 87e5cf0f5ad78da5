//! Gaps: records that were trimmed before a reader came to them.

use std::ops::Range;

use super::reader::Reader;
use crate::{error::Result, ids::Offset};

/// Records that were trimmed before [`Reader::skip_trimmed`] passed over them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The partition of the records.
    pub partition: u32,
    /// Their offsets.
    pub offsets: Range<Offset>,
}

impl Reader {
    /// Sets whether a read fails where the next records were trimmed before the reader came to them: by
    /// [`trim_before`](crate::Partition::trim_before), or by a limit such as [`max_age`](crate::StreamBuilder::max_age). Without it, the
    /// reader goes on at the first record that is still there, and only the offsets show the gap.
    ///
    /// With it, a read returns [`Trimmed`](crate::ErrorKind::Trimmed) until the application calls
    /// [`skip_trimmed`](Reader::skip_trimmed). Records of other partitions may come in between. So a consumer that must
    /// have seen all records does not go on in silence without some.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Offset, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["order 1", "order 2", "order 3"])?;
    /// let mut reader = history.reader(Start::Earliest)?.fail_on_trimmed(true);
    /// history.partition(0)?.trim_before(Offset(2))?;
    ///
    /// let error = reader.try_read().unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::Trimmed { start: Offset(2), .. }));
    /// let gap = reader.skip_trimmed()?.expect("two records are gone");
    /// assert_eq!(gap.offsets, Offset(0)..Offset(2));
    /// assert_eq!(reader.try_read()?.expect("it is there").payload(), b"order 3");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fail_on_trimmed(mut self, fails: bool) -> Reader {
        self.fails_on_trimmed = fails;
        for place in self.places.iter_mut().filter(|_| fails) {
            // Nothing was read yet, or the gap is behind the reader.
            place.next = place.missed.take().unwrap_or(place.next);
        }
        self
    }

    /// Goes on behind the trimmed records that the reader stands before in one of its partitions. `None`, and nothing is skipped, if it stands
    /// before none.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn skip_trimmed(&mut self) -> Result<Option<Gap>> {
        self.leave_source();
        self.pending = None;
        for n in 0..self.places.len() {
            let (partition, log, next) = self.place(n);
            if self.places[n].is_done() {
                continue;
            }
            let committer = self.shape().engine.committer();
            let (start, _) = committer.lock_open("skip trimmed records")?.bounds(log)?;
            let behind = start.min(self.places[n].end);
            if next < behind {
                self.go_to(n, behind);
                return Ok(Some(Gap { partition, offsets: next..behind }));
            }
        }
        Ok(None)
    }
}
