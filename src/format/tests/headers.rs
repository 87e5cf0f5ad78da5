use proptest::prelude::*;

use super::{
    super::{header::*, journal::*, meta::*, part::*, segment::*, wire::*},
    STORE, batter, flip_each_bit,
};
use crate::ids::{LogId, Lsn, Offset};

fn journal() -> JournalHeader {
    JournalHeader {
        store: STORE,
        start: Lsn(1 << 20),
        capacity: 1 << 18,
        epoch: 3,
        watermark: Lsn(1 << 20),
        link: Link::Recovery { start: Lsn(1 << 18), end: Lsn((1 << 18) + 4096 + 80) },
    }
}

fn segment() -> SegmentHeader {
    SegmentHeader { store: STORE, log: LogId(7), base: Offset(1000), generation: 2 }
}

/// Puts in the checksum that belongs to the bytes.
fn seal(mut page: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&page);
    page[12..16].copy_from_slice(&sum.to_le_bytes());
    page
}

#[test]
fn there_and_back() {
    assert_eq!(JournalHeader::decode(&journal().encode()), Ok(journal()));
    assert_eq!(SegmentHeader::decode(&segment().encode()), Ok(segment()));
    let meta = MetaHeader { store: STORE, number: 12 };
    assert_eq!(MetaHeader::decode(&meta.encode()), Ok(meta));
    assert_eq!(journal().encode().len() as u64, JOURNAL_HEADER_BYTES);
    assert_eq!(segment().encode().len() as u64, SEGMENT_HEADER_BYTES);
    assert_eq!(meta.encode().len() as u64, META_HEADER_BYTES);
}

#[test]
fn each_link_there_and_back() {
    let first = JournalHeader { start: Lsn(0), watermark: Lsn(0), link: Link::First, ..journal() };
    let roll = JournalHeader { link: Link::Roll, ..journal() };
    for header in [first, roll, journal()] {
        assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn no_bit_can_change() {
    let page = journal().encode();
    flip_each_bit(&page, |bit, flipped| {
        assert!(JournalHeader::decode(flipped).is_err(), "bit {bit}");
    });
    flip_each_bit(&segment().encode(), |bit, flipped| {
        assert!(SegmentHeader::decode(flipped).is_err(), "bit {bit}");
    });
    let meta = MetaHeader { store: STORE, number: 12 };
    flip_each_bit(&meta.encode(), |bit, flipped| {
        assert!(MetaHeader::decode(flipped).is_err(), "bit {bit}");
    });
}

#[test]
fn a_header_is_of_one_kind_of_file() {
    let page = segment().encode();
    assert!(MetaHeader::decode(&page).is_err());
    assert!(JournalHeader::decode(&journal().encode()[..64]).is_err(), "cut");
    batter(&page, |bytes| {
        let decoded = (JournalHeader::decode(bytes), MetaHeader::decode(bytes));
        assert!(decoded.0.is_err() && decoded.1.is_err());
    });
}

/// Another version is told from damage, so that nobody takes a newer store for a broken one.
#[test]
fn another_version_is_no_damage() {
    for version in [0, FORMAT_VERSION + 1, u32::MAX] {
        let mut page = segment().encode();
        page[8..12].copy_from_slice(&version.to_le_bytes());
        assert_ne!(SegmentHeader::decode(&page), Err(UNSUPPORTED), "without its checksum");
        assert_eq!(SegmentHeader::decode(&seal(page)), Err(UNSUPPORTED));
    }
}

#[test]
fn what_is_reserved_is_zero() {
    for at in [88, 4095] {
        let mut page = journal().encode();
        page[at] = 1;
        assert!(JournalHeader::decode(&seal(page)).is_err(), "byte {at}");
    }
    let mut page = segment().encode();
    page[63] = 1;
    assert!(SegmentHeader::decode(&seal(page)).is_err());
}

#[test]
fn an_impossible_place_is_refused() {
    let places = [
        (0, 0),
        (0, 4095),
        (4096, 4097),
        (100, 8192),
        (0, u64::MAX),
        (u64::MAX, 8192),
        (u64::MAX - 4095, 4096),
        (NUMBER_CEILING, 8192),
        (NUMBER_CEILING - 4096, 4096),
    ];
    for (start, capacity) in places {
        let header = JournalHeader { start: Lsn(start), capacity, ..journal() };
        let header = JournalHeader { link: Link::Roll, watermark: Lsn(0), ..header };
        assert!(JournalHeader::decode(&header.encode()).is_err(), "{start} {capacity}");
    }
}

/// Whoever follows links goes back with each step, and so comes to an end.
#[test]
fn a_link_leads_back() {
    let start = journal().start;
    let links = [
        Link::First,
        Link::Recovery { start, end: Lsn(start.0 + 4096) },
        Link::Recovery { start: Lsn(0), end: Lsn(start.0 + 8) },
        Link::Recovery { start: Lsn(0), end: Lsn(4088) },
        Link::Recovery { start: Lsn(4096), end: Lsn(0) },
        Link::Recovery { start: Lsn(u64::MAX), end: Lsn(u64::MAX) },
    ];
    for link in links {
        let header = JournalHeader { link, ..journal() };
        assert!(JournalHeader::decode(&header.encode()).is_err(), "{link:?}");
    }
    for kind in [3, u64::MAX] {
        let mut page = journal().encode();
        page[64..72].copy_from_slice(&u64::to_le_bytes(kind));
        assert!(JournalHeader::decode(&seal(page)).is_err(), "kind {kind}");
    }
    let mut page = JournalHeader { link: Link::Roll, ..journal() }.encode();
    page[72] = 1;
    assert!(JournalHeader::decode(&seal(page)).is_err(), "a roll says from where");
    let rolled = JournalHeader { start: Lsn(0), watermark: Lsn(0), link: Link::Roll, ..journal() };
    assert!(JournalHeader::decode(&rolled.encode()).is_err(), "a roll into the first file");
}

#[test]
fn nothing_behind_the_start_was_durable_before() {
    let header = JournalHeader { watermark: Lsn(journal().start.0 + 8), ..journal() };
    assert!(JournalHeader::decode(&header.encode()).is_err());
}

#[test]
fn numbers_that_nobody_gave_out_are_refused() {
    let over = NUMBER_CEILING;
    let headers = [
        SegmentHeader { log: LogId(over), ..segment() },
        SegmentHeader { base: Offset(over), ..segment() },
        SegmentHeader { generation: over, ..segment() },
    ];
    for header in headers {
        assert!(SegmentHeader::decode(&header.encode()).is_err());
    }
    assert!(MetaHeader::decode(&MetaHeader { store: STORE, number: over }.encode()).is_err());
    for epoch in [0, over] {
        let header = JournalHeader { epoch, ..journal() };
        assert!(JournalHeader::decode(&header.encode()).is_err(), "epoch {epoch}");
    }
}

#[test]
fn each_file_has_a_seed_of_its_own() {
    let other = SegmentHeader { generation: 3, ..segment() };
    assert_ne!(segment().seed(), other.seed());
    assert_ne!(journal().frame_seed(), JournalHeader { epoch: 4, ..journal() }.frame_seed());
    let meta = |number| MetaHeader { store: STORE, number };
    assert_ne!(meta(1).seed(), meta(2).seed());
    assert_eq!(meta(1).seed(), Seed::new(STORE, &[u64::MAX, 1]));
}

proptest! {
    #[test]
    fn any_segment_header_there_and_back(
        log in 0..NUMBER_CEILING, base in 0..NUMBER_CEILING, generation in 0..NUMBER_CEILING,
    ) {
        let header = SegmentHeader { store: STORE, log: LogId(log), base: Offset(base), generation };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    /// A header that verifies is, byte for byte, the one that it encodes to.
    #[test]
    fn any_fields_are_refused_or_kept(
        fields in prop::array::uniform7(prop_oneof![
            Just(0u64), 0..4u64, (0..1000u64).prop_map(|n| n * 4096), any::<u64>(),
        ]),
    ) {
        let mut page = journal().encode();
        for (n, field) in fields.iter().enumerate() {
            page[32 + 8 * n..][..8].copy_from_slice(&field.to_le_bytes());
        }
        let page = seal(page);
        if let Ok(header) = JournalHeader::decode(&page) {
            prop_assert_eq!(header.encode(), page);
            prop_assert!(header.first_frame() <= header.end());
        }
    }
}

fn part() -> PartHeader {
    PartHeader { log: LogId(7), base: Offset(1000), blocks_len: 4096 }
}

#[test]
fn a_part_is_known_by_its_store_its_file_and_its_place() {
    let bytes = part().encode(STORE, 27, 64);
    assert_eq!(PartHeader::decode(&bytes, STORE, 27, 64), Ok(part()));
    assert_eq!(part().len(), 4120);
    for (store, file, at) in
        [(crate::ids::StoreId([9; 16]), 27, 64), (STORE, 28, 64), (STORE, 27, 72)]
    {
        assert!(PartHeader::decode(&bytes, store, file, at).is_err());
    }
    flip_each_bit(&bytes, |bit, flipped| {
        assert!(PartHeader::decode(flipped, STORE, 27, 64).is_err(), "bit {bit}");
    });
    for cut in 0..bytes.len() {
        assert!(PartHeader::decode(&bytes[..cut], STORE, 27, 64).is_err());
    }
    let refused =
        |part: PartHeader| PartHeader::decode(&part.encode(STORE, 27, 64), STORE, 27, 64).is_err();
    assert!(refused(PartHeader { log: LogId(0), ..part() }), "no log");
    assert!(refused(PartHeader { blocks_len: 0, ..part() }), "no block");
    assert!(refused(PartHeader { blocks_len: 4097, ..part() }), "no whole units");
    assert!(refused(PartHeader { base: Offset(NUMBER_CEILING), ..part() }));
    assert!(PartHeader::decode(&[0; 24], STORE, 27, 64).is_err(), "zeros are nothing");
}

#[test]
fn a_shared_file_is_no_logs() {
    let shared = SegmentHeader::shared(STORE, 27);
    assert!(shared.is_shared() && !segment().is_shared());
    assert_eq!(SegmentHeader::decode(&shared.encode()), Ok(shared));
}
