//! Facts that Linux has about this process and its disk: bytes written, flushes, memory, the content of the
//! page cache. On other systems, and where a fact is missing, there is no answer.
//!
//! The only file with `unsafe` beside that of LMDB, whose `open` asks for it.
#![allow(unsafe_code)]

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use memmap2::{Mmap, MmapMut};

/// What was written up to now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes that this process has made the page cache write, or will.
    pub by_process: u64,
    /// Bytes that were written to the disk, by any program.
    pub to_disk: u64,
    /// Flushes of the disk, by any program.
    pub flushes: u64,
}

impl Written {
    /// The difference of two readings.
    pub fn since(self, before: Written) -> Written {
        Written {
            by_process: self.by_process.saturating_sub(before.by_process),
            to_disk: self.to_disk.saturating_sub(before.to_disk),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }

    /// Both together.
    pub fn plus(self, other: Written) -> Written {
        Written {
            by_process: self.by_process + other.by_process,
            to_disk: self.to_disk + other.to_disk,
            flushes: self.flushes + other.flushes,
        }
    }
}

/// The counters of the disk under a directory.
#[derive(Clone, Debug)]
pub struct Disk {
    stat: Option<PathBuf>,
}

impl Disk {
    /// The disk on which a directory lies.
    pub fn under(dir: &Path) -> Disk {
        let find = || {
            let device = fs::metadata(dir).ok()?.dev();
            let (major, minor) = (libc::major(device), libc::minor(device));
            let place = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
            // Flushes are counted for whole disks only.
            let whole = if place.join("partition").exists() { place.parent()? } else { &place };
            Some(whole.join("stat"))
        };
        Disk { stat: find() }
    }

    /// Whether there is one that counts; a file system in memory has none.
    pub fn counts(&self) -> bool {
        self.stat.is_some()
    }

    /// Looks at the counters.
    pub fn look(&self) -> Written {
        let by_process = number_in("/proc/self/io", "write_bytes:").unwrap_or_default();
        let stat = self.stat.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let stat = stat.unwrap_or_default();
        let field = |n: usize| stat.split_whitespace().nth(n).and_then(|it| it.parse::<u64>().ok());
        Written {
            by_process,
            to_disk: field(6).unwrap_or_default() * 512,
            flushes: field(15).unwrap_or_default(),
        }
    }
}

/// The first number behind a word in a file, as in `/proc`.
fn number_in(path: &str, word: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The anonymous memory of this process, in bytes.
pub fn anonymous_bytes() -> Option<u64> {
    number_in("/proc/self/status", "RssAnon:").map(|kib| kib * 1024)
}

/// The memory that could be used without swapping, in bytes.
pub fn available_bytes() -> Option<u64> {
    number_in("/proc/meminfo", "MemAvailable:").map(|kib| kib * 1024)
}

/// The free space of the file system under a directory, in bytes.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a value of this plain struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, and the struct outlives the call.
    let done = unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) };
    (done == 0).then(|| stat.f_bavail * stat.f_frsize)
}

/// The cores that this program may run on.
#[derive(Clone, Copy)]
pub struct Cores(libc::cpu_set_t);

impl Cores {
    /// Those of the calling thread.
    pub fn all() -> io::Result<Cores> {
        // SAFETY: all zeros is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set outlives the call.
        match unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } {
            0 => Ok(Cores(set)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One of them, counted round and round.
    pub fn one(&self, number: usize) -> Cores {
        let is_set = |core: &usize| {
            // SAFETY: the number is below the size of a set.
            unsafe { libc::CPU_ISSET(*core, &self.0) }
        };
        let cores: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_set).collect();
        // SAFETY: all zeros is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above. A thread that runs has a core.
        unsafe { libc::CPU_SET(cores[number % cores.len()], &mut set) };
        Cores(set)
    }

    /// Lets the calling thread, and those that it starts, run on these only.
    pub fn pin(&self) -> io::Result<()> {
        // SAFETY: the set outlives the call.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sets a variable of the environment.
///
/// # Safety
///
/// The process must have one thread.
pub unsafe fn set_variable(name: &str, value: &OsStr) {
    // SAFETY: the caller's obligation.
    unsafe { std::env::set_var(name, value) };
}

/// Touches fresh memory once and gives it back. A new virtual machine takes much longer for the first touch
/// of a page, and the first side that runs would pay for it.
pub fn touch_memory(bytes: u64, mut progress: impl FnMut(u64)) -> io::Result<()> {
    const CHUNK: usize = 64 << 20;
    let mut held = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let mut map = MmapMut::map_anon(CHUNK)?;
        for at in (0..CHUNK).step_by(4096) {
            map[at] = 1;
        }
        held.push(map);
        left = left.saturating_sub(CHUNK as u64);
        progress(bytes - left);
    }
    Ok(())
}

/// All files below a directory, with their sizes.
pub fn files(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let (entry, path) = entry.map(|entry| (entry.metadata(), entry.path()))?;
            // What was deleted meanwhile is not there.
            let Ok(entry) = entry else { continue };
            if entry.is_dir() {
                dirs.push(path);
            } else if entry.is_file() {
                found.push((path, entry.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes all files below a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    for (path, _) in files(dir)? {
        if let Ok(file) = File::open(path) {
            file.sync_all()?;
        }
    }
    Ok(())
}

/// Drops the files below a directory from the page cache. No process may have them mapped. Returns which part
/// of their pages is in memory all the same.
pub fn drop_cache(dir: &Path) -> io::Result<f64> {
    sync_dir(dir)?;
    for (path, _) in files(dir)? {
        let file = File::open(path)?;
        // SAFETY: a call without pointers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    in_memory(dir)
}

/// Which part of the files in a directory is in the page cache.
pub fn in_memory(dir: &Path) -> io::Result<f64> {
    let (mut resident, mut pages) = (0, 0);
    for (path, size) in files(dir)? {
        let file = File::open(path)?;
        if size > 0 {
            let (some, all) = resident_pages(&file, size as usize)?;
            resident += some;
            pages += all;
        }
    }
    Ok(resident as f64 / f64::max(pages as f64, 1.0))
}

fn resident_pages(file: &File, size: usize) -> io::Result<(usize, usize)> {
    // A sparse file may be very long: what lies behind the first GiB does not change the answer.
    let size = size.min(1 << 30);
    // SAFETY: the map is only asked about, never read.
    let map = unsafe { memmap2::MmapOptions::new().len(size).map(file)? };
    let mut pages = vec![0_u8; size.div_ceil(4096)];
    // SAFETY: there is a byte for each page of the map, which outlives the call.
    let done = unsafe { libc::mincore(map.as_ptr() as *mut _, size, pages.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((pages.iter().filter(|page| **page & 1 == 1).count(), pages.len()))
}

/// Maps a file to read and write it.
pub fn map_mut(file: &File) -> io::Result<MmapMut> {
    // SAFETY: the file lies in a directory of this program alone, which does not shorten it.
    unsafe { MmapMut::map_mut(file) }
}

/// Maps a file to read it.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: as above.
    unsafe { Mmap::map(file) }
}
