//! Histograms: they count times in buckets, without a lock.
//!
//! A bucket is a sixteenth of a power of two wide. So a value is exact to a sixteenth, from a millisecond to
//! weeks (the log-linear buckets of HdrHistogram; Tene, 2012). Memory is taken one octave at a time, when a time
//! falls into it: a few hundred bytes in practice, and 4 KiB at most.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Buckets of one octave.
const WIDTH: usize = 16;

/// The first octave has the times below 16 ms, one bucket each; the last one ends after 49 days.
const OCTAVES: usize = 29;

/// How long messages of a queue or a subscription waited, and how long they were handled, since the
/// first handle was made after the engine was opened.
///
/// [`Queue::latencies`](crate::Queue::latencies) and
/// [`Subscription::latencies`](crate::Subscription::latencies) return it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// The time from when a message could be received until it was received. Only first deliveries count. A
    /// message can be received from its timestamp on, or from the time at which it is due.
    pub waiting: Latency,
    /// The time from the delivery of a message until its ack. Only deliveries that were acked count.
    pub handling: Latency,
}

impl Latencies {
    /// The times that were counted after an earlier snapshot.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let before = payments.latencies()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// assert_eq!(payments.latencies()?.since(&before).handling.count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        Latencies {
            waiting: self.waiting.since(&earlier.waiting),
            handling: self.handling.since(&earlier.handling),
        }
    }
}

/// A histogram of times.
///
/// The system's coarse clock measures them: its ticks are a few milliseconds apart, mostly 4. A value is
/// exact to a sixteenth of itself.
///
/// ```
/// use std::time::Duration;
/// use posthouse::Engine;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let queue = engine.queue("payments").create()?;
/// queue.send("charge order 1")?;
/// queue.try_receive()?.expect("it was sent").ack()?;
///
/// let waiting = queue.latencies()?.waiting;
/// assert_eq!(waiting.count(), 1);
/// assert!(waiting.quantile(0.99).expect("there is one") < Duration::from_secs(60));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many are in which bucket: the last is not empty.
    counts: Vec<u64>,
    /// The sum of the times in milliseconds.
    sum_ms: u64,
}

impl Latency {
    /// How many times the histogram holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that the given share of all times does not exceed. `None` if the histogram is empty.
    ///
    /// 0.5 is the median, 0.99 leaves out the slowest hundredth, and 1 is the longest time. A share below 0
    /// counts as 0, and one above 1 as 1.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// let handling = payments.latencies()?.handling;
    /// assert!(handling.quantile(0.5) <= handling.quantile(1.0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = (count as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut left = rank.clamp(1, count.max(1));
        for (bucket, in_it) in self.counts.iter().enumerate() {
            if left <= *in_it {
                return Some(highest_of(bucket));
            }
            left -= in_it;
        }
        None
    }

    /// The sum of all times, each of them in whole milliseconds. With [`count`](Latency::count) and
    /// [`at_most`](Latency::at_most) it makes a histogram for Prometheus or OpenTelemetry.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// let handling = payments.latencies()?.handling;
    /// assert!(handling.sum() <= handling.quantile(1.0).expect("there is one"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_millis(self.sum_ms)
    }

    /// The mean of the times. `None` if the histogram is empty.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// assert_eq!(payments.latencies()?.handling.mean(), None);
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// assert!(payments.latencies()?.handling.mean().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| Duration::from_secs_f64(self.sum().as_secs_f64() / count as f64))
    }

    /// How many times are no longer than a bound: the count of a cumulative bucket with a bound of your own
    /// choice.
    ///
    /// The bound is exact to a sixteenth of itself: times in the bucket that it falls into count if the whole
    /// bucket lies below it. Bounds of 16, 32, 64 ms and so on, less one millisecond, are exact.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// let waiting = payments.latencies()?.waiting;
    /// for seconds in [1, 10, 100] {
    ///     let bound = Duration::from_secs(seconds);
    ///     println!("le=\"{seconds}\" {}", waiting.at_most(bound));
    /// }
    /// assert_eq!(waiting.at_most(Duration::from_secs(600)), waiting.count());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn at_most(&self, bound: Duration) -> u64 {
        let below = self.counts.iter().enumerate().take_while(|(n, _)| highest_of(*n) <= bound);
        below.map(|(_, count)| count).sum()
    }

    /// The buckets that are not empty, shortest times first. Each has its longest time, and how many times it
    /// holds. For programs that export histograms.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// let handling = payments.latencies()?.handling;
    /// let total: u64 = handling.buckets().map(|(_longest, count)| count).sum();
    /// assert_eq!(total, handling.count());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(|(bucket, count)| (highest_of(bucket), *count))
    }

    /// The times that were counted after an earlier snapshot.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let before = payments.latencies()?.waiting;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").ack()?;
    /// assert_eq!(payments.latencies()?.waiting.since(&before).count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Latency) -> Latency {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before));
        Latency::of(counts.collect(), self.sum_ms.saturating_sub(earlier.sum_ms))
    }

    fn of(mut counts: Vec<u64>, sum_ms: u64) -> Latency {
        let end = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        counts.truncate(end);
        Latency { counts, sum_ms }
    }
}

/// The bucket of a time.
#[inline]
fn bucket_of(ms: u64) -> (usize, usize) {
    let octave = (u64::BITS - (ms / WIDTH as u64).leading_zeros()) as usize;
    if octave >= OCTAVES {
        return (OCTAVES - 1, WIDTH - 1);
    }
    (octave, (ms >> octave.saturating_sub(1)) as usize % WIDTH)
}

fn lowest_of(bucket: usize) -> Duration {
    let (octave, within) = (bucket / WIDTH, (bucket % WIDTH) as u64);
    Duration::from_millis(match octave {
        0 => within,
        octave => (WIDTH as u64 + within) << (octave - 1),
    })
}

fn highest_of(bucket: usize) -> Duration {
    lowest_of(bucket + 1) - Duration::from_millis(1)
}

type Octave = Box<[AtomicU64; WIDTH]>;

/// Counts times as they are measured.
#[derive(Debug)]
pub struct Histogram {
    octaves: [OnceLock<Octave>; OCTAVES],
    /// The sum of the times in milliseconds.
    sum_ms: AtomicU64,
}

impl Histogram {
    #[inline]
    pub fn record(&self, time: Duration) {
        let ms = time.as_secs().saturating_mul(1000) + u64::from(time.subsec_millis());
        let (octave, within) = bucket_of(ms);
        let octave = self.octaves[octave].get_or_init(Octave::default);
        octave[within].fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Latency {
        let octaves = self.octaves.iter().flat_map(|octave| match octave.get() {
            Some(octave) => octave.each_ref().map(|count| count.load(Ordering::Relaxed)),
            None => [0; WIDTH],
        });
        Latency::of(octaves.collect(), self.sum_ms.load(Ordering::Relaxed))
    }
}

/// The two histograms of a cursor.
#[derive(Debug)]
pub struct Histograms {
    pub waiting: Histogram,
    pub handling: Histogram,
}

impl Default for Histograms {
    fn default() -> Histograms {
        let histogram = || Histogram {
            octaves: array::from_fn(|_| OnceLock::new()),
            sum_ms: AtomicU64::new(0),
        };
        Histograms { waiting: histogram(), handling: histogram() }
    }
}

impl Histograms {
    pub fn snapshot(&self) -> Latencies {
        Latencies { waiting: self.waiting.snapshot(), handling: self.handling.snapshot() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn of(times: &[u64]) -> Latency {
        let histograms = Histograms::default();
        times.iter().for_each(|time| histograms.waiting.record(ms(*time)));
        histograms.snapshot().waiting
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!((lowest_of(0), highest_of(0)), (ms(0), ms(0)));
        for bucket in 0..OCTAVES * WIDTH {
            let (low, high) = (lowest_of(bucket), highest_of(bucket));
            for time in [low, high] {
                let (octave, within) = bucket_of(time.as_millis() as u64);
                assert_eq!(octave * WIDTH + within, bucket);
            }
            assert_eq!(high + ms(1), lowest_of(bucket + 1));
            assert!(high - low <= low / WIDTH as u32, "{bucket}");
        }
        // A time beyond the last bucket is counted in the last bucket.
        assert_eq!(bucket_of(u64::MAX), (OCTAVES - 1, WIDTH - 1));
        assert_eq!(bucket_of(1 << 40), (OCTAVES - 1, WIDTH - 1));
    }

    #[test]
    fn nothing_has_no_mean_and_no_median() {
        let none = Latency::default();
        assert_eq!((none.count(), none.quantile(0.5), none.mean()), (0, None, None));
        assert_eq!(none.buckets().count(), 0);
        assert_eq!(of(&[]), none);
        assert_eq!(of(&[5, 70]).since(&of(&[5, 70])), none);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_times_to_a_sixteenth(
            mut times in prop::collection::vec(
                prop_oneof![0..40u64, 0..5000u64, 0..10_000_000u64], 1..60),
            share in 0.0..=1.0f64,
        ) {
            let latency = of(&times);
            times.sort_unstable();
            prop_assert_eq!(latency.count(), times.len() as u64);
            let rank = ((times.len() as f64 * share).ceil() as usize).max(1);
            let (exact, told) = (ms(times[rank - 1]), latency.quantile(share).unwrap());
            prop_assert!(told >= exact && told <= exact + exact / 16, "{told:?} for {exact:?}");
            let mean = times.iter().sum::<u64>() as f64 / times.len() as f64 / 1000.0;
            let told = latency.mean().unwrap().as_secs_f64();
            prop_assert!((told - mean).abs() <= 1e-6, "{told} for {mean}");
            prop_assert_eq!(latency.sum(), ms(times.iter().sum()));
            let bound = times[rank - 1];
            let exact = |bound: u64| times.iter().filter(|time| **time <= bound).count() as u64;
            let told = latency.at_most(ms(bound));
            prop_assert!(told <= exact(bound) && told >= exact((bound - bound / 16).saturating_sub(1)), "{told}");
            prop_assert_eq!(latency.buckets().map(|it| it.1).sum::<u64>(), latency.count());
        }

        #[test]
        fn what_has_come_since_is_what_was_added(
            before in prop::collection::vec(0..100_000u64, 0..20),
            more in prop::collection::vec(0..100_000u64, 0..20),
        ) {
            let all: Vec<u64> = before.iter().chain(&more).copied().collect();
            prop_assert_eq!(of(&all).since(&of(&before)), of(&more));
        }
    }
}
