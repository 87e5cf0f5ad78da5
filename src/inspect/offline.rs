//! Verifies and salvages stores that no engine has open: the public calls.

use std::{path::Path, sync::Arc};

use super::{
    Problem, SalvageReport, VerifyReport,
    salvage::salvage_store,
    survey::{check_is_store, problem},
    verify::verify_store,
};
use crate::{
    config::Config,
    disk::{Disk, HeldLock, Lock, Open, is_not_a_file, os::OsDisk},
    error::{Error, Result},
    ids::StoreId,
    layout::Layout,
};

/// Reads everything that the store in a directory relies on, and reports damage: every frame of the journal
/// that is still needed, every block of every segment, and the metalog.
///
/// It changes nothing on the disk, and it also reads a store that does not open. For a store that an engine
/// has open, use [`Engine::verify`](crate::Engine::verify).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("orders.posthouse");
/// # posthouse::Engine::open(&path)?.queue("payments").create()?.send("charge order 1")?;
/// let report = posthouse::verify(&path)?;
/// assert!(report.is_ok(), "{report}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// - [`NotFound`](crate::ErrorKind::NotFound) if there is no store in the directory.
/// - [`Locked`](crate::ErrorKind::Locked) if an engine has it open.
/// - [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
///   [`Io`](crate::ErrorKind::Io).
///
/// Damage is not an error: the report lists it.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
    verify_on(Arc::new(OsDisk::new()), &OsDisk::absolute(path.as_ref())?)
}

/// Verifies the store in a directory of a disk.
pub fn verify_on(disk: Arc<dyn Disk>, root: &Path) -> Result<VerifyReport> {
    let _lock = lock_as_is(&*disk, root)?;
    let odd_lock = odd_lock(&*disk, root);
    let mut report = verify_store(disk, root)?;
    report.problems.extend(odd_lock);
    Ok(report)
}

/// Copies the sound part of a damaged store into a new store, and reports exactly which messages were lost.
///
/// Data is sound if its checksum fits this store and its place in it. The store at `from` is only read, and
/// it may be one that does not open. `to` must not exist, or must be an empty directory.
///
/// The new store keeps names, the offsets of messages, acks, failed attempts, the offsets of groups and the
/// starts of streams. Where such data is lost, salvage delivers messages again: it never leaves out a
/// message that is there. Lost offsets are not used again: readers skip them, and for consumers they count
/// as acked.
///
/// While salvage runs, and after a crash in it, `to` does not exist, or an open refuses it as damaged.
/// Remove it then, and salvage again.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (damaged, salvaged) = (dir.path().join("damaged"), dir.path().join("salvaged"));
/// # posthouse::Engine::open(&damaged)?.queue("payments").create()?.send("charge order 1")?;
/// let report = posthouse::salvage(&damaged, &salvaged)?;
/// for lost in &report.lost {
///     println!("{}: {:?}", lost.log, lost.offsets);
/// }
/// let engine = posthouse::Engine::open(&salvaged)?;
/// assert_eq!(engine.queue("payments").open()?.depth()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// - [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is something at `to`, or if it lies
///   within `from`.
/// - [`NotFound`](crate::ErrorKind::NotFound) if there is no store at `from`.
/// - [`Locked`](crate::ErrorKind::Locked) if an engine has it open.
/// - [`Corrupt`](crate::ErrorKind::Corrupt) if no file has a header that verifies.
/// - [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion),
///   [`DiskFull`](crate::ErrorKind::DiskFull), [`Io`](crate::ErrorKind::Io). If the disk has
///   unreadable sectors, first copy the files with a tool that skips them.
/// - [`Poisoned`](crate::ErrorKind::Poisoned) if a sync of the new store fails.
pub fn salvage(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<SalvageReport> {
    let (from, to) = (OsDisk::absolute(from.as_ref())?, OsDisk::absolute(to.as_ref())?);
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    salvage_on(&disk, &from, &to, Config::default())
}

/// Salvages a store of a disk into another directory of it.
pub fn salvage_on(
    disk: &Arc<dyn Disk>,
    from: &Path,
    to: &Path,
    config: Config,
) -> Result<SalvageReport> {
    let _from_lock = lock_as_is(&**disk, from)?;
    check_empty(&**disk, from, to)?;
    // Without a store to salvage, nothing is created.
    check_is_store(disk, from)?;
    let failed = |error| Error::io(error, "the new store's directory cannot be made", to);
    disk.create_dir(to).map_err(failed)?;
    let path = Layout::new(to).lock();
    let failed = |error| Error::io(error, "the new store cannot be locked", &path);
    let lock = match disk.lock(&path).map_err(failed)? {
        Lock::Held(lock) => lock,
        Lock::Taken(holder) => return Err(Error::locked(holder, to)),
    };
    let failed = |error| Error::io(error, "the system has no random numbers", to);
    let id = StoreId(disk.draw().map_err(failed)?);
    // The note is for people. The lock itself keeps other engines out.
    let _ = lock.note(&format!("store {id}\n"));
    let mut report = salvage_store(disk, from, to, config, id)?;
    report.problems.extend(odd_lock(&**disk, from));
    Ok(report)
}

/// Whether there is something else than a regular file in the place of the lock.
fn odd_lock(disk: &dyn Disk, root: &Path) -> Option<Problem> {
    let path = Layout::new(root).lock();
    let is_odd = disk.open(&path, Open::Reading).is_err_and(|error| is_not_a_file(&error));
    is_odd.then(|| {
        problem(&path, 0, "there is something else than a regular file in the place of the lock")
    })
}

/// Checks that the directory of the new store is empty. It may hold the lock file of an earlier attempt that failed at
/// once.
fn check_empty(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    let refused = |what: &'static str| Err(Error::invalid("to", what).in_file(to));
    if to.starts_with(from) {
        return refused("the new store would lie within the old one");
    }
    match disk.list(to) {
        Ok(names) if names.iter().all(|name| name == "LOCK") => Ok(()),
        Ok(_) => refused("the directory for the new store is not empty"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            refused("there is a file in the place of the new store")
        }
        Err(error) => Err(Error::io(error, "the new store's directory cannot be listed", to)),
    }
}

/// Takes the lock of a store without changing the store.
fn lock_as_is(disk: &dyn Disk, root: &Path) -> Result<Box<dyn HeldLock>> {
    let path = Layout::new(root).lock();
    match disk.lock_as_is(&path) {
        Ok(Lock::Held(lock)) => Ok(lock),
        Ok(Lock::Taken(holder)) => Err(Error::locked(holder, root)),
        Err(error) => Err(Error::io(error, "the store cannot be locked", path)),
    }
}
