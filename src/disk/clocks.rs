//! The clocks of Linux.
//!
//! Durations go on while the machine sleeps. A clock that counts a sleep costs three times as much as the one of the last
//! tick, which does not, and every commit and every delivery reads one. So a sleep is *noticed*: it puts the time of day and
//! the time awake apart. Whoever reads both sees that, and only then are the two exact clocks compared that tell how long the
//! machine has slept.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::ClockId;

/// The time since boot, with the time for which the machine has slept. `read` reads a clock: see [`clock`].
#[derive(Debug, Default)]
pub struct Clocks {
    /// How long the machine has slept since it booted, in nanoseconds, as far as it was noticed.
    slept: AtomicU64,
    /// The time of day less the time awake, in nanoseconds, when the two were compared with the exact clocks last.
    apart: AtomicI64,
}

/// The time of day and the time awake go on together. If they have come apart by more than this, the machine has slept, or
/// the time of day was set, or a tick came between two readings.
const APART: u64 = 1_000_000;

/// The longest time between two readings that count as one moment.
const BETWEEN_CLOCKS: Duration = Duration::from_micros(200);

impl Clocks {
    /// The time of day and the time since boot, as of the last tick. A sleep counts at once.
    #[inline]
    pub fn ticks(&self, read: impl Fn(ClockId) -> Duration) -> (Duration, Duration) {
        let awake = read(ClockId::MonotonicCoarse);
        let day = read(ClockId::RealtimeCoarse);
        let apart = nanos(day).wrapping_sub(nanos(awake));
        // Whoever sees what another thread has compared sees the sleep that it has noticed.
        if apart.abs_diff(self.apart.load(Ordering::Acquire)) > APART {
            self.compare(apart, read);
        }
        (day, awake + Duration::from_nanos(self.slept.load(Ordering::Relaxed)))
    }

    #[cold]
    fn compare(&self, apart: i64, read: impl Fn(ClockId) -> Duration) {
        self.notice_sleep(read);
        self.apart.store(apart, Ordering::Release);
    }

    /// Looks whether the machine has slept. The time of day may have been set back by just as much.
    pub fn notice_sleep(&self, read: impl Fn(ClockId) -> Duration) {
        // This order finds a little less than the truth, so `ticks` is never ahead of `exact`.
        let since_boot = read(ClockId::Boottime);
        let awake = read(ClockId::Monotonic);
        let slept = since_boot.saturating_sub(awake).as_nanos() as u64;
        self.slept.fetch_max(slept, Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> i64 {
    (time.as_secs() as i64).wrapping_mul(1_000_000_000).wrapping_add(time.subsec_nanos().into())
}

/// The time of day and the time since boot, at one moment.
pub fn exact() -> (Duration, Duration) {
    // A thread that is interrupted between the two clocks reads them again.
    let read = || {
        let day = clock(ClockId::Realtime);
        (day, clock(ClockId::Boottime))
    };
    let mut before = clock(ClockId::Boottime);
    for _ in 0..8 {
        let (day, elapsed) = read();
        if elapsed - before < BETWEEN_CLOCKS {
            return (day, elapsed);
        }
        before = clock(ClockId::Boottime);
    }
    read()
}

/// Reads a clock. A coarse one shows the time of the kernel's last tick: mostly at most 4 ms ago, and longer if the tick
/// was held up. It costs a third of an exact clock.
#[inline]
pub fn clock(clock: ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    // A clock that is set to before 1970 shows 1970.
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Clocks that a test sets, and how often they were read.
    #[derive(Default)]
    struct Machine {
        awake: Cell<Duration>,
        slept: Cell<Duration>,
        day: Cell<Duration>,
        reads: Cell<u32>,
    }

    impl Machine {
        fn read(&self, clock: ClockId) -> Duration {
            self.reads.set(self.reads.get() + 1);
            match clock {
                ClockId::Monotonic | ClockId::MonotonicCoarse => self.awake.get(),
                ClockId::Boottime => self.awake.get() + self.slept.get(),
                ClockId::Realtime | ClockId::RealtimeCoarse => self.day.get(),
                other => panic!("{other:?} was read"),
            }
        }

        fn go_on(&self, time: Duration) {
            self.awake.set(self.awake.get() + time);
            self.day.set(self.day.get() + time);
        }

        fn sleep(&self, time: Duration) {
            self.slept.set(self.slept.get() + time);
            self.day.set(self.day.get() + time);
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(1_700_000_000);

    fn machine() -> (Machine, Clocks) {
        let machine = Machine::default();
        machine.day.set(DAY);
        machine.sleep(HOUR);
        machine.go_on(HOUR);
        let clocks = Clocks::default();
        assert_eq!(clocks.ticks(|id| machine.read(id)), (DAY + 2 * HOUR, 2 * HOUR));
        (machine, clocks)
    }

    /// A lease that began at a stale time ended when the sleep was noticed a moment later.
    #[test]
    fn the_first_reading_after_a_sleep_counts_it() {
        let (machine, clocks) = machine();
        for n in 1..9 {
            machine.go_on(Duration::from_millis(4));
            machine.sleep(8 * HOUR);
            let elapsed = clocks.ticks(|id| machine.read(id)).1;
            assert_eq!(elapsed, 2 * HOUR + n * (8 * HOUR + Duration::from_millis(4)));
        }
    }

    #[test]
    fn a_clock_that_is_set_moves_no_duration() {
        let (machine, clocks) = machine();
        for day in [DAY + 9 * HOUR, Duration::ZERO, DAY] {
            machine.day.set(day);
            assert_eq!(clocks.ticks(|id| machine.read(id)), (day, 2 * HOUR));
        }
        // It was set back by just as much as the machine has slept.
        machine.slept.set(machine.slept.get() + HOUR);
        assert_eq!(clocks.ticks(|id| machine.read(id)).1, 2 * HOUR);
        clocks.notice_sleep(|id| machine.read(id));
        assert_eq!(clocks.ticks(|id| machine.read(id)).1, 3 * HOUR);
    }

    #[test]
    fn the_exact_clocks_are_read_only_after_a_jump() {
        let (machine, clocks) = machine();
        let reads = || {
            let before = machine.reads.get();
            clocks.ticks(|id| machine.read(id));
            machine.reads.get() - before
        };
        for _ in 0..100 {
            machine.go_on(Duration::from_millis(4));
            assert_eq!(reads(), 2);
        }
        machine.sleep(HOUR);
        assert_eq!((reads(), reads()), (4, 2));
        machine.day.set(DAY);
        assert_eq!((reads(), reads()), (4, 2));
    }

    #[test]
    fn the_time_of_the_last_tick_is_never_ahead_of_the_exact_one() {
        let clocks = Clocks::default();
        let mut before = Duration::ZERO;
        for _ in 0..10_000 {
            let elapsed = clocks.ticks(clock).1;
            assert!(before <= elapsed && elapsed <= exact().1);
            before = elapsed;
        }
    }
}
