//! The traits that workloads need of an engine. Each peer implements them in one file.
//!
//! A side opens a [`Store`] in a directory for one [`Job`]. The store gives out the objects that threads work
//! with: a [`Writer`], a [`Taker`] or a [`Replay`]. Loops are inside these traits, so that a dynamic call is
//! not part of each operation.

use std::path::Path;

use crate::payload::Payloads;

/// Any failure. A side that fails is left out of its row, with this text.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of anything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives the death of the process.
    Buffered,
    /// It survives a power cut.
    Sync,
}

/// What a store is opened for. Sides choose their best settings by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Messages are appended and kept.
    Append(Durability),
    /// The same, from many threads.
    AppendMany(Durability),
    /// One commit writes to three places.
    Transact(Durability),
    /// Messages are sent, received and acked, by one thread.
    Queue(Durability),
    /// The same, by several producers and several consumers.
    QueueMany(Durability),
    /// A consumer in another thread waits for each message.
    HandOver(Durability),
    /// Messages are appended in batches, and then all read in order.
    Replay,
}

impl Job {
    /// The durability of its commits.
    pub fn durability(self) -> Durability {
        match self {
            Job::Append(it)
            | Job::AppendMany(it)
            | Job::Transact(it)
            | Job::Queue(it)
            | Job::QueueMany(it)
            | Job::HandOver(it) => it,
            Job::Replay => Durability::Buffered,
        }
    }
}

/// What kind of contender a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Posthouse.
    Ours,
    /// Bare hands: what nobody can do without.
    Limit,
    /// Another engine that is linked into the program.
    Embedded,
    /// An engine that does less than its row asks: it is shown, and not compared.
    Shown,
    /// A server over loopback: context, not a rival.
    Server,
}

/// What a side says about a job: the durability of its commits in words, or why it cannot do it.
pub type Offer = std::result::Result<&'static str, &'static str>;

/// One contender.
pub trait Side: Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// What kind of contender it is.
    fn kind(&self) -> Kind {
        Kind::Embedded
    }

    /// Whether it can do a job, and how durable its commits are then.
    fn offer(&self, job: Job) -> Offer;

    /// Opens its store in a directory, which is made if it is not there.
    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>>;
}

/// An open store of a side. It is closed when it and all that it handed out are dropped.
pub trait Store: Send + Sync {
    /// Something to append with.
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Err("it has nothing to append with".into())
    }

    /// Something to receive with.
    fn taker(&self) -> Result<Box<dyn Taker>> {
        Err("it has nothing to receive with".into())
    }

    /// Something to read all messages with.
    fn replay(&self) -> Result<Box<dyn Replay>> {
        Err("it has nothing to replay with".into())
    }

    /// Makes everything durable that was committed.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Does what the side would do by and by in the background, so that rounds begin alike. It is
    /// not timed.
    fn settle(&self) -> Result<()> {
        self.sync()
    }
}

/// Appends, from one thread.
pub trait Writer: Send {
    /// Appends messages, a commit each.
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()>;

    /// Appends batches of so many messages, a commit for each batch.
    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        self.append(payloads, size * count)
    }

    /// Commits transactions that write a message to each of three places.
    fn transact(&mut self, _payloads: &mut Payloads, _count: u64) -> Result<()> {
        Err("it has no transactions".into())
    }
}

/// Receives and acks, from one thread.
pub trait Taker: Send {
    /// Receives and acks up to so many messages, each on its own, and returns how many there were.
    fn take(&mut self, count: u64) -> Result<u64>;

    /// Waits for a message for up to a tenth of a second or so, says when it is there, and acks
    /// it. `false` if none came.
    fn wait(&mut self, _got: &mut dyn FnMut()) -> Result<bool> {
        Err("it cannot wait".into())
    }
}

/// What a replay has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many records.
    pub records: u64,
    /// How many bytes of payload.
    pub bytes: u64,
    /// The sum of the payloads' first bytes: proof that each was looked at.
    pub sum: u64,
}

impl Seen {
    /// Looks at a payload.
    #[inline]
    pub fn see(&mut self, payload: &[u8]) {
        self.records += 1;
        self.bytes += payload.len() as u64;
        self.sum += u64::from(payload.first().copied().unwrap_or_default());
    }
}

/// Reads all messages in order.
pub trait Replay: Send {
    /// Goes back to the first message; not timed.
    fn rewind(&mut self) -> Result<()> {
        Ok(())
    }

    /// Reads from there to the end.
    fn replay(&mut self) -> Result<Seen>;
}

/// A side that can do a job, with its words for how durable it is then.
#[derive(Clone, Copy)]
pub struct Able {
    /// The side.
    pub side: &'static dyn Side,
    /// The durability in words.
    pub durability: &'static str,
}
