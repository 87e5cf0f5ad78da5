//! Opens and closes an engine, and the calls that concern the whole store: sync, checkpoint, verify.

use std::{io, path::Path, sync::Arc};

#[cfg(feature = "sim")]
use crate::engine::commit::alone::Working;
use crate::{
    config::Config,
    disk::{Disk, Lock},
    engine::commit::{
        committer::Committer, lifetime::Engine, pressure::EngineStats, shutdown::Shutdown, threads,
    },
    error::{Error, Result},
    ids::StoreId,
    inspect::VerifyReport,
    journal::Urgency,
    layout::Layout,
    store::{self, Extent, Occasion},
};

impl Engine {
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        config: Config,
        has_threads: bool,
    ) -> Result<Engine> {
        let layout = Layout::new(root);
        prepare_dir(&*disk, root)?;
        let failed = |error| Error::io(error, "the store cannot be locked", layout.lock());
        let lock = match disk.lock(&layout.lock()).map_err(failed)? {
            Lock::Held(lock) => lock,
            Lock::Taken(holder) => return Err(Error::locked(holder, root)),
        };
        let failed = |error| Error::io(error, "the system has no random numbers", root);
        let new_id = StoreId(disk.draw().map_err(failed)?);
        let store = store::open(Arc::clone(&disk), root, config.clone(), new_id)
            .map_err(Error::of_a_store_that_does_not_open)?;
        // The note is for people. The lock itself keeps other engines out.
        let _ = lock.note(&format!("store {}\n", store.id()));
        let committer = Arc::new(Committer::new(store, disk, config, has_threads));
        committer.begin_clock()?;
        committer.lock("open").arm_lives();
        let shutdown = Arc::new(Shutdown::new(Arc::clone(&committer), lock));
        let engine = Engine::new(Arc::clone(&committer), shutdown);
        if has_threads {
            engine.shutdown().join_later(threads::start(&committer)?);
            committer.checkpointer.call();
        } else if committer.lock("open").wants_clearing() {
            // A failure does no harm: the next open tries again.
            let _ = committer.checkpoint(Extent::Older, Urgency::Ordinary);
        }
        Ok(engine)
    }

    /// Makes all commits durable that were made before the call, and waits for the disk.
    ///
    /// It is of use with [`Durability::Buffered`](crate::Durability::Buffered) and with
    /// [tickets](crate::Ticket): other commits are durable when their calls return.
    ///
    /// ```
    /// use posthouse::{Durability, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let engine = Options::new().durability(Durability::Buffered).open(dir.path().join("store"))?;
    /// let clicks = engine.queue("clicks").create()?;
    /// for n in 0..100 {
    ///     clicks.send(format!("click {n}"))?;
    /// }
    /// engine.sync()?; // one flush for all
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the sync fails.
    pub fn sync(&self) -> Result<()> {
        drop(self.committer().lock_open("sync")?);
        self.committer().work_alone();
        let tail = self.committer().lock_open("sync")?.store.journal.tail();
        self.committer().sync_to(tail)
    }

    /// How many times the journal was synced since the engine was opened.
    ///
    /// Durable commits divided by flushes is the mean size of a group commit.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let before = engine.flushes();
    /// payments.send("charge order 1")?;
    /// assert!(engine.flushes() > before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.committer().syncs.flushes()
    }

    /// How long the journal is, and how long producers were held back while checkpoints shortened it.
    ///
    /// The guide to [durability](crate::guide::durability) says when that happens.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// let stats = engine.stats()?;
    /// assert!(stats.journal_bytes > 0);
    /// assert!(stats.held_back_for.is_zero(), "the disk keeps up");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn stats(&self) -> Result<EngineStats> {
        self.committer().stats()
    }

    /// Makes a checkpoint: moves live messages from the journal to segments, and gives back free space.
    ///
    /// The engine does so by itself when its [journal](crate::Options::journal_bytes) is long. Call it to have
    /// a short recovery or free space now.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("store");
    /// let engine = posthouse::Engine::open(&path)?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// engine.checkpoint()?;
    /// engine.close()?;
    /// assert!(posthouse::verify(&path)?.read.segments > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DiskFull`](crate::ErrorKind::DiskFull) or [`Io`](crate::ErrorKind::Io), and nothing was changed;
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync fails.
    pub fn checkpoint(&self) -> Result<()> {
        let committer = self.committer();
        drop(committer.lock_open("checkpoint")?);
        committer.work_alone();
        committer.sweep(None);
        committer.retain(Occasion::BeforeCheckpoint, None)?;
        let made = committer.checkpoint(Extent::All, Urgency::Freeing);
        // What was moved may be beyond the limits of its stream, also where a part of the checkpoint failed.
        made.and(committer.retain(Occasion::BehindCheckpoint, None))
    }

    /// Reads everything that the store relies on, and reports damage. Other threads go on: only checkpoints wait
    /// while the journal is read.
    ///
    /// Data in the cache of the operating system is read from there. To check the disk itself, reopen the store
    /// after a restart of the machine. See also [`verify`](crate::verify), for a store that is not open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.queue("payments").create()?.send("charge order 1")?;
    /// let report = engine.verify()?;
    /// assert!(report.is_ok(), "{report}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if a file cannot be read; [`Closed`](crate::ErrorKind::Closed) if the engine
    /// is closed; [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed. Damage is not an error: the report
    /// lists it.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.committer().verify()
    }

    /// Closes the engine: makes all commits durable, and unlocks the store.
    ///
    /// All handles then fail with [`Closed`](crate::ErrorKind::Closed), also calls that wait for a message: so
    /// another thread ends a receive loop. Messages on lease will be delivered again. The call waits for a
    /// running checkpoint, and for a callback of the application that the engine runs. If that takes longer than 30 seconds,
    /// the call says so on the standard error stream, and waits on.
    ///
    /// Inside a waker that the engine calls during its own work, the call returns at once, and the store is
    /// unlocked when that work has ended.
    ///
    /// ```
    /// use posthouse::{Engine, ErrorKind};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let engine = Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// engine.close()?;
    /// assert_eq!(payments.send("charge order 1").unwrap_err().kind(), ErrorKind::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the last sync fails.
    pub fn close(&self) -> Result<()> {
        self.shutdown().close()
    }
}

/// Makes the store's directory, unless it exists. Refuses a directory with other files: with a mistaken path, the
/// store's files would mix with them.
fn prepare_dir(disk: &dyn Disk, root: &Path) -> Result<()> {
    let refused = |what: &'static str| Err(Error::invalid("path", what).in_file(root));
    let a_file = "a file is in the place of the store's directory, or of one above it";
    let others = "this directory holds other files and no store; give an empty or a new one";
    match disk.list(root) {
        Ok(names) if Layout::admits(&names) => return Ok(()),
        Ok(_) => return refused(others),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return refused(a_file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(error, "the store's directory cannot be listed", root)),
    }
    disk.create_dir(root).or_else(|error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => refused(a_file),
        _ => Err(Error::io(error, "the store's directory cannot be made", root)),
    })
}

/// Does what the checkpointer does once nobody has committed anything for [`idle_after`](crate::Options::idle_after). On the
/// simulated disk there is no such thread.
///
/// # Errors
///
/// Those of [`Engine::checkpoint`].
#[cfg(feature = "sim")]
pub fn rest(engine: &Engine) -> Result<()> {
    let committer = engine.committer();
    let tail = committer.lock_open("idle checkpoint")?.store.journal.tail();
    threads::idle_round(committer, tail)
}

/// Makes calls that leave undone what has become due in time, on a simulated disk. So they show a store as a crash has left
/// it.
#[cfg(feature = "sim")]
pub fn still<T>(calls: impl FnOnce() -> T) -> T {
    let _working = Working::for_all();
    calls()
}

/// How many queues and subscriptions have their state in memory. For tests.
#[cfg(feature = "sim")]
pub fn awake(engine: &Engine) -> usize {
    engine.committer().lock("states in memory").awake()
}
