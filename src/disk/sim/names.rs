//! Names of files and directories, and their changes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::world::FileId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(FileId),
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Put(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl NameChange {
    pub(super) fn dir(&self) -> &Path {
        let (NameChange::Put(path, _) | NameChange::Remove(path) | NameChange::Rename(path, ..)) =
            self;
        parent(path)
    }

    pub(super) fn apply(self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Put(path, node) => {
                names.insert(path, node);
            }
            NameChange::Remove(path) => {
                names.remove(&path);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Whether this is a directory that is always there.
pub(super) fn is_root(dir: &Path) -> bool {
    matches!(dir.as_os_str().as_encoded_bytes(), b"" | b"/")
}
