//! Effects: wake-ups, timers and callbacks that a change causes, run after the core is unlocked.
//!
//! A change under the core adds its effects here. The [`CoreGuard`](super::guard::CoreGuard) runs them after it
//! has unlocked the core. There are two reasons. A thread that is woken under the lock would block on it and
//! sleep again. A callback of the application may call the engine.

use std::{
    any::Any, cell::RefCell, collections::VecDeque, marker::PhantomData, sync::Arc, time::Duration,
};

use super::thresholds::{Callback, WatchedThreshold};
use crate::engine::runtime::{
    application,
    interest::Whom,
    signals::{FlusherSignal, Timer},
    wait::Watch,
};

/// Wakes waiters of a watch: the first `most` of each interest.
#[derive(Debug)]
struct WakeUp {
    watch: Arc<Watch>,
    whom: Whom,
    most: usize,
}

impl WakeUp {
    /// Whether a wake-up of others of the same watch may become one with this.
    fn joins(&self, whom: Whom) -> bool {
        self.whom == whom || !(self.whom.minds_filters() || whom.minds_filters())
    }
}

/// The effects of one hold of the core. Most holds have none.
#[derive(Debug, Default)]
#[must_use = "waiters sleep for ever if effects are not run"]
pub struct Effects {
    /// Whether there is anything in the lists: one look for every hold.
    any: bool,
    wake_ups: Vec<WakeUp>,
    timers: Vec<Timer>,
    /// When the lives of messages are to be looked at.
    sweep_at: Option<Duration>,
    /// When messages that wait for that are to move to the dead letters.
    move_at: Option<Duration>,
    /// Whether a round over the cursors is to be made in some seconds.
    rest_soon: bool,
    callbacks: Vec<Callback>,
    /// Thresholds that are no longer watched. Dropping their callbacks may call the engine.
    ended: Vec<WatchedThreshold>,
    /// What is no longer needed, and takes long to be dropped.
    garbage: Vec<Box<dyn Any + Send>>,
}

impl Effects {
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// Wakes up to `most` waiters of each interest, the longest waiting first.
    #[inline]
    pub fn wake(&mut self, watch: &Arc<Watch>, most: usize) {
        self.wake_those(watch, Whom::Each, most);
    }

    /// Wakes up to `most` waiters of these interests. In one hold with others of the same watch, all waiters may wake: a
    /// commit to a thousand partitions keeps no list of them. Of subscriptions with filters, only those that match wake.
    #[inline]
    pub fn wake_those(&mut self, watch: &Arc<Watch>, whom: Whom, most: usize) {
        if most > 0 && watch.has_waiters() {
            self.any = true;
            match self.wake_ups.last_mut() {
                Some(last) if Arc::ptr_eq(&last.watch, watch) && last.joins(whom) => {
                    last.most = last.most.saturating_add(most);
                    if last.whom != whom {
                        last.whom = Whom::Each;
                    }
                }
                _ => self.wake_ups.push(WakeUp { watch: Arc::clone(watch), whom, most }),
            }
        }
    }

    /// Wakes all waiters.
    pub fn wake_all(&mut self, watch: &Arc<Watch>) {
        self.wake(watch, usize::MAX);
    }

    pub fn set_timer(&mut self, timer: Timer) {
        self.any = true;
        self.timers.push(timer);
    }

    /// Has the lives of messages looked at.
    pub fn sweep_at(&mut self, at: Duration) {
        self.any = true;
        self.sweep_at = Some(self.sweep_at.map_or(at, |set| set.min(at)));
    }

    /// Has messages moved to the dead letters.
    pub fn move_at(&mut self, at: Duration) {
        self.any = true;
        self.move_at = Some(self.move_at.map_or(at, |set| set.min(at)));
    }

    /// Has a round over the cursors made in some seconds.
    pub fn rest_soon(&mut self) {
        (self.any, self.rest_soon) = (true, true);
    }

    pub fn call(&mut self, callback: Callback) {
        self.any = true;
        self.callbacks.push(callback);
    }

    /// Drops thresholds once the core is unlocked.
    pub fn drop_later(&mut self, ended: impl IntoIterator<Item = WatchedThreshold>) {
        self.ended.extend(ended);
        self.any |= !self.ended.is_empty();
    }

    /// Drops what is no longer needed once the core is unlocked: it may be much.
    pub fn drop_after<T: Any + Send>(&mut self, garbage: Option<T>) {
        if let Some(garbage) = garbage {
            self.any = true;
            self.garbage.push(Box::new(garbage));
        }
    }

    /// Runs the effects, unless this thread holds effects back.
    pub fn run_or_hold(self, signal: &FlusherSignal) {
        if let Some(effects) = HeldBack::hold(self) {
            effects.run(signal);
        }
    }

    /// Runs the effects. The caller holds no lock.
    fn run(self, signal: &FlusherSignal) {
        let Effects { any: _, wake_ups, timers, sweep_at, move_at, rest_soon, .. } = self;
        let Effects { callbacks, ended, garbage, .. } = self;
        timers.into_iter().for_each(|timer| signal.set_timer(timer));
        sweep_at.into_iter().for_each(|at| signal.sweep_at(at));
        move_at.into_iter().for_each(|at| signal.move_at(at));
        if rest_soon {
            signal.rest_soon();
        }
        for WakeUp { watch, whom, most } in wake_ups {
            if let Some(rest) = watch.begin_to_wake(whom, most) {
                signal.rouse(rest);
            }
        }
        call_in_turn(callbacks);
        ended.into_iter().for_each(|threshold| application::run(|| drop(threshold)));
        garbage.into_iter().for_each(|it| application::run(|| drop(it)));
    }
}

thread_local! {
    /// Callbacks that this thread runs next. `None` if it runs none.
    static NEXT: RefCell<Option<VecDeque<Callback>>> = const { RefCell::new(None) };

    /// Effects that this thread holds back. `None` if it runs them at once.
    static HELD_BACK: RefCell<Option<Vec<Effects>>> = const { RefCell::new(None) };
}

/// Runs callbacks, one after the other. The callbacks that a callback causes run after it has returned: a callback
/// that crosses its own threshold again and again must not use up the stack.
fn call_in_turn(callbacks: Vec<Callback>) {
    if callbacks.is_empty() {
        return;
    }
    let mut left = Some(callbacks);
    let is_outer = NEXT.try_with(|next| {
        let mut next = next.borrow_mut();
        let is_outer = next.is_none();
        next.get_or_insert_default().extend(left.take().into_iter().flatten());
        is_outer
    });
    // The thread ends, and its thread-local values are gone.
    left.into_iter().flatten().for_each(Callback::run);
    if !is_outer.is_ok_and(|is_outer| is_outer) {
        return;
    }
    let take = || NEXT.try_with(|next| next.borrow_mut().as_mut().and_then(VecDeque::pop_front));
    while let Ok(Some(callback)) = take() {
        callback.run();
    }
    let _ = NEXT.try_with(|next| next.borrow_mut().take());
}

/// Holds the effects of this thread back until it is dropped. A thread uses it while it holds another lock under
/// which no code of the application may run.
#[derive(Debug)]
pub struct HeldBack<'a> {
    signal: &'a FlusherSignal,
    /// An outer `HeldBack` of this thread exists, and runs the effects.
    is_nested: bool,
    /// Makes it `!Send`: it stays on its thread.
    _thread: PhantomData<*const ()>,
}

impl<'a> HeldBack<'a> {
    pub fn begin(signal: &'a FlusherSignal) -> HeldBack<'a> {
        let held = HELD_BACK.try_with(|held| {
            let mut held = held.borrow_mut();
            let is_nested = held.is_some();
            held.get_or_insert_default();
            is_nested
        });
        let is_nested = held.unwrap_or(true);
        HeldBack { signal, is_nested, _thread: PhantomData }
    }

    /// Whether this thread holds effects back.
    pub fn is_here() -> bool {
        HELD_BACK.try_with(|held| held.borrow().is_some()).unwrap_or(true)
    }

    /// Keeps the effects if this thread holds effects back. Otherwise returns them. A thread that ends holds
    /// nothing back: its thread-local values, among them handles of the application, are dropped one by one.
    fn hold(effects: Effects) -> Option<Effects> {
        let mut effects = Some(effects);
        let _ = HELD_BACK.try_with(|held| {
            if let Some(held) = &mut *held.borrow_mut() {
                held.extend(effects.take());
            }
        });
        effects
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        if self.is_nested {
            return;
        }
        let held = HELD_BACK.try_with(|held| held.borrow_mut().take());
        for effects in held.ok().flatten().unwrap_or_default() {
            effects.run(self.signal);
        }
    }
}
