//! One file of a simulated disk: its live content, its durable content, and the stores between.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, Weak},
    time::Duration,
};

#[cfg(test)]
use super::traffic::Call;
use super::{process::SimProcess, world::FileId};
use crate::{
    audit,
    disk::{Bounds, DiskFile, Purpose, Slice, Window},
};

pub(super) const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// Write-back may see a store half done, but never half of an aligned piece of this size.
const PIECE: usize = 8;
/// How long a slow sync sleeps in real time, so that other threads run.
const SLEEP_MOST: Duration = Duration::from_millis(1);

/// A store within one page.
#[derive(Clone, Debug)]
struct Store {
    at: usize,
    bytes: Vec<u8>,
}

impl Store {
    fn apply(&self, page: &mut [u8], upto: usize) {
        let upto = upto.min(self.bytes.len());
        page[self.at..self.at + upto].copy_from_slice(&self.bytes[..upto]);
    }
}

/// The bytes are shared by forks until one of them stores something.
#[derive(Debug, Default)]
pub(super) struct Content {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// Stores that are not durable, per page, in order.
    pending: BTreeMap<usize, Vec<Store>>,
    /// Lengths that the file had since the last sync.
    lengths: Vec<u64>,
    /// Pages that take up space.
    pages: BTreeSet<usize>,
    /// Ranges of slices that may still be alive.
    held: Vec<(Range<u64>, Weak<Vec<u8>>)>,
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Content {
        let pages = (0..bytes.len().div_ceil(PAGE)).collect();
        let bytes = Arc::new(bytes);
        Content { live: Arc::clone(&bytes), durable: bytes, pages, ..Content::default() }
    }

    pub(super) fn fork(&self) -> Content {
        Content {
            live: Arc::clone(&self.live),
            durable: Arc::clone(&self.durable),
            pending: self.pending.clone(),
            lengths: self.lengths.clone(),
            pages: self.pages.clone(),
            held: Vec::new(),
        }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn pages_used(&self) -> u64 {
        self.pages.len().max(1) as u64
    }

    pub(super) fn pages_missing(&self, at: u64, len: usize) -> u64 {
        pages_of(at, len).filter(|page| !self.pages.contains(page)).count() as u64
    }

    pub(super) fn store(&mut self, at: u64, bytes: &[u8]) {
        let range = at..at + bytes.len() as u64;
        self.held.retain(|(_, held)| held.strong_count() > 0);
        for (held, _) in &self.held {
            let apart = held.end <= range.start || range.end <= held.start;
            assert!(apart, "bytes {held:?} are overwritten while a reader holds them");
        }
        let (start, end) = (at as usize, range.end as usize);
        let live = Arc::make_mut(&mut self.live);
        if end > live.len() {
            set_length(live, end);
            self.lengths.push(end as u64);
        }
        live[start..end].copy_from_slice(bytes);
        for page in pages_of(at, bytes.len()) {
            self.pages.insert(page);
            let from = start.max(page * PAGE);
            let upto = end.min((page + 1) * PAGE);
            let bytes = bytes[from - start..upto - start].to_vec();
            self.pending.entry(page).or_default().push(Store { at: from - page * PAGE, bytes });
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        set_length(Arc::make_mut(&mut self.live), len as usize);
        self.lengths.push(len);
        let pages = (len as usize).div_ceil(PAGE);
        self.pages.retain(|page| *page < pages);
        self.pending.retain(|page, _| *page < pages);
    }

    /// Writes back the dirty pages. A page that a failed sync has marked as clean is dirty only after another
    /// store.
    fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() && self.durable.len() == self.live.len() {
            return self.lengths.clear();
        }
        let durable = Arc::make_mut(&mut self.durable);
        set_length(durable, self.live.len());
        for page in pending.into_keys() {
            let end = ((page + 1) * PAGE).min(self.live.len());
            durable[page * PAGE..end].copy_from_slice(&self.live[page * PAGE..end]);
        }
        self.lengths.clear();
    }

    /// A failed sync: the pending stores count as clean, and are not durable.
    fn fail_sync(&mut self) {
        self.pending.clear();
    }

    pub(super) fn forget_readers(&mut self) {
        self.held.clear();
    }

    pub(super) fn power_cut(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        let length = match choose(self.lengths.len() as u64 + 1) as usize {
            0 => self.durable.len(),
            n => self.lengths[n - 1] as usize,
        };
        if self.pending.is_empty() && length == self.durable.len() {
            self.lengths.clear();
            self.live = Arc::clone(&self.durable);
            return;
        }
        let mut survived = Vec::clone(&self.durable);
        set_length(&mut survived, length);
        for (page, stores) in std::mem::take(&mut self.pending) {
            let start = page * PAGE;
            if start >= length {
                continue;
            }
            let mut bytes = [0; PAGE];
            let end = (start + PAGE).min(length);
            bytes[..end - start].copy_from_slice(&survived[start..end]);
            survive(&mut bytes, &stores, choose);
            survived[start..end].copy_from_slice(&bytes[..end - start]);
        }
        self.lengths.clear();
        self.durable = Arc::new(survived);
        self.live = Arc::clone(&self.durable);
    }
}

/// Decides which of a page's stores are on the disk after a power cut.
fn survive(page: &mut [u8; PAGE], stores: &[Store], choose: &mut dyn FnMut(u64) -> u64) {
    let before = *page;
    let whole = choose(stores.len() as u64 + 1) as usize;
    for store in &stores[..whole] {
        store.apply(page, PAGE);
    }
    if let Some(next) = stores.get(whole) {
        // The page may have been written back in the middle of the next store.
        let first_piece = PIECE - next.at % PIECE;
        let pieces = next.bytes.len().saturating_sub(first_piece).div_ceil(PIECE) as u64;
        match choose(pieces + 1) as usize {
            0 => {}
            n => next.apply(page, first_piece + (n - 1) * PIECE),
        }
    }
    if *page != before && choose(4) == 3 {
        // The disk tears the page: some sectors stay as they were.
        for sector in (0..PAGE).step_by(SECTOR) {
            if choose(2) == 0 {
                page[sector..sector + SECTOR].copy_from_slice(&before[sector..sector + SECTOR]);
            }
        }
    }
}

/// Cuts bytes off, or adds zeros. The zeros come whole from the allocator: without optimization `Vec::resize` writes
/// them byte by byte, and files are preallocated.
fn set_length(bytes: &mut Vec<u8>, length: usize) {
    match length.checked_sub(bytes.len()) {
        Some(_) if bytes.is_empty() => *bytes = vec![0; length],
        Some(more) => bytes.extend_from_slice(&vec![0; more]),
        None => bytes.truncate(length),
    }
}

fn pages_of(at: u64, len: usize) -> Range<usize> {
    let start = at as usize;
    if len == 0 { 0..0 } else { start / PAGE..(start + len).div_ceil(PAGE) }
}

/// A file that a process has open.
#[derive(Clone, Debug)]
pub(super) struct SimFile {
    pub(super) process: SimProcess,
    pub(super) file: FileId,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        audit::touches_disk("len");
        self.process
            .call("measure a file", |world| Ok(world.content_of(self.file).live.len() as u64))
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        audit::touches_disk("read_at");
        self.process.call("read", |world| {
            world.check_readable(self.file, at, buffer.len())?;
            let live = &world.content_of(self.file).live;
            let start = (at as usize).min(live.len());
            let end = (start + buffer.len()).min(live.len());
            buffer[..end - start].copy_from_slice(&live[start..end]);
            world.bytes_read += (end - start) as u64;
            #[cfg(test)]
            world.traffic.note(self.file, Call::Read, at, buffer.len());
            Ok(end - start)
        })
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        audit::touches_disk("write_at");
        let mut world = self.process.disk.world();
        let off = world.is_off(self.process.life);
        if let Err(error) = world.begin_call(self.process.life, "write") {
            if !off {
                // The write fails after half of its bytes.
                let _ = world.write(self.file, at, &bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        world.begin_step()?;
        #[cfg(test)]
        world.traffic.note(self.file, Call::Write, at, bytes.len());
        world.write(self.file, at, bytes)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        audit::touches_disk("cut");
        self.process.step("cut", |world| world.set_len(self.file, len))
    }

    fn sync(&self) -> io::Result<()> {
        audit::touches_disk("sync");
        let mut world = self.process.disk.world();
        let off = world.is_off(self.process.life);
        if let Err(error) = world.begin_sync(self.process.life) {
            // A power cut is not an error of the disk.
            if !off {
                world.content_of(self.file).fail_sync();
            }
            return Err(error);
        }
        world.begin_step()?;
        world.content_of(self.file).sync();
        let time = world.sync_time;
        drop(world);
        std::thread::sleep(time.min(SLEEP_MOST));
        Ok(())
    }

    fn map(&self, len: u64, purpose: Purpose) -> io::Result<Box<dyn Window>> {
        audit::touches_disk("map");
        self.process.call("map", |world| {
            if (world.content_of(self.file).live.len() as u64) < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(())
        })?;
        let bounds = Bounds::new(len, purpose);
        let writable = purpose == Purpose::Append;
        Ok(Box::new(SimWindow { file: self.clone(), bounds, writable }))
    }
}

/// A simulated map with the rules of the real one. A broken rule panics.
#[derive(Debug)]
struct SimWindow {
    file: SimFile,
    bounds: Bounds,
    writable: bool,
}

impl Window for SimWindow {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(self.writable, "a store through a map that is for reading");
        let end = self.bounds.write_end(at, bytes.len())?;
        self.file.process.step("write through a map", |world| {
            let holes = world.content_of(self.file.file).pages_missing(at, bytes.len());
            assert_eq!(holes, 0, "a store through a map into blocks that were never written");
            world.write(self.file.file, at, bytes)
        })?;
        self.bounds.written = end;
        Ok(())
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        self.bounds.check_read(at, len)?;
        self.file.process.call("read through a map", |world| {
            let content = world.content_of(self.file.file);
            let start = at as usize;
            let bytes = content.live.get(start..start + len).ok_or(io::ErrorKind::UnexpectedEof)?;
            let bytes = Arc::new(bytes.to_vec());
            content.held.push((at..at + len as u64, Arc::downgrade(&bytes)));
            if content.held.len() > 4096 {
                content.held.retain(|(_, held)| held.strong_count() > 0);
            }
            Ok(Slice::heap(bytes))
        })
    }

    fn reuse(&mut self) -> bool {
        let mut world = self.file.process.disk.world();
        let content = world.content_of(self.file.file);
        content.held.retain(|(_, held)| held.strong_count() > 0);
        if !content.held.is_empty() {
            return false;
        }
        self.bounds.written = 0;
        true
    }
}
