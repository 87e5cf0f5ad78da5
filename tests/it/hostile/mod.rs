//! What hostile reviews have found, so that it stays found: each test failed once. Those of
//! `threads` never did; they are what a review tried in vain.

mod attempts;
mod consumers;
mod dead_letters;
mod disk;
mod limits;
mod threads;
mod waking;
