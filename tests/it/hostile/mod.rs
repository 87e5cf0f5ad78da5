//! Findings of hostile reviews, kept as tests: each test failed once. The tests of `threads` never failed; a
//! review tried them without success.

mod attempts;
mod consumers;
mod dead_letters;
mod disk;
mod files;
mod limits;
mod threads;
mod waking;
