use proptest::prelude::*;

use super::{super::wire::*, STORE};
use crate::ids::StoreId;

fn varint(bytes: &[u8]) -> Decoded<(u64, usize)> {
    let mut input = Bytes::new(bytes);
    input.varint().map(|value| (value, input.position()))
}

#[test]
fn varints_at_the_edges_of_their_lengths() {
    for bits in 0..64 {
        for value in [(1u64 << bits) - 1, 1 << bits, (1 << bits) + 1] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            assert_eq!(varint(&bytes), Ok((value, bytes.len())));
        }
    }
    assert_eq!(varint_len(u64::MAX), 10);
}

#[test]
fn a_varint_cut_off_is_no_varint() {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, u64::MAX);
    for cut in 0..bytes.len() {
        assert!(varint(&bytes[..cut]).is_err());
    }
}

#[test]
fn a_value_has_one_encoding() {
    assert!(varint(&[0x80, 0]).is_err(), "zero in two bytes");
    assert!(varint(&[0xFF, 0x80, 0]).is_err(), "127 in three bytes");
    let mut padded = vec![0x80; 9];
    padded.push(0);
    assert!(varint(&padded).is_err(), "zero in ten bytes");
    assert_eq!(varint(&[0]), Ok((0, 1)));
}

#[test]
fn a_varint_ends_at_64_bits() {
    let ten = |last| [[0xFF; 9].as_slice(), &[last]].concat();
    assert_eq!(varint(&ten(1)), Ok((u64::MAX, 10)));
    for last in [2, 3, 0x7F, 0x80, 0x81, 0xFF] {
        assert!(varint(&ten(last)).is_err(), "{last:#x}");
    }
    assert!(varint(&[0xFF; 64]).is_err());
}

#[test]
fn a_length_lies_within_what_is_left() {
    let mut bytes = vec![3, 1, 2, 3];
    assert_eq!(Bytes::new(&bytes).length(), Ok(3));
    bytes.pop();
    assert!(Bytes::new(&bytes).length().is_err());
    let mut endless = Vec::new();
    put_varint(&mut endless, u64::MAX);
    assert!(Bytes::new(&endless).length().is_err());
    assert!(Bytes::new(&[1, 2]).take(usize::MAX).is_err());
}

#[test]
fn bytes_begun_behind_the_end_are_none() {
    let mut input = Bytes::starting_at(&[1, 2], 7);
    assert!(input.is_empty());
    assert_eq!(input.position(), 2);
    assert!(input.u8().is_err() && input.u32().is_err() && input.u64().is_err());
    assert!(input.varint().is_err() && input.length().is_err());
}

#[test]
fn numbers_stay_below_the_ceiling() {
    for (value, fine) in [(0, true), (NUMBER_CEILING - 1, true), (NUMBER_CEILING, false)] {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        assert_eq!(Bytes::new(&bytes).number().is_ok(), fine);
        assert_eq!(check_numbers([1, value]).is_ok(), fine);
    }
}

#[test]
fn lengths_are_rounded_up() {
    assert_eq!([0, 1, 7, 8, 9].map(aligned), [0, 8, 8, 8, 16]);
}

/// CRC-32 as the table in `docs/FORMAT.md` defines it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// A seed is no trick of the implementation: the checksum is that of the bytes in a row.
#[test]
fn a_seeded_checksum_is_a_checksum_of_all_in_a_row() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926, "the check value of the standard");
    let parts = [7, u64::MAX, 0];
    let bytes = b"what is covered";
    let mut all = STORE.0.to_vec();
    all.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
    all.extend_from_slice(bytes);
    assert_eq!(Seed::new(STORE, &parts).checksum(bytes), crc32(&all));
    assert_eq!(Seed::new(STORE, &[]).checksum(&[]), crc32(&STORE.0));
}

proptest! {
    #[test]
    fn any_varint_there_and_back(value: u64, behind: Vec<u8>) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        let length = bytes.len();
        prop_assert_eq!(length, varint_len(value));
        bytes.extend_from_slice(&behind);
        prop_assert_eq!(varint(&bytes), Ok((value, length)));
    }

    #[test]
    fn what_decodes_as_a_varint_is_one(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        if let Ok((value, length)) = varint(&bytes) {
            let mut again = Vec::new();
            put_varint(&mut again, value);
            prop_assert_eq!(&again[..], &bytes[..length]);
        }
    }

    #[test]
    fn a_varint_is_read_alike_whether_other_bytes_follow_or_not(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x80), Just(0), Just(0xFF)], 1..12),
    ) {
        // With fewer than eight bytes it is read byte by byte.
        let alone = (1..=bytes.len()).find_map(|len| varint(&bytes[..len]).ok());
        let followed = [&bytes[..], &[0x80; 16]].concat();
        prop_assert_eq!(varint(&followed).ok(), alone);
    }

    #[test]
    fn zigzag_there_and_back(value: i64) {
        prop_assert_eq!(unzigzag(zigzag(value)), value);
        prop_assert!(zigzag(value) <= value.unsigned_abs().saturating_mul(2));
    }

    /// In one store, whatever differs within 32 bits never has the same checksum.
    #[test]
    fn neighbouring_epochs_never_collide(epoch: u64, by in 1..u64::from(u32::MAX), bytes: Vec<u8>) {
        let other = epoch ^ by;
        let sum = |epoch| Seed::new(STORE, &[epoch]).checksum(&bytes);
        prop_assert_ne!(sum(epoch), sum(other));
    }

    #[test]
    fn stores_have_seeds_of_their_own(id: [u8; 16], bit in 0..128usize) {
        let mut other = id;
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(Seed::new(StoreId(id), &[1]), Seed::new(StoreId(other), &[1]));
    }
}
