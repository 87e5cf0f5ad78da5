use proptest::prelude::*;

use super::{
    super::{block::*, pack::*, record::RecordParts, wire::*},
    batter, flip_each_bit,
    record::{Owned, any_record},
    seed,
};
use crate::ids::{Offset, Timestamp};

const AT: u64 = 64;

/// What a block holds, plainly.
type Model = Vec<(u64, Owned)>;

fn pack(model: &Model) -> (BlockHeader, Vec<u8>) {
    let mut builder = BlockBuilder::default();
    assert!(builder.is_empty());
    for (offset, record) in model {
        assert!(builder.fits(Offset(*offset)));
        let message = record.message();
        builder.push(Offset(*offset), &RecordParts::of(&message, Timestamp(0)));
    }
    let estimate = builder.len();
    let mut out = Vec::new();
    let header = builder.finish(&mut out, AT, seed());
    assert!(builder.is_empty(), "the next block begins");
    assert_eq!(aligned(estimate as u64), out.len() as u64);
    (header, out)
}

fn body(header: &BlockHeader, block: &[u8]) -> Vec<u8> {
    block[BLOCK_HEADER_BYTES..][..header.body_len as usize].to_vec()
}

/// Reads a block as whoever finds it on disk does.
fn open(block: &[u8]) -> Decoded<(BlockHeader, Vec<u8>)> {
    let header = BlockHeader::decode(block, AT, seed())?;
    let end = BLOCK_HEADER_BYTES + header.body_len as usize;
    let body = block.get(BLOCK_HEADER_BYTES..end).ok_or(Malformed("cut"))?;
    header.verify(body, seed())?;
    Records::new(&header, body)?;
    Ok((header, body.to_vec()))
}

fn walk_from(header: &BlockHeader, body: &[u8], mut place: BlockPlace) -> Decoded<Model> {
    let records = Records::new(header, body)?;
    let mut found = Model::new();
    loop {
        // The quick way is the same way.
        let mut quick = place;
        let quickly = records.quick(body, &mut quick);
        let Some((offset, spans)) = records.step(body, &mut place)? else { break };
        assert!(quickly.is_none_or(|it| (it, quick) == ((offset, spans), place)));
        found.push((offset.0, Owned::of(body, &spans)));
    }
    Ok(found)
}

fn walk(header: &BlockHeader, body: &[u8]) -> Decoded<Model> {
    walk_from(header, body, Records::new(header, body)?.start(body))
}

fn plain(offset: u64) -> (u64, Owned) {
    (offset, Owned { timestamp: 1000, payload: vec![offset as u8], ..Owned::default() })
}

/// Seals a header with its checksum, as a hostile hand would.
fn forge(change: impl FnOnce(&mut BlockHeader)) -> Decoded<BlockHeader> {
    let (mut header, block) = pack(&(0..40).map(plain).collect());
    change(&mut header);
    let mut out = Vec::new();
    header.put(&mut out, &[&body(&header, &block)], seed());
    BlockHeader::decode(&out, AT, seed())
}

/// Numbers have one form. What the slow way refuses, the quick way does not take.
#[test]
fn a_time_in_another_form_is_refused_by_both_ways() {
    let has_time = 1u32;
    let forms: [&[u8]; 4] = [&[0x00, 1], &[0x80, 0x00, 1], &[0x81, 0x00, 1], &[0x80]];
    for data in forms {
        let (mut header, _) = pack(&[plain(0)].to_vec());
        let mark = (data.len() as u32) << 2 | has_time;
        let body = [data, &mark.to_le_bytes()].concat();
        header.body_len = body.len() as u32;
        let records = Records::new(&header, &body).unwrap();
        let mut place = records.start(&body);
        assert_eq!(records.quick(&body, &mut place), None, "{data:?}");
        assert!(records.step(&body, &mut place).is_err(), "{data:?}");
    }
}

#[test]
fn a_block_there_and_back() {
    let model: Model = [7, 8, 9, 20, 21, 1000].map(plain).to_vec();
    let (header, block) = pack(&model);
    assert_eq!((header.first, header.last, header.count), (Offset(7), Offset(1000), 6));
    assert_eq!((header.base_time, header.max_time), (Timestamp(1000), Timestamp(1000)));
    assert_eq!(header.block_len(), block.len() as u64);
    let (again, body) = open(&block).unwrap();
    assert_eq!(again, header);
    assert_eq!(walk(&header, &body), Ok(model));
}

/// Its end may be before a gap, in it, and behind it.
#[test]
fn a_block_before_an_offset() {
    let model: Model = [7, 8, 9, 20, 21, 1000].map(plain).to_vec();
    let (header, block) = pack(&model);
    let body = body(&header, &block);
    for end in (0..30).chain([999, 1000, 1001]) {
        let whole = Records::new(&header, &body).unwrap();
        let records = whole.before(&body, Offset(end));
        for from in (0..=end.min(30)).chain([end]) {
            let (mut place, mut found) = (records.seek(&body, Offset(from)), Vec::new());
            let mut quick = place;
            while let Some((offset, _)) = records.step(&body, &mut place).unwrap() {
                found.push(offset.0);
            }
            let offsets = model.iter().map(|it| it.0).filter(|it| (from..end).contains(it));
            assert!(found.iter().copied().eq(offsets), "{from} to {end}: {found:?}");
            // Who looks again is behind the end then.
            let again = records.seek(&body, place.next()).next();
            assert!(end > 1000 || again >= Offset(end), "{from} to {end}: {again}");
            while let Some((offset, _)) = records.quick(&body, &mut quick) {
                assert!(found.contains(&offset.0), "{from} to {end}");
            }
        }
    }
}

#[test]
fn a_record_costs_four_bytes_beside_its_payload() {
    let bytes = |model: &Model| pack(model).0.body_len;
    assert_eq!(bytes(&(0..1).map(plain).collect()), 1 + 4);
    assert_eq!(bytes(&(0..100).map(plain).collect()), 100 * (1 + 4));
    assert_eq!(bytes(&[7, 8, 10, 11].map(plain).to_vec()), 4 * (1 + 4) + 8, "a gap costs eight");
    let later = (1, Owned { timestamp: 1063, ..plain(1).1 });
    assert_eq!(bytes(&vec![plain(0), later]), 2 * (1 + 4) + 1, "a time costs one, or few");
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap())).collect()
}

#[test]
fn marks_say_where_records_end() {
    let mut model: Model = [100, 101, 105, 106].map(plain).to_vec();
    model[1].1.timestamp = 999;
    model[3].1.key = Some(vec![b'k']);
    let (header, block) = pack(&model);
    let body = body(&header, &block);
    let (front, marks) = body.split_at(body.len() - 4 * 4);
    let (data, gaps) = front.split_at(front.len() - 8);
    assert_eq!(data, [100, 1, 101, 105, 2, 0, b'k', 106]);
    assert_eq!(numbers(gaps), [2, 5]);
    assert_eq!(numbers(marks), [1 << 2, 3 << 2 | 1, 4 << 2, 8 << 2 | 2]);
}

#[test]
fn plain_records_are_read_quickly() {
    let mut model: Model = [10, 11, 12, 20, 21, 22].map(plain).to_vec();
    model[1].1.timestamp = 1000 + 8191;
    model[5].1.key = Some(Vec::new());
    let (header, block) = pack(&model);
    let body = body(&header, &block);
    let records = Records::new(&header, &body).unwrap();
    let mut place = records.start(&body);
    let mut quick = Vec::new();
    while records.quick(&body, &mut place).is_some() || {
        quick.push(place.next().0);
        records.step(&body, &mut place).unwrap().is_some()
    } {}
    assert_eq!(quick, [13, 22, 23], "all but behind a gap, with a key, and at the end");
}

#[test]
fn no_bit_can_change() {
    let (header, block) = pack(&[3, 4, 90].map(plain).to_vec());
    let end = (BLOCK_HEADER_BYTES + header.body_len as usize) * 8;
    flip_each_bit(&block, |bit, flipped| {
        assert_eq!(open(flipped).is_err(), bit < end, "bit {bit}");
    });
}

#[test]
fn it_belongs_to_one_place_and_one_file() {
    let (header, block) = pack(&(0..3).map(plain).collect());
    assert!(BlockHeader::decode(&block, AT + 8, seed()).is_err());
    let other = Seed::new(super::STORE, &[2]);
    assert!(BlockHeader::decode(&block, AT, other).is_err());
    assert!(header.verify(&body(&header, &block), other).is_err());
}

#[test]
fn offsets_span_32_bits_at_most() {
    let mut builder = BlockBuilder::default();
    assert!(builder.fits(Offset(u64::MAX)), "anything fits where nothing is");
    let record = Owned::default();
    let message = record.message();
    builder.push(Offset(10), &RecordParts::of(&message, Timestamp(0)));
    let far = 10 + u64::from(u32::MAX);
    assert!(builder.fits(Offset(far)) && !builder.fits(Offset(far + 1)));
    builder.push(Offset(far), &RecordParts::of(&message, Timestamp(0)));
    let mut out = Vec::new();
    let header = builder.finish(&mut out, AT, seed());
    let (_, body) = open(&out).unwrap();
    let records = Records::new(&header, &body).unwrap();
    let mut place = records.seek(&body, Offset(11));
    assert_eq!(records.step(&body, &mut place).unwrap().unwrap().0, Offset(far));
}

#[test]
fn impossible_headers_are_refused() {
    assert!(forge(|_| {}).is_ok());
    assert!(forge(|it| it.count = 0).is_err());
    assert!(forge(|it| it.count = 41).is_err(), "more records than offsets");
    assert!(forge(|it| it.count = u32::MAX).is_err());
    assert!(forge(|it| it.last = Offset(38)).is_err());
    assert!(forge(|it| it.first = Offset(40)).is_err(), "ends before it begins");
    assert!(forge(|it| it.last = Offset(1 << 32)).is_err(), "wider than the table can say");
    for last in [NUMBER_CEILING, u64::MAX - 1, u64::MAX] {
        let place = |it: &mut BlockHeader| (it.first, it.last) = (Offset(last - 39), Offset(last));
        assert!(forge(place).is_err(), "{last}");
    }
    let place = |it: &mut BlockHeader| it.last = Offset(NUMBER_CEILING - 1);
    let top = |it: &mut BlockHeader| {
        it.first = Offset(NUMBER_CEILING - 40);
        place(it);
    };
    assert!(forge(top).is_ok());
}

/// Lengths are checked before anybody asks for so much memory.
#[test]
fn impossible_lengths_are_refused() {
    let (_, block) = pack(&(0..3).map(plain).collect());
    for (body_len, raw_len) in [(11, 12), (u32::MAX, u32::MAX), (u32::MAX - 64, u32::MAX - 64)] {
        let mut header: [u8; BLOCK_HEADER_BYTES] = block[..BLOCK_HEADER_BYTES].try_into().unwrap();
        header[8..12].copy_from_slice(&u32::to_le_bytes(body_len));
        header[12..16].copy_from_slice(&u32::to_le_bytes(raw_len));
        let sum = seed().checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        assert!(BlockHeader::decode(&header, AT, seed()).is_err(), "{body_len} {raw_len}");
    }
}

#[test]
fn unknown_kinds_and_codecs_are_refused() {
    let (_, block) = pack(&(0..3).map(plain).collect());
    for (at, value) in [(36, 0), (36, 3), (36, 0xFF), (37, 1), (38, 1), (39, 1)] {
        let mut header: [u8; BLOCK_HEADER_BYTES] = block[..BLOCK_HEADER_BYTES].try_into().unwrap();
        header[at] = value;
        let sum = seed().checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        assert!(BlockHeader::decode(&header, AT, seed()).is_err(), "byte {at} is {value}");
    }
}

/// The checksum says who wrote a block, not that it makes sense.
#[test]
fn gaps_that_are_none_are_refused() {
    let (header, block) = pack(&[10, 11, 20, 21, 30].map(plain).to_vec());
    let good = body(&header, &block);
    let with = |gaps: &[u32]| {
        let gaps: Vec<u8> = gaps.iter().flat_map(|n| n.to_le_bytes()).collect();
        Records::new(&header, &[&good[..5], &gaps, &good[21..]].concat())
    };
    assert!(with(&[2, 10, 4, 20]).is_ok());
    assert!(with(&[1, 17]).is_ok(), "other gaps, that lead to the last record, too");
    let refused: [&[u32]; 12] = [
        &[],
        &[2],
        &[2, 10],
        &[2, 10, 4],
        &[2, 10, 4, 19],
        &[2, 10, 4, 12],
        &[2, 2, 4, 20],
        &[4, 20, 2, 10],
        &[0, 1, 4, 20],
        &[2, 10, 5, 20],
        &[2, u32::MAX, 4, 20],
        &[2, 10, 2, 20],
    ];
    for gaps in refused {
        assert!(with(gaps).is_err(), "{gaps:?}");
    }
}

#[test]
fn marks_that_lead_astray_are_refused() {
    let (header, block) = pack(&(0..4).map(plain).collect());
    let good = body(&header, &block);
    let with = |n: usize, mark: u32| {
        let mut bad = good.clone();
        bad[4 + n * 4..][..4].copy_from_slice(&mark.to_le_bytes());
        Records::new(&header, &bad)?;
        walk(&header, &bad)
    };
    assert_eq!(with(1, 2 << 2).unwrap().len(), 4);
    let refused = [
        (1, 0),          // It ends before it begins.
        (1, 5 << 2),     // In the marks.
        (1, u32::MAX),   // Far behind.
        (1, 2 << 2 | 1), // No varint: the payload is one, but the time is then that of the block.
        (1, 2 << 2 | 2), // A key, and nothing behind it.
        (3, 3 << 2),     // The data ends early.
        (3, 5 << 2),
    ];
    for (n, mark) in refused {
        let found = with(n, mark);
        let lone_time = (n, mark) == (1, 2 << 2 | 1);
        assert!(found.is_err() || lone_time, "record {n}: {found:?}");
    }
}

#[test]
fn what_goes_without_saying_is_refused() {
    let (header, _) = pack(&(0..1).map(plain).collect());
    let open = |data: &[u8], bits: u32| {
        let body = [data, &((data.len() as u32) << 2 | bits).to_le_bytes()].concat();
        walk(&header, &body).map(|found| found[0].1.clone())
    };
    assert_eq!(open(&[2, 9], 1).unwrap().timestamp, 1001);
    assert_eq!(open(&[0x80, 1, 9], 1).unwrap().timestamp, 1064);
    assert_eq!(open(&[1, 0, 9], 2).unwrap().key, Some(Vec::new()));
    for (data, bits) in [
        (&[0, 9][..], 1),   // The time of the block.
        (&[0x80, 0, 9], 1), // A varint that is too long.
        (&[0x80], 1),       // None.
        (&[], 1),
        (&[0, 0, 9], 2), // No key and no headers.
        (&[3, 0, 9], 2), // A key of two bytes, where there is one.
        (&[0, 2, 9], 2), // Headers, the same.
        (&[2, 1, 9], 2), // Key and headers, of which each alone would fit.
        (&[9], 2),
        (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 9], 2),
    ] {
        assert!(open(data, bits).is_err(), "{data:?} {bits}");
    }
}

#[test]
fn a_body_that_ends_early_is_refused() {
    let (header, block) = pack(&(0..40).map(plain).collect());
    let good = body(&header, &block);
    for cut in 1..good.len() {
        assert!(Records::new(&header, &good[cut..]).is_err(), "{cut} bytes less at the begin");
        let cut_short = Records::new(&header, &good[..cut]);
        assert!(cut_short.is_err() || walk(&header, &good[..cut]).is_err(), "{cut} bytes");
    }
}

#[test]
fn records_lie_within_their_block() {
    let (mut header, block) = pack(&(10..30).map(plain).collect());
    let body = body(&header, &block);
    for last in [28, 30, 1000] {
        header.last = Offset(last);
        assert!(Records::new(&header, &body).is_err(), "the last offset is not {last}");
    }
}

/// Some blocks are dense, some full of gaps, some have a few.
fn models() -> impl Strategy<Value = Model> {
    let gap = prop_oneof![8 => Just(0u64), 2 => 1..5u64, 1 => 0..1u64 << 20];
    let dense = prop::collection::vec((Just(0u64), any_record()), 1..80);
    let gappy = prop::collection::vec((1..1000u64, any_record()), 1..80);
    let mixed = prop::collection::vec((gap, any_record()), 1..80);
    let first = prop_oneof![Just(0u64), 0..5000u64, Just(NUMBER_CEILING - (80 << 20))];
    (first, prop_oneof![dense, gappy, mixed]).prop_map(|(first, steps)| {
        let mut next = first;
        let place = |(gap, record)| {
            let offset = next + gap;
            next = offset + 1;
            (offset, record)
        };
        let mut model: Model = steps.into_iter().map(place).collect();
        let skipped = model[0].0 - first;
        model.iter_mut().for_each(|(offset, _)| *offset -= skipped);
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_block_there_and_back(model in models()) {
        let (header, block) = pack(&model);
        let (again, body) = open(&block).unwrap();
        prop_assert_eq!(again, header);
        let times = model.iter().map(|(_, record)| record.timestamp);
        prop_assert_eq!(header.max_time.0, times.max().unwrap());
        prop_assert_eq!(walk(&header, &body), Ok(model));
    }

    #[test]
    fn seeking_finds_what_the_model_has(model in models(), far: u64) {
        let (header, block) = pack(&model);
        let body = body(&header, &block);
        let records = Records::new(&header, &body).unwrap();
        let near = model.iter().flat_map(|(n, _)| [n.saturating_sub(1), *n, n + 1]);
        for offset in near.chain([0, far, u64::MAX]) {
            let behind = model.partition_point(|(n, _)| *n < offset);
            let mut place = records.seek(&body, Offset(offset));
            for n in behind..(behind + 2).min(model.len() + 1) {
                let found = records.step(&body, &mut place).unwrap();
                let found = found.map(|(offset, spans)| (offset.0, Owned::of(&body, &spans)));
                prop_assert_eq!(found.as_ref(), model.get(n));
            }
        }
    }
}

proptest! {
    // Each case is some thousand blocks.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn hostile_bodies_are_refused_or_lie_within(model in models().prop_map(|mut model| {
        model.truncate(6);
        model
    })) {
        let (header, block) = pack(&model);
        batter(&body(&header, &block), |body| {
            let Ok(records) = Records::new(&header, body) else { return };
            if let Ok(found) = walk(&header, body) {
                assert!(found.is_sorted_by(|a, b| a.0 < b.0));
                assert!(found.iter().all(|(n, _)| (header.first.0..=header.last.0).contains(n)));
            }
            for offset in [0, model[0].0, model[model.len() - 1].0, u64::MAX] {
                let mut place = records.seek(body, Offset(offset));
                let _ = records.step(body, &mut place);
            }
        });
    }
}
