//! The metalog: state as a log of entries, the newest value per key, compacted now and then into
//! a file that begins with all of it.
//!
//! Invariants: a file bears its real name only once it begins with a complete, durable
//! checkpoint. Entries count once a checkpoint follows them. Nothing is appended to a file of an
//! earlier life, nor behind an attempt that failed: the next checkpoint begins a new file.

mod reader;
pub mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

pub use reader::{Loaded, load};
pub use writer::MetaWriter;

use crate::{disk::Disk, layout::Layout};

/// Where the metalog is.
#[derive(Clone, Debug)]
pub struct MetaPlace {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
}
