//! What the target `store` does with its bytes: a whole store on the simulated disk, either run
//! against the model of `tests/model` with crashes, or damaged byte by byte and then read.
//!
//! `tests/corpus.rs` replays the seeds of the target with this same code.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "../../tests/model/mod.rs"]
pub mod model;

mod damage;
mod input;
mod operations;

/// The first byte chooses between the two, and their settings.
pub fn store(data: &[u8]) {
    let mut input = input::Input::new(data);
    let settings = input.byte();
    if settings & 1 == 0 {
        operations::run(settings >> 1, input);
    } else {
        damage::run(settings >> 1, input);
    }
}
