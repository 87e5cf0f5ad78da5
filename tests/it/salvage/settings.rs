//! Settings and names of which a part is lost.

use std::time::Duration;

use posthouse::{Engine, ErrorKind, Message, Offset, SalvageReport, Timestamp, sim::SimDisk};

use super::sample::{open, options};
use crate::support::texts;

const MINUTE: Duration = Duration::from_secs(60);

/// Flips a bit of a text in the files of a folder: where it stands last in each, or first.
fn rot(disk: &SimDisk, folder: &str, text: &str, last: bool) {
    let mut rotten = 0;
    for path in disk.files().into_iter().filter(|it| it.starts_with(folder)) {
        let mut content = disk.content(&path).unwrap();
        let mut places = content.windows(text.len()).enumerate();
        let is_here = |(_, bytes): &(usize, &[u8])| *bytes == text.as_bytes();
        let place = if last { places.rfind(is_here) } else { places.find(is_here) };
        if let Some(place) = place.map(|(at, _)| at) {
            content[place] ^= 1;
            disk.plant(&path, Some(content));
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
}

/// Damages all frames of the journal between two texts, and that of the second one.
fn rot_between(disk: &SimDisk, from: &str, to: &str) {
    for path in disk.files().into_iter().filter(|it| it.starts_with("store/journal")) {
        let mut content = disk.content(&path).unwrap();
        let place =
            |text: &str| content.windows(text.len()).position(|bytes| bytes == text.as_bytes());
        if let (Some(from_at), Some(to_at)) = (place(from), place(to)) {
            content[from_at + from.len()..to_at].iter_mut().for_each(|byte| *byte ^= 1);
            disk.plant(&path, Some(content));
            return;
        }
    }
    panic!("the texts are in no file");
}

fn salvage(disk: &SimDisk) -> (Engine, SalvageReport) {
    let report = options().sim(disk).salvage("store", "to").unwrap();
    let verified = options().sim(disk).verify("to").unwrap();
    assert!(verified.is_ok(), "{verified}\n{report}");
    (open(disk, "to").unwrap(), report)
}

fn old_settings(report: &SalvageReport) -> Vec<&str> {
    report.old_settings.iter().map(|it| it.name.as_str()).collect()
}

fn letters_of(engine: &Engine, name: &str) -> Option<String> {
    engine.queue(name).open().unwrap().settings().unwrap().dead_letter_queue
}

#[test]
fn salvage_breaks_a_circle_of_dead_letters() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    engine.queue("bbbb-q").create().unwrap();
    engine.queue("aaaa-q").max_attempts(2).dead_letter_queue("bbbb-q").create().unwrap();
    engine.checkpoint().unwrap();
    engine.queue("aaaa-q").without_dead_letters().create_or_update().unwrap();
    engine.queue("bbbb-q").max_attempts(2).dead_letter_queue("aaaa-q").create_or_update().unwrap();
    engine.queue("cccc-q").create().unwrap().send("x").unwrap();
    engine.close().unwrap();
    rot(&disk, "store/journal", "aaaa-q", true);
    let verified = options().sim(&disk).verify("store").unwrap();
    assert!(verified.to_string().contains("go in a circle: bbbb-q, aaaa-q"), "{verified}");

    let (engine, report) = salvage(&disk);
    assert!(report.to_string().contains("in a circle"), "{report}");
    assert_eq!(
        old_settings(&report),
        ["aaaa-q"],
        "the settings of the others are behind the damage"
    );
    assert!(
        !report.is_complete() && report.to_string().contains("\"aaaa-q\": its settings may be")
    );
    assert_eq!(letters_of(&engine, "aaaa-q"), None, "the old settings made the circle");
    assert_eq!(letters_of(&engine, "bbbb-q").as_deref(), Some("aaaa-q"));
    let third = engine.queue("cccc-q").max_attempts(2).dead_letter_queue("bbbb-q");
    third.create_or_update().expect("it ends");
}

/// The deletion of a queue is lost, and another queue has its name.
#[test]
fn salvage_gives_another_name_to_a_queue_whose_deletion_is_lost() {
    for checkpointed in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        topic.subscription("s").create().unwrap();
        if checkpointed {
            engine.checkpoint().unwrap();
        }
        queue.send("old").unwrap();
        // The record of the deletions stands between these two.
        let marks = engine.queue("marks").create().unwrap();
        marks.send("from here").unwrap();
        engine.queue("q").delete().unwrap();
        topic.subscription("s").delete().unwrap();
        marks.send("to there").unwrap();
        engine.queue("q").create().unwrap().send("new").unwrap();
        topic.subscription("s").create().unwrap();
        drop((queue, topic, marks));
        engine.close().unwrap();
        rot_between(&disk, "from here", "to there");
        let verified = options().sim(&disk).verify("store").unwrap();
        assert!(verified.to_string().contains("of the same name: queue \"q\""), "{verified}");

        let (engine, report) = salvage(&disk);
        let renamed: Vec<_> =
            report.renamed.iter().map(|it| (it.noun, it.formerly.as_deref())).collect();
        assert_eq!(renamed, [("queue", Some("q")), ("subscription", Some("s"))]);
        assert!(!report.is_complete());
        assert!(report.to_string().contains("formerly \"q\""), "{report}");
        let older = &report.renamed[0].name;
        assert_eq!(texts(&engine.queue("q").open().unwrap()), ["new"]);
        assert_eq!(texts(&engine.queue(older).open().unwrap()), ["old"]);
        let topic = engine.topic("t").open().unwrap();
        topic.subscription(&report.renamed[1].name).open().unwrap();

        // The older one does not come back under the name.
        engine.queue("q").delete().unwrap();
        engine.close().unwrap();
        drop((topic, engine));
        let engine = open(&disk, "to").unwrap();
        assert_eq!(engine.queue("q").open().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(texts(&engine.queue(older).open().unwrap()), ["old"]);
    }
}

#[test]
fn salvage_takes_the_settings_of_a_queue_whose_creation_is_lost() {
    for checkpointed in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        engine.queue("bbbb-q").create().unwrap();
        if checkpointed {
            engine.checkpoint().unwrap();
        }
        let queue = engine.queue("aaaa-q").lease(MINUTE).create().unwrap();
        queue.send("one").unwrap();
        let builder = engine.queue("aaaa-q").lease(2 * MINUTE).max_attempts(3);
        builder.dead_letter_queue("bbbb-q").create_or_update().unwrap();
        let topic = engine.topic("tttt-t").create().unwrap();
        topic.subscription("ssss-s").create().unwrap();
        topic.subscription("ssss-s").lease(2 * MINUTE).create_or_update().unwrap();
        topic.publish("two").unwrap();
        drop((queue, topic));
        engine.close().unwrap();
        for name in ["aaaa-q", "ssss-s"] {
            rot(&disk, "store/journal", name, false);
        }
        let (engine, report) = salvage(&disk);
        assert!(report.renamed.is_empty(), "{report}");
        assert!(!old_settings(&report).contains(&"ssss-s"), "{report}");
        assert!(report.uncertain.iter().any(|it| it.name == "aaaa-q"), "{report}");
        let queue = engine.queue("aaaa-q").open().unwrap();
        let settings = queue.settings().unwrap();
        assert_eq!(
            (settings.lease, settings.dead_letter_queue.as_deref()),
            (2 * MINUTE, Some("bbbb-q"))
        );
        assert_eq!(queue.depth().unwrap(), 1);
        let topic = engine.topic("tttt-t").open().unwrap();
        let subscription = topic.subscription("ssss-s").open().unwrap();
        assert_eq!(subscription.settings().unwrap().lease, 2 * MINUTE);
        assert_eq!(subscription.depth().unwrap(), 1, "{report}");
    }
}

#[test]
fn a_queue_that_was_updated_and_deleted_does_not_come_back() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    engine.queue("bbbb-q").create().unwrap().send("x").unwrap();
    engine.queue("aaaa-q").create().unwrap();
    engine.queue("aaaa-q").lease(MINUTE).create_or_update().unwrap();
    engine.queue("aaaa-q").delete().unwrap();
    engine.close().unwrap();
    rot(&disk, "store/journal", "aaaa-q", false);
    let (engine, report) = salvage(&disk);
    let opened = engine.queue("aaaa-q").open();
    assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::NotFound, "{report}");
    assert!(report.renamed.is_empty(), "{report}");
}

/// The metalog's newer entry of the queue is damaged. The update that it came from is in the journal, before the
/// position from which on the journal is needed.
#[test]
fn salvage_takes_settings_from_the_journal_where_the_metalog_lost_them() {
    for in_journal in [true, false] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        engine.queue("bbbb-q").lease(MINUTE).create().unwrap();
        let queue = engine.queue("aaaa-q").lease(MINUTE).create().unwrap();
        queue.send("one").unwrap();
        engine.checkpoint().unwrap();
        engine.queue("aaaa-q").lease(2 * MINUTE).create_or_update().unwrap();
        queue.send("two").unwrap();
        engine.checkpoint().unwrap();
        engine.queue("bbbb-q").lease(2 * MINUTE).create_or_update().unwrap();
        drop(queue);
        engine.close().unwrap();
        rot(&disk, "store/meta", "aaaa-q", true);
        if !in_journal {
            rot(&disk, "store/journal", "aaaa-q", true);
        }
        let (engine, report) = salvage(&disk);
        let lease = |name| engine.queue(name).open().unwrap().settings().unwrap().lease;
        assert_eq!(lease("bbbb-q"), 2 * MINUTE);
        if in_journal {
            assert_eq!(lease("aaaa-q"), 2 * MINUTE, "{report}");
            assert_eq!(old_settings(&report), [""; 0], "{report}");
        } else {
            assert_eq!(lease("aaaa-q"), MINUTE, "{report}");
            assert_eq!(old_settings(&report), ["aaaa-q"], "{report}");
        }
    }
}

#[test]
fn dead_letters_get_a_queue_where_theirs_is_lost() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    engine.queue("bbbb-q").create().unwrap();
    let queue =
        engine.queue("aaaa-q").max_attempts(1).dead_letter_queue("bbbb-q").create().unwrap();
    queue.send("one").unwrap();
    drop(queue);
    engine.close().unwrap();
    rot(&disk, "store/journal", "bbbb-q", true);
    let (engine, report) = salvage(&disk);
    let name = letters_of(&engine, "aaaa-q").expect("there is one");
    assert!(report.renamed.iter().any(|it| it.noun == "queue" && it.name == name), "{report}");
    let queue = engine.queue("aaaa-q").open().unwrap();
    queue.try_receive().unwrap().unwrap().nack().unwrap();
    let dead = engine.queue(&name).open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
}

#[test]
fn salvage_says_that_names_may_be_gone_of_which_nothing_is_left() {
    let build = |checkpoints: bool| {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        for name in ["aaaa-q", "bbbb-q", "cccc-q"] {
            let queue = engine.queue(name).create().unwrap();
            if name != "bbbb-q" {
                queue.send(Message::new("x")).unwrap();
            }
        }
        if checkpoints {
            engine.checkpoint().unwrap();
        }
        engine.close().unwrap();
        disk
    };
    let is_there = |engine: &Engine| engine.queue("bbbb-q").open().is_ok();
    let (engine, report) = salvage(&build(true));
    assert!(is_there(&engine) && !report.may_lack_entities && report.is_complete(), "{report}");

    let disk = build(false);
    rot(&disk, "store/journal", "bbbb-q", true);
    let (engine, report) = salvage(&disk);
    assert!(!is_there(&engine) && report.may_lack_entities && !report.is_complete(), "{report}");
    assert!(report.to_string().contains("of which nothing is left"), "{report}");

    // Each part of the metalog is lost once. Either all names are there, or new ones in their place, or the report says
    // that some may be gone.
    let whole = build(true);
    let mut tally = [0; 2];
    let meta = whole.files().into_iter().rfind(|it| it.starts_with("store/meta")).unwrap();
    let content = whole.content(&meta).unwrap();
    for from in (0..content.len()).step_by(32) {
        for len in [8, 64, 200, 400, 4000] {
            let disk = whole.fork(1);
            for path in disk.files().into_iter().filter(|it| it.starts_with("store/journal")) {
                // Only the metalog knows the names.
                let journal = disk.content(&path).unwrap();
                if journal.windows(6).any(|it| it == b"bbbb-q") {
                    disk.plant(&path, None);
                }
            }
            let mut content = content.clone();
            let end = content.len().min(from + len);
            content[from..end].fill(0);
            disk.plant(&meta, Some(content));
            let Ok(report) = options().sim(&disk).salvage("store", "to") else { continue };
            let there = open(&disk, "to").unwrap().queues().unwrap().len() == 3;
            let there = there || !report.lost_consumers.is_empty();
            assert!(there || report.may_lack_entities, "{from} {len}: {report}");
            tally[usize::from(there)] += 1;
        }
    }
    println!("{tally:?}");
    assert!(tally.iter().all(|it| *it > 0), "{tally:?}");
}

/// A machine began in 1970, and its clock was set. The store has a note of that. Without the note the lives of all messages
/// from before seem to be over.
#[test]
fn salvage_says_that_the_clock_is_uncertain() {
    let hour = Duration::from_secs(3600);
    let whole = SimDisk::new(1);
    let now = Timestamp(1_790_000_000_000);
    whole.set_now(Timestamp(3_600_000));
    let engine = open(&whole, "store").unwrap();
    let queue = engine.queue("q").time_to_live(hour).create().unwrap();
    queue.send("work").unwrap();
    whole.set_now(now);
    for _ in 0..3 {
        engine.checkpoint().unwrap();
        queue.send("work").unwrap();
    }
    drop(queue);
    engine.close().unwrap();
    let meta = whole.files().into_iter().rfind(|it| it.starts_with("store/meta")).unwrap();
    let content = whole.content(&meta).unwrap();
    let mut lost = 0;
    let whole_rest = (0..content.len()).step_by(64).map(|from| from..content.len());
    let pieces = (0..content.len() - 64).step_by(16).map(|from| from..from + 64);
    for damaged in whole_rest.chain(pieces) {
        let disk = whole.fork(1);
        for path in disk.files().into_iter().filter(|it| it.starts_with("store/journal")) {
            // Only the metalog knows the clock.
            disk.plant(&path, None);
        }
        let mut content = content.clone();
        content[damaged.clone()].fill(0);
        disk.plant(&meta, Some(content));
        let Ok(report) = options().sim(&disk).salvage("store", "to") else { continue };
        let engine = open(&disk, "to").unwrap();
        let left: u64 = engine
            .queues()
            .unwrap()
            .iter()
            .map(|name| {
                let queue = engine.queue(name).open().unwrap();
                u64::from(queue.try_receive().unwrap().is_some())
            })
            .sum();
        assert!(
            left > 0 || report.clock_is_uncertain || !report.lost.is_empty(),
            "{damaged:?}: {report}"
        );
        lost += u32::from(report.clock_is_uncertain);
    }
    assert!(lost > 0, "the clock was never lost");
    let report = options().sim(&whole).salvage("store", "to").unwrap();
    assert!(!report.clock_is_uncertain && report.is_complete(), "{report}");
}

/// A limit that may be an old one would take records at the first checkpoint.
#[test]
fn salvage_takes_limits_away_that_may_be_old() {
    for (what, lost) in
        [("a higher limit", 0), ("a group", 1), ("something else", 2), ("nothing", 3)]
    {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        let stream = engine.stream("ssss-s").max_records(3).create().unwrap();
        let group = stream.group("gggg-g").create().unwrap();
        engine.checkpoint().unwrap();
        engine.queue("from").create().unwrap().send("begin").unwrap();
        let builder = || stream.group("gggg-g").keeps_unread(true);
        match lost {
            0 => drop(engine.stream("ssss-s").max_records(100).create_or_update().unwrap()),
            1 => drop(builder().create_or_update().unwrap()),
            _ => {}
        }
        engine.queue("from").open().unwrap().send("end").unwrap();
        if lost == 3 {
            engine.stream("ssss-s").max_records(4).create_or_update().unwrap();
            builder().create_or_update().unwrap();
            group.commit(0, Offset(0)).unwrap();
        }
        stream.append_batch((0..10).map(|n| format!("record {n}"))).unwrap();
        engine.sync().unwrap();
        drop((stream, group, engine));
        disk.kill();
        if lost < 3 {
            rot_between(&disk, "begin", "end");
        }
        let (engine, report) = salvage(&disk);
        let stream = engine.stream("ssss-s").open().unwrap();
        engine.checkpoint().unwrap();
        assert_eq!(stream.len().unwrap(), 10, "{what}: {report}");
        let is_told = old_settings(&report).contains(&"ssss-s");
        assert_eq!(is_told, lost < 3, "{what}: {report}");
        assert_eq!(report.to_string().contains("it has no limits now"), lost < 3, "{report}");
        let limit = stream.settings().unwrap().max_records;
        assert_eq!(limit, (lost == 3).then_some(4), "{what}");
    }
}

/// A limit of a topic that may be an old one, or that is lost, would take messages at the first checkpoint that are retained.
#[test]
fn salvage_has_topics_retain_what_is_there_where_their_limits_may_be_old() {
    for (what, lost) in
        [("a higher limit", 0), ("the first limit", 1), ("nothing", 2), ("the only limit", 3)]
    {
        let disk = SimDisk::new(1);
        let engine = open(&disk, "store").unwrap();
        let builder = || engine.topic("tttt-t");
        let is_first = lost % 2 == 1;
        let first = if is_first { builder() } else { builder().retain_messages(3) };
        let topic = first.create().unwrap();
        engine.checkpoint().unwrap();
        engine.queue("from").create().unwrap().send("begin").unwrap();
        if lost != 2 {
            drop(builder().retain_messages(100).create_or_update().unwrap());
        }
        engine.queue("from").open().unwrap().send("end").unwrap();
        if lost == 1 || lost == 2 {
            drop(builder().retain_messages(40).create_or_update().unwrap());
        }
        topic.publish_batch((0..10).map(|n| format!("message {n}"))).unwrap();
        engine.sync().unwrap();
        drop((topic, engine));
        disk.kill();
        if lost != 2 {
            rot_between(&disk, "begin", "end");
        }
        let (engine, report) = salvage(&disk);
        let topic = engine.topic("tttt-t").open().unwrap();
        engine.checkpoint().unwrap();
        if lost == 3 {
            // Nothing tells that it has retained messages.
            assert!(old_settings(&report).contains(&"tttt-t"), "{report}");
            continue;
        }
        let late = topic.subscription("late").start(posthouse::Start::Earliest).create().unwrap();
        assert_eq!(late.depth().unwrap(), 10, "{what}: {report}");
        assert_eq!(old_settings(&report).contains(&"tttt-t"), lost == 0, "{what}: {report}");
    }
}

/// A topic that got its first limit before a gap in the journal: what was gone by then is not missed.
#[test]
fn nobody_misses_what_was_gone_before_a_topic_retained_anything() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let topic = engine.topic("tttt-t").create().unwrap();
    let own = topic.subscription("own").create().unwrap();
    topic.publish_batch((0..50).map(|n| format!("message {n}"))).unwrap();
    assert_eq!(own.purge().unwrap(), 50);
    engine.checkpoint().unwrap();
    drop(engine.topic("tttt-t").retain_messages(100).create_or_update().unwrap());
    topic.publish("retained").unwrap();
    let queue = engine.queue("from").create().unwrap();
    ["begin", "lost", "end"].iter().for_each(|it| _ = queue.send(*it).unwrap());
    engine.sync().unwrap();
    drop((topic, own, queue, engine));
    disk.kill();
    rot_between(&disk, "begin", "end");
    let report = options().sim(&disk).verify("store").unwrap();
    assert!(!report.problems.iter().any(|it| it.what.contains("missing")), "{report}");
    let (engine, report) = salvage(&disk);
    let of_topic = |it: &&posthouse::Lost| it.log.to_string().contains("tttt-t");
    let lost: Vec<_> = report.lost.iter().filter(of_topic).collect();
    assert!(lost.iter().all(|it| it.offsets.iter().all(|range| range.start.0 >= 51)), "{report}");
    let topic = engine.topic("tttt-t").open().unwrap();
    let late = topic.subscription("late").start(posthouse::Start::Earliest).create().unwrap();
    assert_eq!(late.depth().unwrap(), 1);
}

/// The entry that gave a topic its limits is lost, and what its keeper has acked is not.
#[test]
fn a_topic_whose_limits_are_lost_retains_what_is_there() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let topic = engine.topic("tttt-t").create().unwrap();
    engine.topic("plain").create().unwrap().publish("gone").unwrap();
    engine.checkpoint().unwrap();
    drop(engine.topic("tttt-t").retain_messages(100).create_or_update().unwrap());
    topic.publish_batch((0..5).map(|n| format!("message {n}"))).unwrap();
    engine.checkpoint().unwrap();
    // The journal does not know of the limits any more.
    let other = engine.queue("other").create().unwrap();
    for _ in 0..8 {
        (0..20).for_each(|_| _ = other.send(vec![7; 1000]).unwrap());
        other.purge().unwrap();
        engine.checkpoint().unwrap();
    }
    drop((topic, other, engine));
    disk.kill();
    let meta = disk.files().into_iter().find(|it| it.starts_with("store/meta")).unwrap();
    let mut content = disk.content(&meta).unwrap();
    let named = content.windows(6).enumerate().filter(|(_, bytes)| bytes == b"tttt-t");
    let named: Vec<usize> = named.map(|(at, _)| at).collect();
    assert!(named.len() > 1, "it is described twice");
    let of_limits = |it: &std::path::PathBuf| {
        let content = disk.content(it).unwrap();
        it.starts_with("store/journal") && content.windows(6).any(|bytes| bytes == b"tttt-t")
    };
    assert!(!disk.files().iter().any(of_limits));
    content[*named.last().unwrap()] ^= 1;
    disk.plant(&meta, Some(content));
    let (engine, report) = salvage(&disk);
    let late = engine.topic("tttt-t").open().unwrap().subscription("late");
    let late = late.start(posthouse::Start::Earliest).create().unwrap();
    assert_eq!(late.depth().unwrap(), 5, "{report}");
    assert!(report.lost_consumers.is_empty(), "{report}");
    let plain = engine.topic("plain").open().unwrap();
    assert_eq!(plain.settings().unwrap().retain_messages, None, "{report}");
}
