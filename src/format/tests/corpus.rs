//! The seeds of the fuzz targets that decode: they are cut from the samples of `layout.rs`, and
//! replayed. What a fuzzer has found is a seed, too; its name begins with `found-`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    super::{
        Malformed, block::BLOCK_HEADER_BYTES, commit::changes, frame::FRAME_HEADER_BYTES, fuzzing,
        meta::entries, part::PART_HEADER_BYTES, segment::*, wire::Decoded,
    },
    layout::samples,
    seed,
};
use crate::ids::{Offset, Timestamp};

/// What a target does with its bytes.
type Run = fn(&[u8]);

/// The targets that decode.
const TARGETS: &[(&str, Run)] = &[
    ("frame", fuzzing::frame),
    ("commit_changes", fuzzing::commit_changes),
    ("block", fuzzing::block),
    ("footer", fuzzing::footer),
    ("meta_entry", fuzzing::meta_entry),
    ("journal_header", fuzzing::journal_header),
    ("note", fuzzing::note),
    ("delay_index", fuzzing::delay_index),
    #[cfg(feature = "cron")]
    ("schedule", fuzzing::schedule),
];

/// No header has anything but zeros behind this.
const HEADER_SEED_BYTES: usize = 96;

type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

/// All seeds that the samples give, by target and name.
fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let mut all_changes = Vec::new();
    for (sample, bytes) in samples() {
        let mut add = |target, name: &str, bytes: &[u8]| {
            let name = name.replace([':', ','], "").replace(' ', "-");
            assert!(seeds.insert((target, name), bytes.to_vec()).is_none(), "{sample}: twice");
        };
        let payload = || &without_padding(&bytes, 4, FRAME_HEADER_BYTES)[FRAME_HEADER_BYTES..];
        if let Some(change) = sample.strip_prefix("frame: commit, ") {
            add("frame", change, without_padding(&bytes, 4, FRAME_HEADER_BYTES));
            add("commit_changes", change, payload());
            all_changes.extend_from_slice(payload());
        } else if let Some(kind) = sample.strip_prefix("frame: ") {
            add("frame", kind, without_padding(&bytes, 4, FRAME_HEADER_BYTES));
        } else if let Some(entry) = sample.strip_prefix("metalog entry: ") {
            add("meta_entry", entry, payload());
        } else if let Some(note) = sample.strip_prefix("note: ") {
            add("note", note, &bytes);
        } else if let Some(block) = sample.strip_prefix("delay index: ") {
            add("delay_index", block, &bytes);
        } else if let Some(plan) = sample.strip_prefix("schedule: ") {
            add("schedule", plan, &bytes);
        } else if sample == "metalog: two entries" {
            add("meta_entry", "two-entries", payload());
        } else if sample == "segment part" {
            add("journal_header", &sample, &bytes[..PART_HEADER_BYTES as usize]);
        } else if sample == "segment block" {
            add("block", "records", without_padding(&bytes, 8, BLOCK_HEADER_BYTES));
        } else if sample == "segment footer" {
            add("footer", "header and table", without_padding(&bytes, 8, BLOCK_HEADER_BYTES));
        } else {
            assert!(sample.contains("header"), "{sample} belongs to no target");
            add("journal_header", &sample, &bytes[..bytes.len().min(HEADER_SEED_BYTES)]);
        }
    }
    seeds.insert(("commit_changes", "all-of-them".to_owned()), all_changes);
    seeds.insert(("footer", "three-blocks".to_owned()), table_of_three_blocks());
    seeds
}

/// A frame or a block up to the end of its content, whose length stands at `at`.
fn without_padding(bytes: &[u8], at: usize, header: usize) -> &[u8] {
    let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    &bytes[..header + length as usize]
}

/// The entries of a table, without the header of a footer.
fn table_of_three_blocks() -> Vec<u8> {
    let mut position = SEGMENT_HEADER_BYTES;
    let table: Vec<TableEntry> = [(0, 9, 400), (10, 30, 4096), (31, 31, 128)]
        .map(|(first, last, length)| {
            let (first, last) = (Offset(first), Offset(last));
            let (max_time, count) = (Timestamp(1_700_000_000_000 + last.0), (last.0 - first.0) + 1);
            position += u64::from(length);
            let position = position - u64::from(length);
            TableEntry { position, first, last, max_time, length, count: count as u32 }
        })
        .to_vec();
    let mut footer = Vec::new();
    put_footer(&mut footer, &table, position, seed());
    without_padding(&footer, 8, BLOCK_HEADER_BYTES)[BLOCK_HEADER_BYTES..].to_vec()
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_seeds_are_those_of_the_samples() {
    let (seeds, writes) = (seeds(), std::env::var_os("UPDATE_SEEDS").is_some());
    let how = "run this test with UPDATE_SEEDS=1";
    for ((target, name), bytes) in &seeds {
        let path = corpus(target).join(name);
        if writes {
            std::fs::create_dir_all(corpus(target)).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        let found = std::fs::read(&path).ok();
        assert!(found.as_ref() == Some(bytes), "{} is stale: {how}", path.display());
    }
    for (target, _) in TARGETS {
        for name in names_in(&corpus(target)) {
            let is_known =
                seeds.contains_key(&(target, name.clone())) || name.starts_with("found-");
            if writes && !is_known {
                std::fs::remove_file(corpus(target).join(&name)).unwrap();
            }
            assert!(is_known || writes, "no sample gives {target}/{name}: {how}");
        }
    }
}

/// So a kind that is new has a sample, and a seed that does not decode is none.
#[test]
fn each_kind_of_change_has_a_seed_that_decodes() {
    let all = &seeds()[&("commit_changes", "all-of-them".to_owned())];
    let kinds: Decoded<BTreeSet<u8>> =
        changes(all).map(|change| change.map(|(at, _)| all[at])).collect();
    let is_known = |kind: &u8| {
        let first = [*kind];
        let refused = changes(&first).next().unwrap().expect_err("it has nothing but a kind");
        refused != Malformed("unknown kind of change")
    };
    assert_eq!(kinds.unwrap(), (0..=u8::MAX).filter(is_known).collect::<BTreeSet<u8>>());
    for ((target, name), bytes) in seeds() {
        let decodes = || entries(&bytes).all(|entry| entry.is_ok());
        assert!(target != "meta_entry" || decodes(), "{name}");
    }
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let names = names_in(&corpus(target));
    assert!(!names.is_empty(), "there are no seeds in {}", corpus(target).display());
    for name in names {
        let bytes = std::fs::read(corpus(target).join(name)).unwrap();
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
    replay("frame");
}

#[test]
fn commit_changes() {
    replay("commit_changes");
}

#[test]
fn block() {
    replay("block");
}

#[test]
fn footer() {
    replay("footer");
}

#[test]
fn meta_entry() {
    replay("meta_entry");
}

#[test]
fn note() {
    replay("note");
}

#[test]
fn delay_index() {
    replay("delay_index");
}

#[cfg(feature = "cron")]
#[test]
fn schedule() {
    replay("schedule");
}

#[test]
fn journal_header() {
    replay("journal_header");
}
