//! Crashes: on the simulated disk, and of real processes.

mod random;
mod shared;

#[cfg(unix)]
mod kill;
#[cfg(unix)]
mod points;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod syscalls;
