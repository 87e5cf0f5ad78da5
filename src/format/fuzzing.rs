//! Properties that every decoder must have for any input. Fuzz targets (`fuzz/fuzz_targets`) call these functions with
//! random bytes, and a test replays the seeds with them.
//!
//! Random bytes fail at the first checksum. So each function also forges: it fills in valid checksums and positions, as a
//! hostile writer would, and leaves the rest of the bytes.

#[cfg(feature = "cron")]
use super::schedule::Plan;
use super::{
    block::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind},
    commit::{Change, Run, begin_run, changes, finish_run},
    delay_index,
    entity::take_value,
    frame::{FRAME_HEADER_BYTES, begin_frame, decode_frame, finish_frame},
    header::{FORMAT_VERSION, checksum},
    journal::{JOURNAL_HEADER_BYTES, JournalHeader},
    meta::{self, META_HEADER_BYTES, MetaEntry, MetaHeader},
    note::Note,
    pack::{BlockBuilder, Records},
    part::{PART_HEADER_BYTES, PartHeader},
    record::{Headers, RecordParts, RecordSpans},
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader, TableEntry, put_footer, take_table},
    wire::{Bytes, Decoded, NUMBER_CEILING, Seed, aligned},
};
use crate::ids::{Due, LogId, Lsn, Offset, StoreId, Timestamp};

const STORE: StoreId = StoreId(*b"a fuzzed store's");

fn seed(epoch: u64) -> Seed {
    Seed::new(STORE, &[epoch])
}

/// A frame that verifies is the encoding of its parts, and verifies at no other position.
pub fn frame(data: &[u8]) {
    for at in [Lsn(0), Lsn(4096)] {
        let _ = decode_frame(data, at, seed(1));
    }
    let mut forged = data.to_vec();
    let Some((header, payload)) = forged.split_first_chunk_mut::<FRAME_HEADER_BYTES>() else {
        return;
    };
    let field = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let lsn = Lsn(field(&header[8..16]) % (NUMBER_CEILING / 8) * 8);
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    let sum = seed(1).checksum(&forged[4..]);
    forged[..4].copy_from_slice(&sum.to_le_bytes());

    let Ok((header, payload)) = decode_frame(&forged, lsn, seed(1)) else {
        return;
    };
    assert!(header.watermark <= lsn);
    let mut again = Vec::new();
    begin_frame(&mut again);
    again.extend_from_slice(payload);
    finish_frame(&mut again, header.kind, lsn, header.watermark, seed(1).begin());
    assert_eq!(header.frame_len(), again.len() as u64);
    forged.resize(again.len(), 0);
    assert_eq!(forged, again);

    assert!(decode_frame(&forged, Lsn(lsn.0 + 8), seed(1)).is_err());
    assert!(decode_frame(&forged, lsn, seed(2)).is_err(), "a frame of another epoch verifies");
    assert!(decode_frame(&forged[..header.frame_len() as usize - 8], lsn, seed(1)).is_err());
}

/// Changes that decode encode to the same bytes again.
pub fn commit_changes(data: &[u8]) {
    let mut again = Vec::new();
    let mut decoded = Vec::new();
    for change in changes(data) {
        let Ok((at, change)) = change else { break };
        assert!(at < data.len());
        if put_change(&mut again, &change).is_err() {
            return;
        }
        decoded.push(change);
    }
    let twice: Decoded<Vec<_>> = changes(&again).map(|it| it.map(|(_, change)| change)).collect();
    assert_eq!(twice.as_ref(), Ok(&decoded));
    let creates =
        decoded.iter().any(|change| matches!(change, Change::Create(_) | Change::Update(_)));
    // Times of day that never come are one.
    let never = Due::day(Timestamp(u64::MAX));
    let waits_for_ever = |it: &Change<'_>| matches!(it, Change::Defer { due, .. } if *due == never);
    let has_never = decoded.iter().any(waits_for_ever);
    // Postcard decodes the values in creations and updates. It accepts varints that are longer than needed.
    assert!(creates || has_never || data.starts_with(&again), "one thing has two encodings");
}

fn put_change(out: &mut Vec<u8>, change: &Change<'_>) -> Decoded<()> {
    match change {
        Change::Run(run) => return put_run_again(out, run),
        Change::Ack { offsets, .. }
        | Change::AckOthers { offsets, .. }
        | Change::Spill { offsets, .. } => {
            let ranges: Vec<_> = offsets.collect();
            assert!(ranges.is_sorted_by(|a, b| a.end < b.start), "{ranges:?}");
        }
        Change::Create(creation) => {
            let entity = &creation.entity;
            assert_eq!(entity.cursors().count(), creation.starts.len());
            assert!(entity.logs().count() <= entity.ids().count());
        }
        Change::Update(entity) => assert!(entity.has_shape_of(entity)),
        _ => {}
    }
    change.put(out);
    Ok(())
}

/// Appends a run of records.
pub fn put_run<'a>(
    out: &mut Vec<u8>,
    log: LogId,
    first: Offset,
    timestamp: Timestamp,
    records: impl ExactSizeIterator<Item = RecordParts<'a>>,
) {
    let run = begin_run(out, log, first, records.len(), timestamp);
    records.for_each(|record| _ = record.put(out, timestamp));
    finish_run(out, run);
}

fn put_run_again(out: &mut Vec<u8>, run: &Run<'_>) -> Decoded<()> {
    let spans = run.records().collect::<Decoded<Vec<_>>>()?;
    assert_eq!(spans.len(), run.count as usize);
    for (offset, spans) in &spans {
        assert_eq!(run.record(*offset)?, *spans);
        check_spans(run.body, spans);
    }
    assert!(run.record(run.end()).is_err());
    let parts: Vec<_> =
        spans.iter().map(|(_, spans)| RecordParts::stored(run.body, spans)).collect();
    put_run(out, run.log, run.first, run.timestamp, parts.into_iter());
    Ok(())
}

fn check_spans(body: &[u8], spans: &RecordSpans) {
    let parts = RecordParts::stored(body, spans);
    let bytes: usize =
        Headers::new(spans.headers(body)).map(|(name, value)| name.len() + value.len()).sum();
    assert!(bytes <= body.len() && parts.weight() <= body.len() as u64);
}

/// The records of a block lie within the block, in order, and are found by their offsets.
pub fn block(data: &[u8]) {
    let _ = BlockHeader::decode(data, 64, seed(1));
    let Some((forged, body)) = forge_block(data, BlockKind::Records) else {
        return;
    };
    let Ok(header) = BlockHeader::decode(&forged, 64, seed(1)) else {
        return;
    };
    assert_eq!(header.verify(body, seed(1)), Ok(()));
    assert_eq!(header.block_len(), forged.len() as u64);
    let Ok(records) = Records::new(&header, body) else {
        return;
    };
    let found = walk(&header, &records, body);
    let ends = [header.first.0, header.last.0, 0, u64::MAX].map(Offset);
    for offset in found.iter().map(|(offset, _)| *offset).take(64).chain(ends) {
        let _ = records.step(body, &mut records.seek(body, offset));
    }
    if !found.is_empty() {
        check_rebuilt(body, &found);
    }
}

/// The header at the begin of `data` and the body behind it, made to fit each other.
fn forge_block(data: &[u8], kind: BlockKind) -> Option<(Vec<u8>, &[u8])> {
    let (head, body) = data.split_first_chunk::<BLOCK_HEADER_BYTES>()?;
    let mut fields = Bytes::starting_at(head, 16);
    let mut number = || fields.u64().expect("a header has room for it");
    let (first, last, count) = (Offset(number()), Offset(number()), number() as u32);
    let (base_time, max_time) = (Timestamp(number()), Timestamp(number()));
    let header = BlockHeader {
        body_checksum: 0,
        body_len: 0,
        raw_len: 0,
        first,
        last,
        count,
        kind,
        base_time,
        max_time,
        position: 64,
    };
    let mut forged = Vec::new();
    header.put(&mut forged, &[body], seed(1));
    Some((forged, body))
}

fn walk(header: &BlockHeader, records: &Records, body: &[u8]) -> Vec<(Offset, RecordSpans)> {
    let mut found: Vec<(Offset, RecordSpans)> = Vec::new();
    let mut place = records.start(body);
    loop {
        let mut quick = place;
        let quickly = records.quick(body, &mut quick);
        let Ok(Some((offset, spans))) = records.step(body, &mut place) else {
            assert_eq!(quickly, None, "the quick way sees more");
            break;
        };
        assert!(quickly.is_none_or(|it| (it, quick) == ((offset, spans), place)));
        assert!((header.first..=header.last).contains(&offset));
        assert!(found.last().is_none_or(|(before, _)| *before < offset));
        check_spans(body, &spans);
        found.push((offset, spans));
    }
    assert!(found.len() <= header.count as usize);
    found
}

/// A block that is built from the found records holds the same records, for a walk and for seeks.
fn check_rebuilt(body: &[u8], found: &[(Offset, RecordSpans)]) {
    let parts = |spans: &RecordSpans| RecordParts::stored(body, spans);
    let mut builder = BlockBuilder::default();
    for (offset, spans) in found {
        assert!(builder.fits(*offset));
        builder.push(*offset, &parts(spans));
    }
    let mut block = Vec::new();
    let header = builder.finish(&mut block, 64, seed(1));
    let rebuilt = &block[BLOCK_HEADER_BYTES..][..header.body_len as usize];
    let records = Records::new(&header, rebuilt).expect("a block of ours");
    let mut place = records.start(rebuilt);
    for (offset, spans) in found {
        let mut sought = records.seek(rebuilt, *offset);
        let (at, again) =
            records.step(rebuilt, &mut place).expect("a block of ours").expect("a record");
        assert_eq!(records.step(rebuilt, &mut sought), Ok(Some((at, again))));
        assert_eq!((at, again.timestamp), (*offset, spans.timestamp));
        let (old, new) = (parts(spans), RecordParts::stored(rebuilt, &again));
        assert_eq!((old.key, old.payload), (new.key, new.payload));
        assert_eq!(spans.headers(body), again.headers(rebuilt));
    }
    assert_eq!(records.step(rebuilt, &mut place), Ok(None));
}

/// A footer that decodes is the encoding of its table.
pub fn footer(data: &[u8]) {
    if let Some((forged, body)) = forge_block(data, BlockKind::Footer)
        && let Ok(header) = BlockHeader::decode(&forged, 64, seed(1))
        && let Ok(table) = take_table(&header, body)
    {
        assert!(table.is_empty(), "a table from the header to the footer, which touch");
    }
    // The same bytes as entries of a table whose blocks follow each other.
    let mut table: Vec<TableEntry> = Vec::new();
    let mut position = SEGMENT_HEADER_BYTES;
    for entry in data.chunks_exact(40) {
        let mut fields = Bytes::new(entry);
        let mut number = || fields.u64().expect("an entry has room for it");
        let (first, last, max_time) = (Offset(number()), Offset(number()), Timestamp(number()));
        let (length, count) = (number() as u32, number() as u32);
        table.push(TableEntry { position, first, last, max_time, length, count });
        position += u64::from(length);
    }
    let mut footer = Vec::new();
    put_footer(&mut footer, &table, position, seed(1));
    if let Ok(header) = BlockHeader::decode(&footer, position, seed(1)) {
        let body = &footer[BLOCK_HEADER_BYTES..][..header.body_len as usize];
        assert_eq!(header.verify(body, seed(1)), Ok(()));
        if let Ok(decoded) = take_table(&header, body) {
            assert_eq!(decoded, table);
            assert!(table.is_sorted_by_key(|entry| (entry.first, entry.last, entry.max_time)));
        }
    }
}

/// An entry of the metalog that decodes encodes to the same bytes. So do all entries of a frame together.
pub fn meta_entry(data: &[u8]) {
    if let Ok(all) = meta::entries(data).collect::<Decoded<Vec<MetaEntry>>>() {
        let mut again = Vec::new();
        all.iter().for_each(|entry| entry.put(&mut again));
        assert_eq!(meta::entries(&again).collect::<Decoded<Vec<MetaEntry>>>(), Ok(all));
    }
    let Ok(entry) = MetaEntry::decode(data) else {
        return;
    };
    let mut again = Vec::new();
    entry.put(&mut again);
    assert!(again.len() <= data.len(), "the shortest encoding is longer than another");
    assert_eq!(MetaEntry::decode(&again), Ok(entry));
}

/// A note that decodes encodes to bytes of the same note.
pub fn note(data: &[u8]) {
    let Ok(note) = take_value::<Note>(data) else {
        return;
    };
    let again = note.encode();
    assert!(again.len() <= data.len(), "the shortest encoding is longer than another");
    assert_eq!(take_value(&again), Ok(note));
}

/// A block of a delay index that decodes encodes to bytes of the same block, if it is sorted, as each block is that an
/// engine has written.
pub fn delay_index(data: &[u8]) {
    let Ok(entries) = delay_index::decode(data) else {
        return;
    };
    let is_sorted = entries.is_sorted_by(|a, b| a.0 <= b.0);
    if !is_sorted || !entries.is_sorted_by_key(|(due, _)| due.to_stored()) {
        return;
    }
    let again = delay_index::encode(&entries);
    assert!(again.len() <= data.len(), "the shortest encoding is longer than another");
    assert_eq!(delay_index::decode(&again), Ok(entries));
}

/// A schedule that decodes encodes to bytes of the same schedule.
#[cfg(feature = "cron")]
pub fn schedule(data: &[u8]) {
    let Ok(plan) = Plan::decode(data) else {
        return;
    };
    let again = plan.encode();
    assert!(again.len() <= data.len(), "the shortest encoding is longer than another");
    assert_eq!(Plan::decode(&again), Ok(plan));
}

/// A file header that decodes encodes to the same bytes.
pub fn journal_header(data: &[u8]) {
    let _ = (JournalHeader::decode(data), SegmentHeader::decode(data), MetaHeader::decode(data));
    part_header(data);

    let page = forge_header(data, *b"PHjournl", JOURNAL_HEADER_BYTES);
    if let Ok(header) = JournalHeader::decode(&page) {
        assert_eq!(header.encode(), page);
        assert!(header.first_frame() <= header.end());
        assert_eq!(aligned(header.start.0), header.start.0);
    }
    let page = forge_header(data, *b"PHsegmnt", SEGMENT_HEADER_BYTES);
    if let Ok(header) = SegmentHeader::decode(&page) {
        assert_eq!(header.encode(), page);
    }
    let page = forge_header(data, *b"PHmetalg", META_HEADER_BYTES);
    if let Ok(header) = MetaHeader::decode(&page) {
        assert_eq!(header.encode(), page);
    }
}

/// The header of a part that decodes encodes to the same bytes, if its checksum is right.
fn part_header(data: &[u8]) {
    let _ = PartHeader::decode(data, STORE, 27, 64);
    let Some(data) = data.first_chunk::<{ PART_HEADER_BYTES as usize }>() else { return };
    let mut fields = Bytes::starting_at(data, 4);
    let blocks_len = fields.u32().expect("there is room for it");
    let mut number = || fields.u64().expect("there is room for it");
    let forged = PartHeader { log: LogId(number()), base: Offset(number()), blocks_len };
    let bytes = forged.encode(STORE, 27, 64);
    if let Ok(header) = PartHeader::decode(&bytes, STORE, 27, 64) {
        assert_eq!(header, forged);
        assert_eq!(bytes[4..], data[4..]);
    }
}

fn forge_header(data: &[u8], magic: [u8; 8], length: u64) -> Vec<u8> {
    let mut page = data.to_vec();
    page.resize(length as usize, 0);
    page[..8].copy_from_slice(&magic);
    page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let sum = checksum(&page);
    page[12..16].copy_from_slice(&sum.to_le_bytes());
    page
}
