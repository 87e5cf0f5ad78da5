use proptest::prelude::*;

use super::{super::frame::*, super::wire::*, STORE, batter, flip_each_bit, seed};
use crate::ids::{Lsn, StoreId};

const KINDS: [FrameKind; 4] =
    [FrameKind::Commit, FrameKind::Roll, FrameKind::Watermark, FrameKind::Close];

fn frame(kind: FrameKind, payload: &[u8], lsn: u64, watermark: u64) -> Vec<u8> {
    let mut out = vec![0xAA; 5];
    begin_frame(&mut out);
    out.extend_from_slice(payload);
    finish_frame(&mut out, kind, Lsn(lsn), Lsn(watermark), seed().begin());
    out
}

#[test]
fn each_kind_there_and_back() {
    for kind in KINDS {
        let payload: &[u8] = if kind == FrameKind::Commit { b"payload" } else { b"" };
        let bytes = frame(kind, payload, 4096, 64);
        assert_eq!(bytes.len() as u64 % ALIGN, 0);
        let (header, found) = decode_frame(&bytes, Lsn(4096), seed()).unwrap();
        assert_eq!(found, payload);
        assert_eq!((header.kind, header.lsn, header.watermark), (kind, Lsn(4096), Lsn(64)));
        assert_eq!(header.frame_len(), bytes.len() as u64);
    }
}

#[test]
fn only_a_commit_has_a_payload() {
    for kind in KINDS {
        let decoded = decode_frame(&frame(kind, b"x", 4096, 0), Lsn(4096), seed()).is_ok();
        assert_eq!(decoded, kind == FrameKind::Commit, "{kind:?}");
    }
}

#[test]
fn no_bit_can_change() {
    let bytes = frame(FrameKind::Commit, b"eight by", 4096, 0);
    flip_each_bit(&bytes, |bit, flipped| {
        assert!(decode_frame(flipped, Lsn(4096), seed()).is_err(), "bit {bit}");
    });
}

#[test]
fn padding_means_nothing() {
    let bytes = frame(FrameKind::Commit, b"four", 4096, 0);
    let end = FRAME_HEADER_BYTES + 4;
    assert_eq!(bytes[end..], [0; 4]);
    flip_each_bit(&bytes, |bit, flipped| {
        assert_eq!(decode_frame(flipped, Lsn(4096), seed()).is_ok(), bit >= end * 8);
    });
}

/// A journal file that is used again holds the bytes of its former frames. Those of the header that mean nothing were left
/// there, and the frame was no frame.
#[test]
fn a_frame_that_is_written_in_its_place_leaves_nothing_of_what_was_there() {
    for payload in [&b""[..], b"four", b"eight by", b"longer than that"] {
        let expected = frame(FrameKind::Commit, payload, 4096, 64);
        let mut place = vec![0x78; expected.len()];
        clear_padding(&mut place);
        place[FRAME_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
        let watermark = (Lsn(4096), Lsn(64));
        finish_whole_frame(&mut place, payload.len(), watermark, seed().begin());
        assert_eq!(place, expected);
    }
}

#[test]
fn it_belongs_to_one_place_one_life_and_one_store() {
    let bytes = frame(FrameKind::Commit, b"payload", 4096, 0);
    assert!(decode_frame(&bytes, Lsn(4096), seed()).is_ok());
    for other in [0, 4088, 4104, 1 << 40] {
        assert!(decode_frame(&bytes, Lsn(other), seed()).is_err(), "at {other}");
        // Nor if a hostile hand moves it.
        let mut moved = bytes.clone();
        moved[8..16].copy_from_slice(&other.to_le_bytes());
        assert!(decode_frame(&moved, Lsn(other), seed()).is_err(), "moved to {other}");
    }
    for epoch in (0..1000).filter(|epoch| *epoch != 1) {
        let life = Seed::new(STORE, &[epoch]);
        assert!(decode_frame(&bytes, Lsn(4096), life).is_err(), "in epoch {epoch}");
    }
    let elsewhere = Seed::new(StoreId(*b"another store ok"), &[1]);
    assert!(decode_frame(&bytes, Lsn(4096), elsewhere).is_err());
}

#[test]
fn zeros_are_no_frame() {
    for at in [0, 8, 64, 4096] {
        assert!(decode_frame(&[0; 64], Lsn(at), seed()).is_err());
    }
}

/// A watermark may say too little. If it said too much, a torn tail would pass for damage.
#[test]
fn a_watermark_never_says_too_much() {
    let far = u64::from(u32::MAX) * ALIGN;
    let cases = [
        (4096, 4096, 4096),
        (4096, 0, 0),
        (far, 8, 8),
        (far, 0, 0),
        (far + 64, 0, 0),
        (far + 64, 64, 0),
        (far + 64, 72, 72),
        (far * 3, 80, 0),
        // Watermarks are positions of frames; but if one was not, it would be rounded down.
        (4096, 4095, 4088),
        (4096, 1, 0),
    ];
    for (lsn, watermark, expected) in cases {
        let bytes = frame(FrameKind::Watermark, b"", lsn, watermark);
        let (header, _) = decode_frame(&bytes, Lsn(lsn), seed()).unwrap();
        assert_eq!(header.watermark, Lsn(expected), "{watermark} of {lsn}");
    }
}

#[test]
fn a_watermark_lies_within_the_journal() {
    let mut bytes = frame(FrameKind::Watermark, b"", 4096, 0);
    for distance in [513, u32::MAX - 1, u32::MAX] {
        bytes[16..20].copy_from_slice(&distance.to_le_bytes());
        assert!(FrameHeader::peek(&bytes, Lsn(4096)).is_err(), "{distance}");
    }
}

#[test]
fn a_length_past_the_end_is_no_frame() {
    let mut bytes = frame(FrameKind::Commit, b"payload", 4096, 0);
    for length in [8, 9, 1 << 20, u32::MAX - 24, u32::MAX - 23, u32::MAX] {
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let header = FrameHeader::peek(&bytes, Lsn(4096)).unwrap();
        assert!(header.frame_len() >= u64::from(length) + 24);
        assert!(decode_frame(&bytes, Lsn(4096), seed()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_payload_there_and_back(
        payload in prop::collection::vec(any::<u8>(), 0..100),
        at in 0..NUMBER_CEILING / ALIGN,
        back in 0..NUMBER_CEILING / ALIGN,
    ) {
        let lsn = at * ALIGN;
        let watermark = lsn.saturating_sub(back * ALIGN);
        let bytes = frame(FrameKind::Commit, &payload, lsn, watermark);
        let (header, found) = decode_frame(&bytes, Lsn(lsn), seed()).unwrap();
        prop_assert_eq!(found, &payload[..]);
        prop_assert!(header.watermark.0 == watermark || header.watermark.0 == 0);
        batter(&bytes, |bytes| {
            let _ = decode_frame(bytes, Lsn(lsn), seed());
        });
    }

    #[test]
    fn random_bytes_are_no_frame(bytes: [u8; 48]) {
        let at = Lsn(u64::from_le_bytes(bytes[8..16].try_into().unwrap()));
        prop_assert!(decode_frame(&bytes, at, seed()).is_err());
    }
}

/// Runs that are encoded before their offsets are known come to the same bytes, however long their heads become, and
/// also where the checksum of their records was made before.
#[test]
fn a_split_frame_is_the_frame_that_is_encoded_in_one_go() {
    use super::super::{
        commit::{begin_run, finish_run},
        encoded::EncodedRuns,
    };
    use crate::ids::{LogId, Offset, Timestamp};

    let now = Timestamp(1_700_000_000_000);
    let records = |n: usize| vec![n as u8; [1, 100, 15_000, 70_000][n % 4]];
    for first in [0, 127, 128, 1 << 40, NUMBER_CEILING - 100] {
        for change in [&b""[..], b"a change"] {
            let mut whole = Vec::new();
            begin_frame(&mut whole);
            whole.extend_from_slice(change);
            let mut begin = whole.clone();
            let mut runs = EncodedRuns::with_capacity(now, 8, 0);
            for n in 0..8_usize {
                let log = LogId(1 << (7 * n));
                let put = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&records(n));
                    Ok::<bool, ()>(true)
                };
                runs.add(log, 1 + n, put).unwrap();
                let begun = begin_run(&mut whole, log, Offset(first), 1 + n, now);
                whole.extend_from_slice(&records(n));
                finish_run(&mut whole, begun);
            }
            // A try that came to nothing leaves no trace.
            for first in [NUMBER_CEILING, first] {
                runs.begin();
                (0..8).for_each(|n| _ = runs.place(n, Offset(first)));
            }
            let (lsn, mark) = (Lsn(4096), Lsn(64));
            let len = finish_split_frame(&mut begin, &runs, lsn, mark, seed().begin());
            runs.parts().for_each(|part| begin.extend_from_slice(part));
            begin.resize(len as usize, 0);
            finish_frame(&mut whole, FrameKind::Commit, lsn, mark, seed().begin());
            assert!(begin == whole, "from offset {first} on");
        }
    }
}
