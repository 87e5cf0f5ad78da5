//! Several futures as one. Each is polled only when it was woken.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{lock::RankedMutex, wait::wake_task};
use crate::{audit::Rank, error::Result};

/// Futures that run side by side in one task. It is ready when all are, with the first error.
#[derive(Debug)]
pub struct Together<F> {
    futures: Vec<Option<Pin<Box<F>>>>,
    alarms: Vec<Arc<Alarm>>,
    woken: Arc<Woken>,
    outcome: Result<()>,
}

/// Wakes one of the futures.
#[derive(Debug)]
struct Alarm {
    index: usize,
    is_raised: AtomicBool,
    woken: Arc<Woken>,
}

/// The futures that were woken, and the task that polls them.
#[derive(Debug)]
struct Woken {
    state: RankedMutex<(Vec<usize>, Option<Waker>)>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if self.is_raised.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.woken.state.lock();
        state.0.push(self.index);
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            wake_task(waker);
        }
    }
}

impl<F> Together<F> {
    pub fn new(futures: impl Iterator<Item = F>) -> Together<F> {
        let futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
        let all = (0..futures.len()).collect();
        let state = RankedMutex::new(&(Rank::Leaf, "futures that were woken"), (all, None));
        let woken = Arc::new(Woken { state });
        let alarm = |index| {
            let (is_raised, woken) = (AtomicBool::new(true), Arc::clone(&woken));
            Arc::new(Alarm { index, is_raised, woken })
        };
        let alarms = (0..futures.len()).map(alarm).collect();
        Together { futures, alarms, woken, outcome: Ok(()) }
    }

    /// Has all futures polled once more.
    pub fn wake_all(&self) {
        self.alarms.iter().cloned().for_each(Wake::wake);
    }
}

impl<F: Future<Output = Result<()>>> Future for Together<F> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        // Cloning a waker runs code of the application, so no lock is held.
        let waker = context.waker().clone();
        let mut state = this.woken.state.lock();
        let before = state.1.replace(waker);
        let woken = mem::take(&mut state.0);
        drop(state);
        drop(before);
        for index in woken {
            let alarm = &this.alarms[index];
            alarm.is_raised.store(false, Ordering::SeqCst);
            let Some(future) = &mut this.futures[index] else { continue };
            let waker = Waker::from(Arc::clone(alarm));
            if let Poll::Ready(ended) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                this.futures[index] = None;
                let outcome = mem::replace(&mut this.outcome, Ok(()));
                this.outcome = outcome.and(ended);
            }
        }
        if this.futures.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(mem::replace(&mut this.outcome, Ok(())))
    }
}

/// Lets the other futures of a task, and the other tasks of its thread, go on first.
pub async fn give_way() {
    let mut has_given_way = false;
    std::future::poll_fn(|context| {
        if mem::replace(&mut has_given_way, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_the_future_that_was_woken_is_polled() {
        const MANY: usize = 100;
        let polls: Vec<Cell<u32>> = (0..MANY).map(|_| Cell::new(0)).collect();
        let wakers: Vec<Cell<Option<Waker>>> = (0..MANY).map(|_| Cell::new(None)).collect();
        let future = |n: usize| {
            let (polls, wakers) = (&polls, &wakers);
            poll_fn(move |context| {
                polls[n].set(polls[n].get() + 1);
                wakers[n].set(Some(context.waker().clone()));
                if polls[n].get() == 3 { Poll::Ready(Ok(())) } else { Poll::Pending }
            })
        };
        let mut together = Together::new((0..MANY).map(future));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut poll = || Pin::new(&mut together).poll(&mut context);
        assert!(poll().is_pending() && poll().is_pending());
        assert!(polls.iter().all(|it| it.get() == 1), "each once at first");
        for _ in 0..2 {
            wakers[7].take().unwrap().wake();
            assert!(poll().is_pending());
        }
        assert_eq!((polls[7].get(), polls[8].get()), (3, 1));
        for round in 0..2 {
            (0..MANY).filter(|n| *n != 7).for_each(|n| wakers[n].take().unwrap().wake());
            assert_eq!(poll().is_ready(), round == 1);
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 4, "woken once for each poll");
    }
}
