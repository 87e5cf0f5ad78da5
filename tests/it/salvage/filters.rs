//! Subscriptions with filters in a damaged store: nothing is lost, and what comes back is said to be uncertain.

use posthouse::{Durability, Message, sim::SimDisk};

use super::{
    check::{Tally, check_damaged, files},
    sample::{dumped, filtered_sample, open, options},
};
use crate::support::one_in;

#[test]
fn a_store_with_filters_is_salvaged_whole() {
    for close in [true, false] {
        let sample = filtered_sample(close);
        let report = options().sim(&sample.disk).salvage("store", "to").unwrap();
        assert!(report.is_complete() && report.problems.is_empty(), "{report}");
        assert_eq!(&dumped(&sample.disk, "to").unwrap(), sample.states.last().unwrap());
        // The filter goes on.
        let topic = open(&sample.disk, "to").unwrap().topic("events").open().unwrap();
        let filtered = topic.subscription("filtered").open().unwrap();
        let before = filtered.depth().unwrap();
        ["a.x", "b"]
            .iter()
            .for_each(|it| _ = topic.publish(Message::new("m").subject(*it)).unwrap());
        assert_eq!(filtered.depth().unwrap(), before + 1);
    }
}

#[test]
fn a_damage_loses_nothing_that_a_filter_may_have_let_pass() {
    let sample = filtered_sample(true);
    let (mut tally, mut n) = (Tally::default(), 0);
    for (path, content) in files(&sample.disk) {
        if path.ends_with("LOCK") {
            continue;
        }
        for at in (0..content.len()).step_by(61) {
            n += 1;
            if n % one_in(40) > 0 {
                continue;
            }
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            let disk = sample.disk.fork(1);
            disk.plant(&path, Some(flipped));
            check_damaged(&sample, &disk, &path, &format!("bit flipped at {at}"), &mut tally);
        }
        let disk = sample.disk.fork(1);
        disk.plant(&path, None);
        check_damaged(&sample, &disk, &path, "missing", &mut tally);
    }
    assert!(tally.named > 10 && tally.lossy > 0, "{tally:?}");
}

/// A gap in the journal behind the metalog: what a filter had rejected before is known still. Nobody misses it, and it does not
/// come back.
#[test]
fn a_gap_in_the_journal_makes_nothing_missing_that_a_filter_had_rejected() {
    for keeps in [false, true] {
        let disk = SimDisk::new(7);
        let engine = options().durability(Durability::Sync).sim(&disk).open("store").unwrap();
        let topic = engine.topic("t").create().unwrap();
        topic.subscription("filtered").pattern("x").create().unwrap();
        if keeps {
            topic.subscription("all").create().unwrap();
        }
        let publish = |subject: &str, payload: &str| {
            topic.publish(Message::new(payload).subject(subject)).unwrap();
        };
        publish("x", "first");
        (0..50).for_each(|n| publish("y", &format!("rejected {n}")));
        engine.checkpoint().unwrap();
        for payload in ["next", "victim", "last", "behind"] {
            publish("x", payload);
        }
        drop((topic, engine));
        for (path, content) in files(&disk) {
            if let Some(at) = content.windows(6).position(|it| it == b"victim") {
                let mut damaged = content.clone();
                damaged[at] ^= 1;
                disk.plant(&path, Some(damaged));
            }
        }
        let report = options().sim(&disk).verify("store").unwrap();
        let is_missing = report.problems.iter().any(|it| it.what.contains("missing"));
        assert!(!report.is_ok() && !is_missing, "{report}");
        let report = options().sim(&disk).salvage("store", "to").unwrap();
        let first = report.lost.iter().flat_map(|it| &it.offsets).map(|it| it.start.0).min();
        assert!(first.is_none_or(|first| first >= 51), "{report}");
        let topic = open(&disk, "to").unwrap().topic("t").open().unwrap();
        let filtered = topic.subscription("filtered").open().unwrap();
        let waiting = filtered.browse().unwrap().map(|it| it.unwrap().payload().to_vec());
        let waiting: Vec<_> = waiting.map(|payload| String::from_utf8(payload).unwrap()).collect();
        assert_eq!(waiting, ["first", "next", "last", "behind"], "keeps: {keeps}");
    }
}
