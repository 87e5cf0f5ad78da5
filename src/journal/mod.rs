//! The journal: one endless sequence of frames, in files that are windows onto it.
//!
//! Invariants: a position is never used twice. A file is durable, with its name, before a roll
//! frame leads into it. Nothing is ever appended to a file of an earlier life. A sync covers
//! everything before the position that it then calls durable. State machines without threads:
//! whatever waits for the disk is a job that the caller runs, without holding the journal.

mod file;
mod found;
mod frame_space;
mod frames;
mod recover;

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
pub use supply::Supply;
pub use survey::{FramePlace, JournalDamage, JournalSurvey, Range, survey, survey_files};
pub use sync::SyncJob;
pub use writer::Journal;
