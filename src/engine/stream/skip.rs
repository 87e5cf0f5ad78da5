//! Skips damaged records, where the application asks for it.

use super::{reader::Reader, scan::open_segment, source::OpenRuns};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{LogId, Offset},
    store::{Chunk, ReadStretch},
};

/// Damaged records that [`Reader::skip_damaged`] has skipped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The partition of the records.
    pub partition: u32,
    /// Their offsets.
    pub offsets: std::ops::Range<Offset>,
    /// The damage.
    pub damage: Error,
}

impl Reader {
    /// Skips the damaged records that the reader stands before: those of one block, or of one run of the journal.
    /// `None`, and nothing is skipped, if no partition that it reads goes on with damage.
    ///
    /// A reader skips nothing by itself: it returns the same error again. Call this after
    /// [`Corrupt`](ErrorKind::Corrupt), and note which records are missing.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Reader, Result};
    ///
    /// fn read(reader: &mut Reader) -> Result<()> {
    ///     loop {
    ///         match reader.try_read() {
    ///             Ok(Some(record)) => println!("{:?}", record.payload()),
    ///             Ok(None) => return Ok(()),
    ///             Err(error) if error.kind() == ErrorKind::Corrupt => match reader.skip_damaged()? {
    ///                 Some(skipped) => eprintln!("{:?} are lost: {error}", skipped.offsets),
    ///                 None => return Err(error),
    ///             },
    ///             Err(error) => return Err(error),
    ///         }
    ///     }
    /// }
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let history = engine.stream("order-history").create()?;
    /// # history.append("order 1")?;
    /// # read(&mut history.reader(posthouse::Start::Earliest)?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`try_read`](Reader::try_read), except [`Corrupt`](ErrorKind::Corrupt).
    pub fn skip_damaged(&mut self) -> Result<Option<Skipped>> {
        self.leave_source();
        self.pending = None;
        for n in 0..self.places.len() {
            let (partition, log, next) = self.place(n);
            if self.places[n].is_done() {
                continue;
            }
            let committer = self.shape().engine.committer();
            let (start, _) = committer.lock_open("skip damaged records")?.bounds(log)?;
            if self.fails_on_trimmed && next < start {
                // A gap is before it: it is told first.
                continue;
            }
            let from = next.max(start);
            let Some((end, damage)) = self.damage_at(log, from)? else { continue };
            self.go_to(n, end);
            let damage = damage.of_message(&self.shape().name, from);
            return Ok(Some(Skipped { partition, offsets: from..end, damage }));
        }
        Ok(None)
    }

    /// The end of the damaged records that begin at an offset, and the damage.
    fn damage_at(&self, log: LogId, from: Offset) -> Result<Option<(Offset, Error)>> {
        let committer = self.shape().engine.committer();
        let mut from = from;
        loop {
            let mut core = committer.lock_to_look("skip damaged records")?;
            let visible = core.visible();
            let Some(chunk) = core.store.scan(log, from, visible)? else { return Ok(None) };
            let end_of_run = core.store.end_of_run(log, from);
            drop(core);
            let (read, end) = match chunk {
                Chunk::Segment { segment, from: first, end } => {
                    match open_segment(committer, log, segment) {
                        // A checkpoint has replaced it.
                        Ok(None) => continue,
                        Ok(Some(reader)) => match reader.block_at(first) {
                            // The segment has no more records. The next one may be damaged.
                            None => {
                                from = end;
                                continue;
                            }
                            Some(index) => {
                                let last = reader.table()[index].last;
                                (reader.block(index).map(drop), last.next())
                            }
                        },
                        Err(error) => (Err(error), end),
                    }
                }
                Chunk::Runs(runs) => {
                    let Some(run) = runs.each().next() else { return Ok(None) };
                    let runs = ReadStretch::of(run)
                        .and_then(|it| OpenRuns::open(it, from.to(Offset::MAX)));
                    (runs.and_then(OpenRuns::check), end_of_run)
                }
            };
            return match read {
                Ok(()) => Ok(None),
                Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some((end, error))),
                Err(error) => Err(error),
            };
        }
    }
}
