//! Redriving: moves dead letters back to their queues, or to another queue.

use std::fmt;

use super::Queue;
use crate::{
    audit,
    engine::{
        consume::{browse::Browsed, calls::Consuming},
        core::{Core, commit::Receipt, errors::deleted},
    },
    error::{Error, ErrorKind, Result},
    ids::{LogId, Offset},
    message::Message,
    store::{Op, Space},
};

/// The most letters that are moved in one commit, and the most bytes of them.
const LETTERS_AT_ONCE: usize = 100;

const BYTES_AT_ONCE: usize = 1 << 20;

/// The progress of a [`Redrive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Redriven {
    /// How many letters it has looked at.
    pub seen: u64,
    /// How many letters it has moved.
    pub moved: u64,
}

/// A move of dead letters back to their queues, or to another queue. [`Queue::redrive`] returns it.
///
/// A letter leaves the dead letters and enters its queue in one commit. It keeps its payload, key, headers
/// and timestamp, and its attempts start anew. Letters on lease stay, and so do letters that arrive while it
/// runs.
///
/// With [`to`](Redrive::to) it moves ordinary messages, too: every message in the queue is a letter here.
/// Without `to`, an ordinary message has nowhere to go. It stays, and [`run`](Redrive::run) returns an error.
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
    from: Queue,
    to: Option<Queue>,
    most: u64,
    only: Box<dyn FnMut(&Browsed) -> bool + 'a>,
    progress: Box<dyn FnMut(Redriven) + 'a>,
}

/// A letter, and where it goes.
struct Outgoing {
    letter: Browsed,
    to: LogId,
}

/// Letters that are moved in one commit.
#[derive(Default)]
struct Batch {
    letters: Vec<Outgoing>,
    bytes: usize,
}

/// About how many bytes a letter takes in a commit.
fn weight(letter: &Browsed) -> usize {
    let headers = letter.headers().map(|(name, value)| name.len() + value.len() + 16);
    let key = letter.key().map_or(0, <[u8]>::len);
    letter.payload().len() + key + headers.sum::<usize>() + 128
}

impl<'a> Redrive<'a> {
    pub(crate) fn new(from: &Queue) -> Redrive<'a> {
        Redrive {
            from: from.clone(),
            to: None,
            most: u64::MAX,
            only: Box::new(|_| true),
            progress: Box::new(|_| {}),
        }
    }

    /// Moves the letters to this queue. By default each letter goes back to the queue that it comes from.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    ///
    /// let by_hand = engine.queue("by-hand").create()?;
    /// engine.queue("payments.dead").open()?.redrive().to(&by_hand).run()?;
    /// assert_eq!((payments.depth()?, by_hand.depth()?), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to(mut self, queue: &Queue) -> Redrive<'a> {
        self.to = Some(queue.clone());
        self
    }

    /// Moves only the letters for which the function returns `true`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send_batch(["order 1", "order 2"])?;
    /// while let Some(delivery) = payments.try_receive()? {
    ///     delivery.nack()?;
    /// }
    /// let dead = engine.queue("payments.dead").open()?;
    /// let redriven = dead.redrive().only(|letter| letter.payload() == b"order 2").run()?;
    /// assert_eq!((redriven.seen, redriven.moved), (2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn only(mut self, only: impl FnMut(&Browsed) -> bool + 'a) -> Redrive<'a> {
        self.only = Box::new(only);
        self
    }

    /// Moves at most this number of letters, oldest first. By default it moves all.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send_batch(["order 1", "order 2"])?;
    /// while let Some(delivery) = payments.try_receive()? {
    ///     delivery.nack()?;
    /// }
    /// let redriven = engine.queue("payments.dead").open()?.redrive().most(1).run()?;
    /// assert_eq!((redriven.moved, payments.depth()?), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn most(mut self, most: u64) -> Redrive<'a> {
        self.most = most;
        self
    }

    /// Calls a function after each commit, with the progress so far.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    /// let mut moved = 0;
    /// let dead = engine.queue("payments.dead").open()?;
    /// dead.redrive().progress(|redriven| moved = redriven.moved).run()?;
    /// assert_eq!(moved, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn progress(mut self, progress: impl FnMut(Redriven) + 'a) -> Redrive<'a> {
        self.progress = Box::new(progress);
        self
    }

    /// Moves the letters, oldest first, and returns how many it saw and moved.
    ///
    /// A commit moves up to 100 letters.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    /// let redriven = engine.queue("payments.dead").open()?.redrive().run()?;
    /// assert_eq!((redriven.seen, redriven.moved), (1, 1));
    /// assert_eq!(payments.try_receive()?.expect("it is back").attempt(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if a letter comes from a queue that was deleted, or from a
    /// subscription: name a queue with [`to`](Redrive::to). [`InvalidInput`](ErrorKind::InvalidInput) if a
    /// message is no dead letter and `to` is not set, or if `to` is this queue itself.
    /// [`DiskFull`](ErrorKind::DiskFull), [`Corrupt`](ErrorKind::Corrupt) and [`Io`](ErrorKind::Io) as
    /// [`receive`](Queue::receive) and [`send`](Queue::send). A letter that cannot be moved stays, and the
    /// others are moved; then the first such error is returned.
    pub fn run(mut self) -> Result<Redriven> {
        if let Some(to) = &self.to
            && (to.log() == self.from.log() || !to.engine().is_same(self.from.engine()))
        {
            let what = "letters are redriven to another queue of the same engine";
            return Err(Error::invalid("to", what));
        }
        let mut done = Redriven::default();
        let mut batch = Batch::default();
        let config = &self.from.consumer().committer().config;
        let bytes_most = BYTES_AT_ONCE.min(config.commit_bytes_max as usize / 2);
        let mut failure = None;
        for letter in self.from.browse()? {
            if done.moved + batch.letters.len() as u64 >= self.most {
                break;
            }
            let letter = match letter {
                Ok(letter) => letter,
                Err(error) => {
                    // A damaged letter does not stop the others.
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
            batch.letters.push(Outgoing { letter, to: target });
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
                "the message at offset {} is no dead letter, so it has no queue to go back to: say where \
                 it is to go with .to(&queue)",
                letter.offset()
            );
            return Err(Error::invalid("to", what));
        };
        if note.is_of_subscription {
            let what = format!(
                "{:?} is a subscription: say to which queue its letters are to go with .to(&queue)",
                note.origin
            );
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        let core = self.from.consumer().committer().lock_open("redrive")?;
        let Some(origin) = core.store.find(Space::Queues, &note.origin) else {
            let what = format!(
                "there is no queue {:?} any more: say where the letter is to go with .to(&queue)",
                note.origin
            );
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        Ok(origin.id.log(0))
    }

    /// Moves the letters of a batch in one commit. Letters that are gone or on lease stay.
    fn move_batch(&self, batch: &mut Batch) -> Result<u64> {
        let Batch { letters, .. } = std::mem::take(batch);
        let (cursor, consumer) = (self.from.cursor(), self.from.consumer());
        let committer = consumer.committer();
        let committed = committer.transact("redrive", |core| {
            let moving = self.movable(core, &letters)?;
            if moving.is_empty() {
                return Ok((0, Receipt::of_what_is_there(&core.store)));
            }
            let now = committer.now();
            let mut offsets: Vec<Offset> = moving.iter().map(|it| it.letter.offset()).collect();
            offsets.sort_unstable();
            let mut messages: Vec<[Message<'_>; 1]> = Vec::with_capacity(moving.len());
            for Outgoing { letter, .. } in &moving {
                audit::step();
                let message = Message::from(letter)
                    .timestamp(letter.timestamp())
                    .noting(letter.time_to_live().restarted(now.steady))
                    .priority(letter.priority());
                messages.push([message]);
            }
            let mut ops = vec![Op::Ack { cursor, offsets: &offsets }];
            for (it, messages) in moving.iter().zip(&messages) {
                ops.push(Op::Append { log: it.to, messages, delay_ms: 0 });
            }
            let receipt = core.commit(&ops, now)?;
            for it in &moving {
                let due = it.letter.due().unwrap_or_default();
                core.consumption(cursor)?.deliveries.forget_one(it.letter.offset(), due);
            }
            core.note_deleted(cursor);
            Ok((moving.len() as u64, receipt))
        })?;
        committer.complete(committed, consumer.durability)
    }

    fn movable<'l>(&self, core: &mut Core, letters: &'l [Outgoing]) -> Result<Vec<&'l Outgoing>> {
        let leased = core.consumption(self.from.cursor())?.deliveries.leased();
        let acks = core.store.acks(self.from.cursor()).ok_or_else(deleted)?;
        let is_idle = |offset| !acks.is_acked(offset) && !leased.contains(&offset);
        Ok(letters.iter().filter(|it| is_idle(it.letter.offset())).collect())
    }
}

impl fmt::Debug for Redrive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive").field("from", &self.from.name()).finish_non_exhaustive()
    }
}
