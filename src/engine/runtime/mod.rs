//! The runtime: waiting, clocks, histograms and the signals to threads. Nothing here knows a message.

pub mod clock;
pub mod histogram;
pub mod lock;
pub mod signals;
pub mod wait;
pub mod within;
