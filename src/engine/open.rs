//! Opens and closes an engine, and the calls that concern the whole store: sync, checkpoint, verify.

use std::{io, path::Path, sync::Arc};

use crate::{
    config::Config,
    disk::{Disk, Lock},
    engine::commit::{committer::Committer, lifetime::Engine, shutdown::Shutdown, threads},
    error::{Error, Result},
    ids::StoreId,
    inspect::VerifyReport,
    journal::Urgency,
    layout::Layout,
    store::{self, Extent},
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
        let store = store::open(Arc::clone(&disk), root, config.clone(), new_id)?;
        // The note is for people. The lock itself keeps other engines out.
        let _ = lock.note(&format!("store {}\n", store.id()));
        let committer = Arc::new(Committer::new(store, disk, config, has_threads));
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

    /// Makes everything durable that was committed before the call.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the sync fails.
    pub fn sync(&self) -> Result<()> {
        let tail = self.committer().lock_open("sync")?.store.journal.tail();
        self.committer().sync_to(tail)
    }

    /// How often the journal was synced since the engine was opened. The durable commits of that
    /// time divided by it say how many share a flush.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.committer().syncs.flushes()
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
        self.committer().checkpoint(Extent::All, Urgency::Ordinary)
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
        self.committer().verify()
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
