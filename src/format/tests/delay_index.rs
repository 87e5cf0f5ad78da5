use proptest::prelude::*;

use super::{
    super::{delay_index::*, wire::NUMBER_CEILING},
    batter,
};
use crate::ids::{Due, Offset};

fn entries(of: &[(u64, u64)]) -> Vec<(Due, Offset)> {
    of.iter().map(|(due, offset)| (Due::from_stored(*due), Offset(*offset))).collect()
}

#[test]
fn a_block_is_laid_out_as_told() {
    let bytes = encode(&entries(&[(1000, 7), (1000, 5), (1200, 9)]));
    // Three; 1000, 7 up; 0 later, 2 down; 200 later, 4 up.
    assert_eq!(bytes, [3, 0xE8, 7, 14, 0, 3, 0xC8, 1, 8]);
}

#[test]
fn impossible_blocks_are_refused() {
    let most = entries(&[(0, NUMBER_CEILING - 1), (u64::MAX, 0)]);
    assert_eq!(decode(&encode(&most)).unwrap(), most);
    let too_far = entries(&[(0, NUMBER_CEILING)]);
    let impossible: [Vec<u8>; 7] = [
        vec![],
        vec![0],
        vec![1],
        encode(&too_far),
        // One message, twice.
        encode(&entries(&[(1, 7), (2, 6), (3, 7)])),
        // More than there is room for, and one byte too many.
        vec![0xFF, 0xFF, 3, 0, 0],
        [encode(&most), vec![0]].concat(),
    ];
    for bytes in impossible {
        assert!(decode(&bytes).is_err(), "{bytes:?}");
    }
    // A time beyond the last.
    let mut bytes = encode(&entries(&[(u64::MAX, 1), (u64::MAX, 2)]));
    let later = bytes.len() - 2;
    bytes[later] = 1;
    assert!(decode(&bytes).is_err());
    batter(&encode(&entries(&[(1, 1), (300, 200)])), |bytes| _ = decode(bytes));
}

proptest! {
    #[test]
    fn any_block_there_and_back(
        mut of in prop::collection::vec((any::<u64>(), 0..NUMBER_CEILING), 1..50),
    ) {
        of.sort_unstable();
        let entries = entries(&of);
        prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
    }

    #[test]
    fn random_bytes_are_refused_or_a_block(bytes: Vec<u8>) {
        if let Ok(entries) = decode(&bytes) {
            prop_assert!(entries.is_sorted_by_key(|it| it.0));
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }
    }
}
