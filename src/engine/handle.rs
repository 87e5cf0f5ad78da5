//! The engine's own handle.

use std::{fmt, io, path::Path, sync::Arc};

use super::{
    background,
    builders::{QueueBuilder, StreamBuilder, TopicBuilder},
    closing::Closing,
    options::Options,
    shared::Shared,
    transaction::Transaction,
};
use crate::{
    config::Config,
    disk::{Disk, Lock},
    error::{Error, Result},
    ids::StoreId,
    inspect::VerifyReport,
    journal::Urgency,
    layout::Layout,
    store::{self, Extent, Space},
};

/// An open store.
///
/// Clones are the same engine, and every handle got from it keeps it open, deliveries, readers and
/// tickets included. It is closed by [`close`](Engine::close), or when the last one is dropped. One
/// process can have a store open, once; within it any number of threads can use it.
///
/// ```
/// use std::time::Duration;
/// use posthouse::Engine;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("store");
/// let engine = Engine::open(path)?;
/// let payments = engine.queue("payments").create()?;
/// payments.send("charge order 1")?;
/// if let Some(delivery) = payments.receive(Duration::from_secs(1))? {
///     assert_eq!(delivery.payload(), b"charge order 1");
///     delivery.ack()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    closing: Arc<Closing>,
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

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        config: Config,
        threads: bool,
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
        let store = store::open(Arc::clone(&disk), root, config.clone(), new_id)?;
        // For people; the lock itself is what keeps others out.
        let _ = lock.note(&format!("store {}\n", store.id()));
        let shared = Arc::new(Shared::new(store, disk, config, threads));
        let closing = Arc::new(Closing::new(Arc::clone(&shared), lock));
        let engine = Engine(Arc::new(Inner { shared, closing }));
        if threads {
            let started = background::start(engine.shared())?;
            engine.0.closing.join_later(started);
            engine.shared().keeper.call();
        } else if engine.shared().lock().wants_clearing() {
            // It is of no consequence if it fails now; the next open tries again.
            let _ = engine.shared().checkpoint(Extent::Older, Urgency::Ordinary);
        }
        Ok(engine)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn is_same(&self, other: &Engine) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A queue by its name: to be created, opened or deleted.
    pub fn queue(&self, name: &str) -> QueueBuilder {
        QueueBuilder::new(self, name)
    }

    /// A topic by its name: to be created, opened or deleted.
    pub fn topic(&self, name: &str) -> TopicBuilder {
        TopicBuilder::new(self, name)
    }

    /// A stream by its name: to be created, opened or deleted.
    pub fn stream(&self, name: &str) -> StreamBuilder {
        StreamBuilder::new(self, name)
    }

    /// The names of all queues, sorted.
    ///
    /// # Errors
    ///
    /// If the engine is closed or poisoned.
    pub fn queues(&self) -> Result<Vec<String>> {
        self.list(Space::Queues)
    }

    /// The names of all topics, sorted.
    ///
    /// # Errors
    ///
    /// If the engine is closed or poisoned.
    pub fn topics(&self) -> Result<Vec<String>> {
        self.list(Space::Topics)
    }

    /// The names of all streams, sorted.
    ///
    /// # Errors
    ///
    /// If the engine is closed or poisoned.
    pub fn streams(&self) -> Result<Vec<String>> {
        self.list(Space::Streams)
    }

    pub(super) fn list(&self, space: Space) -> Result<Vec<String>> {
        Ok(self.shared().lock_open()?.store.list(space))
    }

    /// Begins a transaction: operations over any queues, topics and streams of this engine that
    /// are committed as one.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self)
    }

    /// Makes everything durable that was committed before the call.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the sync fails.
    pub fn sync(&self) -> Result<()> {
        let tail = self.shared().lock_open()?.store.journal.tail();
        self.shared().sync_to(tail)
    }

    /// How often the journal was synced since the engine was opened. The durable commits of that
    /// time divided by it say how many share a flush.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.shared().syncs.flushes()
    }

    /// Moves everything that lives out of the journal, and gives back what space there is to give
    /// back. The engine does so by itself whenever its journal has grown long; call this where a
    /// short recovery or free space is wanted now.
    ///
    /// # Errors
    ///
    /// [`DiskFull`](crate::ErrorKind::DiskFull) or [`Io`](crate::ErrorKind::Io), and then nothing was changed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync fails.
    pub fn checkpoint(&self) -> Result<()> {
        self.shared().checkpoint(Extent::All, Urgency::Ordinary)
    }

    /// Reads everything that the store relies on, and reports what is damaged. Other threads go on
    /// meanwhile: only checkpoints wait while the journal is read.
    ///
    /// What lies in the memory of the system is read from there: whether the disk would give the
    /// same, only a store that was opened anew can tell.
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
    /// [`Io`](crate::ErrorKind::Io) if something cannot be read; if the engine is closed or poisoned.
    /// Damage is not an error: it is in the report.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.shared().verify()
    }

    /// Closes the engine: makes everything durable, and lets others open the store. All handles
    /// fail from then on with [`Closed`](crate::ErrorKind::Closed), those included that are waiting for
    /// a message: so a loop of receiving is ended from another thread. Messages that are on lease
    /// will be delivered again. A checkpoint that is under way is waited for.
    ///
    /// Where that cannot be, as in a waker that the engine calls in the midst of its work, the call
    /// returns at once, and the store is let go of when that work has ended.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the last sync fails.
    pub fn close(&self) -> Result<()> {
        self.0.closing.close()
    }
}

/// Makes the store's directory, unless it is there. One that holds something else is left alone: a
/// path that was mistaken would else strew a store among somebody's files.
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

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.closing.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
