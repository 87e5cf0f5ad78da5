//! Redriving: moves dead letters back to their queues, or to another queue.

use std::{fmt, sync::Arc};

use super::{
    Queue,
    moving::{Batch, Outgoing, Target, way_back, weight},
};
use crate::{
    engine::consume::{
        browse::{Browse, Browsed},
        consumer::Consumer,
    },
    error::{Error, Result},
    ids::Offset,
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

/// A redrive under way.
#[derive(Default)]
struct Run {
    done: Redriven,
    /// The progress that was told last.
    told: Option<Redriven>,
    batch: Batch,
    /// How many times of day that have passed were kept.
    passed: u64,
    /// The first error about a single message. The others are moved all the same.
    failure: Option<Error>,
}

/// A move of dead letters back to where they come from, or of any messages to another queue. [`Queue::redrive`] and
/// [`Subscription::redrive`](crate::Subscription::redrive) return it.
///
/// A message leaves its place and enters the other one in one commit. Messages on lease stay, and so do messages that
/// arrive while it runs.
///
/// A dead letter begins anew: it keeps its payload, key, headers, timestamp and priority; its attempts start again, it
/// does not wait, and a time to live of its own starts again. It goes back to its queue, or to its subscription only,
/// and no other subscription of the topic gets it once more.
///
/// With [`to`](Redrive::to) ordinary messages are moved, too. They are moved as they are: due time, attempts, time to
/// live, priority, key and headers stay. Without `to`, an ordinary message has nowhere to go. It stays, and
/// [`run`](Redrive::run) returns an error.
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
    from: Arc<Consumer>,
    to: Option<Queue>,
    most: u64,
    only: Box<dyn FnMut(&Browsed) -> bool + 'a>,
    progress: Box<dyn FnMut(Redriven) + 'a>,
}

impl<'a> Redrive<'a> {
    pub(crate) fn new(from: &Arc<Consumer>) -> Redrive<'a> {
        Redrive {
            from: Arc::clone(from),
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

    /// Calls a function after each commit and at the end, with the progress so far.
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
    /// [`NotFound`](crate::ErrorKind::NotFound) if a letter comes from a queue or a subscription that was deleted, before
    /// or meanwhile: name a queue with [`to`](Redrive::to). [`InvalidInput`](crate::ErrorKind::InvalidInput) if a
    /// message is no dead letter and `to` is not set, if `to` is this queue itself, or if a message waits and `to` is
    /// ordered by key. [`Corrupt`](crate::ErrorKind::Corrupt) if a letter is damaged. A letter that cannot be moved
    /// stays, and the others are moved; then the first such error is returned.
    ///
    /// [`DiskFull`](crate::ErrorKind::DiskFull), [`Io`](crate::ErrorKind::Io) and other errors of
    /// [`send`](Queue::send) end the redrive. What was moved before stays moved, and
    /// [`progress`](Redrive::progress) is told how much that is. A further redrive goes on from there.
    pub fn run(mut self) -> Result<Redriven> {
        if let Some(to) = &self.to
            && (to.log() == self.from.log() || !to.engine().is_same(&self.from.engine))
        {
            let what = "letters are redriven to another queue of the same engine";
            return Err(Error::invalid("to", what));
        }
        let mut run = Run::default();
        let ran = self.run_all(&mut run);
        if run.done.moved > 0 {
            // A failure does no harm: the messages are gone, and the blocks go when they come due.
            let _ = self.from.committer().clear_spilled(self.from.cursor());
        }
        self.tell(&mut run);
        ran?;
        run.failure.map_or(Ok(run.done), Err)
    }

    fn run_all(&mut self, run: &mut Run) -> Result<()> {
        let config = &self.from.committer().config;
        let bytes_most = BYTES_AT_ONCE.min(config.commit_bytes_max as usize / 2);
        let mut browse = self.from.browse()?;
        while let Some(letter) = browse.next() {
            if run.done.moved + run.batch.messages.len() as u64 >= self.most {
                // Some of the batch may stay.
                self.move_batch(run, &mut browse)?;
                if run.done.moved >= self.most {
                    break;
                }
            }
            let letter = match letter {
                Ok(letter) => letter,
                Err(error) => {
                    // A damaged letter does not stop the others.
                    run.failure.get_or_insert(error);
                    continue;
                }
            };
            run.done.seen += 1;
            if !(self.only)(&letter) {
                continue;
            }
            let (bytes, offset) = (weight(&letter), letter.offset());
            let outgoing = match self.outgoing(letter) {
                Ok(outgoing) => outgoing,
                // A message on lease stays, whatever it is. One that is gone goes nowhere.
                Err(_) if self.is_leased_or_gone(offset)? => continue,
                Err(error) => {
                    run.failure.get_or_insert(error);
                    continue;
                }
            };
            let batch = &run.batch;
            if batch.bytes + bytes > bytes_most || batch.messages.len() >= LETTERS_AT_ONCE {
                self.move_batch(run, &mut browse)?;
            }
            run.batch.bytes += bytes;
            run.batch.messages.push(outgoing);
        }
        self.move_batch(run, &mut browse)
    }

    fn is_leased_or_gone(&self, offset: Offset) -> Result<bool> {
        let (core, _) = self.from.lock_current("redrive")?;
        let cursor = self.from.cursor();
        let is_gone = core.store.acks_of(cursor)?.is_acked(offset);
        Ok(is_gone || core.is_on_lease(cursor, offset))
    }

    /// Where a message goes.
    fn outgoing(&self, message: Browsed) -> Result<Outgoing> {
        let committer = self.from.committer();
        // A note that cannot be read is no obstacle where the caller names the queue.
        let letter = match (message.dead_letter(), &self.to) {
            (Err(_), Some(_)) => None,
            (letter, _) => letter?,
        };
        let is_dead = letter.is_some();
        let to = match (&self.to, letter) {
            (Some(to), _) => Target::Queue(to.log()),
            (None, Some(letter)) => way_back(committer, &letter)?,
            (None, None) => {
                let what = format!(
                    "the message at offset {} is no dead letter, so it has no queue to go back to: say where \
                     it is to go with .to(&queue)",
                    message.offset()
                );
                return Err(Error::invalid("to", what));
            }
        };
        let outgoing = Outgoing { message, to, is_dead };
        outgoing.check(committer)?;
        Ok(outgoing)
    }

    /// Moves the batch. An error ends the redrive: it is about no single message.
    fn move_batch(&mut self, run: &mut Run, browse: &mut Browse) -> Result<()> {
        let mut batch = std::mem::take(&mut run.batch);
        while !batch.messages.is_empty() {
            let committer = self.from.committer();
            batch.passed_most = committer.config.delayed_in_memory.saturating_sub(run.passed);
            let (moved, receipt) =
                committer.transact("redrive", |core| batch.commit(&self.from, committer, core))?;
            if moved.passes_by {
                committer.pass_all("redrive");
            }
            if let Some(error) = moved.failure {
                run.failure.get_or_insert(error);
            }
            committer.complete(((), receipt), self.from.durability)?;
            run.done.moved += moved.messages;
            run.passed += moved.passed;
            self.tell(run);
            batch.keep(&moved.unknown);
            batch.messages.retain_mut(|it| match browse.look_again(&mut it.message) {
                Ok(()) => true,
                Err(error) => {
                    run.failure.get_or_insert(error);
                    false
                }
            });
        }
        Ok(())
    }

    /// Tells the progress, if there is any.
    fn tell(&mut self, run: &mut Run) {
        if run.told != Some(run.done) {
            run.told = Some(run.done);
            (self.progress)(run.done);
        }
    }
}

impl fmt::Debug for Redrive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive").field("from", &self.from.info.name).finish_non_exhaustive()
    }
}
