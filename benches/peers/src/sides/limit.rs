//! The bare limit: the minimum of the work of each workload, written by hand.
//!
//! - Buffered: a copy and a checksum into a warm mapped file, under a mutex.
//! - Sync: a page written in place with `pwrite`, and `fdatasync`, on a file that was written once
//!   before, so that neither needs new blocks. From many threads: one thread that does one of those for 64 commits,
//!   and, as *limit, threads*, 64 threads that wait for a flush which one of them makes for all.
//! - Replay: a checksum over packed records of 64 KiB, and a walk over them.
//! - Hand-over: a mutex and a condition variable.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use memmap2::{Mmap, MmapMut};

use crate::{
    os,
    payload::Payloads,
    side::{Durability, Job, Kind, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// The limit.
pub struct Limit;

const PAGE: usize = 4096;
const MAP_BYTES: usize = 64 << 20;
const FILE_PAGES: u64 = 1024;
const BLOCK: usize = 64 << 10;
/// Bytes before each record: a length and a checksum.
const HEADER: usize = 8;
/// How many commits share a flush if 64 threads wait for it.
pub const SHARED: usize = 64;
/// The name of the limit with 64 threads.
pub const CROWD: &str = "limit, threads";

impl Side for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::Append(Durability::Buffered) => Ok("copy and crc32 into a warm map, mutex"),
            Job::Append(Durability::Sync) => Ok("pwrite of a page, fdatasync"),
            Job::AppendMany(Durability::Sync) => Ok("one thread, a flush for 64 commits"),
            Job::Queue(Durability::Buffered) => Ok("2 frames into a warm map, mutex"),
            Job::HandOver(Durability::Buffered) => Ok("mutex and condvar, nothing stored"),
            Job::Replay => Ok("crc32 over blocks, walk"),
            _ => Err("there is no bare form of it"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        Ok(match job {
            Job::Append(Durability::Sync) => Box::new(Paged::open(dir, 1)?),
            Job::AppendMany(_) => Box::new(Paged::open(dir, SHARED)?),
            Job::HandOver(_) => Box::new(Bell(Arc::default())),
            Job::Replay => Box::new(Packed { path: dir.join("packed") }),
            _ => Box::new(Mapped::open(dir)?),
        })
    }
}

/// The limit with as many threads as the others have: a mutex, a condition variable, and one flush for all who wait.
pub struct Crowd;

impl Side for Crowd {
    fn name(&self) -> &'static str {
        CROWD
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn offer(&self, job: Job) -> Offer {
        match job {
            Job::AppendMany(Durability::Sync) => {
                Ok("64 threads, a condvar, a flush for all who wait")
            }
            _ => Err("it is for many threads"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let paged = Paged::open(dir, 1)?;
        let file = PageWriter { file: paged.file, page: 0, shared: 1 };
        Ok(Box::new(Waiting(Arc::new((Mutex::new(Gathered::new(file)), Condvar::new())))))
    }
}

/// The commits that wait for the next flush.
struct Gathered {
    /// `None` while somebody writes and flushes with it.
    file: Option<PageWriter>,
    bytes: Vec<u8>,
    /// How many commits were gathered, and how many of them are durable.
    gathered: u64,
    durable: u64,
    has_failed: bool,
}

impl Gathered {
    fn new(file: PageWriter) -> Gathered {
        let file = Some(file);
        Gathered { file, bytes: Vec::new(), gathered: 0, durable: 0, has_failed: false }
    }
}

#[derive(Clone)]
struct Waiting(Arc<(Mutex<Gathered>, Condvar)>);

impl Store for Waiting {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Waiting {
    fn commit(&self, payload: &[u8]) -> Result<()> {
        let (gathered, done) = &*self.0;
        let mut held = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        held.bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        held.bytes.extend_from_slice(payload);
        held.gathered += 1;
        let mine = held.gathered;
        while held.durable < mine {
            let Some(mut file) = held.file.take() else {
                held = done.wait(held).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (bytes, upto) = (std::mem::take(&mut held.bytes), held.gathered);
            drop(held);
            let flushed = file.flush(bytes);
            held = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            (held.file, held.durable) = (Some(file), upto);
            held.has_failed |= flushed.is_err();
            done.notify_all();
        }
        if held.has_failed { Err("a flush has failed".into()) } else { Ok(()) }
    }
}

impl Writer for Waiting {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        (0..count).try_for_each(|_| self.commit(payloads.next()))
    }
}

/// A mapped file that is written round and round.
struct Mapped(Arc<Mutex<(MmapMut, usize)>>);

impl Mapped {
    fn open(dir: &Path) -> Result<Mapped> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("mapped"))?;
        file.write_all_at(&vec![0; MAP_BYTES], 0)?;
        file.sync_all()?;
        let mut map = os::map_mut(&file)?;
        // Every page is touched for writing before anything is timed.
        (0..MAP_BYTES).step_by(PAGE).for_each(|at| map[at] = 1);
        Ok(Mapped(Arc::new(Mutex::new((map, 0)))))
    }
}

impl Store for Mapped {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(MapWriter(Arc::clone(&self.0))))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(MapWriter(Arc::clone(&self.0))))
    }
}

struct MapWriter(Arc<Mutex<(MmapMut, usize)>>);

impl MapWriter {
    #[inline]
    fn put(&self, payload: &[u8]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, at) = &mut *held;
        let len = (HEADER + payload.len()).next_multiple_of(8);
        if *at + len > map.len() {
            *at = 0;
        }
        let place = &mut map[*at..*at + HEADER + payload.len()];
        place[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        place[HEADER..].copy_from_slice(payload);
        let sum = crc32fast::hash(&place[HEADER..]);
        place[4..HEADER].copy_from_slice(&sum.to_le_bytes());
        *at += len;
    }
}

impl Writer for MapWriter {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        (0..count).for_each(|_| self.put(payloads.next()));
        Ok(())
    }
}

impl Taker for MapWriter {
    fn take(&mut self, count: u64) -> Result<u64> {
        (0..count).for_each(|n| self.put(&n.to_le_bytes()));
        Ok(count)
    }
}

/// A file that was written once, of which pages are written again.
struct Paged {
    file: Arc<File>,
    shared: usize,
}

impl Paged {
    fn open(dir: &Path, shared: usize) -> Result<Paged> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("paged"))?;
        for page in 0..FILE_PAGES {
            file.write_all_at(&[0; PAGE], page * PAGE as u64)?;
        }
        file.sync_all()?;
        Ok(Paged { file: Arc::new(file), shared })
    }
}

impl Store for Paged {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        let file = Arc::clone(&self.file);
        Ok(Box::new(PageWriter { file, page: 0, shared: self.shared as u64 }))
    }
}

struct PageWriter {
    file: Arc<File>,
    page: u64,
    shared: u64,
}

impl PageWriter {
    fn put(&mut self, payload: &[u8], count: u64) -> Result<()> {
        let mut bytes = vec![7; (HEADER + payload.len()) * count as usize];
        bytes[..payload.len()].copy_from_slice(payload);
        self.flush(bytes)
    }

    /// Writes whole pages in place, and flushes them.
    fn flush(&mut self, mut bytes: Vec<u8>) -> Result<()> {
        let pages = bytes.len().div_ceil(PAGE) as u64;
        bytes.resize(pages as usize * PAGE, 7);
        if self.page + pages > FILE_PAGES {
            self.page = 0;
        }
        self.file.write_all_at(&bytes, self.page * PAGE as u64)?;
        self.file.sync_data()?;
        self.page += pages;
        Ok(())
    }
}

impl Writer for PageWriter {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        // From many threads `count` commits come together in flushes of 64.
        for _ in 0..count.div_ceil(self.shared) {
            self.put(payloads.next(), self.shared)?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        (0..count).try_for_each(|_| self.put(payloads.next(), size))
    }
}

/// A mutex and a condition variable: how many messages are there.
#[derive(Clone, Default)]
struct Bell(Arc<(Mutex<u64>, Condvar)>);

impl Store for Bell {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.clone()))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(self.clone()))
    }
}

impl Writer for Bell {
    fn append(&mut self, _payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.0.1.notify_one();
        }
        Ok(())
    }
}

impl Taker for Bell {
    fn take(&mut self, count: u64) -> Result<u64> {
        let mut there = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = count.min(*there);
        *there -= taken;
        Ok(taken)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        let there = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = Duration::from_millis(100);
        let waited = self.0.1.wait_timeout_while(there, timeout, |there| *there == 0);
        let (mut there, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *there == 0 {
            return Ok(false);
        }
        *there -= 1;
        drop(there);
        got();
        Ok(true)
    }
}

/// A file of blocks of packed records, each block behind its length and checksum.
struct Packed {
    path: std::path::PathBuf,
}

impl Store for Packed {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        let file = File::options().append(true).create(true).open(&self.path)?;
        Ok(Box::new(PackWriter { file, block: Vec::new() }))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(PackReplay(os::map(&File::open(&self.path)?)?)))
    }
}

struct PackWriter {
    file: File,
    block: Vec<u8>,
}

impl PackWriter {
    fn end_block(&mut self) -> std::io::Result<()> {
        let sum = crc32fast::hash(&self.block);
        self.file.write_all(&(self.block.len() as u32).to_le_bytes())?;
        self.file.write_all(&sum.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl Writer for PackWriter {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            let payload = payloads.next();
            self.block.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            self.block.extend_from_slice(payload);
            if self.block.len() >= BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.block.is_empty() {
            // A short file is noticed by whoever counts what is replayed.
            let _ = self.end_block();
        }
    }
}

struct PackReplay(Mmap);

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

impl Replay for PackReplay {
    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut at = 0;
        while let (Some(len), Some(sum)) = (word(&self.0, at), word(&self.0, at + 4)) {
            let block = self.0.get(at + HEADER..at + HEADER + len).ok_or("a short block")?;
            if crc32fast::hash(block) as usize != sum {
                return Err("a block's checksum is wrong".into());
            }
            let mut record = 0;
            while let Some(len) = word(block, record) {
                seen.see(block.get(record + 4..record + 4 + len).ok_or("a short record")?);
                record += 4 + len;
            }
            at += HEADER + len;
        }
        Ok(seen)
    }
}
