//! The documented behaviour of the engine itself.

mod awaiting;
mod message;
mod names;
mod open;
mod space;
mod wakers;
mod words;
