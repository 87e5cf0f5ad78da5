//! SQLite, by rusqlite with the bundled library: a table from number to payload.
//!
//! WAL, prepared statements, and one connection behind a mutex with `locking_mode=EXCLUSIVE`. This is faster
//! than a connection for each thread. Buffered is `synchronous=NORMAL`, which does not sync a commit in WAL
//! mode. Sync is `FULL`. A checkpoint comes each 10,000 pages instead of 1,000. A queue's receive reads the
//! first row, and its ack deletes it, so each message takes two commits.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    payload::Payloads,
    side::{Durability, Job, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// SQLite.
pub struct Sqlite;

const INSERT: &str = "INSERT INTO messages (payload) VALUES (?1)";

impl Side for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn offer(&self, job: Job) -> Offer {
        match (job, job.durability()) {
            (Job::HandOver(_), _) => Err("a reader cannot wait"),
            (Job::QueueMany(_), _) => Err("it has no leases; honker builds them on it"),
            (_, Durability::Buffered) => Ok("survives the process (WAL, NORMAL)"),
            (_, Durability::Sync) => Ok("WAL, synchronous=FULL"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let connection = Connection::open(dir.join("sqlite"))?;
        let synchronous = match job.durability() {
            Durability::Buffered => "NORMAL",
            Durability::Sync => "FULL",
        };
        connection.execute_batch(&format!(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 10000;
             PRAGMA cache_size = -65536; PRAGMA mmap_size = 2147418112;
             CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS topic (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS stream (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);"
        ))?;
        Ok(Box::new(Opened(Arc::new(Mutex::new(connection)))))
    }
}

#[derive(Clone)]
struct Opened(Arc<Mutex<Connection>>);

impl Opened {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn settle(&self) -> Result<()> {
        self.lock().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

impl Writer for Opened {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.lock().prepare_cached(INSERT)?.execute([payloads.next()])?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            let connection = self.lock();
            let begun = connection.unchecked_transaction()?;
            {
                let mut insert = begun.prepare_cached(INSERT)?;
                for _ in 0..size {
                    insert.execute([payloads.next()])?;
                }
            }
            begun.commit()?;
        }
        Ok(())
    }

    fn transact(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            let connection = self.lock();
            let begun = connection.unchecked_transaction()?;
            for insert in [
                INSERT,
                "INSERT INTO topic (payload) VALUES (?1)",
                "INSERT INTO stream (payload) VALUES (?1)",
            ] {
                begun.prepare_cached(insert)?.execute([payloads.next()])?;
            }
            begun.commit()?;
        }
        Ok(())
    }
}

impl Taker for Opened {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let connection = self.lock();
            let first = connection
                .prepare_cached("SELECT id, payload FROM messages ORDER BY id LIMIT 1")?
                .query_row([], |row| {
                    std::hint::black_box(row.get_ref(1)?.as_blob()?);
                    row.get::<_, i64>(0)
                })
                .optional()?;
            let Some(id) = first else {
                return Ok(taken);
            };
            connection
                .prepare_cached("DELETE FROM messages WHERE id = ?1")?
                .execute(params![id])?;
        }
        Ok(count)
    }
}

impl Replay for Opened {
    fn replay(&mut self) -> Result<Seen> {
        let connection = self.lock();
        let mut select = connection.prepare_cached("SELECT payload FROM messages ORDER BY id")?;
        let mut rows = select.query([])?;
        let mut seen = Seen::default();
        while let Some(row) = rows.next()? {
            seen.see(row.get_ref(0)?.as_blob()?);
        }
        Ok(seen)
    }
}
