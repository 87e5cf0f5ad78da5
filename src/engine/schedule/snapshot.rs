//! A snapshot: messages of the registry's queue that are there at one instant, to be read after it.
//!
//! A schedule that runs has its next message behind all others. So whoever looks at one message after the other can miss it
//! again and again, if it runs often enough. What was taken in one hold of the core can be read though it has left meanwhile.

use crate::{
    audit,
    engine::{commit::committer::Committer, consume::consumer::Consumer, core::Core},
    error::{ErrorKind, Result},
    ids::{CursorId, LogId, Lsn, Offset},
    store::{Source, Stored},
};

/// So many messages are taken at first.
pub const AT_ONCE: usize = 128;

/// Messages that were there at one snapshot.
#[derive(Debug)]
pub struct Snapshot {
    pub messages: Vec<There>,
    /// The end of the queue.
    pub end: Offset,
    /// All messages before this offset, and from the first one on, were taken. It is the end if there are no others.
    pub next: Offset,
    tail: Lsn,
    visible: Lsn,
}

/// A message, and where to read it.
#[derive(Debug)]
pub struct There {
    pub offset: Offset,
    pub attempts: u32,
    source: Result<Source>,
}

impl Snapshot {
    /// Takes `most` messages from an offset on.
    pub fn take(
        core: &mut Core,
        (cursor, log): (CursorId, LogId),
        from: Offset,
        most: usize,
    ) -> Result<Snapshot> {
        let view = core.store.view(cursor, log);
        let view = view.ok_or_else(|| core.store.deleted(cursor.entity()))?;
        let (end, mut next) = (view.end(), from);
        let mut there = Vec::new();
        while let Some(offset) = view.acks.next_unacked(next.to(end)) {
            audit::step();
            if there.len() == most {
                break;
            }
            next = offset.next();
            there.push((offset, view.acks.attempts(offset)));
        }
        let is_whole = there.len() < most || view.acks.next_unacked(next.to(end)).is_none();
        let next = if is_whole { end } else { next };
        let locate = |(offset, attempts)| {
            let source = core.store.locate(log, offset);
            There { offset, attempts, source }
        };
        let messages = there.into_iter().map(locate).collect();
        let (tail, visible) = (core.store.journal.tail(), core.visible());
        Ok(Snapshot { messages, end, next, tail, visible })
    }

    /// Whether no message was left out.
    pub fn is_whole(&self) -> bool {
        self.next == self.end
    }

    /// Waits until all that was there is durable, where it is to be before it is seen.
    pub fn make_visible(&self, committer: &Committer) -> Result<()> {
        if self.visible < self.tail { committer.sync_to(self.tail) } else { Ok(()) }
    }
}

impl There {
    /// Reads the message. `None` if it has left, and its place, too.
    pub fn read(self, consumer: &Consumer) -> Result<Option<Stored>> {
        match self.source.and_then(|source| consumer.load(source, self.offset)) {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Err(error.of_message(&consumer.info.name, self.offset))
            }
            Err(error) => Err(error),
        }
    }
}
