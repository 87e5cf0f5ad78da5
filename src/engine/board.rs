//! Where schedules are kept: one message for each, in a queue of their own.
//!
//! Invariants: a schedule is there as long as its message is. Of several that have one name, the
//! newest counts. What makes, changes or ends a schedule is one commit, and it happens only if no
//! message has come to the queue since it was looked who is there: so names are unique although
//! queues know no names. No lock is held meanwhile, as a commit may run code of the application.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    consumer::Consumer,
    core::deleted,
    handle::Engine,
    queue::Queue,
    room::ranges,
    schedule::Schedule,
    shared::{Committing, Shared},
    wanted::Wanted,
};
use crate::{
    config::{Backoff, NAME_BYTES_MAX},
    error::{Error, ErrorKind, Result},
    format::{
        entity::EntityKind,
        schedule::{NoPlan, Plan},
    },
    ids::{LogId, Lsn, Offset, OffsetRange, Timestamp},
    message::Message,
    store::{Op, Space},
};

/// The queue of schedules.
pub const BOARD: &str = "posthouse.schedules";

/// What cannot be sent is tried again so often.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// Which messages are schedules, as far as was looked.
#[derive(Debug, Default)]
pub struct Known {
    log: Option<LogId>,
    next: Offset,
    by_name: BTreeMap<String, BTreeSet<Offset>>,
}

/// The queue of schedules, opened.
#[derive(Clone, Debug)]
pub struct Board {
    queue: Queue,
}

/// Who has a name, and up to where it was looked.
pub struct Found {
    pub newest: Option<Schedule>,
    offsets: Vec<Offset>,
    end: Offset,
}

impl Board {
    /// Opens the queue, and makes it if it is not there.
    pub fn create(engine: &Engine) -> Result<Board> {
        let settings = engine
            .queue(BOARD)
            .backoff(Backoff::exponential(AGAIN_FIRST, AGAIN_MOST))
            .single_active_consumer(true);
        let queue = settings.create()?;
        Board::check(engine)?;
        Ok(Board { queue })
    }

    /// Opens the queue, if it is there.
    pub fn open(engine: &Engine) -> Result<Option<Board>> {
        match engine.queue(BOARD).open() {
            Ok(queue) => Ok(Some(Board { queue })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// With other settings schedules could expire, or be moved to dead letters.
    fn check(engine: &Engine) -> Result<()> {
        let wanted = Wanted {
            backoff: Some(Backoff::exponential(AGAIN_FIRST, AGAIN_MOST)),
            is_exclusive: Some(true),
            ..Wanted::default()
        };
        let core = engine.shared().lock_open()?;
        let there = core.store.find(Space::Queues, BOARD).map(|entity| &entity.kind);
        if there.is_none_or(|kind| *kind == EntityKind::Queue(wanted.delivering(None))) {
            return Ok(());
        }
        let what = format!(
            "there is a queue named {BOARD:?} with other settings than schedules need; delete it"
        );
        Err(Error::new(ErrorKind::AlreadyExists, what))
    }

    pub fn consumer(&self) -> &Arc<Consumer> {
        self.queue.consumer()
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn shared(&self) -> &Arc<Shared> {
        self.consumer().shared()
    }

    /// All schedules, by name.
    pub fn list(&self) -> Result<Vec<Schedule>> {
        let mut newest = BTreeMap::new();
        for browsed in self.consumer().browse()? {
            let browsed = browsed?;
            if let Ok(schedule) =
                Schedule::read(browsed.key(), browsed.payload(), browsed.attempts())
            {
                newest.insert(schedule.name().to_owned(), schedule);
            }
        }
        Ok(newest.into_values().collect())
    }

    /// Looks for a name.
    pub fn find(&self, name: &str) -> Result<Found> {
        let (log, shared) = (self.queue.log(), self.shared());
        let (end, tail, visible) = {
            let core = shared.lock_open()?;
            let (_, end) = core.store.bounds(log).ok_or_else(deleted)?;
            (end, core.store.journal.tail(), core.visible())
        };
        if visible < tail {
            // Nobody sees what is not on the disk, and it counts all the same.
            shared.sync_to(tail)?;
        }
        self.look(true)?;
        let offsets = self.those_there(name)?;
        let newest = match offsets.last() {
            Some(offset) => self.read(*offset)?,
            None => None,
        };
        Ok(Found { newest, offsets, end })
    }

    /// Whether a newer message has the same name.
    pub fn is_superseded(&self, name: &str, offset: Offset) -> Result<bool> {
        self.look(false)?;
        Ok(self.those_there(name)?.last().is_some_and(|newest| *newest > offset))
    }

    /// Puts a message in the place of those that were found, or nothing. `false` if others were here
    /// meanwhile, and nothing was changed.
    pub fn put(&self, found: &Found, message: Option<&Message<'_>>) -> Result<bool> {
        let (cursor, log, shared) = (self.queue.cursor(), self.queue.log(), self.shared());
        let old: Vec<OffsetRange> = ranges(&found.offsets);
        let committed = shared.transact(|core| {
            let (_, end) = core.store.bounds(log).ok_or_else(deleted)?;
            if end != found.end {
                return Ok(Committing::Done(false, Lsn(0)));
            }
            let mut ops = Vec::new();
            if !old.is_empty() {
                ops.push(Op::AckRanges { cursor, ranges: &old });
            }
            if let Some(message) = message {
                let messages = std::slice::from_ref(message);
                ops.push(Op::Append { log, messages, delay_ms: 0 });
            }
            let now = shared.now();
            let outcome = core.commit(&ops, now)?;
            let committing = Committing::of(outcome, || true);
            if matches!(committing, Committing::Done(..)) {
                core.note_dropped(cursor, &old);
            }
            Ok(committing)
        })?;
        shared.complete(committed, shared.config.durability)
    }

    /// Looks at what has come since it was last looked.
    fn look(&self, is_strict: bool) -> Result<()> {
        let log = self.queue.log();
        let mut known = self.shared().schedules.lock().unwrap_or_else(PoisonError::into_inner);
        if known.log != Some(log) {
            *known = Known { log: Some(log), ..Known::default() };
        }
        let mut is_whole = true;
        for browsed in self.consumer().browse_from(known.next)? {
            match browsed {
                Ok(browsed) => {
                    if is_whole {
                        known.next = browsed.offset().next();
                    }
                    if let Some(name) = name_of(browsed.key())
                        && Plan::decode(browsed.payload()).is_ok()
                    {
                        let offsets = known.by_name.entry(name.to_owned()).or_default();
                        offsets.insert(browsed.offset());
                    }
                }
                // It may be of any name.
                Err(error) if is_strict || error.kind() != ErrorKind::Corrupt => return Err(error),
                // One that is damaged keeps the others from nothing. It is looked at again.
                Err(_) => is_whole = false,
            }
        }
        Ok(())
    }

    /// The messages that have a name, the newest last, as far as was looked.
    fn those_there(&self, name: &str) -> Result<Vec<Offset>> {
        let shared = self.shared();
        let mut known = shared.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(offsets) = known.by_name.get_mut(name) else { return Ok(Vec::new()) };
        let core = shared.lock_open()?;
        offsets.retain(|offset| !core.is_gone(self.queue.cursor(), *offset));
        let there = offsets.iter().copied().collect();
        if offsets.is_empty() {
            known.by_name.remove(name);
        }
        Ok(there)
    }

    fn read(&self, offset: Offset) -> Result<Option<Schedule>> {
        let Some(browsed) = self.consumer().browse_from(offset)?.next() else { return Ok(None) };
        let browsed = browsed?;
        if browsed.offset() != offset {
            return Ok(None);
        }
        Schedule::read(browsed.key(), browsed.payload(), browsed.attempts()).map(Some)
    }
}

/// The time of day. Schedules go by it, and not by the time that goes on evenly.
pub fn now(engine: &Engine) -> Timestamp {
    engine.shared().now().stamp
}

/// The name of a schedule, if it can be one.
pub fn name_of(key: Option<&[u8]>) -> Option<&str> {
    let name = std::str::from_utf8(key?).ok()?;
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

/// Why a message in the queue of schedules is none.
pub fn no_schedule(why: NoPlan) -> Error {
    match why {
        NoPlan::Version(version) => {
            let what = format!("a schedule of version {version}, which this build does not know");
            Error::new(ErrorKind::UnsupportedVersion, what)
        }
        NoPlan::Malformed => {
            let what = format!("a message in the queue {BOARD:?} is no schedule; remove it");
            Error::invalid("schedule", what)
        }
    }
}
