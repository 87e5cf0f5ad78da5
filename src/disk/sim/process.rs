//! The disk, as one process sees it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    SimDisk,
    file::SimFile,
    names::parent,
    world::{Life, World},
};
use crate::{
    audit,
    disk::{Directory, Disk, DiskFile, HeldLock, Lock, Open},
    ids::Timestamp,
};

/// The disk as one process sees it. All calls fail after the process was killed or the power was cut.
#[derive(Clone, Debug)]
pub(crate) struct SimProcess {
    pub(super) disk: SimDisk,
    pub(super) life: Life,
}

impl SimDisk {
    pub(crate) fn process(&self) -> SimProcess {
        SimProcess { disk: self.clone(), life: self.world().life }
    }
}

impl SimProcess {
    /// Runs one call that reads.
    pub(super) fn call<T>(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.disk.world();
        world.begin_call(self.life, what)?;
        act(&mut world)
    }

    /// Runs one call that changes the disk.
    pub(super) fn step<T>(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.disk.world();
        world.begin_call(self.life, what)?;
        world.begin_step()?;
        act(&mut world)
    }
}

impl Disk for SimProcess {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("create_dir");
        self.step("create a directory", |world| world.create_dir(dir))
    }

    fn create_subdir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("create_subdir");
        self.step("create a directory", |world| {
            world.list(parent(dir))?;
            world.create_dir(dir)
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        audit::touches_disk("list");
        self.call("list a directory", |world| world.list(dir))
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        audit::touches_disk("open");
        let file = match how {
            Open::Reading | Open::Existing => self.call("open a file", |world| world.find(path))?,
            Open::Fresh => self.step("create a file", |world| world.create(path))?,
        };
        Ok(Arc::new(SimFile { process: self.clone(), file }))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        audit::touches_disk("len_of");
        self.call("measure a file", |world| {
            let file = world.find(path)?;
            Ok(world.content_of(file).live().len() as u64)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        audit::touches_disk("rename");
        self.step("rename", |world| world.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        audit::touches_disk("remove");
        self.step("remove a file", |world| world.remove(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("remove_dir");
        self.step("remove a directory", |world| world.remove_dir(dir))
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn Directory>> {
        audit::touches_disk("open_dir");
        self.call("open a directory", |world| world.list(dir))?;
        Ok(Arc::new(SimDirectory { process: self.clone(), dir: dir.to_owned() }))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock");
        if !self.step("lock", |world| world.lock(path))? {
            return Ok(Lock::Taken(Some(std::process::id())));
        }
        Ok(Lock::Held(Box::new(SimLock { process: self.clone(), path: path.to_owned() })))
    }

    fn lock_as_is(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock_as_is");
        if !self.call("lock", |world| Ok(world.lock_as_is(path)))? {
            return Ok(Lock::Taken(Some(std::process::id())));
        }
        Ok(Lock::Held(Box::new(SimLock { process: self.clone(), path: path.to_owned() })))
    }

    fn maps_are_safe(&self, _: &Path) -> bool {
        true
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        self.call("draw a random number", |world| {
            let mut half = || world.random.below(u64::MAX).to_le_bytes();
            let (low, high) = (half(), half());
            Ok(std::array::from_fn(|n| if n < 8 { low[n] } else { high[n - 8] }))
        })
    }

    fn now(&self) -> Timestamp {
        self.disk.world().now
    }

    fn elapsed(&self) -> Duration {
        self.disk.world().elapsed
    }

    fn boot(&self) -> [u8; 16] {
        let mut boot = *b"boot No ........";
        boot[8..].copy_from_slice(&self.disk.world().boot.to_be_bytes());
        boot
    }
}

struct SimDirectory {
    process: SimProcess,
    dir: PathBuf,
}

impl Directory for SimDirectory {
    fn sync(&self) -> io::Result<()> {
        audit::touches_disk("sync_dir");
        self.process.step("sync a directory", |world| world.sync_dir(&self.dir))
    }
}

struct SimLock {
    process: SimProcess,
    path: PathBuf,
}

impl HeldLock for SimLock {
    fn note(&self, text: &str) -> io::Result<()> {
        self.process.step("write", |world| {
            let file = world.find(&self.path)?;
            world.write(file, 0, text.as_bytes())
        })
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.process.disk.world().unlock(&self.path, self.process.life);
    }
}
