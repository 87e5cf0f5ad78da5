//! The real disk.
#![allow(clippy::disallowed_methods)] // This is the room that they are kept in.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

#[cfg(target_os = "linux")]
use rustix::time::ClockId;

#[cfg(target_os = "linux")]
use super::clocks::{self, Clocks, clock};
use super::{
    Directory, Disk, DiskFile, HeldLock, Lock, Open, Purpose, Window, is_not_a_file,
    map::MapWindow, not_a_file,
};
use crate::{
    audit,
    error::{Error, Result},
    ids::Timestamp,
};

#[derive(Debug)]
pub struct OsDisk {
    #[cfg(not(target_os = "linux"))]
    started: std::time::Instant,
    #[cfg(target_os = "linux")]
    clocks: Clocks,
}

impl OsDisk {
    pub fn new() -> OsDisk {
        let disk = OsDisk {
            #[cfg(not(target_os = "linux"))]
            started: std::time::Instant::now(),
            #[cfg(target_os = "linux")]
            clocks: Clocks::default(),
        };
        disk.notice_sleep();
        disk
    }

    /// The absolute path of a store's directory. It stays right if the process changes its working directory.
    pub fn absolute(path: &Path) -> Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Err(Error::invalid("path", "the store's path is empty"));
        }
        let failed = |error| Error::io(error, "the store's path cannot be made absolute", path);
        std::path::absolute(path).map_err(failed)
    }
}

impl Disk for OsDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("create_dir");
        private_dirs().recursive(true).create(dir)
    }

    fn create_subdir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("create_subdir");
        match private_dirs().create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            created => created,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        audit::touches_disk("list");
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is not a name of the store.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        audit::touches_disk("open");
        check_is_file(path, how == Open::Fresh)?;
        let mut options = private_options();
        match how {
            Open::Reading => options.write(false),
            Open::Existing => &mut options,
            Open::Fresh => options.create(true).truncate(true),
        };
        Ok(Arc::new(OsFile(options.open(path)?)))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        audit::touches_disk("len_of");
        check_is_file(path, false)?;
        fs::metadata(path).map(|metadata| metadata.len())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        audit::touches_disk("rename");
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        audit::touches_disk("remove");
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("remove_dir");
        fs::remove_dir(dir)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn Directory>> {
        audit::touches_disk("open_dir");
        // Windows neither needs nor allows a sync of a directory.
        Ok(Arc::new(OsDirectory(if cfg!(unix) { Some(File::open(dir)?) } else { None })))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock");
        check_is_file(path, true)?;
        let locked = lock_file(private_options().create(true).truncate(false).open(path)?)?;
        if let Lock::Held(held) = &locked {
            // The lock works without the note. The note tells a second engine which process holds it.
            let _ = held.note("");
        }
        Ok(locked)
    }

    fn lock_as_is(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock_as_is");
        match check_is_file(path, false).and_then(|()| File::open(path)) {
            Ok(file) => lock_file(file),
            // Nobody can hold a lock on what is no regular file.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_not_a_file(&error) => {
                Ok(Lock::Held(Box::new(NothingToLock)))
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(target_os = "linux")]
    fn maps_are_safe(&self, dir: &Path) -> bool {
        const EXT4: u64 = 0xEF53;
        const XFS: u64 = 0x5846_5342;
        const TMPFS: u64 = 0x0102_1994;
        rustix::fs::statfs(dir).is_ok_and(|stat| [EXT4, XFS, TMPFS].contains(&(stat.f_type as u64)))
    }

    #[cfg(not(target_os = "linux"))]
    fn maps_are_safe(&self, _: &Path) -> bool {
        false
    }

    fn stopwatch(&self) -> Duration {
        use std::time::Instant;
        static STARTED: OnceLock<Instant> = OnceLock::new();
        STARTED.get_or_init(Instant::now).elapsed()
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        let mut drawn = [0; 16];
        getrandom::fill(&mut drawn).map_err(io::Error::other)?;
        Ok(drawn)
    }

    #[cfg(target_os = "linux")]
    fn now(&self) -> Timestamp {
        in_ms(clock(ClockId::RealtimeCoarse))
    }

    #[cfg(target_os = "linux")]
    #[inline]
    fn elapsed(&self) -> Duration {
        self.clocks.ticks(clock).1
    }

    #[cfg(target_os = "linux")]
    fn ticks(&self) -> (Timestamp, Duration) {
        let (day, elapsed) = self.clocks.ticks(clock);
        (in_ms(day), elapsed)
    }

    #[cfg(target_os = "linux")]
    fn exact(&self) -> (Duration, Duration) {
        clocks::exact()
    }

    #[cfg(target_os = "linux")]
    fn notice_sleep(&self) {
        self.clocks.notice_sleep(clock);
    }

    #[cfg(target_os = "linux")]
    fn boot(&self) -> [u8; 16] {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.trim().chars().filter(|it| *it != '-').collect();
        u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
    }

    #[cfg(target_os = "linux")]
    fn tick(&self) -> Duration {
        let tick = rustix::time::clock_getres(ClockId::MonotonicCoarse);
        Duration::new(tick.tv_sec as u64, tick.tv_nsec as u32)
    }

    #[cfg(not(target_os = "linux"))]
    fn now(&self) -> Timestamp {
        use std::time::SystemTime;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Timestamp(since.map_or(0, |since| since.as_millis() as u64))
    }

    #[cfg(not(target_os = "linux"))]
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(target_os = "linux")]
fn in_ms(day: Duration) -> Timestamp {
    Timestamp(u64::try_from(day.as_millis()).unwrap_or(0))
}

/// Fails if there is something else than a regular file. There may be nothing if `may_be_missing`.
fn check_is_file(path: &Path, may_be_missing: bool) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(not_a_file()),
        Err(error) if leads_nowhere(&error) && is_link(path) => Err(not_a_file()),
        Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a symbolic link leads to nothing, or to itself.
fn leads_nowhere(error: &io::Error) -> bool {
    /// `ELOOP`.
    #[cfg(target_os = "linux")]
    const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
    #[cfg(not(target_os = "linux"))]
    const LOOP: i32 = 62;
    error.kind() == io::ErrorKind::NotFound || cfg!(unix) && error.raw_os_error() == Some(LOOP)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Makes directories that only the owner may use.
fn private_dirs() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Options for reading and writing. Only the owner may open the file.
fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn lock_file(mut file: File) -> io::Result<Lock> {
    match fs2::FileExt::try_lock_exclusive(&file) {
        Ok(()) => Ok(Lock::Held(Box::new(OsLock { file, holder: std::process::id() }))),
        Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
            let mut text = String::new();
            let holder = match file.read_to_string(&mut text) {
                Ok(_) => text.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()),
                Err(_) => None,
            };
            Ok(Lock::Taken(holder))
        }
        Err(error) => Err(error),
    }
}

/// The lock of a store without a lock file. No other engine can hold it.
struct NothingToLock;

impl HeldLock for NothingToLock {
    fn note(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

struct OsLock {
    file: File,
    holder: u32,
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that another thread is starting has it open, too.
        // And a child that was made by `fork` must not unlock the parent's lock.
        if self.holder == std::process::id() {
            let _ = fs2::FileExt::unlock(&self.file);
        }
    }
}

impl HeldLock for OsLock {
    fn note(&self, text: &str) -> io::Result<()> {
        let text = format!("pid {}\n{text}", std::process::id());
        let mut file = &self.file;
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }
}

struct OsDirectory(Option<File>);

impl Directory for OsDirectory {
    fn sync(&self) -> io::Result<()> {
        audit::touches_disk("sync_dir");
        self.0.as_ref().map_or(Ok(()), File::sync_all)
    }
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        audit::touches_disk("len");
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        audit::touches_disk("read_at");
        let mut filled = 0;
        while filled < buffer.len() {
            match positioned_read(&self.0, &mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    #[cfg(target_os = "linux")]
    fn forget_cached(&self) {
        audit::touches_disk("forget_cached");
        // It is only advice. Pages that are not written back stay. It is for the whole file, as large pages of the cache
        // that lie only partly within a range stay, too.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        audit::touches_disk("write_at");
        let mut done = 0;
        while done < bytes.len() {
            match positioned_write(&self.0, &bytes[done..], at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        audit::touches_disk("cut");
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        audit::touches_disk("sync");
        self.0.sync_data()
    }

    fn map(&self, len: u64, purpose: Purpose) -> io::Result<Box<dyn Window>> {
        audit::touches_disk("map");
        Ok(Box::new(MapWindow::open(&self.0, len, purpose)?))
    }
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(windows)]
use std::os::windows::fs::FileExt;

#[cfg(unix)]
fn positioned_read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    file.read_at(buffer, at)
}

#[cfg(unix)]
fn positioned_write(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    file.write_at(bytes, at)
}

#[cfg(windows)]
fn positioned_read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    file.seek_read(buffer, at)
}

#[cfg(windows)]
fn positioned_write(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    file.seek_write(bytes, at)
}
