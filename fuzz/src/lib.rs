//! The targets `operations` and `damage` turn their bytes into a whole store on the simulated disk.
//! `operations` runs it against the model of `tests/model` with crashes and faults; `damage` damages it and
//! then reads it.
//!
//! `tests/it/corpus.rs` replays the seeds of both with this same code.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

pub use posthouse_model as model;

mod damage;
mod input;
mod operations;

/// Any operations, with failing calls, kills and power cuts, against the model. The first byte
/// holds the settings.
pub fn operations(data: &[u8]) {
    let mut input = input::Input::new(data);
    let settings = input.byte();
    operations::run(settings, input);
}

/// A store that is damaged byte by byte and then read. The first byte holds the settings.
pub fn damage(data: &[u8]) {
    let mut input = input::Input::new(data);
    let settings = input.byte();
    damage::run(settings, input);
}
