//! Browsing: reads the messages of a queue or a subscription and leaves them where they are.

use std::{fmt, sync::Arc};

use super::{
    consumer::Consumer,
    due_times::{DueTimes, SpilledDue},
    getters::stored_message_getters,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{note::DeadLetter, record::Headers},
    ids::{Due, Offset, OffsetRange, Skew, Timestamp},
    message::Message,
    store::{Store, Stored},
};

/// A message that [`Browse`] shows. It stays where it is, and a consumer can receive it.
///
/// See [`Queue::browse`](crate::Queue::browse) for an example.
pub struct Browsed {
    stored: Stored,
    state: State,
    skew: Skew,
    priority: u8,
}

/// What is known of a message at one moment.
#[derive(Clone, Copy)]
struct State {
    attempts: u32,
    due: Due,
    /// Where the due time of a spilled message was read.
    spilled: Option<SpilledDue>,
}

impl Browsed {
    stored_message_getters!();

    fn look(&self) -> &Stored {
        &self.stored
    }

    /// The priority of the message, from 0 to 9: see [`Message::priority`].
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// How often the message was delivered so far. 0 if it was never delivered.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    /// assert_eq!(payments.browse()?.next().expect("it is there")?.attempts(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.state.attempts
    }

    /// The time before which the message is not delivered. `None` if the message never had to wait.
    ///
    /// The time may have passed. See also [`Message::deliver_after`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    /// use posthouse::{Message, Timestamp};
    ///
    /// let reminders = engine.queue("reminders").create()?;
    /// reminders.send(Message::new("order 1").deliver_after(Duration::from_secs(3600)))?;
    /// let reminder = reminders.browse()?.next().expect("it is there")?;
    /// assert!(reminder.due().expect("it waits") > Timestamp::now());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.state.due.waits().then(|| self.state.due.day_time(self.skew))
    }

    /// The due time with its kind.
    pub(crate) fn waits_for(&self) -> Due {
        self.state.due
    }

    /// The due time of a message that is spilled now, after so many attempts. `None` if it has another one than when it was
    /// read: [`Browse::look_again`] finds it.
    pub(crate) fn spilled_due(&self, store: &Store, attempts: u32) -> Option<Due> {
        let State { due, spilled, .. } = self.state;
        match spilled {
            Some(spilled) => spilled.is_current(store).then_some(due),
            // It was in memory when it was read.
            None => (due.waits() && self.state.attempts == attempts).then_some(due),
        }
    }

    /// The engine's note about it.
    pub(crate) fn stored_note(&self) -> Option<&[u8]> {
        self.stored.headers().note()
    }

    /// The note that it gets when it is redriven, as a dead letter.
    pub(crate) fn redriven_note(&self, now: Timestamp) -> Result<Vec<u8>> {
        self.stored.redriven_note(now)
    }
}

/// Borrows the payload, the key, the headers and the subject, to send the message on. The new message bears the time of
/// its own commit. [`Message::timestamp`] gives it the time of this message instead.
impl<'a> From<&'a Browsed> for Message<'a> {
    fn from(browsed: &'a Browsed) -> Message<'a> {
        Message::borrowed(browsed.payload(), browsed.key(), browsed.headers())
            .with_subject(browsed.subject())
    }
}

impl fmt::Debug for Browsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browsed")
            .field("offset", &self.offset())
            .field("attempts", &self.state.attempts)
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// The messages of a queue or a subscription that are not acked, in the order of their offsets. Messages on
/// lease and delayed messages are among them.
///
/// The iterator ends at the last message that was there when it began. A damaged message is an error, and
/// the iterator goes on after it. If the engine is closed or poisoned meanwhile, or the queue deleted, the
/// iterator gives that error once, and ends.
///
/// [`Queue::browse`](crate::Queue::browse) and [`Subscription::browse`](crate::Subscription::browse) return
/// it.
#[derive(Debug)]
#[must_use = "it looks at nothing before it is iterated"]
pub struct Browse {
    consumer: Arc<Consumer>,
    range: OffsetRange,
    due_times: DueTimes,
    /// An error ended it.
    is_over: bool,
}

/// What a look at the next message finds.
enum Next {
    Message(Browsed),
    /// The message was deleted meanwhile.
    Gone,
    /// There is none.
    Nothing,
}

/// The number of messages whose due times are read at once.
const DUE_TIMES_AT_ONCE: u64 = 1 << 16;

/// How often the due times are read again for one message, which may be spilled anew meanwhile.
const READS_MAX: u32 = 10;

impl Browse {
    fn next_message(&mut self) -> Result<Option<Browsed>> {
        loop {
            match self.try_next_message()? {
                Next::Message(browsed) => return Ok(Some(browsed)),
                Next::Nothing => return Ok(None),
                Next::Gone => {}
            }
        }
    }

    fn try_next_message(&mut self) -> Result<Next> {
        let (cursor, log) = (self.consumer.cursor(), self.consumer.log());
        let mut core = self.consumer.committer().lock_to_look("browse")?;
        let visible = core.visible();
        let view =
            core.store.view(cursor, log).ok_or_else(|| core.store.deleted(cursor.entity()))?;
        let next = view.acks.next_unacked(self.range);
        let is_visible =
            |offset| view.run(offset).map_or(view.is_moved(offset), |run| run.lsn < visible);
        let Some(offset) = next.filter(|offset| is_visible(*offset)) else {
            self.range.start = self.range.end;
            return Ok(Next::Nothing);
        };
        let (attempts, priority) = (view.acks.attempts(offset), view.acks.priority(offset));
        let is_spilled = view.acks.is_spilled(offset);
        let (due, skew) = (core.due_of(cursor, offset), core.skew());
        self.range.start = offset.next();
        let source = core.store.locate(log, offset);
        drop(core);
        let state = match is_spilled {
            true => self.state_of(offset)?,
            false => State { attempts, due, spilled: None },
        };
        let stored = match source.and_then(|source| self.consumer.load(source, offset)) {
            Ok(stored) => stored,
            // It was deleted while it was read. If the queue was, that is the error.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.consumer.is_deleted() => {
                return Ok(Next::Gone);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Err(error.of_message(&self.consumer.info.name, offset));
            }
            Err(error) => return Err(error),
        };
        Ok(Next::Message(Browsed { stored, state, skew, priority }))
    }

    /// Finds anew when a message is due, and how often it was delivered. It may have come back into memory since it was read,
    /// and may have been spilled once more.
    pub(crate) fn look_again(&mut self, browsed: &mut Browsed) -> Result<()> {
        browsed.state = self.state_of(browsed.offset())?;
        Ok(())
    }

    /// The state of a message that was spilled just now.
    fn state_of(&mut self, offset: Offset) -> Result<State> {
        let mut reads = 0;
        loop {
            if reads == 0 && !self.due_times.range.contains(offset) {
                self.read_due_times(offset)?;
                reads = 1;
            }
            let mut core = self.consumer.committer().lock_open("browse")?;
            let acks = core.store.acks_of(self.consumer.cursor())?;
            let attempts = acks.attempts(offset);
            if !acks.is_spilled(offset) {
                // The message has come back into memory meanwhile.
                let due = core.due_of(self.consumer.cursor(), offset);
                return Ok(State { attempts, due, spilled: None });
            }
            let known = self.due_times.due.get(&offset);
            if let Some(known) = known.filter(|it| it.is_current(&core.store)) {
                return Ok(State { attempts, due: known.due, spilled: Some(*known) });
            }
            let index = &core.consumption(self.consumer.cursor())?.delay_index;
            let damage = self.due_times.damage.as_ref().or(index.damage());
            if let Some(damage) = damage.filter(|_| reads > 0) {
                return Err(damage.again());
            }
            drop(core);
            if reads == READS_MAX {
                let what = format!(
                    "no block of the delay index names the delayed message at offset {offset}"
                );
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            // It was spilled after the due times were read.
            self.read_due_times(offset)?;
            reads += 1;
        }
    }

    fn read_due_times(&mut self, from: Offset) -> Result<()> {
        let range = from.to(Offset(from.0 + DUE_TIMES_AT_ONCE));
        self.due_times = self.consumer.read_due_times(range)?;
        Ok(())
    }
}

impl Iterator for Browse {
    type Item = Result<Browsed>;

    fn next(&mut self) -> Option<Result<Browsed>> {
        if self.is_over {
            return None;
        }
        let next = self.next_message().transpose();
        self.is_over = matches!(&next, Some(Err(error)) if error.is_final());
        next
    }
}

impl Consumer {
    pub fn browse(self: &Arc<Consumer>) -> Result<Browse> {
        let core = self.lock_looked("browse")?;
        let end = core.end_for(self.cursor(), self.log())?;
        let floor = core.store.floor_of(self.cursor())?;
        let due_times = DueTimes::default();
        Ok(Browse {
            consumer: self.without_slot(),
            range: floor.to(end),
            due_times,
            is_over: false,
        })
    }

    /// Whether the queue or the subscription was deleted.
    pub(super) fn is_deleted(&self) -> bool {
        let core = self.committer().lock_open("look for a queue");
        core.is_ok_and(|core| core.store.acks(self.cursor()).is_none())
    }

    /// Browses from an offset on.
    #[cfg(feature = "cron")]
    pub fn browse_from(self: &Arc<Consumer>, from: Offset) -> Result<Browse> {
        let mut browse = self.browse()?;
        browse.range.start = browse.range.start.max(from);
        Ok(browse)
    }
}
