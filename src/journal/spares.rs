//! What the journal keeps for a full disk: spare files and the reserve, which it can give up.

use std::{mem, path::PathBuf};

use super::{frame_space::Urgency, supply::capacity_for, writer::Journal};

impl Journal {
    /// Gives up the spare files, so that a full disk has space again. Gives up the reserve only for a commit
    /// that frees space. Returns the files to remove. The caller removes them, and then calls
    /// [`spares_are_gone`](Self::spares_are_gone). `None` while a thread makes files.
    pub fn give_up_spares(&mut self, urgency: Urgency) -> Option<Vec<PathBuf>> {
        if self.preparing {
            return None;
        }
        // No new file may take the next file's name before that file is removed.
        self.preparing = true;
        self.target = self.supply.file_bytes_min;
        let next = self.next.take_if(|_| !self.next_frees);
        let mut paths: Vec<_> = self.pool.drain(..).chain(next).map(|file| file.path).collect();
        if urgency == Urgency::Freeing && mem::take(&mut self.reserve) > 0 {
            paths.push(self.supply.layout.reserve());
        }
        Some(paths)
    }

    /// Whether there is a reserve or a next file, or a thread is making one.
    pub fn has_spares(&self) -> bool {
        self.reserve > 0 || self.next.is_some() || self.preparing
    }

    pub fn spares_are_gone(&mut self) {
        self.preparing = false;
    }

    /// Takes over the reserve that an earlier epoch has left.
    pub(super) fn adopt_reserve(&mut self, bytes: u64) {
        self.reserve = bytes;
    }

    /// The bytes of the reserve: enough to move the messages of any one file into segments, with the metalog.
    pub(super) fn reserve_wanted(&self, frame: u64) -> u64 {
        let largest = self.files.iter().map(|file| file.header.capacity).max().unwrap_or(0);
        let largest = largest.max(capacity_for(self.target, frame));
        let smallest = capacity_for(self.supply.file_bytes_min, 0);
        largest + largest / 2 + smallest + self.overhead_bytes
    }
}
