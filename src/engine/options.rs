//! The settings of an engine, and the calls that open a store with them.

#[cfg(any(test, feature = "sim"))]
use std::{io, panic::RefUnwindSafe};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[cfg(any(test, feature = "sim"))]
use crate::disk::{
    sim::SimDisk,
    witness::{Witness, WitnessedDisk},
};
use crate::{
    config::{Config, Durability, IoMode},
    disk::{Disk, os::OsDisk},
    engine::commit::lifetime::Engine,
    error::Result,
    inspect::{self, SalvageReport, VerifyReport},
};

/// The settings of an engine. They are not stored in the directory: each `open` may choose others.
///
/// ```
/// use posthouse::{Durability, Options};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("store");
/// let engine = Options::new()
///     .durability(Durability::Buffered)
///     .message_bytes_max(1 << 20)
///     .open(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    config: Config,
    #[cfg(any(test, feature = "sim"))]
    sim: Option<SimDisk>,
    #[cfg(any(test, feature = "sim"))]
    witness: Option<Witness>,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Options {
            self.config.$name = $name;
            self
        }
    )*};
}

impl Options {
    /// The default settings. Each setting states its default.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let engine = posthouse::Options::new().open(dir.path().join("store"))?;
    /// assert!(engine.queues()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    settings! {
        /// Sets when a commit is done: [`Durability::Sync`] by default.
        ///
        /// It also decides which messages consumers see. A `Sync` engine shows durable messages only. A `Buffered`
        /// engine shows all committed messages. Single handles and transactions can have another durability for
        /// their own commits: see [`Queue::durability`](crate::Queue::durability).
        ///
        /// ```
        /// use posthouse::{Durability, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new().durability(Durability::Buffered).open(dir.path().join("store"))?;
        /// let clicks = engine.queue("clicks").create()?;
        /// clicks.send("a click")?; // does not wait for the disk
        /// assert!(clicks.try_receive()?.is_some());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        durability: Durability;
        /// Sets how files are read and written: [`IoMode::Auto`] by default, which suits the file system.
        ///
        /// ```
        /// use posthouse::{IoMode, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new().io(IoMode::Calls).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        io: IoMode;
        /// Sets the largest message in bytes, with its key and headers: 16 MiB by default. A larger message is
        /// refused with [`TooLarge`](crate::ErrorKind::TooLarge).
        ///
        /// ```
        /// use posthouse::{ErrorKind, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new().message_bytes_max(1000).open(dir.path().join("store"))?;
        /// let payments = engine.queue("payments").create()?;
        /// assert_eq!(payments.send(vec![0; 2000]).unwrap_err().kind(), ErrorKind::TooLarge);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        message_bytes_max: u64;
        /// Sets the most bytes of messages in one commit, of a batch or a transaction: 64 MiB by default, 1 GiB at most. A
        /// larger commit is refused with [`TooLarge`](crate::ErrorKind::TooLarge). Acks and all else that is no message do
        /// not count.
        ///
        /// ```
        /// use posthouse::{ErrorKind, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let options = Options::new().message_bytes_max(10_000).commit_bytes_max(20_000);
        /// let engine = options.open(dir.path().join("store"))?;
        /// let payments = engine.queue("payments").create()?;
        /// let batch = vec![vec![0; 9000]; 3];
        /// assert_eq!(payments.send_batch(batch).unwrap_err().kind(), ErrorKind::TooLarge);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        commit_bytes_max: u64;
        /// Sets the length of the journal, in bytes, at which a checkpoint begins: 64 MiB by default.
        ///
        /// A message that is acked before a checkpoint reaches it is never written a second time. A longer journal
        /// takes longer to recover. A producer that is faster than the disk is slowed down when the journal is longer than
        /// that; everybody waits when it is twice as long. See also [`Engine::checkpoint`] and [`Engine::stats`].
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let engine = posthouse::Options::new().journal_bytes(8 << 20).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        journal_bytes: u64;
        /// Sets the size of the first journal file in bytes: 256 KiB by default. Later files grow.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let options = posthouse::Options::new().journal_file_bytes_min(64 << 10);
        /// let engine = options.open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        journal_file_bytes_min: u64;
        /// Sets the size to which journal files grow, in bytes: 8 MiB by default. It counts up to a quarter of
        /// [`journal_bytes`](Options::journal_bytes). A reserve for a full disk takes up half as much again.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let options = posthouse::Options::new().journal_file_bytes_max(32 << 20);
        /// let engine = options.open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        journal_file_bytes_max: u64;
        /// Sets the size at which a segment is sealed, in bytes: 64 MiB by default. The engine gives back space in
        /// pieces of this size.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let engine = posthouse::Options::new().segment_bytes(8 << 20).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        segment_bytes: u64;
        /// Sets the size of a segment's blocks, in bytes: 64 KiB by default.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let engine = posthouse::Options::new().block_bytes(16 << 10).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        block_bytes: u64;
        /// Sets how many delayed messages of a queue are kept in memory, at about 50 bytes each: 65,536 by default.
        /// The messages beyond that number, those with the latest times, are kept on disk.
        ///
        /// ```
        /// use std::time::Duration;
        /// use posthouse::{Message, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new().delayed_in_memory(1000).open(dir.path().join("store"))?;
        /// let reminders = engine.queue("reminders").create()?;
        /// reminders.send(Message::new("order 1").deliver_after(Duration::from_secs(3600)))?;
        /// assert_eq!(reminders.delayed()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        delayed_in_memory: u64;
        /// Sets how many segments are open or mapped at a time: 128 by default.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// let engine = posthouse::Options::new().maps_max(16).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        maps_max: usize;
        /// Sets how long a `Buffered` commit waits for its sync at most: from 1 ms to an hour, 100 ms by default. A
        /// power cut can lose the commits of this time.
        ///
        /// ```
        /// use std::time::Duration;
        /// use posthouse::{Durability, Options};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new()
        ///     .durability(Durability::Buffered)
        ///     .sync_interval(Duration::from_millis(10))
        ///     .open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        sync_interval: Duration;
        /// Sets after how long without a commit the store is idle: from 1 ms to a year, 10 s by default. An idle store
        /// gives back the space of messages that are gone, until at most as many of them are in its segments as messages
        /// that live, and is checkpointed if its journal is long, so it opens soon.
        /// Whoever wants a disk that is never used by itself says a year.
        ///
        /// ```
        /// use std::time::Duration;
        /// use posthouse::Options;
        ///
        /// # let dir = tempfile::tempdir()?;
        /// let engine = Options::new().idle_after(Duration::from_secs(60)).open(dir.path().join("store"))?;
        /// # engine.close()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        idle_after: Duration;
    }

    /// Opens the engine on a simulated disk. It needs the feature `sim`.
    ///
    /// The engine then has no threads of its own, so a run with one thread is the same every time. The calls
    /// themselves do the work of these threads. See [`SimDisk`](crate::sim::SimDisk).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// disk.power_cut();
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// assert_eq!(engine.queue("payments").open()?.depth()?, 1);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    #[cfg(any(test, feature = "sim"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "sim")))]
    #[must_use]
    pub fn sim(mut self, disk: &SimDisk) -> Options {
        self.sim = Some(disk.clone());
        self
    }

    /// Sets from how many messages on a call encodes them before it locks the core. For tests that send few.
    #[cfg(any(test, feature = "sim"))]
    #[doc(hidden)]
    #[must_use]
    pub fn batch_messages(mut self, messages: usize) -> Options {
        self.config.batch_messages = messages;
        self
    }

    /// Sets how many queues and subscriptions without handles keep their state in memory. For tests.
    #[cfg(any(test, feature = "sim"))]
    #[doc(hidden)]
    #[must_use]
    pub fn idle_kept(mut self, idle_kept: usize) -> Options {
        self.config.idle_kept = idle_kept;
        self
    }

    /// Calls a function before and after each change on the real disk, with "before" or "after", the name of
    /// the call, and the path. An error that it returns is the error of the call. For tests that end the process
    /// at a change, or make a change fail.
    #[cfg(any(test, feature = "sim"))]
    #[doc(hidden)]
    #[must_use]
    pub fn witness(
        mut self,
        told: impl Fn(&'static str, &'static str, &Path) -> io::Result<()>
        + Send
        + Sync
        + RefUnwindSafe
        + 'static,
    ) -> Options {
        self.witness = Some(Witness::new(told));
        self
    }

    /// Opens the store in a directory. If there is none, it is created: in a new directory, or in an empty one.
    ///
    /// The store stays locked while the engine is open: no other process opens it.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("store");
    /// let engine = Options::new().open(&path)?;
    /// let again = Options::new().open(&path).unwrap_err();
    /// assert!(matches!(again.kind(), ErrorKind::Locked { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Locked`](crate::ErrorKind::Locked) if another engine has it open.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if durable data is damaged, with file and position.
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if a setting is out of range, if the
    ///   directory holds other files and no store, or if the path is that of a file.
    /// - [`DiskFull`](crate::ErrorKind::DiskFull) if there is no space for a journal file, not even that of the
    ///   reserve.
    /// - [`Io`](crate::ErrorKind::Io), [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion).
    ///
    /// After an error the store's data is unchanged.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Engine> {
        self.config.check()?;
        let (disk, path, threads) = self.place(path.as_ref())?;
        Engine::open_on(disk, &path, self.config.clone(), threads)
    }

    /// Reads everything in the store of a directory, and reports damage; see [`verify`](crate::verify).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("store");
    /// let options = posthouse::Options::new();
    /// options.open(&path)?.queue("payments").create()?.send("charge order 1")?;
    /// assert!(options.verify(&path)?.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`verify`](crate::verify).
    pub fn verify(&self, path: impl AsRef<Path>) -> Result<VerifyReport> {
        self.config.check()?;
        let (disk, path, _) = self.place(path.as_ref())?;
        inspect::verify_on(disk, &path)
    }

    /// Copies the sound part of a damaged store into a new store, with these settings; see
    /// [`salvage`](crate::salvage).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let (damaged, salvaged) = (dir.path().join("damaged"), dir.path().join("salvaged"));
    /// let options = posthouse::Options::new().segment_bytes(8 << 20);
    /// # options.open(&damaged)?.queue("payments").create()?.send("charge order 1")?;
    /// let report = options.salvage(&damaged, &salvaged)?;
    /// assert_eq!((report.messages, report.is_complete()), (1, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`salvage`](crate::salvage).
    pub fn salvage(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<SalvageReport> {
        self.config.check()?;
        let (disk, from, _) = self.place(from.as_ref())?;
        let (_, to, _) = self.place(to.as_ref())?;
        inspect::salvage_on(&disk, &from, &to, self.config.clone())
    }

    /// The disk on which a path is, the path there, and whether an engine has threads of its own.
    fn place(&self, path: &Path) -> Result<(Arc<dyn Disk>, PathBuf, bool)> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(sim) = &self.sim {
            return Ok((Arc::new(sim.process()), path.to_owned(), false));
        }
        let path = OsDisk::absolute(path)?;
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        #[cfg(any(test, feature = "sim"))]
        let disk = match &self.witness {
            Some(witness) => Arc::new(WitnessedDisk::new(disk, witness.clone())),
            None => disk,
        };
        Ok((disk, path, true))
    }
}

impl Engine {
    /// Opens the store in a directory with the default settings. If there is none, it is created.
    ///
    /// ```
    /// use posthouse::Engine;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("store");
    /// let engine = Engine::open(&path)?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// engine.close()?;
    ///
    /// let engine = Engine::open(&path)?;
    /// assert_eq!(engine.queue("payments").open()?.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Engine> {
        Options::new().open(path)
    }
}
