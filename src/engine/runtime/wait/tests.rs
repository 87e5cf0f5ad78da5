use std::{sync::atomic::AtomicUsize, task::Wake, thread};

use super::*;

/// Waits until so many waiters sleep.
fn await_waiters(watch: &Watch, count: usize) {
    let sleeps = |waiter: &Arc<Waiter>| !matches!(*waiter.state.lock(), Sleep::Begun);
    while watch.waiters.lock().asleep.len() < count
        || !watch.change(|it| it.asleep.iter().cloned().collect::<Vec<_>>()).iter().all(sleeps)
    {
        thread::yield_now();
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_thread_that_wakes_a_hundred_threads_wakes_two() {
    for count in [1, 2, 3, 100] {
        let watch = Arc::new(Watch::default());
        let waits: Vec<_> = (0..count)
            .map(|_| watch.begin())
            .map(|waiting| thread::spawn(|| waiting.wait(None)))
            .collect();
        await_waiters(&watch, count);
        let _ = audit::take_steps();
        watch.wake(usize::MAX);
        // The first woken thread may be quick, and wake the next one itself.
        let steps = audit::take_steps();
        assert!((1..=count.min(THREADS_AT_ONCE) as u64).contains(&steps), "{steps} of {count}");
        waits.into_iter().for_each(|it| assert!(it.join().expect("it is woken")));
    }
}

#[test]
fn a_thread_that_wakes_a_hundred_tasks_wakes_four_and_has_the_others_woken() {
    let watch = Arc::new(Watch::default());
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut waits: Vec<_> = (0..100).map(|_| watch.begin()).collect();
    let mut context = Context::from_waker(&waker);
    waits.iter_mut().for_each(|it| assert!(it.poll(&mut context).is_pending()));
    let _ = audit::take_steps();
    let rest = watch.begin_to_wake(Whom::Each, usize::MAX).expect("there are many");
    assert_eq!((audit::take_steps(), count.0.load(Ordering::Relaxed)), (4, 4));
    rest.finish();
    assert_eq!(count.0.load(Ordering::Relaxed), 100);
    waits.iter_mut().for_each(|it| assert!(it.poll(&mut context).is_ready()));
}

#[test]
fn waiters_that_give_up_do_not_end_the_relay() {
    let watch = Arc::new(Watch::default());
    let gives_up = Some(Duration::from_micros(200));
    for round in 0..200 {
        let waits: Vec<_> = (0..20)
            .map(|n| (n, watch.begin()))
            .map(|(n, waiting)| thread::spawn(move || waiting.wait(gives_up.filter(|_| n % 3 > 0))))
            .collect();
        if round % 2 == 0 {
            await_waiters(&watch, 7);
        }
        watch.wake(usize::MAX);
        let woken = waits.into_iter().map(|it| it.join().expect("it ends"));
        let woken: Vec<bool> = woken.collect();
        assert!(woken.iter().step_by(3).all(|it| *it));
    }
}

/// A wake-up of all is not lost while another one is passed on, and wakes nobody by itself.
#[test]
fn a_wake_up_of_all_while_another_is_passed_on_is_passed_on_with_it() {
    for latecomers in [1, 2, 10] {
        let watch = Arc::new(Watch::default());
        let wait = |count: usize| -> Vec<_> {
            let waits: Vec<_> = (0..count).map(|_| watch.begin()).collect();
            waits.into_iter().map(|it| thread::spawn(|| it.wait(None))).collect()
        };
        let first = wait(5);
        await_waiters(&watch, 5);
        let relay = watch.take(Whom::Each, usize::MAX).expect("there are many");
        let later = wait(latecomers);
        await_waiters(&watch, latecomers);
        let _ = audit::take_steps();
        for _ in 0..3 {
            watch.wake(usize::MAX);
        }
        assert_eq!(audit::take_steps(), 0, "somebody was woken at once");
        relay.finish();
        first.into_iter().chain(later).for_each(|it| assert!(it.join().expect("it is woken")));
        // The next one begins anew.
        assert!(watch.waiters.lock().passing.is_none());
        let last = wait(1);
        watch.wake(usize::MAX);
        last.into_iter().for_each(|it| assert!(it.join().expect("it is woken")));
    }
}

/// The flusher may be at work for long, so a wake-up does not stand behind one that the flusher has.
#[test]
fn a_wake_up_does_not_wait_for_the_flusher() {
    let watch = Arc::new(Watch::default());
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut waits: Vec<_> = (0..10).map(|_| watch.begin()).collect();
    waits.iter_mut().for_each(|it| assert!(it.poll(&mut context).is_pending()));
    let rest = watch.begin_to_wake(Whom::Each, usize::MAX).expect("there are many");
    let mut later = watch.begin();
    assert!(later.poll(&mut context).is_pending());
    watch.wake(usize::MAX);
    assert!(later.poll(&mut context).is_ready());
    rest.finish();
    waits.iter_mut().for_each(|it| assert!(it.poll(&mut context).is_ready()));
}

/// While a task's waker runs, further wake-ups of all do not wait for it: it may take long, wait for another waiter of the
/// watch, or begin to wait again, which kept the thread that woke it for ever.
#[test]
fn a_thread_that_wakes_tasks_keeps_no_further_wake_up() {
    struct Look(Arc<Watch>, Count);
    impl Wake for Look {
        fn wake(self: Arc<Self>) {
            let is_free = self.0.waiters.lock().passing.is_none();
            self.1.0.fetch_add(usize::from(is_free), Ordering::Relaxed);
        }
    }
    for threads in [0, 5] {
        let watch = Arc::new(Watch::default());
        let slept: Vec<_> = (0..threads).map(|_| watch.begin()).collect();
        let slept: Vec<_> = slept.into_iter().map(|it| thread::spawn(|| it.wait(None))).collect();
        await_waiters(&watch, threads);
        let look = Arc::new(Look(Arc::clone(&watch), Count::default()));
        let waker = Waker::from(Arc::clone(&look));
        let mut waits: Vec<_> = (0..10).map(|_| watch.begin()).collect();
        let mut context = Context::from_waker(&waker);
        waits.iter_mut().for_each(|it| assert!(it.poll(&mut context).is_pending()));
        watch.take(Whom::Each, usize::MAX).expect("there are many").finish();
        slept.into_iter().for_each(|it| assert!(it.join().expect("it is woken")));
        waits.iter_mut().for_each(|it| while it.poll(&mut context).is_pending() {});
        assert_eq!(look.1.0.load(Ordering::Relaxed), 10, "beside {threads} threads");
    }
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

/// The one that is woken in its place was handed to a relay that may have ended.
#[test]
fn where_a_waker_panics_the_next_waiter_is_woken_in_its_place() {
    let watch = Arc::new(Watch::default());
    let count = Arc::new(Count::default());
    let (waker, panics) = (Waker::from(Arc::clone(&count)), Waker::from(Arc::new(Panics)));
    let mut waits: Vec<_> = (0..7).map(|_| watch.begin()).collect();
    for (n, it) in waits.iter_mut().enumerate() {
        let waker = if [3, 4].contains(&n) { &panics } else { &waker };
        assert!(it.poll(&mut Context::from_waker(waker)).is_pending());
    }
    watch.wake(4);
    // The fourth panics, and so does the fifth, in whose place the sixth is woken.
    assert_eq!(count.0.load(Ordering::Relaxed), 4);
    watch.wake(1);
    assert_eq!(count.0.load(Ordering::Relaxed), 5);
}
