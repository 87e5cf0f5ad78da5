//! This library is empty: the benches are `engine.rs`, `replay.rs`, `group.rs` and `instructions.rs`. Cargo needs a library
//! beside them.
