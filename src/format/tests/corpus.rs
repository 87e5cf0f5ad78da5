//! The seeds of the fuzz targets, replayed. They grow with each finding.

use std::path::{Path, PathBuf};

use super::super::fuzzing;

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "there are no seeds in {}", dir.display());
    for seed in seeds {
        let bytes = std::fs::read(&seed).unwrap();
        run(&bytes);
        // What lies around a seed is as good as one.
        for cut in 0..bytes.len().min(256) {
            run(&bytes[..cut]);
        }
        for bit in 0..(bytes.len() * 8).min(2048) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            run(&flipped);
        }
    }
}

#[test]
fn frame() {
    replay("frame", fuzzing::frame);
}

#[test]
fn commit_changes() {
    replay("commit_changes", fuzzing::commit_changes);
}

#[test]
fn block() {
    replay("block", fuzzing::block);
}

#[test]
fn footer() {
    replay("footer", fuzzing::footer);
}

#[test]
fn meta_entry() {
    replay("meta_entry", fuzzing::meta_entry);
}

#[test]
fn journal_header() {
    replay("journal_header", fuzzing::journal_header);
}
