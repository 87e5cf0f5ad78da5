//! The report of a run: numbers, tables, a page, plots, and the file that keeps it.

pub mod docs;
pub mod keep;
pub mod number;
pub mod plot;
pub mod table;
