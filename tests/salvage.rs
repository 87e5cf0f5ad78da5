//! Damage: `verify` finds it and changes nothing, `salvage` copies what is good and says exactly
//! what is not.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{
    Simulated, World,
    action::actions,
    driver::Driver,
    small_options,
    state::{Msg, PartitionState, State, Unacked, dump},
};
use posthouse::{Engine, ErrorKind, LogName, Options, SalvageReport, sim::SimDisk};
use proptest::prelude::*;

fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
}

/// A simulated disk whose store is verified before and after each opening.
struct Verified {
    world: Simulated,
    reports: Cell<usize>,
}

impl World for Verified {
    fn open(&self) -> posthouse::Result<Engine> {
        let disk = self.world.disk.fork(1);
        let (before, steps) = (files(&disk), disk.steps());
        let report = self.world.options.clone().sim(&disk).verify("store");
        assert_eq!((&files(&disk), disk.steps()), (&before, steps), "verify changes nothing");
        let engine = self.world.open()?;
        match report {
            Ok(report) => {
                assert!(report.is_ok(), "before it was opened: {report}");
                self.reports.set(self.reports.get() + 1);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
        if let Ok(report) = engine.verify() {
            assert!(report.is_ok(), "after it was opened: {report}");
        }
        Ok(engine)
    }
    fn copy(&self) -> Option<Box<dyn World>> {
        self.world.copy()
    }
    fn kill(&self) -> bool {
        self.world.kill()
    }
    fn cut_power(&self) -> bool {
        self.world.cut_power()
    }
    fn cut_power_in(&self, steps: u64) {
        self.world.cut_power_in(steps);
    }
    fn fail_call_in(&self, calls: u64, error: i32) -> bool {
        self.world.fail_call_in(calls, error)
    }
    fn set_clock(&self, time: u64) {
        self.world.set_clock(time);
    }
    fn advance(&self, by: Duration) -> bool {
        self.world.advance(by)
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("POSTHOUSE_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(default),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// Whatever happens to a store without damage, verify has nothing to say.
    #[test]
    fn crashes_are_no_damage(seed: u64, actions in actions(80), pessimal: bool) {
        let disk = SimDisk::new(seed);
        disk.set_pessimal(pessimal);
        let world = Verified {
            world: Simulated { disk, options: small_options() },
            reports: Cell::new(0),
        };
        Driver::new(&world, true).run(&actions);
    }
}

/// All messages that were ever sent, by the log's name and the offset.
type History = BTreeMap<(String, u64), Msg>;

/// A small store that has seen most of what a store can see.
struct Sample {
    disk: SimDisk,
    /// The states after each commit of the last life, the last one last.
    states: Vec<State>,
    history: History,
}

fn options() -> Options {
    small_options().segment_bytes(4096).block_bytes(512)
}

fn open(disk: &SimDisk, path: &str) -> posthouse::Result<Engine> {
    options().sim(disk).open(path)
}

fn dumped(disk: &SimDisk, path: &str) -> posthouse::Result<State> {
    let disk = disk.fork(1);
    dump(&open(&disk, path)?)
}

struct Builder {
    engine: Engine,
    history: History,
    number: u64,
}

impl Builder {
    fn next(&mut self) -> Msg {
        self.number += 1;
        Msg::number(self.number, self.number as usize * 37 % 230)
    }

    fn send(&mut self, name: &str, count: usize) {
        let queue = self.engine.queue(name).create().unwrap();
        for _ in 0..count {
            let msg = self.next();
            let offset = queue.send(msg.message()).unwrap();
            self.history.insert((format!("queue {name}"), offset.0), msg);
        }
    }

    fn publish(&mut self, name: &str, count: usize) {
        let topic = self.engine.topic(name).create().unwrap();
        for _ in 0..count {
            let msg = self.next();
            let offset = topic.publish(msg.message()).unwrap();
            self.history.insert((format!("topic {name}"), offset.0), msg);
        }
    }

    fn append(&mut self, name: &str, count: usize) {
        let stream = self.engine.stream(name).partitions(2).create().unwrap();
        for _ in 0..count {
            let mut msg = self.next();
            msg.key = Some(format!("key {}", self.number % 5).into_bytes());
            let at = stream.append(msg.message()).unwrap();
            self.history.insert((format!("stream {name} {}", at.partition), at.offset.0), msg);
        }
    }

    /// Acks one in three, counts a failure of one in five, and leaves the others.
    fn consume(&mut self, mut receive: impl FnMut() -> Option<posthouse::Delivery>, count: usize) {
        let mut held = Vec::new();
        for n in 0..count {
            let Some(delivery) = receive() else { break };
            match n % 5 {
                0 | 3 => delivery.ack().unwrap(),
                1 => delivery.nack().unwrap(),
                _ => held.push(delivery),
            }
        }
    }

    fn life(&mut self, n: u64) {
        let engine = self.engine.clone();
        self.send("orders", 40);
        let topic = engine.topic("events").create().unwrap();
        let subscription = |name: &str| topic.subscription(name).create().unwrap();
        let (a, b) = (subscription("a"), subscription("b"));
        self.publish("events", 30);
        self.append("history", 60);
        let orders = engine.queue("orders").open().unwrap();
        self.consume(|| orders.try_receive().unwrap(), 25);
        engine.checkpoint().unwrap();
        self.consume(|| a.try_receive().unwrap(), 20);
        self.consume(|| b.try_receive().unwrap(), 12);
        let history = engine.stream("history").open().unwrap();
        let group = history.group("readers").create().unwrap();
        group.commit(0, posthouse::Offset(n * 11)).unwrap();
        self.send(&format!("short-lived {n}"), 8);
        engine.checkpoint().unwrap();
        engine.queue(&format!("short-lived {n}")).delete().unwrap();
        if n == 1 {
            history.partition(0).unwrap().trim_before(posthouse::Offset(9)).unwrap();
        }
        self.send("orders", 5);
        self.append("history", 9);
    }
}

fn sample(close: bool) -> Sample {
    let disk = SimDisk::new(3);
    let (mut history, mut number) = (History::new(), 0);
    for n in 0..3 {
        let engine = open(&disk, "store").unwrap();
        let mut builder = Builder { engine, history, number };
        builder.life(n);
        (history, number) = (builder.history, builder.number);
        if n == 1 {
            drop(builder.engine);
        } else {
            disk.kill();
        }
    }
    let engine = open(&disk, "store").unwrap();
    let mut builder = Builder { engine, history, number };
    let mut states = vec![dumped(&disk, "store").unwrap()];
    for n in 0..24 {
        match n % 4 {
            0 => builder.send("orders", 1),
            1 => builder.publish("events", 1),
            2 => builder.append("history", 1),
            _ => {
                let orders = builder.engine.queue("orders").open().unwrap();
                orders.try_receive().unwrap().unwrap().ack().unwrap();
            }
        }
        states.push(dumped(&disk, "store").unwrap());
    }
    let Builder { engine, history, .. } = builder;
    if close {
        engine.close().unwrap();
    }
    disk.power_cut();
    Sample { disk, states, history }
}

fn ranges(report: &SalvageReport, log: &LogName, certain: bool) -> Vec<Range<u64>> {
    let of = report.lost.iter().filter(|lost| lost.log == *log && (lost.is_certain || !certain));
    of.flat_map(|lost| &lost.offsets).map(|it| it.start.0..it.end.0).collect()
}

fn within(ranges: &[Range<u64>], offset: u64) -> bool {
    ranges.iter().any(|range| range.contains(&offset))
}

/// Compares what was salvaged with what there was.
struct Comparison<'a> {
    history: &'a History,
    report: &'a SalvageReport,
}

impl Comparison<'_> {
    fn is_uncertain(&self, noun: &str, name: &str, parent: Option<&str>) -> bool {
        self.report
            .uncertain
            .iter()
            .any(|it| (it.noun, it.name.as_str(), it.parent.as_deref()) == (noun, name, parent))
    }

    fn consumer(&self, log: &LogName, key: &str, was: &Unacked, is: &Unacked, uncertain: bool) {
        let (lost, certain) = (ranges(self.report, log, false), ranges(self.report, log, true));
        for (offset, (msg, attempts)) in is {
            assert!(!within(&lost, *offset), "{log} {offset} is there and reported lost");
            assert_eq!(self.history.get(&(key.to_owned(), *offset)), Some(msg), "{log} {offset}");
            match was.get(offset) {
                Some((_, before)) => assert!(attempts == before || uncertain, "{log} {offset}"),
                None => assert!(uncertain, "{log} {offset} was acked, and is back"),
            }
        }
        for offset in was.keys().filter(|offset| !is.contains_key(offset)) {
            assert!(within(&lost, *offset), "{log} {offset} is lost, and nobody says so");
        }
        assert!(certain.iter().all(|it| it.end < 1 << 40));
    }

    fn all(&self, was: &State, is: &State) {
        let excused = !self.report.renamed.is_empty() || !self.report.lost_consumers.is_empty();
        let mut certain = BTreeMap::new();
        for (name, was) in &was.queues {
            let Some(is) = is.queues.get(name) else {
                assert!(excused, "queue {name} is gone");
                continue;
            };
            let log = LogName::Queue(name.clone());
            let uncertain = self.is_uncertain("queue", name, None);
            self.consumer(&log, &format!("queue {name}"), &was.unacked, &is.unacked, uncertain);
            assert!(is.next >= was.next, "an offset of queue {name} comes back");
            certain.insert(log, was.unacked.keys().copied().collect::<Vec<_>>());
        }
        for (name, was) in &was.topics {
            let Some(is) = is.topics.get(name) else {
                assert!(excused, "topic {name} is gone");
                continue;
            };
            let (log, key) = (LogName::Topic(name.clone()), format!("topic {name}"));
            for (subscription, was) in &was.subscriptions {
                let uncertain = self.is_uncertain("subscription", subscription, Some(name));
                match is.subscriptions.get(subscription) {
                    Some(is) => self.consumer(&log, &key, was, is, uncertain),
                    None => assert!(excused, "subscription {subscription} is gone"),
                }
            }
            assert!(is.next >= was.next, "an offset of topic {name} comes back");
            let unacked = was.subscriptions.values().flat_map(|it| it.keys().copied());
            certain.insert(log, unacked.collect());
        }
        for (name, was) in &was.streams {
            let Some(is) = is.streams.get(name) else {
                assert!(excused, "stream {name} is gone");
                continue;
            };
            for (n, was) in was.partitions.iter().enumerate() {
                let log = LogName::Partition { stream: name.clone(), partition: n as u32 };
                self.partition(&log, &format!("stream {name} {n}"), was, &is.partitions[n]);
                certain.insert(log, was.records.keys().copied().collect());
            }
            for (group, was) in &was.groups {
                let uncertain = self.is_uncertain("group", group, Some(name));
                match is.groups.get(group) {
                    Some(is) => assert!(was == is || uncertain, "group {group}"),
                    None => assert!(excused, "group {group} is gone"),
                }
            }
        }
        // What is certainly lost was certainly there.
        for (log, offsets) in &certain {
            for lost in ranges(self.report, log, true) {
                for offset in lost {
                    assert!(offsets.contains(&offset), "{log} {offset} was never there");
                }
            }
        }
    }

    fn partition(&self, log: &LogName, key: &str, was: &PartitionState, is: &PartitionState) {
        let lost = ranges(self.report, log, false);
        for (offset, msg) in &is.records {
            assert!(!within(&lost, *offset), "{log} {offset} is there and reported lost");
            assert_eq!(self.history.get(&(key.to_owned(), *offset)), Some(msg), "{log} {offset}");
            assert!(was.records.contains_key(offset) || *offset < was.start, "{log} {offset}");
        }
        for offset in was.records.keys().filter(|offset| !is.records.contains_key(offset)) {
            assert!(within(&lost, *offset), "{log} {offset} is lost, and nobody says so");
        }
        assert!(is.next >= was.next, "an offset of {log} comes back");
        assert!(is.start <= was.start);
    }
}

#[derive(Debug, Default)]
struct Tally {
    sound: usize,
    named: usize,
    elsewhere: Vec<String>,
    torn: usize,
    refused: usize,
    complete: usize,
    lossy: usize,
}

/// Verifies and salvages a store with one damage, and checks what is said.
fn check_damaged(sample: &Sample, disk: &SimDisk, path: &Path, what: &str, tally: &mut Tally) {
    let original = sample.states.last().unwrap();
    let place = format!("{} {what}", path.display());
    let (before, steps) = (files(disk), disk.steps());
    let verified = options().sim(disk).verify("store");
    assert_eq!((&files(disk), disk.steps()), (&before, steps), "{place}: verify changes nothing");
    let opened = dumped(disk, "store");
    let mut reference = original;
    match &verified {
        Ok(report) if report.is_ok() => {
            let opened = opened.as_ref().unwrap_or_else(|error| {
                panic!("{place}: verify finds nothing, and {error}");
            });
            if opened == original {
                tally.sound += 1;
            } else {
                // Nothing is behind it to prove that it was durable.
                let torn = sample.states.iter().find(|state| *state == opened);
                reference = torn.unwrap_or_else(|| panic!("{place}: nothing is found"));
                tally.torn += 1;
            }
        }
        Ok(report) if report.problems.iter().any(|it| it.file == path) => tally.named += 1,
        Ok(report) => tally.elsewhere.push(format!("{place}: {report}")),
        Err(error) => panic!("{place}: {error}"),
    }
    let salvaged = options().sim(disk).salvage("store", "to");
    let mut after = files(disk);
    after.retain(|path, _| path.starts_with("store"));
    assert_eq!(after, before, "{place}: salvage does not touch the old store");
    let report = match salvaged {
        Ok(report) => report,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error}");
            tally.refused += 1;
            return;
        }
    };
    let verified = options().sim(disk).verify("to").unwrap();
    assert!(verified.is_ok() && verified.unreferenced.is_empty(), "{place}: {verified}");
    let is = dumped(disk, "to").unwrap_or_else(|error| panic!("{place}: {error}\n{report}"));
    let compared = std::panic::catch_unwind(|| {
        Comparison { history: &sample.history, report: &report }.all(reference, &is);
        if report.is_complete() && report.problems.is_empty() {
            assert_eq!(*reference, is);
        }
    });
    if compared.is_err() {
        panic!("{place}:\n{report}");
    }
    if report.is_complete() {
        assert_eq!(*reference, is, "{place}: said to be complete");
        tally.complete += 1;
    } else {
        tally.lossy += 1;
    }
}

fn damage_each(
    sample: &Sample,
    each: &mut dyn FnMut(&Path, &[u8], &mut dyn FnMut(&str, Option<Vec<u8>>)),
) -> Tally {
    let mut tally = Tally::default();
    for (path, content) in files(&sample.disk) {
        if path.ends_with("LOCK") {
            continue;
        }
        each(&path, &content, &mut |what, damaged| {
            let disk = sample.disk.fork(1);
            disk.plant(&path, damaged);
            check_damaged(sample, &disk, &path, what, &mut tally);
        });
    }
    println!("{} elsewhere, such as {:?}", tally.elsewhere.len(), tally.elsewhere.first());
    tally.elsewhere.iter().for_each(|it| println!("{it}"));
    println!("{:?}", Tally { elsewhere: Vec::new(), ..tally });
    tally
}

#[test]
fn an_intact_store_is_salvaged_whole() {
    for close in [true, false] {
        let sample = sample(close);
        let report = options().sim(&sample.disk).verify("store").unwrap();
        assert!(report.is_ok(), "{report}");
        assert!(report.read.segments > 3 && report.read.records > 100, "{report}");
        let report = options().sim(&sample.disk).salvage("store", "to").unwrap();
        assert!(report.is_complete() && report.problems.is_empty(), "{report}");
        assert_eq!(&dumped(&sample.disk, "to").unwrap(), sample.states.last().unwrap());
        assert!(options().sim(&sample.disk).verify("to").unwrap().is_ok());
    }
}

#[test]
fn a_flipped_bit_is_named_and_all_else_is_salvaged() {
    let sample = sample(true);
    let step = if std::env::var("POSTHOUSE_CASES").is_ok() { 7 } else { 97 };
    let tally = damage_each(&sample, &mut |_, content, damaged| {
        for at in (0..content.len()).step_by(step) {
            let mut flipped = content.to_vec();
            flipped[at] ^= 1 << (at % 8);
            damaged(&format!("bit flipped at {at}"), Some(flipped));
        }
    });
    assert!(tally.named > 100, "{tally:?}");
}

#[test]
fn a_file_that_is_cut_zeroed_missing_or_swapped_costs_only_itself() {
    let sample = sample(true);
    let all = files(&sample.disk);
    let tally = damage_each(&sample, &mut |path, content, damaged| {
        damaged("missing", None);
        damaged("empty", Some(Vec::new()));
        for part in 1..8 {
            let at = content.len() * part / 8 + part;
            damaged(&format!("cut at {at}"), Some(content[..at.min(content.len())].to_vec()));
            let mut zeroed = content.to_vec();
            let end = (at + 512).min(zeroed.len());
            zeroed[at.min(end)..end].fill(0);
            damaged(&format!("zeros from {at} to {end}"), Some(zeroed.clone()));
            zeroed[..at.min(content.len())].fill(0);
            damaged(&format!("zeros up to {end}"), Some(zeroed));
        }
        let mut longer = content.to_vec();
        longer.extend_from_slice(&content[..content.len().min(5000)]);
        damaged("longer", Some(longer));
        let same_kind = |other: &&PathBuf| other.extension() == path.extension() && *other != path;
        for other in all.keys().filter(same_kind).take(3) {
            damaged(&format!("replaced by {}", other.display()), Some(all[other].clone()));
        }
    });
    assert!(tally.named > 50, "{tally:?}");
}

#[test]
fn two_files_that_were_swapped_are_found_again() {
    let sample = sample(true);
    let all = files(&sample.disk);
    let mut tally = Tally::default();
    for (n, (path, content)) in all.iter().enumerate() {
        let next = all.iter().skip(n + 1).find(|(other, _)| {
            other.extension() == path.extension() && other.extension().is_some()
        });
        let Some((other, other_content)) = next else { continue };
        let disk = sample.disk.fork(1);
        disk.plant(path, Some(other_content.clone()));
        disk.plant(other, Some(content.clone()));
        check_damaged(
            &sample,
            &disk,
            path,
            &format!("swapped with {}", other.display()),
            &mut tally,
        );
    }
    assert!(tally.named > 3 && tally.lossy == 0, "{tally:?}");
}

#[test]
fn a_crash_during_salvage_leaves_all_or_what_is_refused() {
    let sample = sample(true);
    // Some damage, so that there is something to settle.
    let disk = sample.disk.fork(1);
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let mut content = disk.content(&segment).unwrap();
    content[400] ^= 1;
    disk.plant(&segment, Some(content));
    let before = files(&disk);
    let whole = disk.fork(1);
    options().sim(&whole).salvage("store", "to").unwrap();
    let expected = dumped(&whole, "to").unwrap();
    let steps = whole.steps() - disk.fork(1).steps();
    assert!(steps > 30, "{steps}");
    let (mut absent, mut refused, mut complete) = (0, 0, 0);
    for step in 1..=steps + 1 {
        for pessimal in [false, true] {
            for end in 0..4 {
                let disk = disk.fork(step * 8 + end);
                disk.set_pessimal(pessimal);
                disk.stop_at_step(disk.steps() + step);
                let salvaged = options().sim(&disk).salvage("store", "to");
                if end == 0 {
                    disk.kill()
                } else {
                    disk.power_cut()
                }
                let mut after = files(&disk);
                after.retain(|path, _| path.starts_with("store"));
                assert_eq!(after, before, "step {step}");
                let is_there = disk.files().iter().any(|path| path.starts_with("to"));
                if !disk
                    .files()
                    .iter()
                    .any(|path| path.starts_with("to") && !path.ends_with("LOCK"))
                {
                    assert!(salvaged.is_err(), "step {step}: it said that all is there");
                    if let Err(error) = options().sim(&disk).salvage("store", "to") {
                        // Directories are in the way.
                        assert_eq!(
                            error.kind(),
                            ErrorKind::InvalidInput { field: "to" },
                            "{error}"
                        );
                    }
                    absent += usize::from(!is_there);
                    // Files decide: an opened one would not be taken for the salvaged one.
                    continue;
                }
                match dumped(&disk, "to") {
                    Ok(state) => {
                        assert_eq!(state, expected, "step {step}, pessimal {pessimal}, end {end}");
                        assert!(options().sim(&disk).verify("to").unwrap().is_ok());
                        complete += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "step {step}: {error}");
                        assert!(salvaged.is_err(), "step {step}: it said that all is there");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{steps} steps: {absent} absent, {refused} refused, {complete} complete");
    assert!(absent > 0 && refused > 50 && complete > 0);
}

#[test]
fn faults_of_the_disk_are_typed_errors() {
    let sample = sample(true);
    let calls = |act: &dyn Fn(&SimDisk)| {
        let disk = sample.disk.fork(1);
        let before = disk.calls();
        act(&disk);
        disk.calls() - before
    };
    let salvage = |disk: &SimDisk| options().sim(disk).salvage("store", "to").map(drop);
    let verify = |disk: &SimDisk| options().sim(disk).verify("store").map(drop);
    for (act, step) in [(&salvage as &dyn Fn(&SimDisk) -> posthouse::Result<()>, 7), (&verify, 5)] {
        for call in (0..calls(&|disk| act(disk).unwrap())).step_by(step) {
            for error in [5, 28] {
                let disk = sample.disk.fork(1);
                let before = files(&disk);
                disk.fail_call(disk.calls() + call, error, false);
                if let Err(error) = act(&disk) {
                    let kind = error.kind();
                    let typed = [ErrorKind::Io, ErrorKind::DiskFull, ErrorKind::Poisoned];
                    assert!(typed.contains(&kind), "call {call}: {error:?}");
                }
                disk.heal();
                let mut after = files(&disk);
                after.retain(|path, _| path.starts_with("store"));
                assert_eq!(after, before, "call {call}");
            }
        }
    }
}

#[test]
fn what_may_not_be_is_refused() {
    let disk = SimDisk::new(1);
    let verify = |path: &str| options().sim(&disk).verify(path).expect_err("refused").kind();
    let salvage = |from: &str, to: &str| {
        let salvaged = options().sim(&disk).salvage(from, to);
        salvaged.expect_err("refused").kind()
    };
    assert_eq!(verify("store"), ErrorKind::NotFound);
    assert_eq!(salvage("store", "to"), ErrorKind::NotFound);
    assert!(disk.files().is_empty());
    let engine = open(&disk, "store").unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    assert!(matches!(verify("store"), ErrorKind::Locked { .. }));
    assert!(matches!(salvage("store", "to"), ErrorKind::Locked { .. }));
    assert!(engine.verify().unwrap().is_ok());
    engine.close().unwrap();
    assert_eq!(engine.verify().expect_err("closed").kind(), ErrorKind::Closed);
    let invalid = ErrorKind::InvalidInput { field: "to" };
    assert_eq!(salvage("store", "store"), invalid);
    assert_eq!(salvage("store", "store/inside"), invalid);
    disk.plant(Path::new("other"), Some(b"a file".to_vec()));
    drop(open(&disk, "taken").unwrap());
    assert_eq!(salvage("store", "taken"), invalid);
    options().sim(&disk).salvage("store", "to").unwrap();
    assert_eq!(salvage("store", "to"), invalid);
    assert_eq!(open(&disk, "to").unwrap().queue("q").open().unwrap().depth().unwrap(), 1);
}

#[test]
fn files_that_nothing_refers_to_are_listed() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, "store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    for _ in 0..200 {
        queue.send("x".repeat(100)).unwrap();
    }
    engine.checkpoint().unwrap();
    let report = engine.verify().unwrap();
    assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let content = disk.content(&segment).unwrap();
    let planted = [
        "store/journal/00000000000099999744.journal.new",
        "store/meta/00000000000000000000.meta",
        "store/segments/1/00000000000000000000.7.seg",
        "store/segments/1/00000000000000000900.0.seg.new",
    ];
    for path in planted {
        disk.plant(Path::new(path), Some(content.clone()));
    }
    // Not ours.
    disk.plant(Path::new("store/segments/1/notes.txt"), Some(content.clone()));
    let planted = planted.map(PathBuf::from).to_vec();
    let report = engine.verify().unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.unreferenced, planted);
    engine.close().unwrap();
    let report = options().sim(&disk).verify("store").unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(planted.iter().all(|path| report.unreferenced.contains(path)), "{report}");
}

/// The whole of it on the real disk, beside commits and checkpoints of other threads.
#[test]
fn the_real_disk_is_verified_beside_commits_and_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, to) = (dir.path().join("store"), dir.path().join("to"));
    let engine = options().open(&store).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for n in 0..3000 {
                let _ = queue.send_ticket(format!("message {n} {}", "x".repeat(n % 300))).unwrap();
                let _ =
                    stream.append_ticket(posthouse::Message::new(&n.to_string()).key("k")).unwrap();
                if n % 3 > 0 {
                    queue.try_receive().unwrap().into_iter().for_each(|it| it.ack().unwrap());
                }
            }
        });
        let mut verified = 0;
        while !worker.is_finished() || verified < 3 {
            let report = engine.verify().unwrap();
            assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
            verified += 1;
        }
    });
    engine.close().unwrap();
    let report = options().verify(&store).unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(options().salvage(&store, &to).unwrap().is_complete());
    let original = dump(&options().open(&store).unwrap()).unwrap();
    assert_eq!(dump(&options().open(&to).unwrap()).unwrap(), original);
}
