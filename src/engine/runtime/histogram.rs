//! Histograms: they count times in buckets.
//!
//! A bucket is a sixteenth of a power of two wide. So a value is exact to a sixteenth, from a millisecond to
//! weeks (the log-linear buckets of HdrHistogram; Tene, 2012). The first three buckets that are needed have their places
//! in the histogram itself: messages that are fetched at once need no more. For others, memory is taken one octave at a
//! time: a few hundred bytes in practice, and 4 KiB at most.

use std::{array, time::Duration};

use super::lock::RankedMutex;
use crate::audit::Rank;

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
fn bucket_of(ms: u64) -> usize {
    let octave = (u64::BITS - (ms / WIDTH as u64).leading_zeros()) as usize;
    if octave >= OCTAVES {
        return OCTAVES * WIDTH - 1;
    }
    octave * WIDTH + (ms >> octave.saturating_sub(1)) as usize % WIDTH
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

/// How many buckets have their places in the histogram itself.
const FIRST: usize = 3;

/// Such a place holds the number of its bucket, plus one, above the count. 0 is a free place.
const COUNT_BITS: u32 = 48;

const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

type Octave = Box<[u64; WIDTH]>;

/// Counts times as they are measured.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The buckets that were needed first.
    first: [u64; FIRST],
    /// The others, by octaves.
    others: Option<Box<[Option<Octave>; OCTAVES]>>,
    /// The sum of the times in milliseconds.
    sum_ms: u64,
}

impl Histogram {
    #[inline]
    pub fn record(&mut self, time: Duration) {
        self.record_ms(time.as_secs().saturating_mul(1000) + u64::from(time.subsec_millis()));
    }

    #[inline(always)]
    fn record_ms(&mut self, ms: u64) {
        self.add(bucket_of(ms), 1);
        self.sum_ms = self.sum_ms.wrapping_add(ms);
    }

    #[cold]
    fn record_first(&mut self, ms: u64) {
        self.record_ms(ms);
    }

    /// A place that a bucket has taken stays its own. So no bucket is among the others if a place was free for it.
    #[inline(always)]
    fn add(&mut self, bucket: usize, count: u64) {
        let tag = (bucket as u64 + 1) << COUNT_BITS;
        for place in &mut self.first {
            if *place & !COUNT_MASK == tag {
                *place += count;
                return;
            }
        }
        self.add_other(bucket, count);
    }

    #[inline(never)]
    fn add_other(&mut self, bucket: usize, count: u64) {
        if let Some(free) = self.first.iter_mut().find(|place| **place == 0) {
            *free = ((bucket as u64 + 1) << COUNT_BITS) | count;
            return;
        }
        let octaves = self.others.get_or_insert_with(|| Box::new(array::from_fn(|_| None)));
        octaves[bucket / WIDTH].get_or_insert_default()[bucket % WIDTH] += count;
    }

    /// The buckets that hold times, each with its count.
    fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        let first = self.first.iter().filter(|place| **place > 0);
        let first = first.map(|place| ((place >> COUNT_BITS) as usize - 1, place & COUNT_MASK));
        let octaves = self.others.iter().flat_map(|all| all.iter().enumerate());
        let octaves = octaves.filter_map(|(n, octave)| Some((n * WIDTH, octave.as_ref()?)));
        let others = octaves.flat_map(|(base, octave)| {
            octave.iter().enumerate().map(move |(n, count)| (base + n, *count))
        });
        first.chain(others.filter(|(_, count)| *count > 0))
    }

    pub fn is_empty(&self) -> bool {
        self.filled().next().is_none()
    }

    /// Adds what another one has counted.
    pub fn add_all(&mut self, other: &Histogram) {
        self.sum_ms = self.sum_ms.wrapping_add(other.sum_ms);
        other.filled().for_each(|(bucket, count)| self.add(bucket, count));
    }

    pub fn snapshot(&self) -> Latency {
        let mut counts = vec![0; self.filled().map(|(bucket, _)| bucket + 1).max().unwrap_or(0)];
        self.filled().for_each(|(bucket, count)| counts[bucket] += count);
        Latency::of(counts, self.sum_ms)
    }
}

/// The numbers of two histograms: the two sums, and the buckets that hold times, each with its count.
pub fn pack(waiting: &Histogram, handling: &Histogram) -> Vec<u64> {
    let mut numbers = vec![waiting.sum_ms, handling.sum_ms];
    for (n, histogram) in [waiting, handling].into_iter().enumerate() {
        // Those of the first histogram have an even number.
        let filled = histogram.filled();
        numbers.extend(filled.flat_map(|(bucket, count)| [(2 * bucket + n) as u64, count]));
    }
    numbers
}

/// The histograms of which these are the numbers.
pub fn unpack(mut numbers: impl Iterator<Item = u64>) -> (Histogram, Histogram) {
    let mut both = [Histogram::default(), Histogram::default()];
    for (histogram, sum) in both.iter_mut().zip(numbers.by_ref()) {
        histogram.sum_ms = sum;
    }
    while let (Some(bucket), Some(count)) = (numbers.next(), numbers.next()) {
        both[bucket as usize % 2].add(bucket as usize / 2, count);
    }
    let [waiting, handling] = both;
    (waiting, handling)
}

/// A histogram into which several threads record. It is made when the first time is counted, and the core takes it while
/// the cursor is at rest.
#[derive(Debug)]
pub struct Recorder(RankedMutex<Option<Box<Histogram>>>);

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder(RankedMutex::new(&(Rank::Leaf, "latencies"), None))
    }
}

impl Recorder {
    #[inline]
    pub fn record_ms(&self, ms: u64) {
        match &mut *self.0.lock() {
            Some(histogram) => histogram.record_ms(ms),
            none => none.insert(Box::default()).record_first(ms),
        }
    }

    pub fn snapshot(&self) -> Latency {
        self.0.lock().as_ref().map_or_else(Latency::default, |it| it.snapshot())
    }

    /// Takes what was counted.
    pub fn take(&self) -> Histogram {
        self.0.lock().take().map(|histogram| *histogram).unwrap_or_default()
    }

    /// Adds what was counted before.
    pub fn add(&self, before: &Histogram) {
        if !before.is_empty() {
            self.0.lock().get_or_insert_default().add_all(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_snapshot_is_taken_while_others_record() {
        let recorder = Recorder::default();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..200_000).for_each(|n| recorder.record_ms(n));
                ended.store(true, SeqCst);
            });
            while !ended.load(SeqCst) {
                let _ = recorder.snapshot();
            }
        });
        assert_eq!(recorder.snapshot().count(), 200_000);
    }

    fn of(times: &[u64]) -> Latency {
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.record_ms(*time));
        histogram.snapshot()
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!((lowest_of(0), highest_of(0)), (ms(0), ms(0)));
        for bucket in 0..OCTAVES * WIDTH {
            let (low, high) = (lowest_of(bucket), highest_of(bucket));
            for time in [low, high] {
                assert_eq!(bucket_of(time.as_millis() as u64), bucket);
            }
            assert_eq!(high + ms(1), lowest_of(bucket + 1));
            assert!(high - low <= low / WIDTH as u32, "{bucket}");
        }
        // A time beyond the last bucket is counted in the last bucket.
        assert_eq!(bucket_of(u64::MAX), OCTAVES * WIDTH - 1);
        assert_eq!(bucket_of(1 << 40), OCTAVES * WIDTH - 1);
    }

    #[test]
    fn nothing_has_no_mean_and_no_median() {
        let none = Latency::default();
        assert_eq!((none.count(), none.quantile(0.5), none.mean()), (0, None, None));
        assert_eq!(none.buckets().count(), 0);
        assert_eq!(of(&[]), none);
        assert_eq!(of(&[5, 70]).since(&of(&[5, 70])), none);
    }

    /// Every bucket is filled, in an order that has each table full.
    #[test]
    fn every_bucket_finds_a_place_and_is_packed() {
        let (mut waiting, mut handling) = (Histogram::default(), Histogram::default());
        for round in 1..=3 {
            for n in 0..OCTAVES * WIDTH {
                handling.record(lowest_of(n * 7 % (OCTAVES * WIDTH)));
            }
            let latency = handling.snapshot();
            assert!(latency.counts.iter().all(|count| *count == round), "{latency:?}");
        }
        waiting.record_ms(5);
        let (unpacked, again) = unpack(pack(&waiting, &handling).into_iter());
        assert_eq!(unpacked.snapshot(), waiting.snapshot());
        assert_eq!(again.snapshot(), handling.snapshot());
        assert_eq!(pack(&Histogram::default(), &Histogram::default()), [0, 0]);
        assert!(!waiting.is_empty() && Histogram::default().is_empty());
    }

    #[test]
    fn threads_that_record_at_once_lose_nothing() {
        let recorder = Recorder::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5000).for_each(|n| recorder.record_ms(n % 100)));
            }
            // Others take and give back meanwhile.
            (0..100).for_each(|_| recorder.add(&recorder.take()));
        });
        assert_eq!(recorder.snapshot().count(), 20_000);
        assert_eq!(recorder.snapshot().sum(), ms(4 * 50 * 4950));
        let taken = recorder.take();
        assert!(recorder.take().is_empty());
        recorder.record_ms(3);
        recorder.add(&taken);
        assert_eq!(recorder.snapshot().count(), 20_001);
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
