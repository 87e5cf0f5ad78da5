//! Nothing: the benches are `engine.rs`, `replay.rs` and `group.rs`. Cargo wants a library beside them.
