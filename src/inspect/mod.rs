//! The inspector reads stores that no engine has open, and checks stores that an engine has open.
//!
//! Recovery stops at the first damage. The inspector reads on behind it. [`verify()`] reports the
//! damage, and [`salvage()`] copies the sound part into a new store.
//!
//! Invariant: the inspector changes nothing in the store that it reads.

mod letters;
mod live;
mod offline;
mod report;
mod salvage;
mod survey;
#[cfg(test)]
mod tests;
mod verify;

pub use live::{verify_base, verify_segments};
pub use offline::{salvage, salvage_on, verify, verify_on};
pub use report::{Affected, Amounts, Problem, VerifyReport};
pub use salvage::{Consumer, Lost, Renamed, SalvageReport};
pub use verify::unnamed_messages;
