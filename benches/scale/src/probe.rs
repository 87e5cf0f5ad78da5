//! An unrelated small commit each millisecond, whose longest time is measured.

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
    thread: JoinHandle<posthouse::Result<Duration>>,
}

impl Probe {
    /// Starts the thread.
    pub fn start(engine: &Engine) -> Result<Probe> {
        let queue = engine.queue("probe").open()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stops.load(Ordering::Relaxed) {
                let begun = Instant::now();
                queue.send([7_u8; 64].as_slice())?;
                longest = longest.max(begun.elapsed());
                if let Some(delivery) = queue.try_receive()? {
                    delivery.ack()?;
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(longest)
        });
        Ok(Probe { stop, thread })
    }

    /// Stops it. Returns how long its longest commit took.
    pub fn stop(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the probe panicked")??)
    }
}
