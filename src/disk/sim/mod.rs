//! The simulated disk: it lives in memory, and loses data as a real disk may.
//!
//! # The fault model
//!
//! - A file has a *live* content, which running processes see, and a *durable* one, per page of
//!   4 KiB. The stores between the two are kept in order. [`SimDisk::kill`] ends the process and
//!   keeps the live content. [`SimDisk::power_cut`] keeps the durable content and, page by page, any
//!   number of the stores after it.
//! - Pages survive in any order and combination. A store may be captured in part, between any two
//!   of its 8-byte pieces. A page may tear between sectors of 512 B: some old, some new.
//! - A sync makes the stores before the call and the length durable. A file that grew may have its
//!   old length after a power cut; bytes without a surviving store read as zeros.
//! - Names (created, renamed, removed) are durable once their directory was synced. Before, a
//!   power cut keeps a prefix of them; with [`SimDisk::set_pessimal`] any subset.
//! - A sync that fails behaves as measured on Linux: its pages count as clean afterwards although
//!   they are not durable, and the next sync succeeds.
//! - A write call that fails has stored the first half of its bytes.
//! - Stores into a mapped block that was never written are a bug of the engine (SIGBUS on a full
//!   disk), and so are stores over bytes that a reader still holds: both panic.
//! - The disk can be full, the n-th call can fail with any error, once or from then on, and the
//!   power can go at the n-th step. The clock stands still until it is moved; a sync moves it by its
//!   [sync time](SimDisk::set_sync_time).
//!
//! One seed decides all of it.

mod contents;
mod faults;
mod file;
mod names;
mod process;
mod random;
#[cfg(test)]
pub(crate) mod traffic;
mod world;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::world::World;
use crate::ids::Timestamp;

/// A disk and a clock in memory, with power cuts, faults and time travel.
///
/// Clones are the same disk. Give one to [`Options::sim`](crate::Options::sim), run your handlers, cut the
/// power at any point, open the store again, and check your own invariants:
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
    /// An empty disk. The seed decides what its power cuts keep: the same seed gives the same run.
    ///
    /// ```
    /// use posthouse::sim::SimDisk;
    ///
    /// let disk = SimDisk::new(7);
    /// assert!(disk.files().is_empty());
    /// ```
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk { world: Arc::new(Mutex::new(World::new(seed))) }
    }

    /// A copy of this disk at this moment, with a seed of its own. Later changes to one do not show on the
    /// other.
    ///
    /// Its processes are gone, as after [`kill`](Self::kill).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("orders")?;
    /// engine.queue("payments").create()?;
    /// for seed in 0..10 {
    ///     let fork = disk.fork(seed); // ten ways in which one power cut may end
    ///     fork.power_cut();
    ///     let engine = Options::new().sim(&fork).open("orders")?;
    ///     assert_eq!(engine.queues()?, ["payments"]);
    /// }
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn fork(&self, seed: u64) -> SimDisk {
        SimDisk { world: Arc::new(Mutex::new(self.world().fork(seed))) }
    }

    /// Ends all processes that use the disk. The data that they stored stays, also unsynced data. Their locks are
    /// gone, and their handles fail from now on.
    ///
    /// ```
    /// use posthouse::{Durability, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().sim(&disk).durability(Durability::Buffered);
    /// let clicks = options.open("store")?.queue("clicks").create()?;
    /// clicks.send("a click")?;
    /// disk.kill();
    /// assert!(clicks.send("another").is_err());
    /// assert_eq!(options.open("store")?.queue("clicks").open()?.depth()?, 1);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn kill(&self) {
        self.world().kill();
    }

    /// Cuts the power and brings it back. Durable data stays. The seed decides which unsynced data stays.
    ///
    /// All processes end, as with [`kill`](Self::kill). See also [`power_cut_with`](Self::power_cut_with).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().sim(&disk);
    /// options.open("store")?.queue("payments").create()?.send("charge order 1")?;
    /// disk.power_cut();
    /// assert_eq!(options.open("store")?.queue("payments").open()?.depth()?, 1);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn power_cut(&self) {
        let mut world = self.world();
        let mut random = world.random;
        world.power_cut(&mut |alternatives| random.below(alternatives));
        world.random = random;
    }

    /// Cuts the power, and lets a function decide which unsynced data stays.
    ///
    /// `choose` receives a number of alternatives and returns one of them, counted from 0. 0 keeps the least.
    ///
    /// ```
    /// use posthouse::{Durability, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let options = Options::new().sim(&disk);
    /// let engine = options.open("store")?;
    /// let clicks = engine.queue("clicks").create()?.durability(Durability::Buffered);
    /// clicks.send("a click")?;
    /// disk.power_cut_with(&mut |_alternatives| 0); // only durable data stays
    /// assert_eq!(options.open("store")?.queue("clicks").open()?.depth()?, 0);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn power_cut_with(&self, choose: &mut dyn FnMut(u64) -> u64) {
        self.world().power_cut(choose);
    }

    /// Keeps a copy of the disk before one of `one_in` steps, chosen at random, from now on. 0 ends it.
    ///
    /// So one run of a handler gives all the moments at which a crash can cut it off.
    /// [`take_moments`](Self::take_moments) returns the copies.
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

    /// Takes the copies that were [recorded](Self::record), oldest first. A second call returns later copies
    /// only.
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// disk.record(1);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// for moment in disk.take_moments() {
    ///     moment.power_cut();
    ///     Options::new().sim(&moment).open("store")?; // it opens wherever creation was cut off
    /// }
    /// assert!(disk.take_moments().is_empty());
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[must_use]
    pub fn take_moments(&self) -> Vec<SimDisk> {
        let moments = std::mem::take(&mut self.world().record.moments);
        moments.into_iter().map(|it| SimDisk { world: Arc::new(Mutex::new(it)) }).collect()
    }

    /// Moves both clocks forward: the time of day and the even time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Message, Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let reminders = engine.queue("reminders").create()?;
    /// reminders.send(Message::new("order 1").deliver_after(Duration::from_secs(3600)))?;
    /// assert!(reminders.try_receive()?.is_none());
    /// disk.advance(Duration::from_secs(3600));
    /// assert!(reminders.try_receive()?.is_some());
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn advance(&self, by: Duration) {
        self.world().advance(by);
    }

    /// Sets the time of day to any time, also backwards. The even time does not change.
    ///
    /// ```
    /// use posthouse::{Options, Timestamp, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let payments = engine.queue("payments").create()?;
    /// disk.set_now(Timestamp(5_000));
    /// payments.send("charge order 1")?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// assert_eq!(delivery.timestamp(), Timestamp(5_000));
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    pub fn set_now(&self, now: Timestamp) {
        self.world().now = now;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A test may have panicked while it held the lock. That does not make the disk unusable.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
