//! The disk: the only access to files, directories, maps, the lock and the clock.
//!
//! Two disks exist: [`os::OsDisk`], the real one, and [`sim::SimDisk`], which simulates power cuts and faults. The
//! engine cannot tell them apart.
//!
//! Invariants: no code outside `disk/` uses `std::fs`. Only `map.rs` has `unsafe` code. The bytes of a [`Slice`] never
//! change while it lives.

mod ahead;
mod calls;
#[cfg(target_os = "linux")]
mod clocks;
mod map;
pub mod os;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(all(test, loom))]
mod tests;
#[cfg(any(test, feature = "sim"))]
pub mod witness;

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

pub use ahead::Ahead;
pub use map::{Share, Shares, Slice, Written};

use crate::ids::Timestamp;

/// A file system and a clock.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory, and its missing parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates a directory, unless it exists. Its parent must exist.
    fn create_subdir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// The length of a file.
    fn len_of(&self, path: &Path) -> io::Result<u64>;
    /// Renames a file. Replaces a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens a directory whose names will change. There may be no descriptor left, or no right to open it: that is
    /// found out before anything is changed.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn Directory>>;
    /// Opens and syncs a directory, where nobody needs to tell the two failures apart.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }
    /// Takes the lock that keeps a second engine from opening the store.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
    /// Takes the same lock without changing the disk. If there is no lock file, no engine can hold the
    /// lock, and there is nothing to take.
    fn lock_as_is(&self, path: &Path) -> io::Result<Lock>;
    /// Whether stores through a map are safe here: whether a block once written stays in place.
    fn maps_are_safe(&self, dir: &Path) -> bool;
    /// Draws a random number, for the id of a new store.
    fn draw(&self) -> io::Result<[u8; 16]>;
    /// The time of day, as of the last tick.
    fn now(&self) -> Timestamp;
    /// The time since some fixed point, as of the last tick. Never goes backwards, and goes on while the machine
    /// sleeps.
    fn elapsed(&self) -> Duration;
    /// Both clocks, as of the last tick.
    fn ticks(&self) -> (Timestamp, Duration) {
        (self.now(), self.elapsed())
    }
    /// Both clocks at one moment, without a lag: the time of day since 1970, and `elapsed`.
    fn exact(&self) -> (Duration, Duration) {
        (Duration::from_millis(self.now().0), self.elapsed())
    }
    /// Looks whether the machine has slept. `elapsed` sees that by itself, unless the time of day was set back by as much.
    fn notice_sleep(&self) {}
    /// The boot of the machine. Within one boot `elapsed` counts from the same point in all processes. Zeros if the
    /// system does not tell.
    fn boot(&self) -> [u8; 16] {
        [0; 16]
    }
    /// The time between two ticks. The clock lags by up to this time.
    fn tick(&self) -> Duration {
        Duration::ZERO
    }
    /// The exact time since another fixed point, for measuring microseconds.
    fn stopwatch(&self) -> Duration {
        self.elapsed()
    }
}

/// How a file is opened. All but `Reading` allow writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file must exist, and is only read.
    Reading,
    /// The file must exist.
    Existing,
    /// The file is created, or emptied if it exists.
    Fresh,
}

/// The outcome of [`Disk::lock`].
pub enum Lock {
    /// The lock is held until this is dropped.
    Held(Box<dyn HeldLock>),
    /// Another engine holds it. The value is its process id, if the file has it.
    Taken(Option<u32>),
}

/// A lock file that this process holds.
pub trait HeldLock: Send + Sync {
    /// Writes a text into the file, behind the process id, for people to read.
    fn note(&self, text: &str) -> io::Result<()>;
}

/// An open directory.
pub trait Directory: Send + Sync {
    /// Makes the changes of names in the directory durable: creations, renames and removals.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    fn len(&self) -> io::Result<u64>;
    /// Fills the buffer from a position. Returns the number of bytes, which is less only at the file's end.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to a length, so that the space behind it is free. No map may reach behind it.
    fn cut(&self, len: u64) -> io::Result<()>;
    /// Has the next reads ask the device, where the system can be told so.
    fn forget_cached(&self) {}
    /// Makes everything that was written before the call durable, through a map or not, and the length.
    fn sync(&self) -> io::Result<()>;
    /// Maps the first `len` bytes, all of which must have been written.
    fn map(&self, len: u64, purpose: Purpose) -> io::Result<Box<dyn Window>>;
}

/// The purpose of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To append. Bytes can be read only after they were written through the window.
    Append,
    /// To read existing bytes.
    Read,
}

/// Access to a file's bytes, through a map or through calls. Callers cannot tell which.
///
/// Writes only move forward, and only written bytes can be read. So the bytes of a slice are never written again.
pub trait Window: Send + Sync + fmt::Debug {
    /// Writes at a position behind everything written so far. Skipping bytes is fine.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes parts that follow each other, as [`write`](Window::write) writes one. `len` is the length of all.
    fn write_parts(
        &mut self,
        at: u64,
        len: usize,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> io::Result<()> {
        if self.takes_parts() {
            let mut at = at;
            for part in parts {
                self.write(at, part)?;
                at += part.len() as u64;
            }
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(len);
        parts.for_each(|part| bytes.extend_from_slice(part));
        self.write(at, &bytes)
    }
    /// Writes `len` bytes at a position behind everything written so far. `fill` writes them, all of them: straight into the
    /// map, or into `scratch` if there is none.
    fn write_with(
        &mut self,
        at: u64,
        len: usize,
        scratch: &mut Vec<u8>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<()> {
        scratch.resize(len, 0);
        fill(crate::audit::spoiled(scratch));
        self.write(at, scratch)
    }
    /// Whether parts are written one by one, and not gathered.
    fn takes_parts(&self) -> bool {
        false
    }
    /// The bytes at a position, all of them written before.
    fn slice(&self, at: u64, len: usize) -> io::Result<Slice>;
    /// The bytes at a position, all of them written before. Without a map they are not read yet, because the
    /// caller may hold a lock.
    fn late_slice(&self, at: u64, len: usize) -> io::Result<LateSlice> {
        self.slice(at, len).map(LateSlice::Ready)
    }
    /// Has the next reads ask the device, where that is done by calls.
    fn forget_cached(&self) {}
    /// Asks the system to make all pages of the window ready for writes. The next sync of the file writes all of
    /// them back, even the pages without writes.
    fn warm(&self) {}
    /// The pages that `len` bytes from a position on are going to take up. `None` if there is no map.
    fn ahead(&self, _at: u64, _len: u64) -> Option<Ahead> {
        None
    }
    /// The part that was written from a position on, to be taken out of the map before a sync. `None` if
    /// there is no map.
    fn written(&self, _from: u64) -> Option<Written> {
        None
    }
    /// Begins again at the front, to fill the file again. Returns `false`, and changes nothing, while a slice
    /// is alive.
    fn reuse(&mut self) -> bool;
}

/// Bytes of a window, perhaps not read from the disk yet.
#[derive(Clone, Debug)]
pub enum LateSlice {
    Ready(Slice),
    Unread(UnreadSlice),
}

/// Bytes that are still to be read from a file. The file is not filled again before that.
#[derive(Clone, Debug)]
pub struct UnreadSlice {
    file: Arc<dyn DiskFile>,
    at: u64,
    len: usize,
    _pin: Arc<()>,
}

impl LateSlice {
    /// A part of it.
    pub fn narrow(self, start: usize, len: usize) -> LateSlice {
        match self {
            LateSlice::Ready(slice) => LateSlice::Ready(slice.narrow(start, start + len)),
            LateSlice::Unread(unread) => {
                LateSlice::Unread(UnreadSlice { at: unread.at + start as u64, len, ..unread })
            }
        }
    }

    /// Returns the bytes, and reads them if they were not read yet.
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

/// How windows are opened. [`IoMode`](crate::IoMode) and the file system decide it.
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

/// The error for a FIFO, a device, a socket or a directory in the place of a file. To open some of these would wait for
/// ever. No call of the system has an error of this kind.
fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "there is something else than a regular file")
}

/// Whether an open failed because there is something else in the place of a file.
pub fn is_not_a_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Whether a list failed because there is no directory: nothing, or something else.
pub fn is_no_dir(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Reads a whole range. Fails if the file is too short.
pub fn read_exact_at(file: &dyn DiskFile, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    if file.read_at(at, buffer)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// The bounds of a window: how far it was written, and its length.
#[derive(Debug)]
struct Bounds {
    written: u64,
    len: u64,
}

impl Bounds {
    fn new(len: u64, purpose: Purpose) -> Bounds {
        Bounds { written: if purpose == Purpose::Read { len } else { 0 }, len }
    }

    /// The end of a write of `bytes` bytes at `at`, if the write is allowed.
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
