//! Crashes: on the simulated disk, and of real processes.

mod random;

#[cfg(unix)]
mod kill;
#[cfg(unix)]
mod points;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod syscalls;
