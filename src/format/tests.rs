//! Tests of `format/`: every type there and back, hostile bytes, and the layout itself, pinned.
#![allow(clippy::disallowed_methods)] // Snapshot and corpora are files of the repository.

mod block;
mod commit;
mod corpus;
mod delay_index;
mod footer;
mod frame;
mod headers;
mod layout;
mod meta;
mod record;
mod run;
#[cfg(feature = "cron")]
mod schedule;
mod wire;

use super::wire::Seed;
use crate::ids::StoreId;

const STORE: StoreId = StoreId(*b"posthouse sample");

fn seed() -> Seed {
    Seed::new(STORE, &[1])
}

/// Gives `decode` every part from the front, and every neighbour with one bit flipped. What it
/// returns is its own affair, but it must return.
fn batter(bytes: &[u8], mut decode: impl FnMut(&[u8])) {
    for cut in 0..=bytes.len() {
        decode(&bytes[..cut]);
    }
    flip_each_bit(bytes, |_, flipped| decode(flipped));
    // Lengths and counts as large as they get, at every place.
    for at in 0..bytes.len() {
        let mut filled = bytes.to_vec();
        for byte in filled[at..].iter_mut().take(8) {
            *byte = 0xFF;
        }
        decode(&filled);
    }
}

fn flip_each_bit(bytes: &[u8], mut visit: impl FnMut(usize, &[u8])) {
    let mut flipped = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        visit(bit, &flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}
