//! The layout on disk, pinned: a sample of each structure, byte for byte, in `layout.snapshot`.
//! The examples in `docs/FORMAT.md` are the same bytes; a test compares them, too.

use std::{borrow::Cow, fmt::Write, path::PathBuf, sync::Arc};

use super::{
    super::{
        commit::*,
        delay_index,
        entity::{Creation, Delivering, Entity, EntityKind, Retention},
        filter::{Filter, HeaderFilter},
        frame::*,
        fuzzing::put_run,
        header::FORMAT_VERSION,
        journal::*,
        meta::*,
        note::*,
        pack::*,
        part::*,
        record::{Headers, RecordParts},
        segment::*,
        wire::{Seed, put_varint},
    },
    STORE,
    commit::clock,
    meta::{entities, entries},
};
use crate::{
    ids::{CursorId, Due, EntityId, LogId, Lsn, Offset, Timestamp},
    message::Message,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

struct Samples(Vec<(String, Vec<u8>)>);

impl Samples {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.0.push((name.into(), bytes));
    }

    fn frame(
        &mut self,
        name: impl Into<String>,
        kind: FrameKind,
        (lsn, watermark): (u64, u64),
        seed: Seed,
        put: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut frame = Vec::new();
        begin_frame(&mut frame);
        put(&mut frame);
        finish_frame(&mut frame, kind, Lsn(lsn), Lsn(watermark), seed.begin());
        self.add(name, frame);
    }

    fn change(&mut self, name: &str, put: impl FnOnce(&mut Vec<u8>)) {
        let name = format!("frame: commit, {name}");
        self.frame(name, FrameKind::Commit, (4176, 4096), journal_header().frame_seed(), put);
    }
}

fn journal_header() -> JournalHeader {
    JournalHeader {
        store: STORE,
        start: Lsn(0),
        capacity: 256 << 10,
        epoch: 1,
        watermark: Lsn(0),
        link: Link::First,
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { store: STORE, log: LogId(1), base: Offset(1000), generation: 0 }
}

fn put_messages(out: &mut Vec<u8>, first: u64, messages: &[Message<'_>]) {
    let parts = messages.iter().map(|message| RecordParts::of(message, NOW));
    put_run(out, LogId(1), Offset(first), NOW, parts);
}

fn full_message() -> Message<'static> {
    Message::new("charge order 2")
        .key("customer-17")
        .header("type", "json")
        .timestamp(Timestamp(NOW.0 - 3))
}

/// A sample of each structure, by its name. The seeds of the fuzz targets are cut from them, too.
pub fn samples() -> Vec<(String, Vec<u8>)> {
    let mut samples = Samples(Vec::new());
    journal_files(&mut samples);
    frames(&mut samples);
    segment_file(&mut samples);
    metalog_file(&mut samples);
    notes(&mut samples);
    payloads(&mut samples);
    samples.0
}

fn journal_files(samples: &mut Samples) {
    let first = journal_header();
    let start = Lsn(256 << 10);
    let roll = JournalHeader { start, watermark: Lsn(200_000), link: Link::Roll, ..first };
    let link = Link::Recovery { start: Lsn(0), end: Lsn(4248) };
    let recovery = JournalHeader { start, epoch: 2, watermark: Lsn(4248), link, ..first };
    samples.add("journal header: first file", first.encode());
    samples.add("journal header: behind a roll", roll.encode());
    samples.add("journal header: behind a recovery", recovery.encode());
}

fn frames(samples: &mut Samples) {
    samples.change("a run of one message", |out| {
        put_messages(out, 40, &[Message::new("charge order 1")]);
    });
    samples.change("a run with key, headers and timestamp", |out| {
        put_messages(out, 41, &[full_message(), Message::new("")]);
    });
    samples.change("a run with a subject", |out| {
        let message = Message::new("charge order 3").subject("orders.eu.created");
        let brief = Message::new("m").subject("a").header("b", "c");
        put_messages(out, 43, &[message, brief]);
    });
    samples.change("an ack", |out| {
        Change::Ack {
            cursor: CursorId(1),
            offsets: OffsetRanges::Listed(&[1, 2, 3, 9, 40].map(Offset)),
        }
        .put(out);
    });
    samples.change("a message deferred", |out| {
        Change::Defer {
            cursor: CursorId(1),
            offset: Offset(41),
            attempts: 3,
            due: Due::day(Timestamp(NOW.0 + 60_000)),
        }
        .put(out);
    });
    samples.change("a message deferred evenly", |out| {
        Change::Defer {
            cursor: CursorId(1),
            offset: Offset(41),
            attempts: 3,
            due: Due::even(Timestamp(NOW.0 + 60_000)),
        }
        .put(out);
    });
    samples.change("clocks", |out| Change::Clock(clock()).put(out));
    samples
        .change("a seek", |out| Change::Seek { cursor: CursorId(8), next: Offset(1300) }.put(out));
    let kinds = ["queue", "topic", "subscription", "stream", "group", "timetable"];
    for (kind, creation) in kinds.iter().zip(entities()) {
        samples.change(&format!("creation of a {kind}"), |out| {
            Change::Create(Cow::Borrowed(&creation)).put(out);
        });
    }
    samples.change("creation of a stream with limits", |out| {
        let retention = Retention {
            max_age_ms: Some(604_800_000),
            max_bytes: None,
            max_records: Some(1_000_000),
        };
        let retention = Some(Box::new(retention));
        let kind = EntityKind::Stream { partitions: 2, retention };
        let entity = Entity { id: EntityId(20), name: "clicks".into(), kind };
        Change::Create(Cow::Owned(Creation { entity, starts: Vec::new() })).put(out);
    });
    samples.change("creation of a topic that retains messages", |out| {
        let retention = Retention { max_age_ms: Some(86_400_000), ..Retention::default() };
        let kind = EntityKind::Topic { retention: Some(Box::new(retention)) };
        let entity = Entity { id: EntityId(24), name: "orders".into(), kind };
        Change::Create(Cow::Owned(Creation { entity, starts: vec![Offset(0)] })).put(out);
    });
    samples.change("creation of a group that keeps unread records", |out| {
        let kind = EntityKind::Group { stream: EntityId(20), partitions: 2, keeps_unread: true };
        let entity = Entity { id: EntityId(22), name: "billing".into(), kind };
        let starts = vec![Offset(0), Offset(7)];
        Change::Create(Cow::Owned(Creation { entity, starts })).put(out);
    });
    samples.change("creation of a subscription with a filter", |out| {
        let prefix = |name: &str, prefix: &str| HeaderFilter::Prefix {
            name: name.to_owned(),
            prefix: prefix.as_bytes().to_vec(),
        };
        let patterns = ["orders.*.paid", "orders.eu.>"].map(str::to_owned).to_vec();
        let headers = vec![
            prefix("content-type", "text/"),
            HeaderFilter::Exists { name: "trace".to_owned() },
        ];
        let filter = Filter::of(patterns, headers).map(Arc::new);
        let delivering = Delivering { filter, ..Delivering::leasing(1000) };
        let kind = EntityKind::Subscription { topic: EntityId(2), delivering: delivering.into() };
        let entity = Entity { id: EntityId(22), name: "europe".into(), kind };
        Change::Create(Cow::Owned(Creation { entity, starts: vec![Offset(1290)] })).put(out);
    });
    samples.change("creation of a paused queue", |out| {
        let delivering = Delivering { is_paused: true, ..Delivering::leasing(1000) };
        let kind = EntityKind::Queue(delivering.into());
        let entity = Entity { id: EntityId(25), name: "held".into(), kind };
        Change::Create(Cow::Owned(Creation { entity, starts: vec![Offset(0)] })).put(out);
    });
    samples.change("other settings", |out| {
        Change::Update(Cow::Borrowed(&entities()[0].entity)).put(out);
    });
    samples.change("a deletion", |out| Change::Delete { entity: EntityId(3) }.put(out));
    samples.change("a trim", |out| Change::Trim { log: LogId(4), start: Offset(1300) }.put(out));
    samples.change("priorities", |out| {
        Change::Prioritize { cursor: CursorId(1), first: Offset(41), count: 2, priority: 9 }
            .put(out);
    });
    samples.change("messages that are in the timetable", |out| {
        Change::Spill {
            cursor: CursorId(1),
            offsets: OffsetRanges::Listed(&[41, 42, 50].map(Offset)),
        }
        .put(out);
    });
    samples.change("an ack for all others", |out| {
        Change::AckOthers {
            log: LogId(4),
            keeper: CursorId(5),
            offsets: OffsetRanges::Listed(&[41, 42, 50].map(Offset)),
        }
        .put(out);
    });
    samples.change("several changes", |out| {
        Change::Ack { cursor: CursorId(1), offsets: OffsetRanges::Listed(&[Offset(40)]) }.put(out);
        put_messages(out, 41, &[Message::new("charged")]);
    });
    let seed = journal_header().frame_seed();
    let others = [
        ("roll", FrameKind::Roll),
        ("watermark", FrameKind::Watermark),
        ("close", FrameKind::Close),
    ];
    for (name, kind) in others {
        samples.frame(format!("frame: {name}"), kind, (4248, 4176), seed, |_| {});
    }
}

fn segment_file(samples: &mut Samples) {
    let header = segment_header();
    samples.add("segment header", header.encode());
    let mut builder = BlockBuilder::default();
    let full = full_message();
    for offset in (1000..1016).chain([1020]) {
        let plain = Message::new("m").timestamp(NOW);
        let message = if offset == 1001 { &full } else { &plain };
        builder.push(Offset(offset), &RecordParts::of(message, NOW));
    }
    let mut block = Vec::new();
    let first = builder.finish(&mut block, SEGMENT_HEADER_BYTES, header.seed());
    let position = SEGMENT_HEADER_BYTES + block.len() as u64;
    samples.add("segment block", block);
    let mut footer = Vec::new();
    put_footer(&mut footer, &[TableEntry::of(&first, None)], position, header.seed());
    samples.add("segment footer", footer);

    let shared = SegmentHeader::shared(STORE, 27);
    samples.add("segment header: a shared file", shared.encode());
    let header = SegmentHeader { generation: 27, ..header };
    let mut builder = BlockBuilder::default();
    builder.push(Offset(1000), &RecordParts::of(&Message::new("m").timestamp(NOW), NOW));
    let (mut block, at) = (Vec::new(), SEGMENT_HEADER_BYTES);
    builder.finish(&mut block, at + PART_HEADER_BYTES, header.seed());
    let part = PartHeader { log: header.log, base: header.base, blocks_len: block.len() as u32 };
    samples.add("segment part", [&part.encode(STORE, 27, at)[..], &block].concat());
}

fn metalog_file(samples: &mut Samples) {
    let header = MetaHeader { store: STORE, number: 12 };
    samples.add("metalog header", header.encode());
    for (name, entry) in entries() {
        let name = format!("metalog entry: {name}");
        samples.frame(name, FrameKind::Commit, (64, 0), header.seed(), |out| entry.put(out));
    }
    samples.frame("metalog: two entries", FrameKind::Commit, (64, 0), header.seed(), |out| {
        entries().iter().skip(2).take(2).for_each(|(_, entry)| entry.put(out));
    });
}

/// Headers that consist of a note.
fn with_note(note: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    put_varint(&mut out, note.len() as u64);
    out.extend_from_slice(note);
    out
}

fn notes(samples: &mut Samples) {
    let minute = TimeToLive { from: None, ms: Some(60_000) };
    let letter = DeadLetter {
        reason: "the card has expired".to_owned(),
        origin: "payments".to_owned(),
        offset: Offset(41),
        attempts: 3,
        died: NOW,
        is_of_subscription: false,
        first: None,
        topic_bytes: None,
    };
    samples.add("note: a time to live", minute.note().expect("it is limited"));
    let anew = TimeToLive { from: Some(NOW), ..minute };
    samples.add("note: a time to live that begins anew", anew.note().expect("it is limited"));
    let bare = Headers::new(&[]);
    samples.add("note: a dead letter", letter.clone().undated(bare).encode(letter.died, None));
    samples.add(
        "note: a dead letter after the clock was set",
        letter.clone().undated(bare).encode(letter.died, Some(NOW)),
    );
    let origin = stored_origin("orders/eu", "shipping");
    let of_subscription = DeadLetter { origin, is_of_subscription: true, ..letter.clone() };
    samples.add(
        "note: a dead letter of a subscription, with slashes in its names",
        of_subscription.undated(bare).encode(letter.died, None),
    );
    let brief = with_note(&minute.note().expect("it is limited"));
    let died = letter.clone().undated(Headers::new(&brief)).encode(letter.died, None);
    let redriven = DeadLetter::redriven(Headers::new(&with_note(&died)), NOW).unwrap();
    let again =
        letter.clone().undated(Headers::new(&with_note(&redriven))).encode(letter.died, None);
    samples.add("note: a dead letter with a time to live of its own", died);
    samples.add("note: a dead letter that was redriven", redriven);
    samples.add("note: a dead letter that died twice", again);
}

/// What the payloads of the engine's own messages hold.
fn payloads(samples: &mut Samples) {
    let offsets = [44, 41, 1000].map(Offset);
    let block = |due: fn(Timestamp) -> Due| {
        let entries = offsets.iter().zip(0..);
        entries.map(|(offset, n)| (due(Timestamp(NOW.0 + n * 1500)), *offset)).collect::<Vec<_>>()
    };
    samples.add("delay index: a block of times of day", delay_index::encode(&block(Due::day)));
    samples.add("delay index: a block of even times", delay_index::encode(&block(Due::even)));
    #[cfg(feature = "cron")]
    {
        use super::super::schedule::{MissedRuns, Plan, Target, Template};
        let template = Template {
            payload: b"report".to_vec(),
            key: Some(b"customer-17".to_vec()),
            headers: vec![("kind".to_owned(), b"daily".to_vec())],
            time_to_live_ms: Some(60_000),
            priority: 3,
        };
        let plan = Plan {
            cron: "30 6 * * *".to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            target: Target::Queue("reports".to_owned()),
            missed_runs: MissedRuns::RunAll,
            next: NOW,
            template,
        };
        samples.add("schedule: a plan", plan.encode());
    }
}

/// Sixteen bytes a line; lines of zeros beyond the first are left out and marked by a star.
fn dump(out: &mut String, bytes: &[u8]) {
    let mut zeros = false;
    for (n, line) in bytes.chunks(16).enumerate() {
        let is_zero = line.iter().all(|byte| *byte == 0);
        if is_zero && zeros {
            if !out.ends_with("*\n") {
                out.push_str("*\n");
            }
            continue;
        }
        zeros = is_zero;
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = |byte: &u8| if (0x20..0x7F).contains(byte) { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(shown).collect();
        writeln!(out, "{:04x}  {:<47}  |{text}|", n * 16, hex.join(" ")).unwrap();
    }
    writeln!(out, "{:04x}", bytes.len()).unwrap();
}

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_layout_is_the_one_on_record() {
    let path = repository("src/format/tests/layout.snapshot");
    let mut now = format!("Format version {FORMAT_VERSION}, byte for byte. See layout.rs.\n");
    for (name, bytes) in samples() {
        writeln!(now, "\n{name}").unwrap();
        dump(&mut now, &bytes);
    }
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        if !cfg!(feature = "cron") {
            panic!("the snapshot has schedules: add --features cron");
        }
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let mut before = std::fs::read_to_string(&path).unwrap_or_default();
    if !cfg!(feature = "cron") {
        // The sample of a schedule is the last one.
        before.truncate(before.find("\nschedule: ").unwrap());
    }
    let differs = before.lines().zip(now.lines()).find(|(before, now)| before != now);
    assert!(
        before == now,
        "the format changed: bump FORMAT_VERSION in src/format/header.rs, tell it in \
         docs/FORMAT.md, and then run this test with --features cron and UPDATE_SNAPSHOT=1.\n\
         The first line that differs, before and now: {differs:#?}"
    );
}

/// An example of the format page: the lines of a code block that names a sample. Each line has a
/// position, bytes, and what they mean.
#[test]
fn the_examples_of_the_format_page_are_real() {
    let page = std::fs::read_to_string(repository("docs/FORMAT.md")).unwrap();
    let samples = samples();
    let mut examples = 0;
    for block in page.split("```").skip(1).step_by(2) {
        let mut lines = block.lines().map(str::trim_end);
        let Some(name) = lines.next().and_then(|first| first.strip_prefix("text bytes of ")) else {
            continue;
        };
        let (_, bytes) = samples
            .iter()
            .find(|(found, _)| found == name)
            .unwrap_or_else(|| panic!("docs/FORMAT.md shows a sample that is none: {name}"));
        let mut at = 0;
        for line in lines.filter(|line| !line.is_empty()) {
            at = check_line(name, bytes, at, line);
        }
        assert_eq!(at, bytes.len(), "the example of a {name} ends early");
        examples += 1;
    }
    assert!(examples >= 3, "docs/FORMAT.md has examples");
    assert!(page.contains(&format!("version {FORMAT_VERSION}")), "docs/FORMAT.md says the version");
}

fn check_line(name: &str, bytes: &[u8], at: usize, line: &str) -> usize {
    let wrong = |why: &str| -> ! { panic!("the example of a {name}: {why}: {line}") };
    let Some((position, rest)) = line.split_once("  ") else { wrong("no position") };
    if usize::from_str_radix(position.trim(), 16) != Ok(at) {
        wrong("a wrong position");
    }
    let shown = rest.trim_start().split("  ").next().unwrap_or_default();
    if let Some(end) = shown.strip_prefix("zeros to ") {
        let Ok(end) = usize::from_str_radix(end, 16) else { wrong("no number") };
        if bytes.get(at..end).is_none_or(|zeros| zeros.iter().any(|byte| *byte != 0)) {
            wrong("not zeros");
        }
        return end;
    }
    let shown: Vec<u8> = shown
        .split(' ')
        .map(|hex| u8::from_str_radix(hex, 16).unwrap_or_else(|_| wrong("no bytes")))
        .collect();
    if !bytes[at..].starts_with(&shown) {
        wrong("other bytes");
    }
    at + shown.len()
}
