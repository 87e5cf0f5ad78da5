use proptest::prelude::*;

use super::{
    super::{block::*, record::RecordParts, wire::*},
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

fn walk(header: &BlockHeader, body: &[u8], mut place: BlockPlace) -> Decoded<Model> {
    let records = Records::new(header, body)?;
    let mut found = Model::new();
    while let Some((offset, spans)) = records.step(&mut place)? {
        found.push((offset.0, Owned::of(body, &spans)));
    }
    Ok(found)
}

fn plain(offset: u64) -> (u64, Owned) {
    (offset, Owned { timestamp: 1000, payload: vec![offset as u8], ..Owned::default() })
}

/// Seals a header with its checksum, as a hostile hand would.
fn forge(change: impl FnOnce(&mut BlockHeader)) -> Decoded<BlockHeader> {
    let (mut header, block) = pack(&(0..40).map(plain).collect());
    change(&mut header);
    let mut out = Vec::new();
    header.put(&mut out, &body(&header, &block), seed());
    BlockHeader::decode(&out, AT, seed())
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
    let records = Records::new(&header, &body).unwrap();
    assert_eq!(walk(&header, &body, records.start()), Ok(model));
}

#[test]
fn a_record_costs_two_bytes_beside_its_payload() {
    let bytes = |count| pack(&(0..count).map(plain).collect()).0.body_len;
    assert_eq!(bytes(1), 3 + 8);
    assert_eq!(bytes(16), 16 * 3 + 8);
    assert_eq!(bytes(17), 17 * 3 + 16, "every sixteenth record has an entry in the table");
    assert_eq!(bytes(32), 32 * 3 + 16);
    assert_eq!(bytes(33), 33 * 3 + 24);
}

#[test]
fn the_table_points_at_every_sixteenth_record() {
    let (header, block) = pack(&(100..150).map(plain).collect());
    let body = body(&header, &block);
    let table = &body[body.len() - 4 * 8..];
    let numbers: Vec<u32> =
        table.chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap())).collect();
    assert_eq!(numbers, [0, 0, 48, 16, 96, 32, 144, 48]);
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
    let mut place = records.seek(Offset(11)).unwrap();
    assert_eq!(records.step(&mut place).unwrap().unwrap().0, Offset(far));
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
fn a_table_that_points_outside_is_refused() {
    let (header, block) = pack(&(0..40).map(plain).collect());
    let good = body(&header, &block);
    let table = good.len() - 3 * 8;
    let seek = |at: usize, value: u32| {
        let mut bad = good.clone();
        bad[table + at..][..4].copy_from_slice(&value.to_le_bytes());
        let records = Records::new(&header, &bad).unwrap();
        records.seek(Offset(20)).map(|_| ())
    };
    assert_eq!(seek(8, 48), Ok(()));
    for position in [40 * 3, 40 * 3 + 1, u32::MAX] {
        assert!(seek(8, position).is_err(), "a record at {position}");
    }
    for delta in [40, u32::MAX] {
        assert!(seek(12, delta).is_err(), "an offset {delta} behind the first");
    }
}

#[test]
fn a_body_that_ends_early_is_refused() {
    let (header, block) = pack(&(0..40).map(plain).collect());
    let good = body(&header, &block);
    let (records, table) = good.split_at(40 * 3);
    for cut in 0..records.len() {
        let bad = [&records[..cut], table].concat();
        let cut_short = Records::new(&header, &bad).unwrap();
        assert!(walk(&header, &bad, cut_short.start()).is_err(), "{cut} bytes of records");
    }
    for cut in 0..table.len() {
        assert!(Records::new(&header, &table[..cut]).is_err());
    }
}

#[test]
fn records_lie_within_their_block() {
    let (mut header, block) = pack(&(10..30).map(plain).collect());
    let body = body(&header, &block);
    header.last = Offset(28);
    let records = Records::new(&header, &body).unwrap();
    assert!(walk(&header, &body, records.start()).is_err(), "a record behind the last");
    // A gap that leads back, far back, or nowhere.
    for delta in [0, 1, u64::MAX - 9, u64::MAX] {
        let mut body = vec![0, 0, 0, 0, 8];
        put_varint(&mut body, delta);
        body.push(0);
        body.extend_from_slice(&[0; 8]);
        let (header, _) = pack(&[10, 11, 20].map(plain).to_vec());
        let records = Records::new(&header, &body).unwrap();
        assert!(walk(&header, &body, records.start()).is_err(), "{delta}");
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
        let records = Records::new(&header, &body).unwrap();
        prop_assert_eq!(walk(&header, &body, records.start()), Ok(model));
    }

    #[test]
    fn seeking_finds_what_the_model_has(model in models(), far: u64) {
        let (header, block) = pack(&model);
        let body = body(&header, &block);
        let records = Records::new(&header, &body).unwrap();
        let near = model.iter().flat_map(|(n, _)| [n.saturating_sub(1), *n, n + 1]);
        for offset in near.chain([0, far, u64::MAX]) {
            let behind = model.partition_point(|(n, _)| *n < offset);
            let mut place = records.seek(Offset(offset)).unwrap();
            for n in behind..(behind + 2).min(model.len() + 1) {
                let found = records.step(&mut place).unwrap();
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
            if let Ok(found) = walk(&header, body, records.start()) {
                assert!(found.is_sorted_by(|a, b| a.0 < b.0));
                assert!(found.iter().all(|(n, _)| (header.first.0..=header.last.0).contains(n)));
            }
            for offset in [0, model[0].0, model[model.len() - 1].0, u64::MAX] {
                let _ = records.seek(Offset(offset));
            }
        });
    }
}
