//! The side of the child: it works, and reports what it is about to do and what it has done.

use std::{collections::VecDeque, sync::Arc};

use posthouse::{
    Delivery, Durability, Engine, Error, ErrorKind, Group, Offset, Position, Queue, Reader, Result,
    Start, Stream, Subscription, Ticket, Topic,
};

use super::{number, payload};

/// Takes a line of the report.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// The way to wait for a commit, whatever the engine's own durability is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Sync,
    Buffered,
    /// Some commits are under way at a time.
    Ticket,
}

impl Pace {
    fn durability(self) -> Durability {
        match self {
            Pace::Buffered => Durability::Buffered,
            Pace::Sync | Pace::Ticket => Durability::Sync,
        }
    }
}

const TICKETS: usize = 6;

pub struct Worker {
    name: String,
    tell: Tell,
    engine: Engine,
    queue: Queue,
    topic: Topic,
    subscription: Subscription,
    stream: Stream,
    group: Group,
    reader: Reader,
    /// The number of the next message.
    next: u64,
    tickets: VecDeque<(u64, Ticket<Vec<Position>>)>,
    /// The engine's own.
    durability: Durability,
}

/// A call that failed changed nothing, unless its error says that this is unknown.
fn is_certain(error: &Error) -> bool {
    error.kind() != ErrorKind::Poisoned
}

impl Worker {
    /// Finds what the worker of that name has left, or begins. The engine was just opened, so everything in
    /// the store is visible and durable.
    pub fn attach(
        engine: Engine,
        name: &str,
        durability: Durability,
        tell: Tell,
    ) -> Result<Worker> {
        let queue =
            engine.queue(&format!("{name}-q")).backoff(posthouse::Backoff::None).create()?;
        let topic = engine.topic(&format!("{name}-t")).create()?;
        let subscription = topic.subscription("s").backoff(posthouse::Backoff::None).create()?;
        let stream = engine.stream(&format!("{name}-s")).create()?;
        let group = stream.group("g").create()?;
        let partition = stream.partition(0)?;
        let next = partition.end()?.0;
        let reader = stream.reader(Start::Latest)?;
        let (name, tickets) = (name.to_owned(), VecDeque::new());
        let worker = Worker {
            name,
            tell,
            engine,
            queue,
            topic,
            subscription,
            stream,
            group,
            reader,
            next,
            tickets,
            durability,
        };
        worker.say("there", next);
        Ok(worker)
    }

    fn say(&self, what: &str, n: u64) {
        (self.tell)(format!("{} {what} {n}", self.name));
    }

    /// Reports what is done. A power cut may take it back if it is `Buffered`.
    fn say_done(&self, durability: Durability, what: &str, n: u64) {
        let mark = if durability == Durability::Buffered { "~" } else { "" };
        self.say(&format!("{mark}{what}"), n);
    }

    /// Sends the next message to all.
    pub fn send(&mut self, pace: Pace) -> Result<()> {
        if pace != Pace::Ticket {
            self.settle(0)?;
        }
        let n = self.next;
        self.say("trying", n);
        let mut tx = self.engine.transaction();
        tx.send(&self.queue, payload(n))
            .publish(&self.topic, payload(n))
            .append(&self.stream, payload(n))
            .commit_offset(&self.group, 0, Offset(n));
        let sent = match pace {
            Pace::Ticket => tx.commit_ticket().map(|it| self.tickets.push_back((n, it))),
            Pace::Sync | Pace::Buffered => {
                tx.durability(pace.durability());
                tx.commit().map(drop)
            }
        };
        if let Err(error) = sent {
            if is_certain(&error) {
                self.say("undone", n);
            }
            return Err(error);
        }
        self.next += 1;
        if pace != Pace::Ticket {
            self.say_done(pace.durability(), "sent", n);
        }
        self.settle(TICKETS)
    }

    /// Waits until at most this many commits are under way.
    fn settle(&mut self, most: usize) -> Result<()> {
        while self.tickets.len() > most {
            let (n, ticket) = self.tickets.pop_front().unwrap();
            let waited = ticket.wait();
            self.say(if waited.is_ok() { "settled" } else { "lost" }, n);
            waited?;
        }
        Ok(())
    }

    /// Receives from the queue and from the subscription. Some messages are left behind a few
    /// times, so that there is something to checkpoint.
    pub fn consume(&self, pace: Pace) -> Result<()> {
        let durability = pace.durability();
        let queue = self.queue.durability(durability);
        self.handle(durability, "q", queue.try_receive()?)?;
        let subscription = self.subscription.durability(durability);
        self.handle(durability, "s", subscription.try_receive()?)
    }

    fn handle(&self, durability: Durability, from: &str, got: Option<Delivery>) -> Result<()> {
        let Some(delivery) = got else {
            return Ok(());
        };
        let n = number(delivery.payload());
        self.say_done(self.durability, "seen", n);
        if n.is_multiple_of(5) && delivery.attempt() < 4 {
            return Ok(());
        }
        self.say(&format!("acking-{from}"), n);
        if let Err(error) = delivery.ack() {
            if is_certain(&error) {
                self.say(&format!("kept-{from}"), n);
            }
            return Err(error);
        }
        self.say_done(durability, &format!("acked-{from}"), n);
        Ok(())
    }

    /// Reads the stream up to its visible end.
    pub fn read(&mut self) -> Result<()> {
        let mut last = None;
        while let Some(record) = self.reader.try_read()? {
            let n = number(record.payload());
            assert_eq!(record.offset(), Offset(n));
            last = Some(n);
        }
        if let Some(n) = last {
            self.say_done(self.durability, "seen", n);
        }
        Ok(())
    }

    /// Gives up all but the last records of the stream.
    pub fn trim(&self, keep: u64) -> Result<()> {
        let partition = self.stream.partition(0)?;
        let (start, to) = (partition.start()?.0, partition.end()?.0.saturating_sub(keep));
        if to <= start {
            return Ok(());
        }
        self.say("trimming", to);
        let trimmed = partition.trim_before(Offset(to));
        match &trimmed {
            Ok(()) => self.say_done(self.durability, "trimmed", to),
            Err(error) if is_certain(error) => self.say("untrimmed", start),
            Err(_) => {}
        }
        trimmed
    }

    /// Creates a further queue with messages of its own, or deletes it.
    pub fn toggle_extra(&self) -> Result<()> {
        let name = format!("{}-extra", self.name);
        if self.engine.queues()?.contains(&name) {
            self.say("deleting", 0);
            self.engine.queue(&name).delete()?;
            self.say_done(self.durability, "deleted", 0);
        } else {
            self.say("creating", 0);
            let extra = self.engine.queue(&name).create_new()?;
            self.say_done(self.durability, "created", 0);
            extra.send_batch((0..3).map(payload))?;
        }
        Ok(())
    }

    pub fn sync(&mut self) -> Result<()> {
        self.engine.sync()?;
        self.say("synced", 0);
        self.settle(0)
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        self.engine.checkpoint()?;
        self.say("synced", 0);
        self.settle(0)
    }

    pub fn close(mut self) -> Result<()> {
        let settled = self.settle(0);
        self.engine.close()?;
        settled?;
        self.say("synced", 0);
        Ok(())
    }
}
