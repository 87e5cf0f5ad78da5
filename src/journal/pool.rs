//! Used files that are kept to be filled again, and those that are let go of.

use std::{mem, path::PathBuf};

use super::{file::JournalFile, grain::Grain, supply::capacity_for, writer::Journal};
use crate::ids::Lsn;

impl Journal {
    /// Releases the files that end at or before a position, because a checkpoint covers them. Returns the files
    /// to remove.
    pub fn release_below(&mut self, position: Lsn) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        while self.files.len() > 1 && self.files[0].end() <= position {
            let file = self.files.pop_front().expect("there are two");
            self.bytes_behind -= file.header.capacity;
            removed.extend(self.keep(file).map(|file| file.path));
        }
        let capacity = capacity_for(self.target, 0);
        for file in mem::take(&mut self.pool) {
            if file.header.capacity == capacity {
                self.pool.push(file);
            } else {
                removed.push(file.path);
            }
        }
        self.starved &= removed.is_empty();
        removed
    }

    /// Keeps a file to be filled again. Returns the one that there is no room for: files of the grain that is in use go
    /// before the others.
    fn keep(&mut self, file: JournalFile) -> Option<JournalFile> {
        if !file.of_this_epoch || file.header.capacity != capacity_for(self.target, 0) {
            return Some(file);
        }
        let pooled: u64 = self.pool.iter().map(|file| file.header.capacity).sum();
        if pooled + file.header.capacity <= self.supply.pool_bytes {
            self.pool.push(file);
            return None;
        }
        let other = self.pool.iter().position(|it| it.grain != self.grain);
        match other.filter(|_| file.grain == self.grain) {
            Some(n) if self.pool[n].header.capacity == file.header.capacity => {
                Some(mem::replace(&mut self.pool[n], file))
            }
            _ => Some(file),
        }
    }

    /// Takes a used file of a capacity and of a grain.
    pub(super) fn take_used(
        &mut self,
        capacity: u64,
        suits: impl Fn(Grain) -> bool,
    ) -> Option<JournalFile> {
        let mut fits = |file: &mut JournalFile| {
            file.header.capacity == capacity && suits(file.grain) && file.window.reuse()
        };
        let n = self.pool.iter_mut().position(&mut fits)?;
        Some(self.pool.swap_remove(n))
    }
}
