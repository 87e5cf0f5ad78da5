//! The lifetime of an engine. Every handle keeps the engine open, and dropping the last one closes it.

use std::{fmt, sync::Arc};

use super::{committer::Committer, shutdown::Shutdown};
use crate::{error::Result, store::Space};

/// So many names are taken in one hold of the core.
const NAMES_AT_ONCE: usize = 32;

/// An open store.
///
/// Clones are the same engine. Every handle keeps the engine open, also deliveries, readers and tickets.
/// [`close`](Engine::close) closes it, and so does dropping the last handle. One process opens a store once;
/// any number of its threads can use it.
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

/// The state that ends with the last handle.
struct Inner {
    committer: Arc<Committer>,
    shutdown: Arc<Shutdown>,
}

impl Engine {
    pub(crate) fn new(committer: Arc<Committer>, shutdown: Arc<Shutdown>) -> Engine {
        Engine(Arc::new(Inner { committer, shutdown }))
    }

    #[inline]
    pub(crate) fn committer(&self) -> &Arc<Committer> {
        &self.0.committer
    }

    pub(crate) fn shutdown(&self) -> &Arc<Shutdown> {
        &self.0.shutdown
    }

    pub(crate) fn is_same(&self, other: &Engine) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The names in a space, sorted. Fails if the topic or the stream that they belong to was deleted.
    ///
    /// The names are taken in slices. What is created or deleted meanwhile may be among them or not.
    pub(crate) fn list(&self, space: Space) -> Result<Vec<String>> {
        let committer = self.committer();
        let mut names: Vec<String> = Vec::new();
        loop {
            let core = committer.lock_open("list")?;
            match space {
                Space::Subscriptions { topic: parent } | Space::Groups { stream: parent }
                    if core.store.entity(parent).is_none() =>
                {
                    return Err(core.store.deleted(parent));
                }
                _ => {}
            }
            let last = names.last().map_or("", |name| name);
            let next = core.store.list(space, last, NAMES_AT_ONCE);
            committer.end_slice(core);
            let is_last = next.len() < NAMES_AT_ONCE;
            names.extend(next);
            if is_last {
                return Ok(names);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // An error is lost here. An application that needs it calls `close`.
        let _ = self.shutdown.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
