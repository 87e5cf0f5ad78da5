use proptest::prelude::*;

use super::{
    super::{block::*, segment::*, wire::*},
    batter, flip_each_bit, seed,
};
use crate::ids::{Offset, Timestamp};

fn table(blocks: &[(u64, u32, u32, u64)]) -> Vec<TableEntry> {
    let (mut position, mut next, mut latest) = (SEGMENT_HEADER_BYTES, 0, Timestamp(0));
    blocks
        .iter()
        .map(|(gap, count, units, time)| {
            let first = next + gap;
            next = first + u64::from(*count);
            latest = latest.max(Timestamp(*time));
            let length = BLOCK_HEADER_BYTES as u32 + units * ALIGN as u32;
            let (at, last) = (position, Offset(next - 1));
            position += u64::from(length);
            let (first, count, max_time) = (Offset(first), *count, latest);
            TableEntry { position: at, first, last, max_time, length, count }
        })
        .collect()
}

fn three() -> Vec<TableEntry> {
    table(&[(5, 10, 9, 100), (0, 1, 1, 50), (30, 7, 4, 200)])
}

fn end(table: &[TableEntry]) -> u64 {
    table.last().map_or(SEGMENT_HEADER_BYTES, |last| last.position + u64::from(last.length))
}

fn open(footer: &[u8], position: u64) -> Decoded<Vec<TableEntry>> {
    let header = BlockHeader::decode(footer, position, seed())?;
    let end = BLOCK_HEADER_BYTES + header.body_len as usize;
    let body = footer.get(BLOCK_HEADER_BYTES..end).ok_or(Malformed("cut"))?;
    header.verify(body, seed())?;
    take_table(&header, body)
}

fn footer(table: &[TableEntry], position: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_footer(&mut out, table, position, seed());
    out
}

#[test]
fn there_and_back() {
    for table in [Vec::new(), three()] {
        assert_eq!(open(&footer(&table, end(&table)), end(&table)), Ok(table));
    }
}

#[test]
fn no_bit_can_change() {
    let table = three();
    let bytes = footer(&table, end(&table));
    assert_eq!(bytes.len() as u64 % ALIGN, 0);
    flip_each_bit(&bytes, |bit, flipped| {
        assert!(open(flipped, end(&table)).is_err(), "bit {bit}");
    });
}

#[test]
fn contradictions_are_refused() {
    type Change = fn(&mut Vec<TableEntry>);
    let changes: [(&str, Change); 14] = [
        ("a gap between blocks", |it| it[1].position += 8),
        ("a block over another", |it| it[1].position -= 8),
        ("blocks changed places", |it| it.swap(0, 1)),
        ("a block that ends before it begins", |it| it[0].first = Offset(20)),
        ("offsets that overlap", |it| it[1].first = it[0].last),
        ("no records", |it| it[1].count = 0),
        ("more records than offsets", |it| it[1].count = 2),
        ("a clock that goes back", |it| it[1].max_time = Timestamp(99)),
        ("no length", |it| it[1].length = 0),
        ("less than a header", |it| it[1].length = 56),
        ("an odd length", |it| it[1].length += 4),
        ("a length too many", |it| it[1].length += 8),
        ("one block less", |it| it.truncate(2)),
        ("an offset that nobody gave out", |it| it[2].last = Offset(NUMBER_CEILING)),
    ];
    for (what, change) in changes {
        let mut table = three();
        let position = end(&table);
        change(&mut table);
        assert!(open(&footer(&table, position), position).is_err(), "{what}");
    }
}

/// What the header says twice it says alike.
#[test]
fn a_header_that_contradicts_the_table_is_refused() {
    let position = end(&three());
    let bytes = footer(&three(), position);
    let good = BlockHeader::decode(&bytes, position, seed()).unwrap();
    let body = &bytes[BLOCK_HEADER_BYTES..][..good.body_len as usize];
    assert!(take_table(&good, body).is_ok());
    let bad = [
        BlockHeader { kind: BlockKind::Records, ..good },
        BlockHeader { count: 2, ..good },
        BlockHeader { count: u32::MAX, ..good },
        BlockHeader { first: Offset(4), ..good },
        BlockHeader { last: Offset(1000), ..good },
        BlockHeader { max_time: Timestamp(0), ..good },
        BlockHeader { base_time: Timestamp(1), ..good },
        BlockHeader { position: position + 8, ..good },
    ];
    for header in bad {
        assert!(take_table(&header, body).is_err(), "{header:?}");
    }
    assert!(take_table(&good, &body[..body.len() - 1]).is_err());
    assert!(
        take_table(&BlockHeader { count: 0, ..good }, &[]).is_err(),
        "blocks that are not told"
    );
}

#[test]
fn an_entry_is_what_the_block_says() {
    let header = BlockHeader {
        body_checksum: 1,
        body_len: 13,
        raw_len: 13,
        first: Offset(5),
        last: Offset(9),
        count: 3,
        kind: BlockKind::Records,
        base_time: Timestamp(7),
        max_time: Timestamp(70),
        position: 64,
    };
    let entry = TableEntry::of(&header, None);
    assert_eq!((entry.position, entry.length, entry.count), (64, 80, 3));
    assert_eq!((entry.first, entry.last, entry.max_time), (Offset(5), Offset(9), Timestamp(70)));
    let later = TableEntry { max_time: Timestamp(99), ..entry };
    assert_eq!(TableEntry::of(&header, Some(&later)).max_time, Timestamp(99));
}

proptest! {
    #[test]
    fn any_table_there_and_back(
        blocks in prop::collection::vec((0..50u64, 1..100u32, 0..50u32, any::<u64>()), 0..40),
    ) {
        let table = table(&blocks);
        let bytes = footer(&table, end(&table));
        prop_assert_eq!(open(&bytes, end(&table)), Ok(table.clone()));
    }

    #[test]
    fn hostile_tables_are_refused_or_in_order(
        blocks in prop::collection::vec((0..50u64, 1..100u32, 0..50u32, any::<u64>()), 1..4),
    ) {
        let table = table(&blocks);
        let bytes = footer(&table, end(&table));
        let header = BlockHeader::decode(&bytes, end(&table), seed()).unwrap();
        batter(&bytes[BLOCK_HEADER_BYTES..][..header.body_len as usize], |body| {
            if let Ok(table) = take_table(&header, body) {
                assert!(table.is_sorted_by(|a, b| a.last < b.first && a.max_time <= b.max_time));
            }
        });
    }
}
