//! Tests of `segment/`. Bodies that can run on both disks do.
#![allow(clippy::disallowed_methods)]

mod pieces;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Block, Held, Output, Packing, PartsSurvey, Piece, SegmentReader, SegmentSurvey, SegmentWriter,
    Segments, Written, parts_of,
};
use crate::{
    disk::{Access, Disk, os::OsDisk, sim::SimDisk},
    error::{Error, ErrorKind, Result},
    format::{
        block::BLOCK_HEADER_BYTES,
        meta::{Place, SegmentState},
        pack::BlockPlace,
        record::{Headers, RecordParts},
        segment::{SEGMENT_HEADER_BYTES, TableEntry, put_footer},
    },
    ids::{LogId, Offset, StoreId, Timestamp},
    layout::{Fan, Layout},
    message::Message,
};

const STORE: StoreId = StoreId([7; 16]);
const LOG: LogId = LogId(3);
const BASE: Offset = Offset(1000);

type Stored = (Offset, Message<'static>);

fn segments_on(disk: Arc<dyn Disk>, root: &Path, access: Access) -> Segments {
    let layout = Layout::new(root);
    let fan = layout.fan_dir(Fan::of(0));
    disk.create_dir(&fan).expect("the directory can be made");
    for dir in [root, &layout.segments_dir(), &fan] {
        disk.sync_dir(dir).expect("it can be synced");
    }
    Segments { disk, layout, store: STORE, access, block_bytes: 2048 }
}

fn segments(disk: &SimDisk) -> Segments {
    let segments = segments_on(Arc::new(disk.process()), Path::new("s"), Access::Map);
    segments.disk.sync_dir(Path::new("")).expect("it can be synced");
    segments
}

/// Runs a body on both disks, through maps and through calls.
fn on_all_disks(body: impl Fn(&Segments)) {
    for access in [Access::Map, Access::Calls] {
        body(&segments_on(Arc::new(SimDisk::new(1).process()), Path::new("s"), access));
        let dir = tempfile::tempdir().expect("a temporary directory");
        body(&segments_on(Arc::new(OsDisk::new()), dir.path(), access));
    }
}

/// Messages of every shape, with gaps between their offsets, by a clock that also goes back.
fn messages(count: u64) -> Vec<Stored> {
    let mut offset = BASE;
    let next = |n: u64| {
        // One gap is too wide for a block.
        offset.0 += if n % 40 == 39 { 1 << 33 } else { 1 + 5 * u64::from(n % 7 == 6) };
        let length = if n % 29 == 28 { 9000 } else { n * 13 % 97 };
        let time = Timestamp(1_700_000_000_000 + 100 * n - 7000 * (n % 11));
        let mut message = Message::new(vec![n as u8; length as usize]).timestamp(time);
        if n.is_multiple_of(2) {
            message = message.key(vec![n as u8; n as usize % 3]);
        }
        for header in 0..n % 4 {
            message = message.header(format!("header {header}"), vec![1; 30 * header as usize]);
        }
        (offset, message)
    };
    (0..count).map(next).collect()
}

fn push(writer: &mut SegmentWriter, messages: &[Stored]) -> Result<()> {
    messages.iter().try_for_each(|(offset, message)| {
        writer.push(*offset, &RecordParts::of(message, Timestamp(0)))
    })
}

/// Makes a segment durable, with its name.
fn sync(segments: &Segments, writer: &SegmentWriter) -> Result<()> {
    writer.sync()?;
    let synced = segments.disk.sync_dir(&segments.layout.fan_dir(Fan::of(0)));
    synced.map_err(|error| Error::io(error, "a directory cannot be synced", "s/segments"))
}

/// A segment with these messages, neither sealed nor synced.
fn written(segments: &Segments, messages: &[Stored]) -> SegmentWriter {
    let mut writer = SegmentWriter::create(segments, LOG, BASE, 0).expect("a new segment");
    push(&mut writer, messages).expect("there is space");
    writer.flush().expect("there is space");
    writer
}

fn step(block: &Block, place: &mut BlockPlace) -> Result<Option<Stored>> {
    let Some((offset, spans)) = block.step(place)? else { return Ok(None) };
    let body = block.body();
    let mut message = Message::new(spans.payload(body)).timestamp(spans.timestamp);
    if let Some(key) = spans.key(body) {
        message = message.key(key);
    }
    for (name, value) in Headers::new(spans.headers(body)) {
        message = message.header(name, value);
    }
    Ok(Some((offset, message.into_owned())))
}

fn read_block(reader: &SegmentReader, index: usize) -> Result<Vec<Stored>> {
    let block = reader.block(index)?;
    let mut place = block.seek(Offset(0));
    std::iter::from_fn(|| step(&block, &mut place).transpose()).collect()
}

fn read(reader: &SegmentReader) -> Result<Vec<Stored>> {
    let blocks = (0..reader.table().len()).map(|index| read_block(reader, index));
    Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
}

fn open_and_read(segments: &Segments, state: &SegmentState) -> Result<Vec<Stored>> {
    read(&SegmentReader::open(segments, state)?)
}

fn whole(segments: &Segments, state: &SegmentState) -> Vec<Stored> {
    open_and_read(segments, state).expect("it is whole")
}

/// The first message at an offset or behind it.
fn first_from(reader: &SegmentReader, offset: Offset) -> Result<Option<Stored>> {
    let Some(index) = reader.block_at(offset) else { return Ok(None) };
    let block = reader.block(index)?;
    step(&block, &mut block.seek(offset))
}

/// The latest of the messages' timestamps.
fn latest(messages: &[Stored]) -> Option<Timestamp> {
    messages.iter().filter_map(|(_, message)| message.timestamp_set()).max()
}

/// A sealed segment on a simulated disk, and what it is.
struct Sealed {
    segments: Segments,
    disk: SimDisk,
    messages: Vec<Stored>,
    state: SegmentState,
    path: PathBuf,
    content: Vec<u8>,
    table: Vec<TableEntry>,
}

impl Sealed {
    fn new(count: u64) -> Sealed {
        Sealed::named(STORE, LOG, BASE, 0, messages(count))
    }

    fn named(
        store: StoreId,
        log: LogId,
        base: Offset,
        generation: u64,
        messages: Vec<Stored>,
    ) -> Sealed {
        let disk = SimDisk::new(1);
        let segments = Segments { store, block_bytes: 128, ..segments(&disk) };
        let mut writer =
            SegmentWriter::create(&segments, log, base, generation).expect("it is new");
        push(&mut writer, &messages).expect("there is space");
        writer.seal().expect("there is space");
        let (state, path) = (writer.state().clone(), segments.path(writer.state()));
        let reader = SegmentReader::open(&segments, &state).expect("it is whole");
        let table = reader.table().to_vec();
        let content = disk.content(&path).expect("it was just written");
        Sealed { segments, disk, messages, state, path, content, table }
    }

    fn unsealed(&self) -> SegmentState {
        SegmentState { sealed: false, ..self.state.clone() }
    }

    /// The segments of a disk on which the file has this content, or is not there.
    fn with(&self, content: Option<Vec<u8>>) -> Segments {
        let disk = self.disk.fork(2);
        disk.plant(&self.path, content);
        Segments { disk: Arc::new(disk.process()), ..self.segments.clone() }
    }

    /// Opens the segment with this content. No damage to a footer or a body is in the way.
    fn open(&self, content: Vec<u8>) -> SegmentReader {
        SegmentReader::open(&self.with(Some(content)), &self.state).expect("it can be opened")
    }

    fn with_footer(&self, footer: &[u8]) -> SegmentReader {
        self.open([&self.content[..self.state.bytes as usize], footer].concat())
    }

    /// Corruption names the file; where, is returned.
    fn place_of(&self, error: &Error) -> u64 {
        assert_eq!(
            (error.kind(), error.file()),
            (ErrorKind::Corrupt, Some(&*self.path)),
            "{error}"
        );
        error.position().expect("corruption names its place")
    }
}

#[test]
fn messages_of_every_shape_come_back_by_walking_and_by_offset() {
    let messages = messages(1200);
    let end = messages[1199].0.next();
    on_all_disks(|segments| {
        let mut writer = written(segments, &messages);
        for sealed in [false, true] {
            if sealed {
                writer.seal().expect("there is space");
            }
            sync(segments, &writer).expect("the disk is well");
            let state = writer.state();
            assert_eq!((state.records, state.end, state.sealed), (1200, end, sealed));
            assert_eq!(Some(state.max_time), latest(&messages));
            let reader = SegmentReader::open(segments, state).expect("it is whole");
            assert_eq!(read(&reader).expect("it is whole"), messages);
            for (offset, _) in messages.iter().step_by(13) {
                for near in offset.0 - 1..=offset.0 + 1 {
                    let expected = messages.iter().find(|(offset, _)| offset.0 >= near);
                    let found = first_from(&reader, Offset(near)).expect("it is whole");
                    assert_eq!(found.as_ref(), expected, "{near}");
                }
            }
            assert!(reader.block_at(end).is_none());
        }
    });
}

#[test]
fn a_segment_may_hold_nothing_and_stand_for_many_offsets() {
    let segments = segments(&SimDisk::new(1));
    let mut writer = SegmentWriter::create(&segments, LOG, BASE, 0).expect("a new segment");
    writer.extend_to(Offset(5000));
    writer.extend_to(Offset(4000));
    writer.seal().expect("there is space");
    assert_eq!(writer.state().end, Offset(5000));
    let reader = SegmentReader::open(&segments, writer.state()).expect("it is whole");
    assert!(reader.table().is_empty() && reader.block_at(Offset(0)).is_none());
}

#[test]
fn a_footer_saves_the_walk_and_the_blocks_replace_a_footer() {
    let it = Sealed::new(60);
    for state in [it.state.clone(), it.unsealed()] {
        let calls = |open: fn(&Segments, &SegmentState) -> Result<SegmentReader>| {
            let before = it.disk.calls();
            assert_eq!(open(&it.segments, &state).expect("it is whole").table(), it.table);
            it.disk.calls() - before
        };
        assert!(calls(SegmentReader::open) < it.table.len() as u64);
        assert!(calls(SegmentReader::open_unfinished) >= it.table.len() as u64);
    }
    let footer = &it.content[it.state.bytes as usize..];
    for n in 0..footer.len() {
        let (mut zeroed, mut flipped) = (footer.to_vec(), footer.to_vec());
        zeroed[n..].fill(0);
        flipped[n] ^= 1 << (n % 8);
        for damaged in [&footer[..n], &flipped, &zeroed] {
            assert_eq!(it.with_footer(damaged).table(), it.table, "byte {n}");
        }
    }
    assert_eq!(read(&it.with_footer(&[])).expect("its blocks are whole"), it.messages);
}

#[test]
fn footers_and_blocks_that_belong_elsewhere_never_verify() {
    let it = Sealed::new(40);
    let shift = |(offset, message): &Stored| (offset.next(), message.clone());
    let shifted: Vec<_> = it.messages.iter().map(shift).collect();
    let place = |it: &TableEntry| it.position as usize..it.position as usize + it.length as usize;
    let misplace = |over: &TableEntry, block: &[u8]| {
        let mut content = it.content.clone();
        content[place(over)].copy_from_slice(block);
        let index = it.table.iter().position(|entry| entry == over).expect("it is one of them");
        let error = read_block(&it.open(content), index).expect_err("it belongs elsewhere");
        assert_eq!(it.place_of(&error), over.position);
    };
    for theirs in [
        Sealed::named(StoreId([8; 16]), LOG, BASE, 0, shifted.clone()),
        Sealed::named(STORE, LogId(4), BASE, 0, shifted.clone()),
        Sealed::named(STORE, LOG, Offset(999), 0, shifted.clone()),
        Sealed::named(STORE, LOG, BASE, 1, shifted.clone()),
    ] {
        assert_eq!(theirs.state.bytes, it.state.bytes, "all else is alike");
        assert_ne!(theirs.table, it.table);
        let reader = it.with_footer(&theirs.content[it.state.bytes as usize..]);
        assert_eq!(reader.table(), it.table);
        it.table.iter().for_each(|entry| misplace(entry, &theirs.content[place(entry)]));
        let whole = it.with(Some(theirs.content));
        let error = SegmentReader::open(&whole, &it.state).expect_err("it is foreign");
        assert_eq!(it.place_of(&error), 0);
    }
    // Nor does a block in the place of another one of its segment.
    let pairs = it.table.iter().flat_map(|a| it.table.iter().map(move |b| (a, b)));
    let alike = pairs.filter(|(a, b)| a.length == b.length && a != b).collect::<Vec<_>>();
    assert!(!alike.is_empty());
    alike.iter().for_each(|(over, block)| misplace(over, &it.content[place(block)]));
}

#[test]
fn files_that_are_missing_cut_or_of_another_version_are_refused() {
    let it = Sealed::new(27);
    let blocks = &it.content[..it.state.bytes as usize];
    let cut = (0..blocks.len()).map(|length| Some(blocks[..length].to_vec()));
    for content in cut.chain([None]) {
        let error = open_and_read(&it.with(content), &it.state).expect_err("it is not whole");
        it.place_of(&error);
    }
    let short = it.with(Some(blocks[1..].to_vec()));
    let error = SegmentWriter::reopen(&short, &it.unsealed()).expect_err("it is too short");
    assert_eq!(it.place_of(&error), it.state.bytes);

    let mut newer = it.content.clone();
    newer[8] += 1;
    let sum = crc32fast::hash(&[&newer[..12], &newer[16..SEGMENT_HEADER_BYTES as usize]].concat());
    newer[12..16].copy_from_slice(&sum.to_le_bytes());
    let error = SegmentReader::open(&it.with(Some(newer)), &it.state).expect_err("it is newer");
    assert_eq!((error.kind(), error.file()), (ErrorKind::UnsupportedVersion, Some(&*it.path)));
}

#[test]
fn every_flipped_bit_is_named_or_does_not_matter() {
    let it = Sealed::new(10);
    let body_len = |at: usize| u32::from_le_bytes([8, 9, 10, 11].map(|n| it.content[at + n]));
    let covers = |entry: &&TableEntry, byte: usize| {
        let start = entry.position as usize;
        // What is behind the body is padding, which belongs to nothing.
        (start..start + BLOCK_HEADER_BYTES + body_len(start) as usize).contains(&byte)
    };
    for bit in 0..it.content.len() * 8 {
        let (byte, mut flipped) = (bit / 8, it.content.clone());
        flipped[byte] ^= 1 << (bit % 8);
        let in_block = it.table.iter().find(|entry| covers(entry, byte));
        let in_header = (byte < SEGMENT_HEADER_BYTES as usize).then_some(0);
        // Each byte meets both ways to read a segment, and both ways to come by its table.
        let access = [Access::Map, Access::Calls][bit % 2];
        let state = if bit / 2 % 2 == 0 { &it.state } else { &it.unsealed() };
        match open_and_read(&Segments { access, ..it.with(Some(flipped)) }, state) {
            Ok(found) => {
                assert!(in_header.is_none() && in_block.is_none(), "bit {bit}");
                assert_eq!(found, it.messages, "bit {bit}");
            }
            Err(error) => {
                let expected = in_block.map(|entry| entry.position).or(in_header);
                assert_eq!(Some(it.place_of(&error)), expected, "bit {bit}: {error}");
            }
        }
    }
}

/// Iggy 3970: an index that was trusted over the log lost healthy data.
#[test]
fn iggy_3970_an_index_that_contradicts_itself_counts_as_not_there() {
    let it = Sealed::new(60);
    let forged = |change: fn(&mut Vec<TableEntry>)| {
        let (mut table, mut footer) = (it.table.clone(), Vec::new());
        change(&mut table);
        // Its checksum is right.
        put_footer(&mut footer, &table, it.state.bytes, it.segments.header(&it.state).seed());
        it.with_footer(&footer)
    };
    let changes: [fn(&mut Vec<TableEntry>); 12] = [
        |_| {},
        Vec::clear,
        |table| table.truncate(table.len() - 1),
        |table| table.swap(1, 2),
        |table| table.push(table[0]),
        |table| table[2].position += 8,
        |table| table[2].length += 8,
        |table| table[2].length = 0,
        |table| table[2].count = 0,
        |table| table[2].last = table[3].first,
        |table| table[2].first = Offset(0),
        |table| table[2].max_time = Timestamp(u64::MAX),
    ];
    for change in changes {
        assert_eq!(forged(change).table(), it.table);
    }
    // One that says of a place what is not there makes up no message.
    let reader = forged(|table| {
        table[2].length -= 8;
        table[3].position -= 8;
        table[3].length += 8;
    });
    for (offset, message) in &it.messages {
        match first_from(&reader, *offset) {
            Ok(found) => assert_eq!(found, Some((*offset, message.clone()))),
            Err(error) => assert!(it.table[1].last < *offset && it.place_of(&error) > 64),
        }
    }
}

#[test]
fn what_stands_behind_the_committed_length_does_not_exist() {
    let disk = SimDisk::new(1);
    let messages = messages(150);
    let mut writer = written(&segments(&disk), &messages[..50]);
    let committed = writer.state().clone();
    // A checkpoint that the metalog never heard of.
    push(&mut writer, &messages[50..]).expect("there is space");
    writer.seal().expect("there is space");
    sync(&segments(&disk), &writer).expect("the disk is well");
    let lost = writer.state().clone();
    disk.kill();

    let segments = segments(&disk);
    assert_eq!(whole(&segments, &committed), messages[..50]);
    let mut expected = messages[..80].to_vec();
    expected[50..].iter_mut().for_each(|it| it.1 = Message::new("other").timestamp(Timestamp(5)));
    let mut writer = SegmentWriter::reopen(&segments, &committed).expect("it is whole");
    push(&mut writer, &expected[50..]).expect("there is space");
    writer.flush().expect("there is space");
    assert!(writer.state().bytes < lost.bytes, "some of the lost blocks are still in the file");
    assert_eq!(whole(&segments, writer.state()), expected);
    assert!(open_and_read(&segments, &lost).is_err(), "its blocks were overwritten");
    writer.seal().expect("there is space");
    assert_eq!(whole(&segments, writer.state()), expected);

    let leftover = written(&segments, &expected[..9]);
    assert_eq!(whole(&segments, leftover.state()), expected[..9]);
}

#[test]
fn a_search_by_time_finds_the_first_block_with_a_message_of_that_time_or_later() {
    let it = Sealed::new(150);
    for state in [&it.state, &it.unsealed()] {
        let reader = SegmentReader::open(&it.segments, state).expect("it is whole");
        let block = |index| read_block(&reader, index).expect("it is whole");
        let times: Vec<_> = (0..it.table.len()).map(|index| latest(&block(index))).collect();
        assert!(!times.is_sorted(), "the clock went back");
        for time in it.messages.iter().filter_map(|it| it.1.timestamp_set()) {
            for near in [0, time.0 - 1, time.0, time.0 + 1, u64::MAX].map(Timestamp) {
                let expected = times.iter().position(|latest| *latest >= Some(near));
                assert_eq!(reader.block_at_time(near), expected);
            }
        }
    }
}

#[test]
fn a_power_cut_takes_only_what_was_not_synced_and_that_is_found_out() {
    let messages = messages(12);
    let mut lost = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.set_pessimal(seed % 2 == 0);
        let synced = [0, 6][seed as usize / 2 % 2];
        let mut writer = written(&segments(&disk), &messages[..synced]);
        let committed = writer.state().clone();
        if synced > 0 {
            sync(&segments(&disk), &writer).expect("the disk is well");
        }
        push(&mut writer, &messages[synced..]).expect("there is space");
        writer.seal().expect("there is space");
        disk.power_cut();
        let segments = segments(&disk);
        if synced > 0 {
            assert_eq!(whole(&segments, &committed), messages[..synced], "seed {seed}");
        }
        match open_and_read(&segments, writer.state()) {
            Ok(found) => assert_eq!(found, messages, "seed {seed}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}: {error}");
                assert_eq!(error.file(), Some(&*segments.path(&committed)));
                lost += 1;
            }
        }
    }
    assert!((1..199).contains(&lost), "{lost}");
}

#[test]
fn every_call_may_fail_and_a_second_attempt_succeeds() {
    let messages = messages(100);
    let attempt = |segments: &Segments| {
        let mut out = Output::new(segments.clone(), 1 << 20, 5000, false);
        let mut writer = out.begin(LOG, BASE)?;
        push(&mut writer, &messages)?;
        writer.seal()?;
        let mut states = vec![out.finish(writer)?];
        states.push(out.add_part(LogId(4), BASE.to(BASE), &held(&messages[..9]))?);
        out.sync().map(|_| states)
    };
    for (number, plain) in [(5, ErrorKind::Io), (28, ErrorKind::DiskFull)] {
        let kind_at = |call| {
            let disk = SimDisk::new(1);
            let here = segments(&disk);
            disk.fail_call(disk.calls() + call, number, false);
            let error = attempt(&here).err()?;
            assert!(error.file().is_some_and(|path| path.starts_with("s/segments")), "{error}");
            disk.heal();
            let states = attempt(&here).expect("the disk is well");
            disk.power_cut_with(&mut |_| 0);
            assert_eq!(whole(&segments(&disk), &states[0]), messages);
            assert_eq!(whole(&segments(&disk), &states[1]), messages[..9]);
            Some(error.kind())
        };
        let kinds: Vec<_> = (0..).map_while(kind_at).collect();
        // Both files, their directory and the one above are synced last. The directories are opened first.
        let (before, syncs) = kinds.split_at(kinds.len() - 6);
        assert!(before.len() > 5 && before.iter().all(|kind| *kind == plain), "{before:?}");
        let poisoned = ErrorKind::Poisoned;
        assert_eq!(syncs, [poisoned, poisoned, plain, poisoned, plain, poisoned]);
    }
}

#[test]
fn writing_goes_on_once_a_full_disk_has_space_again() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let messages = messages(1200);
    let writer = SegmentWriter::create(&segments, LOG, BASE, 0).expect("a new segment");
    let mut writer = writer.writing(16 << 10, Vec::new());
    disk.set_capacity(Some(disk.bytes_used()));
    let mut left = messages.iter();
    let refused = left.find(|it| push(&mut writer, std::slice::from_ref(*it)).is_err());
    let refused = refused.expect("nothing is kept in memory for ever");
    let error = writer.flush().expect_err("it is still full");
    assert_eq!((error.kind(), error.position()), (ErrorKind::DiskFull, Some(0)));
    assert_eq!(error.file(), Some(&*segments.path(writer.state())));
    disk.set_capacity(None);
    push(&mut writer, std::slice::from_ref(refused)).expect("there is space");
    push(&mut writer, left.as_slice()).expect("there is space");
    writer.seal().expect("there is space");
    assert_eq!(whole(&segments, writer.state()), messages);
    writer.abandon();
    assert!(disk.files().is_empty(), "what was abandoned is gone");
}

/// Messages as they were read from somewhere.
fn held(messages: &[Stored]) -> Vec<Held> {
    let of =
        |(offset, message): &Stored| Held::of(*offset, &RecordParts::of(message, Timestamp(0)));
    messages.iter().map(of).collect()
}

/// A shared file of 12 parts, and the messages in each.
fn shared_file(segments: &Segments) -> Vec<(SegmentState, Vec<Stored>)> {
    let mut out = Output::new(segments.clone(), 1 << 20, 7, true);
    let messages = messages(300);
    let parts: Vec<_> = (1..=12)
        .map(|log| {
            let some = messages[log..log + log * 5].to_vec();
            let range = Offset(some[0].0.0 - 1).to(Offset(0));
            (out.add_part(LogId(log as u64), range, &held(&some)).expect("there is space"), some)
        })
        .collect();
    let written = out.sync().expect("the disk is well");
    assert_eq!(written, [Written { number: 7, bytes: parts[11].0.bytes }]);
    parts
}

#[test]
fn parts_of_a_shared_file_are_read_with_the_metalog_and_found_without_it() {
    on_all_disks(|segments| {
        let parts = shared_file(segments);
        let found = parts_of(segments, 7).expect("it is whole");
        assert_eq!(found.len(), parts.len());
        for (part, (state, messages)) in found.iter().zip(&parts) {
            assert_eq!((part.header.log, part.header.base), (state.log, state.base));
            assert_eq!((state.place, state.generation), (Place::Part(part.at), 7));
            assert_eq!(part.at + part.header.len(), state.bytes);
            assert_eq!(whole(segments, state), *messages);
            let header = segments.header(state);
            let (path, limit) = (segments.path(state), Some(state.bytes));
            let opened = SegmentSurvey::open(&*segments.disk, path, &header, state.place, limit);
            let mut survey = opened.expect("it can be read").expect("it is there");
            assert_eq!(survey.check_header().expect("it can be read"), None);
            let mut records = 0;
            while let Some(piece) = survey.next().expect("it can be read") {
                let Piece::Block(block) = piece else { panic!("no damage: {piece:?}") };
                records += block.records.len();
            }
            assert_eq!(records, messages.len());
        }
    });
}

#[test]
fn damage_to_a_shared_file_costs_no_other_part() {
    let disk = SimDisk::new(1);
    let parts = shared_file(&segments(&disk));
    let path = segments(&disk).path(&parts[0].0);
    let content = disk.content(&path).expect("it was just written");
    let with = |content: Vec<u8>| {
        let disk = disk.fork(2);
        disk.plant(&path, Some(content));
        segments(&disk)
    };
    let is_in_a_header = |byte: usize| {
        let headers = parts.iter().map(|(state, _)| state.blocks_at() as usize);
        byte < SEGMENT_HEADER_BYTES as usize
            || headers.into_iter().any(|at| (at - 24..at).contains(&byte))
    };
    for byte in (0..content.len()).filter(|byte| is_in_a_header(*byte) || byte % 97 == 0) {
        let mut flipped = content.clone();
        flipped[byte] ^= 1 << (byte % 8);
        let segments = with(flipped);
        let opened = PartsSurvey::open(&*segments.disk, &path, STORE, 7);
        let mut survey = opened.expect("it can be read").expect("it is there");
        let mut found = Vec::new();
        while let Some(part) = survey.next().expect("it can be read") {
            found.extend(part.ok().map(|part| part.header.log));
        }
        for (state, messages) in &parts {
            let Place::Part(at) = state.place else { panic!("it is a part") };
            let range = at as usize..state.bytes as usize;
            if !range.contains(&byte) {
                assert!(found.contains(&state.log), "byte {byte} of part {}", state.log);
                if byte % 9 == 0 {
                    assert_eq!(whole(&segments, state), *messages, "byte {byte}");
                }
            }
        }
    }
    // A part of another position, file, log or base is none of this one.
    let (state, _) = &parts[3];
    let other = |change: fn(&mut SegmentState)| {
        let mut other = state.clone();
        change(&mut other);
        let header = segments(&disk).header(&other);
        let (disk, limit) = (segments(&disk).disk, Some(other.bytes));
        let opened = SegmentSurvey::open(&*disk, path.clone(), &header, other.place, limit);
        let survey = opened.expect("it can be read").expect("it is there");
        assert!(survey.check_header().expect("it can be read").is_some(), "{other:?}");
    };
    other(|state| state.log = LogId(99));
    other(|state| state.base = Offset(7));
    other(|state| state.generation = 8);
    other(|state| state.bytes += 8);
    other(|state| state.place = Place::Part(72));
}

#[test]
fn few_messages_share_a_file_and_many_have_their_own() {
    let disk = SimDisk::new(1);
    let segments = segments(&disk);
    let mut out = Output::new(segments.clone(), 256 << 10, 0, true);
    let all = messages(1200);
    let pack = |out: &mut Output, open: Option<SegmentState>, some: &[Stored], seal| {
        let mut packing = Packing::new(LOG, open);
        held(some).into_iter().for_each(|it| packing.add(out, it).expect("there is space"));
        packing.finish(out, None, seal).expect("there is space")
    };
    let few = pack(&mut out, None, &all[..9], false);
    let many = pack(&mut out, None, &all[9..400], false);
    assert!(matches!(few[..], [SegmentState { place: Place::Part(_), sealed: true, .. }]));
    assert!(many[0].place == Place::Own && many[0].is_open());
    let more = pack(&mut out, Some(many[0].clone()), &all[400..], true);
    assert!(more.len() > 1 && more.iter().all(|it| it.sealed));
    assert_eq!((more[0].base, more[0].generation), (many[0].base, many[0].generation));
    out.sync().expect("the disk is well");
    let states = few.iter().chain(&more);
    let read: Vec<_> = states.flat_map(|state| whole(&segments, state)).collect();
    assert_eq!(read, all);
    // Segments without a gap stand for all offsets from their begin to their end.
    let mut packing = Packing::from(LOG, Offset(3));
    held(&all).into_iter().for_each(|it| packing.add(&mut out, it).expect("there is space"));
    let put = packing.finish(&mut out, Some(Offset(1 << 60)), true).expect("there is space");
    assert_eq!((put[0].base, put[put.len() - 1].end), (Offset(3), Offset(1 << 60)));
    assert!(put.windows(2).all(|it| it[0].end == it[1].base));
}
