//! Moves messages for a redrive: where each of them goes, and the commit of a batch.
//!
//! A dead letter begins anew. Any other message is moved as it is: its attempts, its due time and its time to live go
//! on.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{
    audit,
    engine::{
        commit::committer::Committer,
        consume::{browse::Browsed, consumer::Consumer},
        core::{
            Core,
            commit::{CommitResult, Receipt},
        },
    },
    error::{Error, ErrorKind, Result},
    format::{entity::EntityKind, note::DeadLetter},
    ids::{CursorId, Due, LogId, Now, Offset, OffsetRange},
    message::{Kept, Message},
    store::{Op, Space},
};

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Queue(LogId),
    /// A subscription: the message enters its topic, and is acked for all other subscriptions.
    Subscription {
        log: LogId,
        cursor: CursorId,
    },
}

impl Target {
    fn log(self) -> LogId {
        match self {
            Target::Queue(log) | Target::Subscription { log, .. } => log,
        }
    }
}

/// A message, and where it goes.
pub struct Outgoing {
    pub message: Browsed,
    pub to: Target,
    /// Whether it is a dead letter.
    pub is_dead: bool,
}

/// Messages that are moved in one commit.
#[derive(Default)]
pub struct Batch {
    pub messages: Vec<Outgoing>,
    pub bytes: usize,
    /// How many times of day that have passed are kept. The queue that gets the messages has them in memory.
    pub passed_most: u64,
}

/// About how many bytes a message takes in a commit.
pub fn weight(message: &Browsed) -> usize {
    let headers = message.headers().map(|(name, value)| name.len() + value.len() + 16);
    let key = message.key().map_or(0, <[u8]>::len);
    let subject = message.subject().map_or(0, str::len);
    message.payload().len() + key + headers.sum::<usize>() + subject + 128
}

/// The place that a dead letter comes from.
pub fn way_back(committer: &Committer, letter: &DeadLetter) -> Result<Target> {
    let core = committer.lock_open("redrive")?;
    let origin = &letter.origin;
    if !letter.is_of_subscription {
        let Some(queue) = core.store.find(Space::Queues, origin) else {
            let what = format!(
                "there is no queue {origin:?} any more: say where the letter is to go with .to(&queue)"
            );
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        return Ok(Target::Queue(queue.id.log(0)));
    }
    let Some((topic, name)) = letter.names() else {
        let what = format!(
            "{origin:?} may be a subscription of several topics: say to which queue its letters are to go with \
             .to(&queue)"
        );
        return Err(Error::invalid("to", what));
    };
    let cursor = core.store.find(Space::Topics, topic).and_then(|topic| {
        let subscription = core.store.find(Space::Subscriptions { topic: topic.id }, name)?;
        Some((topic.id.log(0), subscription.id.cursor(0)))
    });
    let Some((log, cursor)) = cursor else {
        let what = format!(
            "there is no subscription {origin:?} any more: say to which queue its letters are to go with \
             .to(&queue)"
        );
        return Err(Error::new(ErrorKind::NotFound, what));
    };
    Ok(Target::Subscription { log, cursor })
}

/// Fails if the place where a message goes is gone, or cannot take it as it is. The commit checks it once more: the
/// place may be deleted or changed after the message was looked at.
fn check_target(core: &Core, outgoing: &Outgoing, due: Due, now: Now) -> Result<()> {
    let Outgoing { message, to, is_dead } = outgoing;
    match to {
        Target::Queue(log) => {
            let queue = core.store.entity(log.entity()).ok_or_else(|| target_gone(message))?;
            let waits = !is_dead && due.even_time(now.skew()) > now.even;
            if waits && queue.delivering().is_some_and(|it| it.is_ordered) {
                let what = format!(
                    "the message at offset {} is due at {}, and queue {:?} is ordered by key, so it \
                     delays no message: move it when it is due, or to another queue",
                    message.offset(),
                    due.day_time(now.skew()),
                    queue.name
                );
                return Err(Error::invalid("to", what));
            }
            Ok(())
        }
        Target::Subscription { log, cursor } => {
            let subscription = core.store.entity(cursor.entity());
            let is_there = subscription.is_some_and(|it| match it.kind {
                EntityKind::Subscription { topic, .. } => topic.log(0) == *log,
                _ => false,
            });
            if is_there { Ok(()) } else { Err(target_gone(message)) }
        }
    }
}

fn target_gone(message: &Browsed) -> Error {
    let what = format!(
        "the place to which the message at offset {} was to go was deleted meanwhile: the message stays; say to \
         which queue it is to go with .to(&queue)",
        message.offset()
    );
    Error::new(ErrorKind::NotFound, what)
}

impl Outgoing {
    /// Fails if the message cannot be moved to that place as it is.
    pub fn check(&self, committer: &Committer) -> Result<()> {
        let core = committer.lock_open("redrive")?;
        check_target(&core, self, self.message.waits_for(), committer.now())
    }
}

/// The outcome of a batch.
pub struct Moved {
    pub messages: u64,
    /// How many times of day that have passed were kept.
    pub passed: u64,
    /// Why the first message that cannot be moved stays.
    pub failure: Option<Error>,
    /// The places of the messages whose due times have to be looked up once more.
    pub unknown: Vec<usize>,
    /// Whether messages go back to subscriptions, and are to pass by others.
    pub passes_by: bool,
}

impl Batch {
    /// Keeps the messages at some places.
    pub fn keep(&mut self, places: &[usize]) {
        let mut place = 0;
        self.messages.retain(|_| {
            place += 1;
            places.binary_search(&(place - 1)).is_ok()
        });
    }

    /// Moves the messages in one commit. Messages that are gone or on lease stay, and so do those that cannot be moved. Those
    /// that were spilled since they were read stay until the caller has looked at them again.
    pub fn commit(
        &self,
        from: &Consumer,
        committer: &Committer,
        core: &mut Core,
    ) -> CommitResult<(Moved, Receipt)> {
        let (cursor, now) = (from.cursor(), committer.now());
        let (moving, mut moved) = self.movable(core, cursor, now)?;
        if moving.is_empty() {
            return Ok((moved, Receipt::of_what_is_there(&core.store)));
        }
        let mut offsets: Vec<Offset> = moving.iter().map(|it| it.offset).collect();
        offsets.sort_unstable();
        let kept = kept(core, &moving)?;
        moved.passes_by = !kept.is_empty();
        let mut ops = vec![Op::Ack { cursor, offsets: &offsets }];
        for Moving { to, message, .. } in &moving {
            audit::step();
            ops.push(Op::Append { log: to.log(), messages: message, delay_ms: 0 });
        }
        for ((log, keeper), ranges) in &kept {
            ops.push(Op::AckOthers { log: *log, keeper: *keeper, ranges });
        }
        let removed = core.removals(cursor, &offsets)?;
        let receipt = core.commit(&ops, now)?;
        core.note_removed(cursor, &removed)?;
        Ok((moved, receipt))
    }

    /// The messages that can be moved, and what becomes of the others.
    fn movable(&self, core: &Core, cursor: CursorId, now: Now) -> Result<(Vec<Moving<'_>>, Moved)> {
        let acks = core.store.acks_of(cursor)?;
        let mut moving = Vec::with_capacity(self.messages.len());
        let (unknown, passes_by) = (Vec::new(), false);
        let mut moved = Moved { messages: 0, passed: 0, failure: None, unknown, passes_by };
        for (place, outgoing) in self.messages.iter().enumerate() {
            audit::step();
            let message = &outgoing.message;
            let offset = message.offset();
            if acks.is_acked(offset) || core.is_on_lease(cursor, offset) {
                continue;
            }
            let due = match acks.is_spilled(offset) {
                // Its due time is on disk.
                true => message.spilled_due(&core.store, acks.attempts(offset)),
                false => Some(core.due_of(cursor, offset)),
            };
            let Some(due) = due else {
                moved.unknown.push(place);
                continue;
            };
            let has_passed = due.is_day() && due.even_time(now.skew()) <= now.even;
            let is_kept = has_passed
                && moved.passed < self.passed_most
                && !core.has_many_due(outgoing.to.log());
            let due = if has_passed && !is_kept { Due::NOW } else { due };
            let kept = Kept { attempts: core.attempts_of(cursor, offset), due };
            let checked = check_target(core, outgoing, due, now);
            match checked.and_then(|()| outgoing.message(kept, now)) {
                Ok(message) => {
                    moved.passed += u64::from(is_kept);
                    moving.push(Moving { offset, to: outgoing.to, message: [message] });
                }
                Err(error) => drop(moved.failure.get_or_insert(error)),
            }
        }
        moved.messages = moving.len() as u64;
        Ok((moving, moved))
    }
}

/// A message that is moved now.
struct Moving<'a> {
    offset: Offset,
    to: Target,
    message: [Message<'a>; 1],
}

impl Outgoing {
    /// The message in the form in which it arrives.
    fn message(&self, kept: Kept, now: Now) -> Result<Message<'_>> {
        let Outgoing { message: browsed, is_dead, to } = self;
        let message = Message::from(browsed).timestamp(browsed.timestamp());
        let message = match (is_dead, browsed.stored_note()) {
            (true, _) => message.noting(browsed.redriven_note(now.even)?),
            (false, Some(note)) => message.noting(note.to_vec()).keeping(kept),
            (false, None) => message.keeping(kept),
        };
        Ok(match to {
            Target::Queue(_) => message.priority(browsed.priority()),
            Target::Subscription { .. } => message,
        })
    }
}

/// The messages that go back to subscriptions: for each of these its offsets, which the other subscriptions of the topic do
/// not get.
fn kept(
    core: &Core,
    moving: &[Moving<'_>],
) -> Result<BTreeMap<(LogId, CursorId), Vec<OffsetRange>>> {
    let mut ends: BTreeMap<LogId, Offset> = BTreeMap::new();
    let mut kept: BTreeMap<(LogId, CursorId), Vec<OffsetRange>> = BTreeMap::new();
    for it in moving {
        audit::step();
        let Target::Subscription { log, cursor } = it.to else { continue };
        let end = match ends.entry(log) {
            Entry::Occupied(end) => end.into_mut(),
            Entry::Vacant(end) => end.insert(core.bounds(log)?.1),
        };
        let ranges = kept.entry((log, cursor)).or_default();
        match ranges.last_mut() {
            Some(last) if last.end == *end => last.end = end.next(),
            _ => ranges.push(end.only()),
        }
        *end = end.next();
    }
    Ok(kept)
}
