//! The core: what the engine's one mutex holds, and the page of the locks.
//!
//! # The locks, in their order
//!
//! A thread takes a lock only if its rank is higher than those of all locks that it holds. Builds with debug
//! assertions check it on every thread ([`audit`](crate::audit)).
//!
//! | Rank | Lock | Held by | What may be done under it |
//! |---|---|---|---|
//! | `Scheduler` | the *scheduler's registry* and the pause and the end of a *scheduler* (`schedule/thread.rs`); the state of a *worker*: its pause, its threads, and the deliveries that they handle (`consume/worker/work.rs`) | a scheduler or worker, for moments | anything |
//! | `Registry` | *schedules*: which messages are schedules (`schedule/registry.rs`) | a thread that looks up a schedule | reads of the store |
//! | `KeyOrder` | *leasing in key order*: the right to lease from one queue that is ordered by key (`consume/key_order.rs`) | one consumer of that queue, for one attempt | reads, and commits that do not wait for space in the journal |
//! | `Directory` | the right to *work in the directory* of the store (`commit/committer.rs`), shared by working threads, exclusive for shutdown | checkpoints, prepared files, verification | any disk work |
//! | `Checkpoint` | *checkpoint*: the right to make one | one checkpoint or verification | any disk work |
//! | `Core` | [`Core`]: the store and the state of each cursor | every operation, for a fraction of a microsecond | changes of memory, and the copy of a frame into the journal's map |
//! | `Leaf` | the *flusher's agenda* (`runtime/signals.rs`) and the *checkpointer's state* (`runtime/checkpointer.rs`); the *gate of a fair mutex* (`runtime/fair.rs`); the *waiters of a watch* and one *waiter* (`runtime/wait.rs`), the *waiters to wake* (`runtime/relay.rs`), and the *futures that were woken* of one task (`runtime/together.rs`); the *rules of a queue* (`core/rules.rs`); the *latencies* of a queue (`runtime/histogram.rs`); the state of the *group commit*, the *space for tasks* (`commit/space.rs`), the rounds of the *back-pressure* (`commit/pressure.rs`); the *shutdown*, its *threads to join* and *the store's lock* | for moments | nothing that takes a lock |
//!
//! # Under the core
//!
//! - Nothing reads or writes the disk: no file is created, opened, read or synced. An operation that needs the
//!   disk returns a plan. The caller unlocks the core, runs the plan, locks the core and checks whether the
//!   result is still valid. The journal's append is a copy into a map. In calls mode it is a `pwrite`, the one
//!   exception.
//! - A loop counts its steps (`audit::step`), and tests assert how many steps each operation takes.
//! - Work that grows with what is there is done in slices. Between two slices `Committer::give_way` lets another thread
//!   have its turn: the core's mutex is fair (`runtime/fair.rs`).
//! - Many messages, or large ones, are encoded before the core is locked (`commit/batch.rs`). Under it they get their offsets.
//! - A thread that reads a slice of a walk (`walk.rs`) holds no lock, but others wait for the slice. So it waits for the
//!   disk, for space and for locks only, and it holds its effects back until the slice has ended.
//! - No thread is woken and no code of the application runs. Changes add [`Effects`](effects::Effects); the
//!   [`CoreGuard`](guard::CoreGuard) runs them after it has unlocked the core.
//!
//! # Where to go next
//!
//! `commit.rs` commits, `settlement.rs` settles deliveries, `expiry.rs` ends leases that run out, `update.rs`
//! follows settings that change, `times.rs` follows the time of day, `spill.rs` moves delayed messages to disk
//! and back, and `sweep.rs` lets go of what has expired. The decisions without a lock are in `delivery/`.

pub mod admission;
pub mod arming;
pub mod arrivals;
pub mod batch_acks;
pub mod begun;
pub mod capacity;
pub mod commit;
pub mod consumers;
pub mod consumption;
pub mod cursors;
pub mod damage;
pub mod damaged;
pub mod dead_letters;
pub mod deletion;
pub mod dormant;
mod early;
pub mod effects;
pub mod errors;
pub mod expired;
pub mod expiry;
pub mod failures;
pub mod guard;
pub mod key_order;
pub mod leases;
pub mod lives;
pub mod passing;
mod preparing;
pub mod purge;
pub mod room;
pub mod rounds;
pub mod rules;
mod setbacks;
pub mod settlement;
pub mod slices;
pub mod slots;
pub mod spill;
pub mod sweep;
pub mod thresholds;
pub mod times;
pub mod update;
pub mod waiters;
pub mod walk;
pub mod watch;
pub mod weights;

use std::{ops::Range, sync::Arc, time::Duration};

use self::{
    arming::Arming, consumers::Consumers, consumption::Consumption, dormant::Dormancy,
    effects::Effects, failures::Failures, lives::Lives, room::RoomLook, setbacks::Setbacks,
    waiters::Arrivals,
};
use crate::{
    config::Config,
    engine::runtime::{
        clock::{EvenClock, KnownClock},
        signals::Timer,
    },
    ids::{CursorId, Skew, Timestamp},
    store::Store,
};

/// What the engine's one mutex holds: the store, and the state of each cursor that is in use.
#[derive(Debug)]
pub struct Core {
    pub store: Store,
    pub is_closed: bool,
    consumers: Consumers,
    dormancy: Dormancy,
    arrivals: Arrivals,
    effects: Effects,
    /// The number of the last threshold that was watched.
    last_threshold: u64,
    failures: Failures,
    /// Whether damage was ever kept for the next consumer.
    has_told_later: bool,
    /// How many blocks of delay indexes were found to be damaged.
    damaged_blocks: u64,
    lives: Lives,
    /// How far the call looks whose attempt to commit holds the core.
    pub room: RoomLook,
    /// How often the settings of an open queue or subscription have changed.
    pub settings_changes: u64,
    /// Whether any queue has a limit in bytes.
    weighs: bool,
    clock: Arc<EvenClock>,
    known_clock: KnownClock,
    setbacks: Setbacks,
    /// How far the timers were set anew, after the clock was set.
    arming: Option<Arming>,
    /// A journal longer than this is checkpointed.
    checkpoint_from: u64,
    /// The most delayed messages of a queue in memory.
    delayed_in_memory: u64,
    /// Queues that have more delayed messages in memory than that.
    crowded: Vec<CursorId>,
}

/// With more small journal files than this, left by short epochs, a checkpoint removes them.
const SMALL_OLD_FILES_MAX: usize = 4;

impl Core {
    pub fn new(
        store: Store,
        config: &Config,
        (clock, known_clock): (Arc<EvenClock>, KnownClock),
        tick: Duration,
        chance: u64,
    ) -> Core {
        Core {
            store,
            is_closed: false,
            consumers: Consumers::default(),
            dormancy: Dormancy::new(config, tick),
            arrivals: Arrivals::new(config.durability),
            effects: Effects::default(),
            last_threshold: 0,
            failures: Failures::new(chance),
            has_told_later: false,
            damaged_blocks: 0,
            lives: Lives::default(),
            room: RoomLook::default(),
            settings_changes: 0,
            weighs: false,
            clock,
            known_clock,
            setbacks: Setbacks::default(),
            arming: None,
            checkpoint_from: config.journal_bytes,
            delayed_in_memory: config.delayed_in_memory,
            crowded: Vec::new(),
        }
    }

    /// Sets a timer for the next event of a cursor, unless an earlier timer is set.
    pub fn arm(&mut self, cursor: CursorId) {
        self.arm_from(cursor, Duration::ZERO);
    }

    /// As [`arm`](Core::arm), with a timer that is not due before `from`. If a slice of work is left, the timers of others
    /// come first.
    pub fn arm_from(&mut self, cursor: CursorId, from: Duration) {
        let Core { consumers, effects, clock, setbacks, crowded, delayed_in_memory, .. } = self;
        let Some(consumption) = consumers.get_untouched(cursor) else { return };
        let mut next = consumption.deliveries.next_deadline();
        // Most queues have no delayed messages, and no threshold is watched.
        if consumption.has_delayed() {
            next = earliest(next, next_due(consumption, clock, crowded, *delayed_in_memory));
        }
        if consumption.advances_keys() || setbacks.concern(consumption) {
            next = Some(Duration::ZERO);
        }
        if let Some(check) = consumption.oldest.next_check() {
            next = earliest(next, Some(check));
        }
        if let Some(at) = next
            && consumption.armed.is_none_or(|armed| at.max(from) < armed)
        {
            let at = at.max(from);
            consumption.armed = Some(at);
            effects.set_timer(Timer { at, cursor });
        }
    }

    /// How long the engine has been open.
    pub fn uptime(&self, elapsed: Duration) -> Duration {
        self.clock.since_open(elapsed)
    }

    /// The even time.
    pub fn even(&self, elapsed: Duration) -> Timestamp {
        self.clock.even(elapsed)
    }

    /// The difference between the even time and the time of day.
    #[inline]
    pub fn skew(&self) -> Skew {
        self.clock.skew()
    }

    #[inline]
    pub fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Queues that have too many delayed messages in memory. The caller spills them.
    pub fn take_crowded(&mut self) -> Vec<CursorId> {
        std::mem::take(&mut self.crowded)
    }

    /// Whether the checkpointer has work: a file to prepare, or a checkpoint to make.
    #[inline]
    pub fn wants_checkpointer(&self) -> bool {
        self.store.journal.wants_file() || self.wants_checkpoint()
    }

    #[inline]
    pub fn wants_checkpoint(&self) -> bool {
        self.is_long() || self.store.is_reclaimable()
    }

    /// Whether the journal is so long that a checkpoint begins.
    pub fn is_long(&self) -> bool {
        self.store.journal.bytes_behind() > self.checkpoint_from
    }

    /// The lengths of the journal between which producers are [slowed down](crate::engine::commit::pressure). Behind the
    /// slope, an eighth is left to the wall.
    pub fn slope(&self) -> Range<u64> {
        self.checkpoint_from..self.checkpoint_from / 8 * 15
    }

    /// Whether commits may soon wait for the checkpointer. They do so at twice the length at which a checkpoint begins.
    pub fn needs_space_soon(&self) -> bool {
        let journal = &self.store.journal;
        journal.wants_file() || journal.bytes_behind() > self.checkpoint_from / 2 * 3
    }

    /// Whether many short epochs have left a small journal file each.
    pub fn wants_clearing(&self) -> bool {
        self.store.journal.small_old_files() > SMALL_OLD_FILES_MAX
    }
}

/// When the next delayed message of a cursor is due, or comes back to memory. Notes a queue that has too many in memory.
fn next_due(
    consumption: &Consumption,
    clock: &EvenClock,
    crowded: &mut Vec<CursorId>,
    delayed_in_memory: u64,
) -> Option<Duration> {
    let cursor = consumption.info.cursor;
    if consumption.is_crowded() && !crowded.contains(&cursor) {
        crowded.push(cursor);
    }
    let deliveries = &consumption.deliveries;
    let skew = clock.skew();
    let message_due = deliveries.next_due(skew).map(|due| clock.when(due));
    let block_due = consumption.next_block_due(delayed_in_memory, skew);
    let block_due = block_due.map(|due| clock.when(due).max(consumption.delay_index.rest()));
    // While so many due messages are left, the consumer that receives them brings back more. No timer is needed.
    let is_stocked = consumption.delay_index.has_blocks() && deliveries.due() >= delayed_in_memory;
    if is_stocked { None } else { earliest(message_due, block_due) }
}

/// The earlier of two times. `None` only if there is neither.
fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
