//! Replays the seeds of the fuzz targets `operations` and `damage`, and runs some more stores through the
//! same code.

use std::path::Path;

use crate::{fuzz, support::one_in};

#[test]
fn operations() {
    replay("operations", fuzz::operations);
}

#[test]
fn damage() {
    replay("damage", fuzz::damage);
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for seed in seeds {
        println!("{}", seed.display());
        run(&std::fs::read(seed).unwrap());
    }
}

/// Damages stores at random. A failure names the case. `POSTHOUSE_CASES` sets the number of cases, and
/// `POSTHOUSE_CASE` runs one of them alone.
#[test]
fn damaged_stores() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let cases = match number("POSTHOUSE_CASE") {
        Some(case) => case..case + 1,
        None => 0..number("POSTHOUSE_CASES").unwrap_or(200 / one_in(4) as u64),
    };
    for case in cases {
        println!("POSTHOUSE_CASE={case}");
        fuzz::damage(&choices(case));
    }
}

/// Bytes for a case: damage, then up to sixty operations.
fn choices(case: u64) -> Vec<u8> {
    let mut state = case;
    let mut byte = || {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as u8
    };
    let length = 16 + usize::from(byte());
    (0..length).map(|_| byte()).collect()
}
