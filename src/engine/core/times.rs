//! The time of day under the core: follows it when it is set, and records it.

use std::time::Duration;

use super::{
    Core,
    arming::{AT_ONCE, Arming, EVERY_CURSOR},
    commit::{CommitResult, Receipt},
};
use crate::{
    audit,
    engine::runtime::signals::Timer,
    ids::{EntityId, Now},
    message::Message,
    store::{Op, Store},
};

impl Core {
    /// Records the clocks of this boot, unless they are recorded. A new store has nothing that depends on them. Returns
    /// whether they need not be recorded any more.
    pub fn has_recorded_clock(&mut self, now: Now) -> bool {
        if self.store.is_new() {
            return true;
        }
        self.keep_clock(now);
        self.known_clock.is_recorded
    }

    /// Looks at the time of day. The flusher calls this once a second while anything waits. Returns whether something was
    /// recorded: the caller has it synced, as no other commit may follow.
    #[must_use = "what is recorded is to be synced"]
    pub fn look_at_clock(&mut self, now: Now) -> bool {
        if let Some(skew) = now.set {
            self.setbacks.note(self.clock.skew(), skew);
            self.clock.follow(&mut self.known_clock, skew);
        }
        let is_settled = self.clock.settle(&mut self.known_clock, now);
        let has_changed = now.set.is_some() || is_settled;
        if has_changed {
            // Where the doubt is over, messages have become older at once.
            self.arm_all(is_settled);
            self.record_clock(now);
        }
        has_changed
    }

    /// Whether operations end the doubt about the time of day: a message is sent whose delay or time to live begins now.
    /// Otherwise the time for which the machine was off would count for it, too, once the time of day is right.
    #[inline]
    pub(super) fn ends_doubt(&self, ops: &[Op<'_>]) -> bool {
        self.doubts_clock() && ops.iter().any(|op| begins_durations(op, &self.store))
    }

    /// Commits operations that end the doubt. If they are refused, the doubt goes on.
    #[cold]
    pub(super) fn commit_in_doubt(&mut self, ops: &[Op<'_>], now: Now) -> CommitResult<Receipt> {
        let before = self.known_clock;
        self.clock.stop_doubting(&mut self.known_clock);
        let committed = self.commit(ops, now);
        if committed.is_err() {
            // The store may have recorded already that the doubt is over.
            (self.known_clock, self.known_clock.is_recorded) = (before, false);
            self.record_clock(now);
        }
        committed
    }

    /// Whether the time of day was behind the store's when the machine had booted, and has not caught up yet.
    #[inline]
    pub fn doubts_clock(&self) -> bool {
        self.known_clock.is_doubtful()
    }

    /// Keeps the store's knowledge of the clocks ahead of a commit. So no message depends on a setting of the clock
    /// that a crash makes the store forget.
    #[inline]
    pub fn keep_clock(&mut self, now: Now) {
        if now.set.is_some() || !self.known_clock.is_recorded {
            self.keep_new_clock(now);
        }
    }

    #[cold]
    fn keep_new_clock(&mut self, now: Now) {
        if let Some(skew) = now.set {
            self.setbacks.note(self.clock.skew(), skew);
            self.clock.follow(&mut self.known_clock, skew);
            self.arm_all(false);
        }
        self.record_clock(now);
    }

    /// Records the clocks. If that is impossible, for example on a full disk, the next commit tries it again.
    pub fn record_clock(&mut self, now: Now) {
        let op = Op::Clock(self.clock.state(&self.known_clock));
        let is_left_out = seeded!(SetClockIsNotCommitted);
        self.known_clock.is_recorded = is_left_out || self.store.commit(&[op], now).is_ok();
    }

    /// Has the timers of all cursors set anew: those that wait for a time of day come at another moment. With `ages`, the ages
    /// that are watched are looked at once more. A timer does it in slices. Meanwhile a timer that comes at an old time finds
    /// nothing to do, and consumers that receive compare with the clock itself.
    fn arm_all(&mut self, ages: bool) {
        let ages = ages || self.arming.is_some_and(|it| it.ages);
        self.arming = Some(Arming { next: EntityId::FIRST, ages });
        self.effects.set_timer(Timer { at: Duration::ZERO, cursor: EVERY_CURSOR });
        self.store.relist_retention();
        self.arm_lives_again();
    }

    /// Goes on with that: a slice. The next one is a timer.
    pub fn arm_some(&mut self) {
        let Some(Arming { next, ages }) = self.arming.take() else { return };
        let (slice, next) = self.store.entities_from(next, AT_ONCE);
        for id in slice {
            audit::step();
            let cursor = id.cursor(0);
            if ages {
                self.consumers.look_at_age(cursor);
            }
            self.arm(cursor);
        }
        if let Some(next) = next {
            self.arming = Some(Arming { next, ages });
            self.effects.set_timer(Timer { at: Duration::ZERO, cursor: EVERY_CURSOR });
        }
    }
}

/// Whether an operation sends a message, or moves one whose life begins anew: a dead letter, or one that is redriven. One
/// that is moved as it is goes on with its times. A block of spilled messages has none, and neither has a record of a stream.
fn begins_durations(op: &Op<'_>, store: &Store) -> bool {
    let Op::Append { log, messages, .. } = op else { return false };
    if store.keeps_acked(*log) {
        return false;
    }
    let begins = |message: &Message<'_>| {
        message.kept().is_none() && (!message.is_moved() || message.note().is_some())
    };
    messages.iter().any(begins)
}
