//! Which parts of which files are read and written by calls, for tests that count them.

use std::path::Path;

use super::{SimDisk, world::FileId};

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    is_noted: bool,
    calls: Vec<(FileId, Call, u64, u64)>,
}

impl Traffic {
    pub(super) fn note(&mut self, file: FileId, call: Call, at: u64, len: usize) {
        if self.is_noted {
            self.calls.push((file, call, at, len as u64));
        }
    }
}

impl SimDisk {
    /// Notes all reads and writes by calls from now on.
    pub(crate) fn note_traffic(&self) {
        self.world().traffic = Traffic { is_noted: true, calls: Vec::new() };
    }

    /// The positions and lengths of what was noted of a file that has a name now.
    pub(crate) fn traffic(&self, path: &Path, call: Call) -> Vec<(u64, u64)> {
        let world = self.world();
        let file = world.find(path).expect("the file is there");
        let of = world.traffic.calls.iter().filter(|it| (it.0, it.1) == (file, call));
        of.map(|it| (it.2, it.3)).collect()
    }
}
