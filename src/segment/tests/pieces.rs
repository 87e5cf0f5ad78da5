//! Tests of the pieces in which segments are written, and of the calls that read the table of one that is not full.

use super::*;
use crate::disk::sim::traffic::Call;

fn large_blocks(disk: &SimDisk, access: Access) -> Segments {
    Segments { access, block_bytes: 16 << 10, ..segments(disk) }
}

/// Adds records of 1,000 bytes.
fn fill(writer: &mut SegmentWriter, count: u64) {
    for n in 0..count {
        let offset = writer.state().end;
        let message = Message::new(vec![n as u8; 1000]).timestamp(Timestamp(n));
        let pushed = writer.push(offset, &RecordParts::of(&message, Timestamp(0)));
        pushed.expect("there is space");
    }
}

fn written_in(disk: &SimDisk, segments: &Segments, state: &SegmentState) -> Vec<(u64, u64)> {
    disk.traffic(&segments.path(state), Call::Write)
}

#[test]
fn a_segment_is_written_in_aligned_pieces_of_two_mebibytes_or_of_a_quarter_of_it() {
    for (segment_bytes, piece) in [(64 << 20, 2 << 20), (1 << 20, 256 << 10), (1 << 16, 16 << 10)] {
        let disk = SimDisk::new(1);
        let segments = large_blocks(&disk, Access::Map);
        disk.note_traffic();
        let mut out = Output::new(segments.clone(), segment_bytes, 0, true);
        let mut writer = out.begin(LOG, BASE).expect("a new segment");
        fill(&mut writer, 5 * piece / 2 / 1000);
        let state = out.finish(writer).expect("there is space");
        let pieces = written_in(&disk, &segments, &state);
        let rest = state.bytes - 2 * piece;
        assert_eq!(pieces[..3], [(0, piece), (piece, piece), (2 * piece, rest)]);
        // Behind them is the table.
        assert_eq!((pieces.len(), pieces[3].0), (4, state.bytes));
        out.sync().expect("the disk is well");

        // A segment that is gone on with comes to the end of its piece first.
        disk.note_traffic();
        let mut writer = out.reopen(state.clone()).expect("it is there");
        fill(&mut writer, 2 * piece / 1000);
        let more = out.finish(writer).expect("there is space");
        let pieces = written_in(&disk, &segments, &more);
        let rest = more.bytes - 4 * piece;
        let expected =
            [(state.bytes, 3 * piece - state.bytes), (3 * piece, piece), (4 * piece, rest)];
        assert_eq!(pieces[..3], expected);
        assert_eq!(whole(&segments, &more).len() as u64, more.records);
    }
}

#[test]
fn a_segment_that_is_not_full_is_opened_with_as_many_reads_however_many_blocks_it_has() {
    let reads_of = |blocks: u64, access| {
        let disk = SimDisk::new(1);
        let segments = large_blocks(&disk, access);
        let mut writer = SegmentWriter::create(&segments, LOG, BASE, 0).expect("a new segment");
        fill(&mut writer, 16 * blocks);
        writer.flush().expect("there is space");
        disk.note_traffic();
        let calls = disk.calls();
        let reader = SegmentReader::open(&segments, writer.state()).expect("it is whole");
        let (calls, found) = (disk.calls() - calls, reader.table().len() as u64);
        assert!((blocks..=blocks + 2).contains(&found), "{found}");
        assert_eq!(read(&reader).expect("it is whole").len() as u64, 16 * blocks);
        let table = reader.table().to_vec();
        let walked =
            SegmentReader::open_unfinished(&segments, writer.state()).expect("it is whole");
        assert_eq!(table, walked.table());
        calls
    };
    for access in [Access::Map, Access::Calls] {
        let (few, many) = (reads_of(10, access), reads_of(300, access));
        assert!(few == many && few <= 8, "{few}, {many}");
    }
}

#[test]
fn the_table_of_a_large_segment_is_not_written_again_for_a_few_messages() {
    let disk = SimDisk::new(1);
    let segments = large_blocks(&disk, Access::Calls);
    let mut writer = SegmentWriter::create(&segments, LOG, BASE, 0).expect("a new segment");
    fill(&mut writer, 16 * 300);
    writer.flush().expect("there is space");
    let mut state = writer.state().clone();
    // So few messages, and the bytes of the segment's table: 40 for each block.
    for (records, has_table) in [(32, false), (32, false), (1600, true), (32, false)] {
        disk.note_traffic();
        let mut writer = SegmentWriter::reopen(&segments, &state).expect("it is there");
        fill(&mut writer, records);
        writer.flush().expect("there is space");
        state = writer.state().clone();
        let pieces = written_in(&disk, &segments, &state);
        let (at, footer) = *pieces.last().expect("it was written");
        assert_eq!((at, footer > BLOCK_HEADER_BYTES as u64), (state.bytes, has_table));
        assert_eq!(whole(&segments, &state).len() as u64, state.records);
    }
}

#[test]
fn a_footer_that_a_failed_checkpoint_has_left_is_written_over() {
    let disk = SimDisk::new(1);
    let segments = large_blocks(&disk, Access::Map);
    let mut writer = SegmentWriter::create(&segments, LOG, BASE, 0).expect("a new segment");
    fill(&mut writer, 16 * 300);
    writer.flush().expect("there is space");
    let committed = writer.state().clone();
    let go_on = |sizes: [usize; 2]| {
        let mut writer = SegmentWriter::reopen(&segments, &committed).expect("it is there");
        for (n, size) in sizes.into_iter().enumerate() {
            let message = Message::new(vec![n as u8; size]).timestamp(Timestamp(7));
            let offset = writer.state().end;
            let pushed = writer.push(offset, &RecordParts::of(&message, Timestamp(0)));
            pushed.expect("there is space");
        }
        writer.flush().expect("there is space");
        writer
    };
    // Two blocks each, that end at the same place. The table of the first attempt stays behind them.
    let failed = go_on([20_000, 30_000]);
    let path = segments.path(failed.state());
    let table = SegmentReader::open_unfinished(&segments, failed.state()).expect("it is whole");
    let mut content = disk.content(&path).expect("it is there");
    content.truncate(failed.state().bytes as usize);
    let seed = segments.header(failed.state()).seed();
    put_footer(&mut content, table.table(), failed.state().bytes, seed);
    disk.plant(&path, Some(content));
    assert_eq!(whole(&segments, failed.state()).len(), 16 * 300 + 2, "it is a valid footer");
    let writer = go_on([30_000, 20_000]);
    assert_eq!(writer.state().bytes, failed.state().bytes);
    let found = whole(&segments, writer.state());
    assert_eq!(found[16 * 300].1.payload().len(), 30_000);
}
