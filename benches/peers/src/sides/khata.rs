//! khata-rs: a log in a mapped file, with one writer and many readers.
//!
//! It never syncs by itself. Its checksum is a CRC-16 of the payload and its default; without it the side is shown, and
//! is no rival in the same row. A file a day, its default. A file cannot grow past its block, so the block is as large as
//! the longest workload needs; what is not written of it takes no space. `flush` syncs the map, and is what the side does
//! between bursts.

use std::path::Path;

use khata_rs::{Queue, Reader as KhataReader, Writer as KhataWriter};
use self_cell::self_cell;

use crate::{
    payload::Payloads,
    side::{Durability, Job, Kind, Offer, Replay, Result, Seen, Side, Store, Writer},
};

/// The size of a file: more than a workload writes.
const BLOCK: usize = 16 << 30;

/// khata-rs.
pub struct Khata {
    /// Whether it writes and verifies checksums.
    pub checksums: bool,
}

impl Side for Khata {
    fn name(&self) -> &'static str {
        if self.checksums { "khata" } else { "khata, no checksum" }
    }

    fn kind(&self) -> Kind {
        if self.checksums { Kind::Embedded } else { Kind::Shown }
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Buffered) if self.checksums => {
                Ok("survives the process; no fsync; CRC-16")
            }
            Job::Append(Durability::Buffered) => Ok("survives the process; no fsync; no checksum"),
            Job::Replay if self.checksums => {
                Ok("CRC-16 written; its sequential reader does not verify it")
            }
            Job::Replay => Ok("no checksum"),
            Job::Append(_) | Job::AppendMany(_) => Err("it has one writer, which never syncs"),
            _ => Err("it is a log alone"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        let open = || Queue::new(dir).block_size(BLOCK).checksums(self.checksums).build();
        Ok(Box::new(Log { writer: open()?, reader: dir.to_owned(), checksums: self.checksums }))
    }
}

struct Log {
    writer: Queue,
    reader: std::path::PathBuf,
    checksums: bool,
}

impl Log {
    /// A queue of its own for each object that threads work with, as those borrow from it.
    fn queue(&self) -> khata_rs::Result<Queue> {
        Queue::new(&self.reader).block_size(BLOCK).checksums(self.checksums).build()
    }
}

impl Store for Log {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Appending(OwnedWriter::try_new(self.queue()?, Queue::writer)?)))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Reading(OwnedReader::try_new(self.queue()?, Queue::reader)?)))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.writer.writer()?.flush()?)
    }
}

self_cell!(
    struct OwnedWriter {
        owner: Queue,
        #[covariant]
        dependent: KhataWriter,
    }
);

self_cell!(
    struct OwnedReader {
        owner: Queue,
        #[covariant]
        dependent: KhataReader,
    }
);

struct Appending(OwnedWriter);

impl Writer for Appending {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.0.with_dependent_mut(|_, writer| {
            for _ in 0..count {
                writer.write(payloads.next())?;
            }
            Ok(())
        })
    }
}

struct Reading(OwnedReader);

impl Replay for Reading {
    fn rewind(&mut self) -> Result<()> {
        // A queue that is opened again does not find its files by their names, as their days have no hours. It knows a file
        // once it was asked for it by its number.
        self.0.with_dependent_mut(|queue, reader| {
            reader.move_to_cycle(queue.current_cycle())?.rewind().map(drop)
        })?;
        Ok(())
    }

    fn replay(&mut self) -> Result<Seen> {
        self.0.with_dependent_mut(|_, reader| {
            let mut seen = Seen::default();
            while let Some(payload) = reader.read()? {
                seen.see(payload);
            }
            Ok(seen)
        })
    }
}
