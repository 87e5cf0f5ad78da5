//! LMDB, by heed: a mapped B+tree, as a log and as a queue: a table from number to payload.
//!
//! Buffered: `NOSYNC` with `WRITEMAP`, with which commits are stores into the map and survive the
//! process. Sync: no flags. New entries are put with `APPEND`, its fast path for growing keys. A
//! queue's receive reads the first entry, and its ack deletes it.
#![allow(unsafe_code)]

use std::path::Path;

use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RwTxn, WithoutTls,
    byteorder::BigEndian,
    types::{Bytes, U64},
};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// LMDB.
pub struct Lmdb;

/// Only addresses: the file is as long as what is in it.
const MAP_BYTES: usize = 64 << 30;

impl Side for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB"
    }

    fn offer(&self, job: Job) -> Offer {
        match (job, job.durability()) {
            (Job::HandOver(_), _) => Err("a reader cannot wait"),
            (Job::QueueMany(_), _) => Err("it has no leases"),
            (_, Durability::Buffered) => Ok("survives the process (NOSYNC, WRITEMAP)"),
            (_, Durability::Sync) => Ok("synced each"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_dbs(3).max_readers(256);
        if job.durability() == Durability::Buffered {
            // SAFETY: the file is this program's alone; what a power cut does to it is of no
            // consequence, and nothing writes through stray pointers into the map.
            unsafe { options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP) };
        }
        // SAFETY: the file lies in a directory of this program alone, and is open once.
        let env = unsafe { options.open(dir)? };
        let begun = env.write_txn()?;
        let created = env.create_databases_and_commit(begun, |opener, begun| {
            let mut create = |name| opener.create_database(begun, Some(name));
            let tables = (create("messages")?, create("topic")?, create("stream")?);
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(tables))
        })?;
        let (messages, topic, stream) = created.commit().ok_or("it did not commit")?;
        Ok(Box::new(Opened { env, tables: [messages, topic, stream] }))
    }
}

type Table = Database<'static, U64<BigEndian>, Bytes>;

#[derive(Clone)]
struct Opened {
    env: Env<WithoutTls>,
    tables: [Table; 3],
}

impl Opened {
    fn put(&self, begun: &mut RwTxn<'_>, table: Table, payload: &[u8]) -> Result<()> {
        let next = table.last(begun)?.map_or(0, |(key, _)| key + 1);
        Ok(table.put_with_flags(begun, PutFlags::APPEND, &next, payload)?)
    }
}

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(self.clone()))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(self.clone()))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }
}

impl Writer for Opened {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        self.append_batches(payloads, 1, count)
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut begun = self.env.write_txn()?;
            for _ in 0..size {
                self.put(&mut begun, self.tables[0], payloads.next())?;
            }
            begun.commit()?;
        }
        Ok(())
    }

    fn transact(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut begun = self.env.write_txn()?;
            for table in self.tables {
                self.put(&mut begun, table, payloads.next())?;
            }
            begun.commit()?;
        }
        Ok(())
    }
}

impl Taker for Opened {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let number = {
                let begun = self.env.read_txn()?;
                let Some((number, payload)) = self.tables[0].first(&begun)? else {
                    return Ok(taken);
                };
                std::hint::black_box(payload);
                number
            };
            let mut begun = self.env.write_txn()?;
            self.tables[0].delete(&mut begun, &number)?;
            begun.commit()?;
        }
        Ok(count)
    }
}

impl Replay for Opened {
    fn replay(&mut self) -> Result<Seen> {
        let begun = self.env.read_txn()?;
        let mut seen = Seen::default();
        for entry in self.tables[0].iter(&begun)? {
            seen.see(entry?.1);
        }
        Ok(seen)
    }
}
