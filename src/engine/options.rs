//! How an engine is opened.

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

/// Settings of an engine, and the way to open one with them.
///
/// None of them is stored in the directory: each `open` may choose anew.
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
    /// The defaults, which are stated at each setting.
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    settings! {
        /// When a commit counts as done; [`Durability::Sync`] by default.
        ///
        /// It also decides what consumers see: in a `Sync` engine only what is durable, in a
        /// `Buffered` one everything that was committed. Single handles and transactions can be
        /// given another durability for their own commits.
        durability: Durability;
        /// How files are read and written; by default as suits the file system.
        io: IoMode;
        /// The largest message in bytes, with its key and headers; 16 MiB by default.
        message_bytes_max: u64;
        /// The largest commit in bytes, be it a batch or a transaction; 64 MiB by default.
        commit_bytes_max: u64;
        /// How many bytes of journal begin a checkpoint; 64 MiB by default. Messages that are
        /// acked before a checkpoint reaches them are never written a second time; a longer
        /// journal takes longer to recover. Commits wait at twice as much.
        journal_bytes: u64;
        /// The first journal file's size in bytes; 256 KiB by default. Later ones grow.
        journal_file_bytes_min: u64;
        /// The largest size to which journal files grow, in bytes; 8 MiB by default.
        journal_file_bytes_max: u64;
        /// The size at which a segment is sealed, in bytes; 64 MiB by default. Space is given back
        /// in pieces of this size.
        segment_bytes: u64;
        /// The size of a segment's blocks, in bytes; 64 KiB by default.
        block_bytes: u64;
        /// How many of a queue's delayed messages are kept in memory, at some 50 bytes each; of
        /// what is more, those that are due the latest are kept on disk. 65,536 if not set.
        delayed_in_memory: u64;
        /// How many segments are kept open, or mapped, at a time; 128 by default.
        maps_max: usize;
        /// How long a `Buffered` commit waits for its sync at most; 100 ms by default,
        /// from 1 ms to an hour.
        sync_interval: Duration;
    }

    /// Opens the engine on a simulated disk, without threads of its own, so that a run with one
    /// thread is the same every time. What threads would do is done by whoever needs it.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn sim(mut self, disk: &SimDisk) -> Options {
        self.sim = Some(disk.clone());
        self
    }

    /// Tells somebody of each change on the real disk before and after it is made: whether it is
    /// before or after, the call, and the path. An error is that of the call. For tests that end
    /// the process at one of them, or have it fail.
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

    /// Opens the store in a directory. If there is none, it is made: in a new directory, or in one
    /// that is empty.
    ///
    /// # Errors
    ///
    /// - [`Locked`](crate::ErrorKind::Locked) if another engine has it open.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if durable data is damaged, with file and position.
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if a setting is out of range, if the
    ///   directory holds other files and no store, or if the path is that of a file.
    /// - [`DiskFull`](crate::ErrorKind::DiskFull), [`Io`](crate::ErrorKind::Io),
    ///   [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion).
    ///
    /// The store is as it was then.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Engine> {
        self.config.check()?;
        let (disk, path, threads) = self.place(path.as_ref())?;
        Engine::open_on(disk, &path, self.config.clone(), threads)
    }

    /// Reads everything in the store of a directory, and reports what is damaged; see
    /// [`verify`](crate::verify).
    ///
    /// # Errors
    ///
    /// See [`verify`](crate::verify).
    pub fn verify(&self, path: impl AsRef<Path>) -> Result<VerifyReport> {
        self.config.check()?;
        let (disk, path, _) = self.place(path.as_ref())?;
        inspect::verify_on(disk, &path)
    }

    /// Copies what is good in a damaged store into a new one, with these settings; see
    /// [`salvage`](crate::salvage).
    ///
    /// # Errors
    ///
    /// See [`salvage`](crate::salvage).
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
    /// Opens the store in a directory with the default settings. If there is none, it is made.
    ///
    /// # Errors
    ///
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Engine> {
        Options::new().open(path)
    }
}
