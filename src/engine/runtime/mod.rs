//! The runtime: waiting, clocks, histograms, and the signals to the engine's threads. It knows nothing of
//! messages.

pub mod application;
pub mod checkpointer;
pub mod clock;
pub mod fair;
pub mod histogram;
pub mod interest;
pub mod lock;
pub mod relay;
pub mod signals;
pub mod together;
pub mod wait;
pub mod within;
