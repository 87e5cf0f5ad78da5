//! An unrelated small commit each millisecond, whose times are measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use posthouse::Engine;

use crate::Result;

/// A thread that commits to a queue of its own, and acks it at once.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<posthouse::Result<Vec<Duration>>>,
}

impl Probe {
    /// Starts the thread.
    pub fn start(engine: &Engine) -> Result<Probe> {
        let queue = engine.queue("probe").open()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stops.load(Ordering::Relaxed) {
                let begun = Instant::now();
                queue.send([7_u8; 64].as_slice())?;
                times.push(begun.elapsed());
                if let Some(delivery) = queue.try_receive()? {
                    delivery.ack()?;
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(times)
        });
        Ok(Probe { stop, thread })
    }

    /// Stops it. Returns how long its commits took: the longest one, and the one that is longer than 999 of 1,000.
    pub fn stop(self) -> Result<(Duration, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().map_err(|_| "the probe panicked")??;
        times.sort_unstable();
        let longest = times.last().copied().unwrap_or_default();
        let rare = times.len() * 999 / 1000;
        Ok((longest, times.get(rare).copied().unwrap_or_default()))
    }
}
