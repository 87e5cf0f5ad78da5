//! The disk: the only way to files, directories, maps, the lock and the clock.
//!
//! Two disks exist: [`os::OsDisk`], the real one, and [`sim::SimDisk`], which simulates power cuts
//! and faults. The engine cannot tell them apart. Invariants: nothing outside this room names
//! `std::fs`; `unsafe` stands in `map.rs` alone; bytes that were handed out as a [`Slice`] never
//! change while it lives.

mod calls;
mod map;
pub mod os;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(all(test, loom))]
mod tests;
#[cfg(any(test, feature = "sim"))]
pub mod witness;

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

pub use map::{Share, Shares, Slice, Written};

use crate::ids::Timestamp;

/// A file system and a clock.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory, and those above it that are missing.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// The length of a file.
    fn len_of(&self, path: &Path) -> io::Result<u64>;
    /// Renames a file; one that had the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable: what was created, renamed and removed there.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock that keeps a second engine out.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
    /// Takes the same lock, and changes nothing on the disk: the file stays as it is. Where there
    /// is none, nobody can hold the lock, and there is nothing to take.
    fn lock_as_is(&self, path: &Path) -> io::Result<Lock>;
    /// Whether stores through a map are safe here: whether a block once written stays in place.
    fn maps_are_safe(&self, dir: &Path) -> bool;
    /// Draws a number at random, for the id of a new store.
    fn draw(&self) -> io::Result<[u8; 16]>;
    /// The time of day, as of the last tick.
    fn now(&self) -> Timestamp;
    /// The time since some fixed point, as of the last tick. Never goes backwards.
    fn elapsed(&self) -> Duration;
    /// The time from one tick to the next: as late the clock may be.
    fn tick(&self) -> Duration {
        Duration::ZERO
    }
    /// The time since another fixed point, and exact: for measuring what takes microseconds.
    fn stopwatch(&self) -> Duration {
        self.elapsed()
    }
}

/// How a file is opened. All but one are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must be there, and is only read.
    Reading,
    /// It must be there.
    Existing,
    /// It is created; what was there under the name is emptied.
    Fresh,
}

/// The outcome of [`Disk::lock`].
pub enum Lock {
    /// The lock is held until this is dropped.
    Held(Box<dyn HeldLock>),
    /// Another engine holds it; its process id, where the file says so.
    Taken(Option<u32>),
}

/// A lock file that this process holds.
pub trait HeldLock: Send + Sync {
    /// Writes into the file, behind the process id, for people to read.
    fn note(&self, text: &str) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    fn len(&self) -> io::Result<u64>;
    /// Fills the buffer from a position; less only where the file ends. Returns how much.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was written before the call, through a map or not, and the length.
    fn sync(&self) -> io::Result<()>;
    /// Maps the first `len` bytes, all of which must have been written.
    fn map(&self, len: u64, purpose: Purpose) -> io::Result<Box<dyn Window>>;
    /// Says that a range will be read soon.
    fn expect(&self, _at: u64, _len: u64) {}
}

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To append: nothing can be read before it was written through the window.
    Append,
    /// To read what is there.
    Read,
}

/// A file's bytes, through a map or through calls: callers do not see which.
///
/// Writes move forward only, and only what was written can be read. So a slice, once handed out,
/// is never written again.
pub trait Window: Send + Sync + fmt::Debug {
    /// Writes at a position behind everything written so far. Skipping bytes is fine.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// The bytes at a position, all of them written before.
    fn slice(&self, at: u64, len: usize) -> io::Result<Slice>;
    /// The bytes at a position, all of them written before. Where they are not in memory, they are not read
    /// yet: the caller may hold a lock.
    fn late_slice(&self, at: u64, len: usize) -> io::Result<LateSlice> {
        self.slice(at, len).map(LateSlice::Ready)
    }
    /// Says that a range will be asked for soon, so that the system can have it ready.
    fn expect(&self, _at: u64, _len: u64) {}
    /// Has the system get ready for writes all over the window. They will be written back with the
    /// next sync of the file, whatever is written till then.
    fn warm(&self) {}
    /// What was written from a position on, to be taken out of the map before a sync: `None` if there is
    /// no map.
    fn written(&self, _from: u64) -> Option<Written> {
        None
    }
    /// Begins again at the front, to fill the file anew. Refused while a slice is alive.
    fn reuse(&mut self) -> bool;
}

/// Bytes of a window that may have to be read first.
#[derive(Clone, Debug)]
pub enum LateSlice {
    Ready(Slice),
    Unread(UnreadSlice),
}

/// Bytes that are to be read from a file. The file is not filled anew before.
#[derive(Clone, Debug)]
pub struct UnreadSlice {
    file: Arc<dyn DiskFile>,
    at: u64,
    len: usize,
    _pin: Arc<()>,
}

impl LateSlice {
    /// The bytes. They are read now, if they were not.
    #[inline]
    pub fn get(self) -> io::Result<Slice> {
        match self {
            LateSlice::Ready(slice) => Ok(slice),
            LateSlice::Unread(UnreadSlice { file, at, len, _pin }) => {
                let mut bytes = vec![0; len];
                read_exact_at(&*file, at, &mut bytes)?;
                Ok(Slice::heap(Arc::new(bytes)))
            }
        }
    }
}

/// How windows are opened: the decision that [`IoMode`](crate::IoMode) and the file system make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Map,
    Calls,
}

/// Opens a window onto the first `len` bytes of a file.
pub fn window(
    file: &Arc<dyn DiskFile>,
    len: u64,
    access: Access,
    purpose: Purpose,
) -> io::Result<Box<dyn Window>> {
    match access {
        Access::Map => file.map(len, purpose),
        Access::Calls => Ok(Box::new(calls::CallsWindow::new(Arc::clone(file), len, purpose))),
    }
}

/// Reads a whole range, or fails where the file is too short for it.
pub fn read_exact_at(file: &dyn DiskFile, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    if file.read_at(at, buffer)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// What a window keeps of its discipline: how far it was written, and how far it goes.
#[derive(Debug)]
struct Bounds {
    written: u64,
    len: u64,
}

impl Bounds {
    fn new(len: u64, purpose: Purpose) -> Bounds {
        Bounds { written: if purpose == Purpose::Read { len } else { 0 }, len }
    }

    /// Where a write of so many bytes at `at` ends, if it may happen.
    fn write_end(&self, at: u64, bytes: usize) -> io::Result<u64> {
        match at.checked_add(bytes as u64) {
            Some(end) if at >= self.written && end <= self.len => Ok(end),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a write that is not behind all others, or past the end of its window",
            )),
        }
    }

    fn check_read(&self, at: u64, len: usize) -> io::Result<()> {
        match at.checked_add(len as u64) {
            Some(end) if end <= self.written => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
