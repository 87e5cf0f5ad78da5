//! Tests of this room.

mod acks;
mod checkpoint;
mod tail;
