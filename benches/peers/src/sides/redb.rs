//! redb: a database of sorted tables, as a log and as a queue: a table from number to payload.
//!
//! Sync: `Durability::Immediate`. Buffered: `Durability::None`, which is *less* than others give: a commit
//! does not survive the process, because nothing durable points to it before the next durable commit. A
//! queue's receive reads the first entry behind the last one taken, and its ack removes it, so each message
//! takes two commits.

use std::{path::Path, sync::Arc};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// redb.
pub struct Redb;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("messages");
const OTHERS: [TableDefinition<'_, u64, &[u8]>; 2] =
    [TableDefinition::new("topic"), TableDefinition::new("stream")];

impl Side for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn offer(&self, job: Job) -> Offer {
        match (job, job.durability()) {
            (Job::HandOver(_), _) => Err("a reader cannot wait"),
            (Job::QueueMany(_), _) => Err("it has no leases"),
            (Job::Replay, _) => Ok("one durable commit for each batch"),
            (_, Durability::Buffered) => Ok("Durability::None: lost with the process"),
            (_, Durability::Sync) => Ok("Durability::Immediate"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let database = Database::create(dir.join("redb"))?;
        let begin = database.begin_write()?;
        let next = begin.open_table(TABLE)?.last()?.map_or(0, |(key, _)| key.value() + 1);
        begin.commit()?;
        let durability = match job.durability() {
            Durability::Buffered => redb::Durability::None,
            Durability::Sync => redb::Durability::Immediate,
        };
        Ok(Box::new(Opened { database: Arc::new(database), durability, next }))
    }
}

struct Opened {
    database: Arc<Database>,
    durability: redb::Durability,
    next: u64,
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        let (database, durability) = (Arc::clone(&self.database), self.durability);
        Ok(Box::new(Inserter { database, durability, next: self.next }))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        let (database, durability) = (Arc::clone(&self.database), self.durability);
        Ok(Box::new(Remover { database, durability, next: 0 }))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Scanner(Arc::clone(&self.database))))
    }

    fn sync(&self) -> Result<()> {
        let begin = self.database.begin_write()?;
        Ok(begin.commit()?)
    }
}

fn begin(database: &Database, durability: redb::Durability) -> Result<WriteTransaction> {
    let mut begun = database.begin_write()?;
    begun.set_durability(durability)?;
    Ok(begun)
}

struct Inserter {
    database: Arc<Database>,
    durability: redb::Durability,
    next: u64,
}

impl Inserter {
    /// Where the next message goes. With several writers the number is the table's to say.
    fn number(&mut self, last: Option<u64>) -> u64 {
        let number = self.next.max(last.map_or(0, |last| last + 1));
        self.next = number + 1;
        number
    }
}

impl Writer for Inserter {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.append_batches(payloads, 1, count)
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let begun = begin(&self.database, self.durability)?;
            {
                let mut table = begun.open_table(TABLE)?;
                let mut last = table.last()?.map(|(key, _)| key.value());
                for _ in 0..size {
                    let number = self.number(last.take());
                    table.insert(number, payloads.next())?;
                }
            }
            begun.commit()?;
        }
        Ok(())
    }

    fn transact(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            let begun = begin(&self.database, self.durability)?;
            let number = self.number(None);
            for table in [TABLE, OTHERS[0], OTHERS[1]] {
                begun.open_table(table)?.insert(number, payloads.next())?;
            }
            begun.commit()?;
        }
        Ok(())
    }
}

struct Remover {
    database: Arc<Database>,
    durability: redb::Durability,
    /// Where to look: everything before it was taken.
    next: u64,
}

impl Taker for Remover {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let number = {
                let table = self.database.begin_read()?.open_table(TABLE)?;
                let Some(found) = table.range(self.next..)?.next() else {
                    return Ok(taken);
                };
                let (number, payload) = found?;
                std::hint::black_box(payload.value());
                number.value()
            };
            let begun = begin(&self.database, self.durability)?;
            begun.open_table(TABLE)?.remove(number)?;
            begun.commit()?;
            self.next = number + 1;
        }
        Ok(count)
    }
}

struct Scanner(Arc<Database>);

impl Replay for Scanner {
    fn replay(&mut self) -> Result<Seen> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let mut seen = Seen::default();
        for entry in table.iter()? {
            seen.see(entry?.1.value());
        }
        Ok(seen)
    }
}
