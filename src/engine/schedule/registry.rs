//! The schedule registry: one message for each schedule, in a queue of its own.
//!
//! Invariants: a schedule exists as long as its message exists. Of several messages with one name the newest counts. One
//! commit creates, changes or deletes a schedule. It happens only if no message has come to the queue since the registry
//! searched for the name. So names are unique, although a queue does not enforce that. No lock is held between the search
//! and the commit, because a commit may run code of the application.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    snapshot::{AT_ONCE, Snapshot},
    stored::{REGISTRY, Schedule, name_of},
};
use crate::{
    config::Backoff,
    delivery::settings::Settings,
    engine::{
        commit::{
            asking::committed,
            committer::Committer,
            definition::{self, IfExists},
            lifetime::Engine,
        },
        consume::{calls::Consuming, consumer::Consumer},
        core::{capacity::ranges, commit::Receipt},
        queue::{Queue, QueueBuilder},
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    format::{entity::EntityKind, schedule::Plan},
    ids::{Offset, OffsetRange, Timestamp},
    message::Message,
    store::{Op, Space},
};

/// The first wait of a run that failed. It doubles with each failure, up to `AGAIN_MOST`.
const AGAIN_FIRST: Duration = Duration::from_secs(1);

const AGAIN_MOST: Duration = Duration::from_secs(60);

/// The queue of schedules, opened.
#[derive(Clone, Debug)]
pub struct Registry {
    queue: Queue,
}

/// The result of a search: the messages that have a name, and the offset up to which the registry searched.
pub struct Found {
    pub newest: Option<Schedule>,
    offsets: Vec<Offset>,
    end: Offset,
}

impl Registry {
    /// Opens the queue, and creates it if it does not exist.
    pub fn create(engine: &Engine) -> Result<Registry> {
        let queue = Registry::settings(engine).create()?;
        Registry::check(engine)?;
        Ok(Registry { queue })
    }

    /// The same in a task, which awaits room in a full journal, and the sync.
    pub async fn create_in_task(engine: &Engine) -> Result<Registry> {
        let (settings, durability) =
            (Registry::settings(engine), engine.committer().config.durability);
        loop {
            let create =
                || Ok(Attempt::Got(definition::commit(engine, &settings, IfExists::Open)?));
            let entity = committed(engine.clone(), durability, create).await?;
            match Queue::attach(engine, &entity) {
                // It was deleted in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                attached => {
                    let queue = attached?;
                    Registry::check(engine)?;
                    return Ok(Registry { queue });
                }
            }
        }
    }

    fn settings(engine: &Engine) -> QueueBuilder {
        engine
            .queue(REGISTRY)
            .internal()
            .backoff(Backoff::exponential(AGAIN_FIRST, AGAIN_MOST))
            .single_active_consumer(true)
    }

    /// Opens the queue, if it exists.
    pub fn open(engine: &Engine) -> Result<Option<Registry>> {
        match engine.queue(REGISTRY).open() {
            Ok(queue) => Ok(Some(Registry { queue })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails if the queue has other settings: with them, schedules could expire or move to dead letters.
    fn check(engine: &Engine) -> Result<()> {
        let settings = Settings {
            backoff: Some(Backoff::exponential(AGAIN_FIRST, AGAIN_MOST)),
            single_active_consumer: Some(true),
            ..Settings::default()
        };
        let wanted = EntityKind::Queue(settings.definition(None)?.into());
        let core = engine.committer().lock_open("open the schedules")?;
        let there = core.store.find(Space::Queues, REGISTRY).map(|entity| &entity.kind);
        if there.is_none_or(|kind| *kind == wanted) {
            return Ok(());
        }
        let what = format!(
            "there is a queue named {REGISTRY:?} with other settings than schedules need; delete it"
        );
        Err(Error::new(ErrorKind::AlreadyExists, what))
    }

    pub fn consumer(&self) -> &Arc<Consumer> {
        Consuming::consumer(&self.queue)
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn committer(&self) -> &Arc<Committer> {
        self.consumer().committer()
    }

    /// All schedules, by name.
    pub fn list(&self) -> Result<Vec<Schedule>> {
        let (mut newest, mut from, mut most) = (BTreeMap::new(), Offset(0), AT_ONCE);
        let mut first_end = None;
        loop {
            let snapshot = self.snapshot(from, most)?;
            let mut is_complete = snapshot.is_whole();
            from = snapshot.next;
            // A schedule that runs meanwhile has its next message behind this, and so it goes on, with more messages at once
            // each time. So the last look has all that are left.
            if from >= *first_end.get_or_insert(snapshot.end) {
                most = most.saturating_mul(2);
            }
            for there in snapshot.messages {
                let attempts = there.attempts;
                let Some(stored) = there.read(self.consumer())? else {
                    is_complete = false;
                    continue;
                };
                if let Ok(schedule) = Schedule::read(stored.key(), stored.payload(), attempts) {
                    newest.insert(schedule.name().to_owned(), schedule);
                }
            }
            if is_complete {
                return Ok(newest.into_values().collect());
            }
        }
    }

    /// Takes messages from an offset on, and waits until they are visible. Messages that are not durable are not visible yet,
    /// but their names count.
    fn snapshot(&self, from: Offset, most: usize) -> Result<Snapshot> {
        let mut core = self.committer().lock_to_look("look for schedules")?;
        let snapshot =
            Snapshot::take(&mut core, (self.queue.cursor(), self.queue.log()), from, most)?;
        drop(core);
        snapshot.make_visible(self.committer())?;
        Ok(snapshot)
    }

    /// Searches for a name. The last look at what was not read yet has all of it, so a schedule that runs meanwhile is found.
    pub fn find(&self, name: &str) -> Result<Found> {
        let mut most = AT_ONCE;
        loop {
            self.read_new(true)?;
            if let Some(found) = self.find_at_once(name, most)? {
                return Ok(found);
            }
            most = most.saturating_mul(2);
        }
    }

    /// Searches for a name among the messages that are there at one snapshot. `None` if `most` of them are not all that were
    /// not read yet, or if one that has left cannot be read any more.
    fn find_at_once(&self, name: &str, most: usize) -> Result<Option<Found>> {
        let (cursor, log) = (self.queue.cursor(), self.queue.log());
        let (mut offsets, mut newest, snapshot) = {
            let mut known = self.committer().schedules.lock();
            let mut core = self.committer().lock_open("look for a schedule")?;
            let snapshot = Snapshot::take(&mut core, (cursor, log), known.begin(log).next, most)?;
            let offsets = known.those_named(name, |offset| core.is_gone(cursor, offset));
            let newest = match offsets.last() {
                Some(last) => Snapshot::take(&mut core, (cursor, log), *last, 1)?.messages.pop(),
                None => None,
            };
            (offsets, newest, snapshot)
        };
        if !snapshot.is_whole() {
            return Ok(None);
        }
        snapshot.make_visible(self.committer())?;
        let mut schedule = None;
        for there in newest.take().into_iter().chain(snapshot.messages) {
            let (offset, attempts) = (there.offset, there.attempts);
            let Some(stored) = there.read(self.consumer())? else { return Ok(None) };
            if name_of(stored.key()) != Some(name) || Plan::decode(stored.payload()).is_err() {
                continue;
            }
            if offsets.last().is_none_or(|last| *last < offset) {
                offsets.push(offset);
            }
            schedule = Some(Schedule::read(stored.key(), stored.payload(), attempts)?);
        }
        Ok(Some(Found { newest: schedule, offsets, end: snapshot.end }))
    }

    /// Whether a newer message has the same name.
    pub fn is_superseded(&self, name: &str, offset: Offset) -> Result<bool> {
        self.read_new(false)?;
        Ok(self.with_name(name)?.last().is_some_and(|newest| *newest > offset))
    }

    /// Replaces the found messages by one message, or by none. Returns `false`, and changes nothing, if another
    /// message came meanwhile.
    pub fn put(&self, found: &Found, message: Option<&Message<'_>>) -> Result<bool> {
        let (cursor, log) = (self.queue.cursor(), self.queue.log());
        let committer = self.committer();
        let old: Vec<OffsetRange> = ranges(&found.offsets);
        let committed = committer.transact("put a schedule", |core| {
            let (_, end) = core.bounds(log)?;
            if end != found.end {
                return Ok((false, Receipt::NOTHING));
            }
            let mut ops = Vec::new();
            if !old.is_empty() {
                ops.push(Op::AckRanges { cursor, ranges: &old });
            }
            if let Some(message) = message {
                let messages = std::slice::from_ref(message);
                ops.push(Op::Append { log, messages, delay_ms: 0 });
            }
            let removed = core.removals(cursor, &found.offsets)?;
            let receipt = core.commit(&ops, committer.now())?;
            core.note_removed(cursor, &removed)?;
            Ok((true, receipt))
        })?;
        committer.complete(committed, committer.config.durability)
    }

    /// Reads the messages that came since the last call. A damaged message may have any name: while one is there, the search
    /// of a `strict` caller fails.
    ///
    /// What is known is not locked meanwhile: without the engine's threads, to browse does all that is due in time, and that
    /// may run code of the application, which may ask for schedules itself.
    fn read_new(&self, is_strict: bool) -> Result<()> {
        let (known, log) = (&self.committer().schedules, self.queue.log());
        let mut new = known.lock().begin(log);
        let (mut outcome, mut is_whole) = (Ok(()), true);
        for browsed in self.consumer().browse_from(new.next)? {
            match browsed {
                Ok(browsed) => {
                    if is_whole {
                        new.next = browsed.offset().next();
                    }
                    if let Some(name) = name_of(browsed.key())
                        && Plan::decode(browsed.payload()).is_ok()
                    {
                        new.named.push((name.to_owned(), browsed.offset()));
                    }
                }
                Err(error) => match error.offset() {
                    // It is not read again before the store is opened again.
                    Some(offset) if error.kind() == ErrorKind::Corrupt => {
                        if is_whole {
                            new.next = offset.next();
                        }
                        new.damaged.push((offset, error));
                    }
                    // When it is due cannot be read. The next call looks at it again.
                    None if error.kind() == ErrorKind::Corrupt && !is_strict => is_whole = false,
                    _ => {
                        outcome = Err(error);
                        break;
                    }
                },
            }
        }
        let mut known = known.lock();
        known.add(log, new);
        outcome?;
        if !is_strict {
            return Ok(());
        }
        let cursor = self.queue.cursor();
        let core = self.committer().lock_open("look for a schedule")?;
        known.damage(|offset| core.is_gone(cursor, offset)).map_or(Ok(()), Err)
    }

    /// The messages that have a name, among the messages that were read. The newest is the last.
    fn with_name(&self, name: &str) -> Result<Vec<Offset>> {
        let cursor = self.queue.cursor();
        let mut known = self.committer().schedules.lock();
        let core = self.committer().lock_open("look for a schedule")?;
        Ok(known.those_named(name, |offset| core.is_gone(cursor, offset)))
    }
}

/// The time of day.
pub fn now(engine: &Engine) -> Timestamp {
    engine.committer().now().stamp
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Options, disk::sim::SimDisk};

    /// Stores of builds that did not reserve the name may have such a queue.
    #[test]
    fn a_queue_of_that_name_with_other_settings_is_refused() {
        for settings in [
            |builder: QueueBuilder| builder.single_active_consumer(false),
            |builder: QueueBuilder| builder.max_attempts(3).dead_letter_queue("letters"),
            |builder: QueueBuilder| builder.time_to_live(Duration::from_secs(60)),
            |builder: QueueBuilder| builder.max_messages(10),
        ] {
            let engine = Options::new().sim(&SimDisk::new(1)).open("store").unwrap();
            let backoff = Backoff::exponential(AGAIN_FIRST, AGAIN_MOST);
            let like_it = engine.queue(REGISTRY).internal().backoff(backoff);
            settings(like_it.single_active_consumer(true)).create().unwrap();
            let refused = Registry::create(&engine).map(|_| ()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        }
    }
}
