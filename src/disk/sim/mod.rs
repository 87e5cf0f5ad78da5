//! The simulated disk: memory that forgets as a real disk may.
//!
//! # The fault model
//!
//! - A file has a *live* content, which running processes see, and a *durable* one, per page of
//!   4 KiB, with the stores between the two kept in order. [`SimDisk::kill`] ends the process and
//!   keeps what is live; [`SimDisk::power_cut`] keeps what is durable and, page by page, any
//!   number of the stores behind it.
//! - Pages survive in any order and combination. A store may be captured in part, between any two
//!   of its 8-byte pieces. A page may tear between sectors of 512 B: some old, some new.
//! - A sync makes durable what was stored before the call, and the length. A file that grew may
//!   have its old length after a power cut; what survived no store reads as zeros.
//! - Names (created, renamed, removed) are durable once their directory was synced. Before, a
//!   power cut keeps a prefix of them; with [`SimDisk::set_pessimal`] any subset.
//! - A sync that fails behaves as measured on Linux: its pages count as clean afterwards although
//!   they are not durable, and the next sync says that all is well.
//! - A write call that fails has stored the first half of its bytes.
//! - Stores into a mapped block that was never written are a bug of the engine (SIGBUS on a full
//!   disk), and so are stores over bytes that a reader still holds: both panic.
//! - The disk can be full, the n-th call can fail with any error, once or from then on, and the
//!   power can go at the n-th step. The clock stands still until it is moved, or for as long as a
//!   sync is said to take.
//!
//! All of it follows from one seed.

mod file;
mod names;
mod random;
mod world;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{
    file::SimFile,
    world::{Life, World},
};
use super::{Disk, DiskFile, HeldLock, Lock, Open};
use crate::{audit, ids::Timestamp};

/// A disk and a clock in memory, with power cuts, faults and time travel.
///
/// Clones are the same disk. Give one to [`Options::sim`](crate::Options::sim), run your handlers, cut the
/// power wherever you like, open the store again and see whether your own invariants hold:
///
/// ```
/// use posthouse::{Options, sim::SimDisk};
///
/// let disk = SimDisk::new(7);
/// let engine = Options::new().sim(&disk).open("orders")?;
/// let queue = engine.queue("payments").create()?;
/// queue.send("charge order 1")?;
/// disk.power_cut();
/// drop((engine, queue));
///
/// let engine = Options::new().sim(&disk).open("orders")?;
/// let delivery = engine.queue("payments").open()?.try_receive()?;
/// assert_eq!(delivery.expect("it was durable").payload(), b"charge order 1");
/// # Ok::<(), posthouse::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

impl SimDisk {
    /// An empty disk. What its power cuts keep follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk { world: Arc::new(Mutex::new(World::new(seed))) }
    }

    /// A copy of this disk as it is now, with a seed of its own. The two go separate ways.
    #[must_use]
    pub fn fork(&self, seed: u64) -> SimDisk {
        SimDisk { world: Arc::new(Mutex::new(self.world().fork(seed))) }
    }

    /// Ends all processes that use the disk: what they have stored is there, their locks are
    /// gone, and their handles fail from now on.
    pub fn kill(&self) {
        self.world().kill();
    }

    /// Cuts the power and brings it back: only what is durable is sure to be there.
    pub fn power_cut(&self) {
        let mut world = self.world();
        let mut random = world.random;
        world.power_cut(&mut |alternatives| random.below(alternatives));
        world.random = random;
    }

    /// Cuts the power, with somebody else deciding what survives. `choose` is called with a
    /// number of alternatives and picks one of them, counted from 0; 0 keeps the least.
    pub fn power_cut_with(&self, choose: &mut dyn FnMut(u64) -> u64) {
        self.world().power_cut(choose);
    }

    /// How many steps the disk has made: stores, syncs, and changes of names and lengths.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// Lets all calls fail from the step with this number on, as if the power had gone, until
    /// [`power_cut`](Self::power_cut) or [`kill`](Self::kill).
    pub fn stop_at_step(&self, step: u64) {
        self.world().stop_at = Some(step);
    }

    /// From now on keeps a copy of the disk as it is before one step in so many, chosen by chance; 0 ends
    /// that. So one run of a handler gives all the moments at which it can be cut off.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let open = |disk: &SimDisk| Options::new().sim(disk).open("orders");
    /// let engine = open(&disk)?;
    /// let (todo, done) = (engine.queue("todo").create()?, engine.queue("done").create()?);
    /// todo.send("order 1")?;
    ///
    /// disk.record(1);
    /// let delivery = todo.try_receive()?.expect("there is one");
    /// let mut tx = engine.transaction();
    /// tx.ack(&delivery).send(&done, delivery.payload());
    /// tx.commit()?;
    ///
    /// for moment in disk.take_moments() {
    ///     moment.power_cut();
    ///     let engine = open(&moment)?;
    ///     let depth = |name| engine.queue(name).open()?.depth();
    ///     assert_eq!(depth("todo")? + depth("done")?, 1, "neither lost nor doubled");
    /// }
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn record(&self, one_in: u64) {
        self.world().record.one_in = one_in;
    }

    /// Takes the copies that were [recorded](Self::record), the oldest first.
    #[must_use]
    pub fn take_moments(&self) -> Vec<SimDisk> {
        let moments = std::mem::take(&mut self.world().record.moments);
        moments.into_iter().map(|it| SimDisk { world: Arc::new(Mutex::new(it)) }).collect()
    }

    /// How many calls that can fail were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// Lets the call with this number fail, and those behind it too if `for_good`. Calls are counted
    /// from 0 on, over the disk's whole life: `disk.fail_call(disk.calls(), 5, true)` lets all fail
    /// from now on. `error` is the
    /// operating system's number: 5 for an error of the device (EIO), 28 for a full disk (ENOSPC).
    pub fn fail_call(&self, call: u64, error: i32, for_good: bool) {
        let only_syncs = false;
        self.world().fault = Some(world::Fault { call, only_syncs, error, for_good });
    }

    /// Lets a sync of a file fail, once: the next one for 0. What it should have made durable counts as
    /// clean from then on, as on a real system, and is lost with the power.
    pub fn fail_sync(&self, which: u64, error: i32) {
        let mut world = self.world();
        let call = world.syncs + which;
        world.fault = Some(world::Fault { call, only_syncs: true, error, for_good: false });
    }

    /// Takes back [`fail_call`](Self::fail_call) and [`fail_sync`](Self::fail_sync).
    pub fn heal(&self) {
        self.world().fault = None;
    }

    /// The disk's size in bytes. Writes that need more fail as on a full disk. `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// The bytes that files take up now, in pages of 4 KiB.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.world().bytes_used()
    }

    /// The bytes that were ever written to files whose path contains `part`.
    #[must_use]
    pub fn bytes_written(&self, part: &str) -> u64 {
        self.world().bytes_written(part)
    }

    /// The bytes that were ever read through calls.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.world().bytes_read
    }

    /// Whether a power cut may keep any subset of the unsynced names, instead of a prefix.
    pub fn set_pessimal(&self, pessimal: bool) {
        self.world().pessimal = pessimal;
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.world().advance(by);
    }

    /// Lets each sync of a file take so long by both clocks, and up to a millisecond in truth, so
    /// that other threads go on meanwhile. At first a sync takes no time.
    pub fn set_sync_time(&self, time: Duration) {
        self.world().sync_time = time;
    }

    /// Sets the time of day, to any time; the other clock goes on as if nothing happened.
    pub fn set_now(&self, now: Timestamp) {
        self.world().now = now;
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.world().files()
    }

    /// The content of a file, if there is one.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.world().content(path)
    }

    /// Replaces the content of a file, durably: to plant damage. `None` removes the file.
    pub fn plant(&self, path: &Path, content: Option<Vec<u8>>) {
        self.world().plant(path, content);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A test may have panicked while it held the lock. That does not make the disk unusable.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk of one process. All its calls fail once the process was killed or the power was cut.
#[derive(Clone, Debug)]
pub(crate) struct SimProcess {
    disk: SimDisk,
    life: Life,
}

impl SimDisk {
    pub(crate) fn process(&self) -> SimProcess {
        SimProcess { disk: self.clone(), life: self.world().life }
    }
}

impl SimProcess {
    /// Runs one call that reads.
    fn call<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.disk.world();
        world.begin_call(self.life)?;
        act(&mut world)
    }

    /// Runs one call that changes the disk.
    fn step<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.disk.world();
        world.begin_call(self.life)?;
        world.begin_step()?;
        act(&mut world)
    }
}

impl Disk for SimProcess {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("create_dir");
        self.step(|world| world.create_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        audit::touches_disk("list");
        self.call(|world| world.list(dir))
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        audit::touches_disk("open");
        let file = match how {
            Open::Reading | Open::Existing => self.call(|world| world.find(path))?,
            Open::Fresh => self.step(|world| world.create(path))?,
        };
        Ok(Arc::new(SimFile { process: self.clone(), file }))
    }

    fn len_of(&self, path: &Path) -> io::Result<u64> {
        audit::touches_disk("len_of");
        self.call(|world| {
            let file = world.find(path)?;
            Ok(world.content_of(file).live().len() as u64)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        audit::touches_disk("rename");
        self.step(|world| world.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        audit::touches_disk("remove");
        self.step(|world| world.remove(path))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("remove_dir");
        self.step(|world| world.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        audit::touches_disk("sync_dir");
        self.step(|world| world.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock");
        if !self.step(|world| world.lock(path))? {
            return Ok(Lock::Taken(Some(std::process::id())));
        }
        Ok(Lock::Held(Box::new(SimLock { process: self.clone(), path: path.to_owned() })))
    }

    fn lock_as_is(&self, path: &Path) -> io::Result<Lock> {
        audit::touches_disk("lock_as_is");
        if !self.call(|world| Ok(world.lock_as_is(path)))? {
            return Ok(Lock::Taken(Some(std::process::id())));
        }
        Ok(Lock::Held(Box::new(SimLock { process: self.clone(), path: path.to_owned() })))
    }

    fn maps_are_safe(&self, _: &Path) -> bool {
        true
    }

    fn draw(&self) -> io::Result<[u8; 16]> {
        self.call(|world| {
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
}

struct SimLock {
    process: SimProcess,
    path: PathBuf,
}

impl HeldLock for SimLock {
    fn note(&self, text: &str) -> io::Result<()> {
        self.process.step(|world| {
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
