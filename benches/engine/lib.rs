//! This library is empty: the benches are `engine.rs`, `replay.rs` and `group.rs`. Cargo needs a library
//! beside them.
