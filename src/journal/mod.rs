//! The journal: one endless sequence of frames, stored in a sequence of files.
//!
//! `append.rs` appends, `writer.rs` knows the files, `supply.rs` makes files, `recover.rs` reads the journal at open, and `survey.rs` reads a
//! damaged one. The journal has no thread of its own. Work that waits for the disk is a *job*, which the caller runs
//! without holding the journal.
//!
//! Invariants: a position is never used twice. A file is durable, with its name, before a roll frame leads into it.
//! Nothing is ever appended to a file of an earlier epoch. A sync covers everything before the position that it then
//! reports as durable.

mod append;
mod file;
mod found;
mod frame_space;
mod frames;
mod grain;
mod pool;
mod recover;
mod spares;
mod supply;
mod survey;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

pub use file::JournalBytes;
pub use found::{all_names, header_of};
pub use frame_space::{FrameSpace, Urgency};
pub use recover::{holds_commits, recover};
pub use supply::{PrepareJob, Supply};
pub use survey::{FramePlace, JournalDamage, JournalSurvey, Range, survey, survey_files};
pub use sync::SyncJob;
pub use writer::Journal;
