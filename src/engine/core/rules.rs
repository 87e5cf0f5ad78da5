//! The rules of a cursor: its settings in the form in which the engine uses them. They change while the store is open.
//!
//! Under the core, [`Consumption::rules`](super::consumption::Consumption::rules) has them. Threads that do not hold the
//! core read [`CurrentRules`]. What such a thread has read may be old when it locks the core, so it looks again there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    audit::{self, Rank},
    delivery::Retry,
    engine::runtime::lock::RankedMutex,
    format::entity::{Delivering, Limit},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub retry: Retry,
    pub lease: Duration,
    /// Milliseconds; 0 for no limit.
    pub time_to_live_ms: u64,
    pub is_ordered: bool,
    pub is_exclusive: bool,
    pub is_paused: bool,
    pub limit: Option<Limit>,
    /// The delay of messages that have none of their own, in milliseconds.
    pub delay_ms: u64,
}

impl Rules {
    /// The rules of a definition. `tick` is the resolution of the clock.
    pub fn of(delivering: &Delivering, tick: Duration) -> Rules {
        Rules {
            retry: Retry::of(delivering),
            // The clock lags by up to one tick. With one tick more, no lease ends early.
            lease: Duration::from_millis(delivering.lease_ms) + tick,
            time_to_live_ms: delivering.time_to_live_ms,
            is_ordered: delivering.is_ordered,
            is_exclusive: delivering.is_exclusive,
            is_paused: delivering.is_paused,
            limit: delivering.limit,
            delay_ms: delivering.delay_ms,
        }
    }

    /// Whether a full queue drops its oldest messages.
    pub fn drops_oldest(&self) -> bool {
        self.limit.is_some_and(|limit| limit.drops_oldest)
    }

    /// Whether the queue has a limit in bytes.
    pub fn weighs(&self) -> bool {
        self.limit.is_some_and(|limit| limit.bytes.is_some())
    }

    fn bits(&self) -> u32 {
        let is_plain = self.delay_ms == 0 && self.limit.is_none() && !self.is_ordered;
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        bit(is_plain, TAKES_PLAIN)
            | bit(self.is_ordered, ORDERED)
            | bit(self.retry.counts_first(), COUNTS_FIRST)
            | bit(self.is_exclusive, EXCLUSIVE)
            | bit(self.time_to_live_ms > 0, EXPIRES)
    }
}

const TAKES_PLAIN: u32 = 1;
const ORDERED: u32 = 2;
const COUNTS_FIRST: u32 = 4;
const EXCLUSIVE: u32 = 8;
const EXPIRES: u32 = 16;

/// The rules, for threads that do not hold the core. They change under the core only.
#[derive(Debug)]
pub struct CurrentRules {
    /// The rules that every send and receive asks for.
    bits: AtomicU32,
    rules: RankedMutex<Arc<Rules>>,
}

impl CurrentRules {
    pub fn new(rules: Arc<Rules>) -> CurrentRules {
        let bits = AtomicU32::new(rules.bits());
        CurrentRules { bits, rules: RankedMutex::new(&(Rank::Leaf, "rules of a queue"), rules) }
    }

    pub(super) fn set(&self, rules: Arc<Rules>) {
        self.bits.store(rules.bits(), Ordering::Relaxed);
        *self.rules.lock() = rules;
    }

    pub fn all(&self) -> Rules {
        **self.rules.lock()
    }

    #[inline]
    fn has(&self, bit: u32) -> bool {
        self.bits.load(Ordering::Relaxed) & bit != 0
    }

    /// Whether a send needs nothing but an append: no delay, no limit and no order.
    #[inline]
    pub fn takes_plain(&self) -> bool {
        self.has(TAKES_PLAIN)
    }

    #[inline]
    pub fn is_ordered(&self) -> bool {
        self.has(ORDERED)
    }

    /// Whether an attempt is counted before the delivery.
    #[inline]
    pub fn counts_first(&self) -> bool {
        self.has(COUNTS_FIRST)
    }

    /// Whether a message needs a step between reading and delivering it.
    #[inline]
    pub fn reads_first(&self) -> bool {
        self.has(ORDERED | COUNTS_FIRST)
    }

    /// Whether only one consumer receives at a time.
    #[inline]
    pub fn is_exclusive(&self) -> bool {
        self.has(EXCLUSIVE)
    }

    /// The longest time to live of a message in milliseconds; 0 for no limit.
    #[inline]
    pub fn time_to_live_ms(&self) -> u64 {
        if self.has(EXPIRES) { self.all().time_to_live_ms } else { 0 }
    }
}

/// The rules that cursors share. Most queues have those of others.
#[derive(Debug, Default)]
pub struct SharedRules(Vec<Arc<Rules>>);

/// So many rules are looked through for equal ones.
const SHARED_MAX: usize = 16;

impl SharedRules {
    /// These rules, shared with other cursors that have the same.
    pub fn share(&mut self, rules: Rules) -> Arc<Rules> {
        audit::step();
        if let Some(there) = self.0.iter().find(|it| ***it == rules) {
            return Arc::clone(there);
        }
        self.0.retain(|it| Arc::strong_count(it) > 1);
        let rules = Arc::new(rules);
        if self.0.len() == SHARED_MAX {
            self.0.remove(0);
        }
        self.0.push(Arc::clone(&rules));
        rules
    }
}
