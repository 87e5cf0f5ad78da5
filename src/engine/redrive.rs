//! Redriving: dead letters go back to where they came from, or elsewhere.

use std::{fmt, sync::Arc};

use super::{
    browse::{Browse, Browsed},
    consumer::Consumer,
    core::{Core, deleted},
    queue::Queue,
    shared::Committing,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{LogId, Offset},
    message::Message,
    store::{Op, Space},
};

/// So many letters are moved in one commit at most, and so many bytes of them.
const LETTERS_AT_ONCE: usize = 100;
const BYTES_AT_ONCE: usize = 1 << 20;

/// How far redriving has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Redriven {
    /// How many letters were looked at.
    pub seen: u64,
    /// How many were moved.
    pub moved: u64,
}

/// Dead letters on their way back. Got from [`Queue::redrive`].
///
/// Each is moved in one commit: it leaves the dead letters as it enters its queue, with its payload,
/// key, headers and timestamp, and all its attempts before it. Letters on lease stay; so does what
/// comes while it runs.
///
/// ```
/// use posthouse::{Engine, Message};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").max_attempts(1).create()?;
/// payments.send("charge order 1")?;
/// payments.try_receive()?.expect("it was sent").nack_because("the bank is closed")?;
///
/// let dead = engine.queue("payments.dead").open()?;
/// let closed = |reason: &str| reason.contains("closed");
/// let redriven = dead
///     .redrive()
///     .only(|letter| letter.dead_letter().ok().flatten().is_some_and(|it| closed(&it.reason)))
///     .run()?;
/// assert_eq!((redriven.moved, payments.depth()?, dead.depth()?), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is moved before it is run"]
pub struct Redrive<'a> {
    consumer: Arc<Consumer>,
    to: Option<Queue>,
    most: u64,
    only: Box<dyn FnMut(&Browsed) -> bool + 'a>,
    progress: Box<dyn FnMut(Redriven) + 'a>,
}

/// Letters that are moved in one commit.
#[derive(Default)]
struct Batch {
    letters: Vec<(Browsed, LogId)>,
    bytes: usize,
}

/// About how many bytes a letter takes in a commit.
fn weight(letter: &Browsed) -> usize {
    let headers = letter.headers().map(|(name, value)| name.len() + value.len() + 16);
    let key = letter.key().map_or(0, <[u8]>::len);
    letter.payload().len() + key + headers.sum::<usize>() + 128
}

impl<'a> Redrive<'a> {
    pub(super) fn new(consumer: &Arc<Consumer>) -> Redrive<'a> {
        Redrive {
            consumer: Arc::clone(consumer),
            to: None,
            most: u64::MAX,
            only: Box::new(|_| true),
            progress: Box::new(|_| {}),
        }
    }

    /// Moves the letters to this queue, and not to where they came from.
    pub fn to(mut self, queue: &Queue) -> Redrive<'a> {
        self.to = Some(queue.clone());
        self
    }

    /// Moves only those letters of which this holds.
    pub fn only(mut self, only: impl FnMut(&Browsed) -> bool + 'a) -> Redrive<'a> {
        self.only = Box::new(only);
        self
    }

    /// Moves so many letters at most.
    pub fn most(mut self, most: u64) -> Redrive<'a> {
        self.most = most;
        self
    }

    /// Is told after each commit how far it has come.
    pub fn progress(mut self, progress: impl FnMut(Redriven) + 'a) -> Redrive<'a> {
        self.progress = Box::new(progress);
        self
    }

    /// Moves the letters, oldest first.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if the queue that a letter comes from was deleted, or is a
    /// subscription: say where [to](Redrive::to). [`InvalidInput`](ErrorKind::InvalidInput) if one is
    /// no dead letter and nothing says where to, or if `to` is this queue itself.
    /// [`DiskFull`](ErrorKind::DiskFull), [`Corrupt`](ErrorKind::Corrupt), [`Io`](ErrorKind::Io) as
    /// [`receive`](Queue::receive) and [`send`](Queue::send). Of letters that cannot be moved the first
    /// error is returned, once all others are.
    pub fn run(mut self) -> Result<Redriven> {
        if let Some(to) = &self.to
            && (to.log() == self.consumer.log || !to.engine().is_same(&self.consumer.engine))
        {
            let what = "letters are redriven to another queue of the same engine";
            return Err(Error::invalid("to", what));
        }
        let mut done = Redriven::default();
        let mut batch = Batch::default();
        let config = &self.consumer.shared().config;
        let bytes_most = BYTES_AT_ONCE.min(config.commit_bytes_max as usize / 2);
        let letters: Browse = self.consumer.browse()?;
        let mut failure = None;
        for letter in letters {
            if done.moved + batch.letters.len() as u64 >= self.most {
                break;
            }
            let letter = match letter {
                Ok(letter) => letter,
                Err(error) => {
                    // Damage to one does not keep the others.
                    failure.get_or_insert(error);
                    continue;
                }
            };
            done.seen += 1;
            if !(self.only)(&letter) {
                continue;
            }
            let target = match self.target(&letter) {
                Ok(target) => target,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            let bytes = weight(&letter);
            let is_full =
                batch.bytes + bytes > bytes_most || batch.letters.len() >= LETTERS_AT_ONCE;
            if is_full && !batch.letters.is_empty() {
                done.moved += self.move_batch(&mut batch)?;
                (self.progress)(done);
            }
            batch.bytes += bytes;
            batch.letters.push((letter, target));
        }
        if !batch.letters.is_empty() {
            done.moved += self.move_batch(&mut batch)?;
        }
        (self.progress)(done);
        failure.map_or(Ok(done), Err)
    }

    fn target(&self, letter: &Browsed) -> Result<LogId> {
        if let Some(to) = &self.to {
            return Ok(to.log());
        }
        let Some(note) = letter.dead_letter()? else {
            let what = format!(
                "message {} is no dead letter, so it has nowhere to go back to; say where to",
                letter.offset()
            );
            return Err(Error::invalid("to", what));
        };
        if note.is_of_subscription {
            let what = format!("{:?} is a subscription; say to which queue", note.origin);
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        let core = self.consumer.shared().lock_open()?;
        let Some(origin) = core.store.find(Space::Queues, &note.origin) else {
            let what =
                format!("{:?} is no queue by now; say where the letter is to go", note.origin);
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        Ok(origin.id.log(0))
    }

    /// Moves those that are still there and not on lease, in one commit.
    fn move_batch(&self, batch: &mut Batch) -> Result<u64> {
        let Batch { letters, .. } = std::mem::take(batch);
        let shared = self.consumer.shared();
        let committed = shared.transact(|core| {
            let moving = self.movable(core, &letters)?;
            if moving.is_empty() {
                return Ok(Committing::Done(0, core.store.journal.tail()));
            }
            let now = shared.now();
            let mut offsets: Vec<Offset> = moving.iter().map(|(it, _)| it.offset()).collect();
            offsets.sort_unstable();
            let messages: Vec<(LogId, [Message<'_>; 1])> = moving
                .iter()
                .map(|(it, log)| {
                    let note = it.life().anew(now.steady);
                    (
                        *log,
                        [Message::from(*it)
                            .timestamp(it.timestamp())
                            .noting(note)
                            .priority(it.priority())],
                    )
                })
                .collect();
            let mut ops = vec![Op::Ack { cursor: self.consumer.cursor, offsets: &offsets }];
            ops.extend(messages.iter().map(|(log, messages)| Op::Append {
                log: *log,
                messages,
                delay_ms: 0,
            }));
            let outcome = core.commit(&ops, now)?;
            let committing = Committing::of(outcome, || moving.len() as u64);
            if matches!(committing, Committing::Done(..)) {
                let cursor = self.consumer.cursor;
                for (it, _) in &moving {
                    let due = it.due().unwrap_or_default();
                    core.consumption(cursor)?.deliveries.forget_one(it.offset(), due);
                }
                core.note_deleted(cursor);
            }
            Ok(committing)
        })?;
        shared.complete(committed, self.consumer.durability)
    }

    fn movable<'l>(
        &self,
        core: &mut Core,
        letters: &'l [(Browsed, LogId)],
    ) -> Result<Vec<(&'l Browsed, LogId)>> {
        let leased = core.consumption(self.consumer.cursor)?.deliveries.leased();
        let acks = core.store.acks(self.consumer.cursor).ok_or_else(deleted)?;
        let is_idle = |offset| !acks.is_acked(offset) && !leased.contains(&offset);
        let idle = letters.iter().filter(|(letter, _)| is_idle(letter.offset()));
        Ok(idle.map(|(letter, log)| (letter, *log)).collect())
    }
}

impl fmt::Debug for Redrive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive").field("from", &self.consumer.name).finish_non_exhaustive()
    }
}
