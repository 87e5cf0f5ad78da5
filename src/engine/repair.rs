//! Looking at a store that no engine has open.

use std::{path::Path, sync::Arc};

use super::{handle::locked, options::Options};
use crate::{
    disk::{Disk, HeldLock, Lock},
    error::{Error, Result},
    layout::Layout,
    store::{self, VerifyReport},
};

/// Reads everything that the store in a directory relies on, and reports what is damaged: every
/// frame of the journal that is still needed, every block of every segment, the metalog.
///
/// Nothing is changed on the disk, and the store need not be one that opens. While an engine has
/// it open, ask [`Engine::verify`](crate::Engine::verify) instead.
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
/// Damage is not an error: it is in the report.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
    Options::new().verify(path)
}

pub(super) fn verify_on(disk: Arc<dyn Disk>, root: &Path) -> Result<VerifyReport> {
    let _lock = lock_as_is(&*disk, root)?;
    store::verify(disk, root)
}

/// Takes the lock of a store, and changes nothing.
fn lock_as_is(disk: &dyn Disk, root: &Path) -> Result<Box<dyn HeldLock>> {
    let path = Layout::new(root).lock();
    match disk.lock_as_is(&path) {
        Ok(Lock::Held(lock)) => Ok(lock),
        Ok(Lock::Taken(holder)) => Err(locked(holder, root)),
        Err(error) => Err(Error::io(error, "the store cannot be locked", path)),
    }
}
