//! A disk that reports each change to a function, before and after it is made. A test can end the process at any change,
//! or make it fail. Only builds with the feature `sim` have it.

use std::{
    fmt, io,
    panic::RefUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::{Directory, Disk, DiskFile, Lock, Open, Purpose, Slice, Window};
use crate::ids::Timestamp;

/// Gets "before" or "after", the call and the path. A rename reports the old path before, and the new one after. An
/// error of the function becomes the error of the call.
type Told =
    dyn Fn(&'static str, &'static str, &Path) -> io::Result<()> + Send + Sync + RefUnwindSafe;

#[derive(Clone)]
pub struct Witness(Arc<Told>);

impl Witness {
    pub fn new(
        told: impl Fn(&'static str, &'static str, &Path) -> io::Result<()>
        + Send
        + Sync
        + RefUnwindSafe
        + 'static,
    ) -> Witness {
        Witness(Arc::new(told))
    }

    fn sees<T>(
        &self,
        call: &'static str,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.0("before", call, path)?;
        let done = act()?;
        self.0("after", call, path)?;
        Ok(done)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

/// The current path of an open file. A rename changes it.
type Place = Mutex<PathBuf>;

#[derive(Debug)]
pub struct WitnessedDisk {
    disk: Arc<dyn Disk>,
    witness: Witness,
    opened: Mutex<Vec<Weak<Place>>>,
}

impl WitnessedDisk {
    pub fn new(disk: Arc<dyn Disk>, witness: Witness) -> WitnessedDisk {
        WitnessedDisk { disk, witness, opened: Mutex::default() }
    }

    fn place(&self, path: &Path) -> Arc<Place> {
        let place = Arc::new(Mutex::new(path.to_owned()));
        let mut opened = locked(&self.opened);
        opened.retain(|place| place.strong_count() > 0);
        opened.push(Arc::downgrade(&place));
        place
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for WitnessedDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.witness.sees("create", dir, || self.disk.create_dir(dir))
    }

    fn create_subdir(&self, dir: &Path) -> io::Result<()> {
        self.witness.sees("create", dir, || self.disk.create_subdir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let open = || self.disk.open(path, how);
        let file =
            if how == Open::Fresh { self.witness.sees("create", path, open)? } else { open()? };
        Ok(Arc::new(WitnessedFile { file, place: self.place(path), witness: self.witness.clone() }))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        self.disk.len_of(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.witness.0("before", "rename", from)?;
        self.disk.rename(from, to)?;
        for place in locked(&self.opened).iter().filter_map(Weak::upgrade) {
            let mut place = locked(&place);
            if *place == from {
                to.clone_into(&mut place);
            }
        }
        self.witness.0("after", "rename", to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.witness.sees("remove", path, || self.disk.remove(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.witness.sees("remove", dir, || self.disk.remove_dir(dir))
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn Directory>> {
        let (witness, path) = (self.witness.clone(), dir.to_owned());
        Ok(Arc::new(WitnessedDirectory { dir: self.disk.open_dir(dir)?, path, witness }))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.witness.sees("lock", path, || self.disk.lock(path))
    }

    fn lock_as_is(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock_as_is(path)
    }

    fn maps_are_safe(&self, dir: &Path) -> bool {
        self.disk.maps_are_safe(dir)
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        self.disk.draw()
    }

    fn now(&self) -> Timestamp {
        self.disk.now()
    }

    fn elapsed(&self) -> Duration {
        self.disk.elapsed()
    }

    fn ticks(&self) -> (Timestamp, Duration) {
        self.disk.ticks()
    }

    fn exact(&self) -> (Duration, Duration) {
        self.disk.exact()
    }

    fn notice_sleep(&self) {
        self.disk.notice_sleep();
    }

    fn boot(&self) -> [u8; 16] {
        self.disk.boot()
    }

    fn tick(&self) -> Duration {
        self.disk.tick()
    }

    fn stopwatch(&self) -> Duration {
        self.disk.stopwatch()
    }
}

struct WitnessedDirectory {
    dir: Arc<dyn Directory>,
    path: PathBuf,
    witness: Witness,
}

impl Directory for WitnessedDirectory {
    fn sync(&self) -> io::Result<()> {
        self.witness.sees("sync", &self.path, || self.dir.sync())
    }
}

#[derive(Debug)]
struct WitnessedFile {
    file: Arc<dyn DiskFile>,
    place: Arc<Place>,
    witness: Witness,
}

impl WitnessedFile {
    fn path(&self) -> PathBuf {
        locked(&self.place).clone()
    }
}

impl DiskFile for WitnessedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(at, buffer)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.witness.sees("write", &self.path(), || self.file.write_at(at, bytes))
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        self.witness.sees("cut", &self.path(), || self.file.cut(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.witness.sees("sync", &self.path(), || self.file.sync())
    }

    fn map(&self, len: u64, purpose: Purpose) -> io::Result<Box<dyn Window>> {
        let window = self.file.map(len, purpose)?;
        let (place, witness) = (Arc::clone(&self.place), self.witness.clone());
        Ok(Box::new(WitnessedWindow { window, place, witness }))
    }
}

#[derive(Debug)]
struct WitnessedWindow {
    window: Box<dyn Window>,
    place: Arc<Place>,
    witness: Witness,
}

impl Window for WitnessedWindow {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let path = locked(&self.place).clone();
        self.witness.sees("write", &path, || self.window.write(at, bytes))
    }

    fn write_with(
        &mut self,
        at: u64,
        len: usize,
        scratch: &mut Vec<u8>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<()> {
        let path = locked(&self.place).clone();
        self.witness.sees("write", &path, || self.window.write_with(at, len, scratch, fill))
    }

    fn write_parts(
        &mut self,
        at: u64,
        len: usize,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> io::Result<()> {
        let path = locked(&self.place).clone();
        self.witness.sees("write", &path, || self.window.write_parts(at, len, parts))
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        self.window.slice(at, len)
    }

    fn reuse(&mut self) -> bool {
        self.window.reuse()
    }
}
