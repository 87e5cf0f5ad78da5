//! The state behind a simulated disk: names, files, faults and clocks.

use std::{
    collections::BTreeMap,
    io,
    ops::{Bound, Range},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    file::{Content, PAGE},
    names::{NameChange, Node, is_root, parent},
    random::Random,
};
use crate::{disk::not_a_file, ids::Timestamp};

/// The number of kills and power cuts so far. Handles of an earlier life fail.
pub(super) type Life = u64;
pub(super) type FileId = u64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The number of the call, counted over all calls, or over syncs of files.
    pub(super) call: u64,
    pub(super) only_syncs: bool,
    /// The operating system's number for the error.
    pub(super) error: i32,
    pub(super) for_good: bool,
}

fn power_off() -> io::Error {
    io::Error::other("the simulated power is off")
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) random: Random,
    pub(super) life: Life,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameChange>,
    files: BTreeMap<FileId, Content>,
    next_file: FileId,
    locks: BTreeMap<PathBuf, Life>,
    written: BTreeMap<PathBuf, u64>,
    pub(super) bytes_read: u64,
    pub(super) steps: u64,
    pub(super) calls: u64,
    pub(super) syncs: u64,
    pub(super) stop_at: Option<u64>,
    pub(super) fault: Option<Fault>,
    /// Bytes of files that calls cannot read.
    pub(super) unreadable: Vec<(FileId, Range<u64>)>,
    /// The call that the last fault has hit.
    pub(super) failed: Option<&'static str>,
    pub(super) capacity: Option<u64>,
    pub(super) pessimal: bool,
    pub(super) now: Timestamp,
    /// The part of a millisecond by which the time of day is later than `now`.
    part: Duration,
    pub(super) elapsed: Duration,
    /// How often the power was cut.
    pub(super) boot: u64,
    /// How long a sync of a file takes.
    pub(super) sync_time: Duration,
    /// Copies of the disk before recorded steps.
    pub(super) record: Record,
    #[cfg(test)]
    pub(super) traffic: super::traffic::Traffic,
}

/// Which steps are recorded, and the recorded copies.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// One step in this many is recorded; 0 records none.
    pub(super) one_in: u64,
    random: Random,
    pub(super) moments: Vec<World>,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            random: Random::new(seed),
            life: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            locks: BTreeMap::new(),
            written: BTreeMap::new(),
            bytes_read: 0,
            steps: 0,
            calls: 0,
            syncs: 0,
            stop_at: None,
            fault: None,
            unreadable: Vec::new(),
            failed: None,
            capacity: None,
            pessimal: false,
            now: Timestamp(1_000_000_000_000),
            part: Duration::ZERO,
            elapsed: Duration::ZERO,
            boot: 0,
            sync_time: Duration::ZERO,
            record: Record::default(),
            #[cfg(test)]
            traffic: super::traffic::Traffic::default(),
        }
    }

    /// A copy whose processes have all ended.
    pub(super) fn fork(&self, seed: u64) -> World {
        World {
            random: Random::new(seed),
            life: self.life + 1,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            pending_names: self.pending_names.clone(),
            files: self.files.iter().map(|(id, content)| (*id, content.fork())).collect(),
            next_file: self.next_file,
            locks: BTreeMap::new(),
            written: self.written.clone(),
            steps: self.steps,
            calls: self.calls,
            stop_at: None,
            fault: None,
            unreadable: self.unreadable.clone(),
            ..World::new(seed)
        }
        .with_clock(self)
    }

    fn with_clock(mut self, other: &World) -> World {
        self.capacity = other.capacity;
        self.pessimal = other.pessimal;
        self.now = other.now;
        self.part = other.part;
        self.elapsed = other.elapsed;
        self.boot = other.boot;
        self.sync_time = other.sync_time;
        self
    }

    /// Moves both clocks forward.
    pub(super) fn advance(&mut self, by: Duration) {
        self.elapsed += by;
        let whole = self.part + by;
        self.now = Timestamp(self.now.0.saturating_add(whole.as_millis() as u64));
        self.part = Duration::from_nanos(whole.subsec_nanos().into());
        self.part -= Duration::from_millis(u64::from(whole.subsec_millis()));
    }

    /// Whether a process of this life is dead, or the power is off.
    pub(super) fn is_off(&self, life: Life) -> bool {
        life != self.life || self.stop_at.is_some_and(|step| self.steps >= step)
    }

    pub(super) fn begin_call(&mut self, life: Life, what: &'static str) -> io::Result<()> {
        if self.is_off(life) {
            return Err(power_off());
        }
        let call = self.calls;
        self.calls += 1;
        self.fails(call, false, what)
    }

    /// Begins a call that syncs a file.
    pub(super) fn begin_sync(&mut self, life: Life) -> io::Result<()> {
        self.begin_call(life, "sync a file")?;
        self.advance(self.sync_time);
        let sync = self.syncs;
        self.syncs += 1;
        self.fails(sync, true, "sync a file")
    }

    fn fails(&mut self, number: u64, is_sync: bool, what: &'static str) -> io::Result<()> {
        match self.fault.filter(|fault| fault.only_syncs == is_sync) {
            Some(fault) if number == fault.call || (fault.for_good && number > fault.call) => {
                self.failed = Some(what);
                Err(io::Error::from_raw_os_error(fault.error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn begin_step(&mut self) -> io::Result<()> {
        if self.record.one_in > 0 && self.record.random.below(self.record.one_in) == 0 {
            let moment = self.fork(self.steps);
            self.record.moments.push(moment);
        }
        self.steps += 1;
        if self.stop_at.is_some_and(|step| self.steps >= step) {
            return Err(power_off());
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.stop_at = None;
        for content in self.files.values_mut() {
            content.forget_readers();
        }
        self.drop_nameless();
    }

    pub(super) fn power_cut(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        self.kill();
        self.boot += 1;
        let pending = std::mem::take(&mut self.pending_names);
        if self.pessimal {
            for change in pending {
                if choose(2) == 1 {
                    change.apply(&mut self.durable_names);
                }
            }
        } else {
            let kept = choose(pending.len() as u64 + 1) as usize;
            for change in pending.into_iter().take(kept) {
                change.apply(&mut self.durable_names);
            }
        }
        self.drop_orphans();
        self.names = self.durable_names.clone();
        self.drop_nameless();
        for content in self.files.values_mut() {
            content.power_cut(choose);
        }
    }

    /// Drops the files of directories whose own names did not survive. A directory comes before what is in it.
    fn drop_orphans(&mut self) {
        let mut kept = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable_names) {
            let dir = parent(&path);
            if is_root(dir) || kept.get(dir) == Some(&Node::Dir) {
                kept.insert(path, node);
            }
        }
        self.durable_names = kept;
    }

    fn drop_nameless(&mut self) {
        let mut named: Vec<FileId> = Vec::new();
        for node in self.names.values().chain(self.durable_names.values()) {
            named.extend(if let Node::File(id) = node { Some(*id) } else { None });
        }
        for change in &self.pending_names {
            if let NameChange::Put(_, Node::File(id)) | NameChange::Rename(_, _, Node::File(id)) =
                change
            {
                named.push(*id);
            }
        }
        named.sort_unstable();
        self.files.retain(|id, _| named.binary_search(id).is_ok());
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn is_dir(&self, dir: &Path) -> bool {
        is_root(dir) || self.names.get(dir) == Some(&Node::Dir)
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = dir.ancestors().filter(|dir| !self.is_dir(dir)).collect();
        while let Some(dir) = missing.pop() {
            if self.names.contains_key(dir) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.reserve(PAGE as u64)?;
            self.change(NameChange::Put(dir.to_owned(), Node::Dir));
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // What is in a directory comes behind it.
        let behind = self.names.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
        let below = behind.map(|(path, _)| path).take_while(|path| path.starts_with(dir));
        let inside = below.filter(|path| parent(path) == dir);
        let name = |path: &PathBuf| path.file_name()?.to_str().map(str::to_owned);
        Ok(inside.filter_map(name).collect())
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<FileId> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(not_a_file()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileId> {
        if let Ok(id) = self.find(path) {
            self.set_len(id, 0)?;
            return Ok(id);
        }
        if !self.is_dir(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.reserve(PAGE as u64)?;
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Content::default());
        self.change(NameChange::Put(path.to_owned(), Node::File(id)));
        Ok(id)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(parent(from), parent(to), "renames stay within a directory");
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.list(dir)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(NameChange::Remove(dir.to_owned()));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for change in std::mem::take(&mut self.pending_names) {
            if change.dir() == dir {
                change.apply(&mut self.durable_names);
            } else {
                self.pending_names.push(change);
            }
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, path: &Path) -> io::Result<bool> {
        if self.locks.contains_key(path) {
            return Ok(false);
        }
        self.create(path)?;
        self.locks.insert(path.to_owned(), self.life);
        Ok(true)
    }

    pub(super) fn lock_as_is(&mut self, path: &Path) -> bool {
        let is_free = !self.locks.contains_key(path);
        if is_free {
            self.locks.insert(path.to_owned(), self.life);
        }
        is_free
    }

    pub(super) fn unlock(&mut self, path: &Path, life: Life) {
        if self.locks.get(path) == Some(&life) {
            self.locks.remove(path);
        }
    }

    pub(super) fn content_of(&mut self, id: FileId) -> &mut Content {
        self.files.entry(id).or_default()
    }

    pub(super) fn write(&mut self, id: FileId, at: u64, bytes: &[u8]) -> io::Result<()> {
        let more = self.content_of(id).pages_missing(at, bytes.len());
        self.reserve(more * PAGE as u64)?;
        self.content_of(id).store(at, bytes);
        let mut names = self.names.iter();
        if let Some((path, _)) = names.find(|(_, node)| **node == Node::File(id)) {
            *self.written.entry(path.clone()).or_default() += bytes.len() as u64;
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, id: FileId, len: u64) -> io::Result<()> {
        self.content_of(id).set_len(len);
        Ok(())
    }

    fn reserve(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.bytes_used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn bytes_used(&self) -> u64 {
        let pages = |node: &Node| match node {
            Node::File(id) => self.files.get(id).map_or(0, Content::pages_used),
            Node::Dir => 1,
        };
        self.names.values().map(pages).sum::<u64>() * PAGE as u64
    }

    pub(super) fn bytes_written(&self, part: &str) -> u64 {
        let matching = |path: &Path| path.to_str().is_some_and(|path| path.contains(part));
        self.written.iter().filter(|(path, _)| matching(path)).map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let is_file = |node: &Node| matches!(node, Node::File(_));
        self.names.iter().filter(|(_, n)| is_file(n)).map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let id = self.find(path).ok()?;
        self.files.get(&id).map(|content| content.live().to_vec())
    }

    pub(super) fn plant(&mut self, path: &Path, content: Option<Vec<u8>>) {
        match content {
            Some(bytes) => {
                let id = self.next_file;
                self.next_file += 1;
                self.files.insert(id, Content::durable(bytes));
                self.names.insert(path.to_owned(), Node::File(id));
                self.durable_names.insert(path.to_owned(), Node::File(id));
            }
            None => {
                self.names.remove(path);
                self.durable_names.remove(path);
            }
        }
    }
}
