//! The inspector: it reads stores that no engine has open, and checks those that one has.
//!
//! Recovery stops at the first damage. The inspector reads on behind it: [`verify`] reports what is
//! damaged, [`salvage`] copies what is sound into a new store.
//!
//! Invariant: nothing in an inspected store is changed.

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
