//! Segment files that logs share: each moment of the checkpoints that write, rewrite and remove them is cut off.

use std::collections::BTreeMap;

use posthouse::{Engine, Start, sim::SimDisk};

use crate::support::open;

/// What the queues and the stream hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Contents {
    queues: BTreeMap<String, Vec<String>>,
    records: Vec<String>,
}

impl Contents {
    fn of(engine: &Engine) -> Contents {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let queue = |name: String| {
            let queue = engine.queue(&name).open().unwrap();
            let messages = queue.browse().unwrap().map(|it| text(it.unwrap().payload()));
            (name, messages.collect())
        };
        let stream = engine.stream("s").open().unwrap();
        let records = stream.reader(Start::Earliest).unwrap();
        Contents {
            queues: engine.queues().unwrap().into_iter().map(queue).collect(),
            records: records.map(|it| text(it.unwrap().payload())).collect(),
        }
    }
}

/// A store whose checkpoints are cut off at each moment.
struct Cut {
    disk: SimDisk,
    engine: Engine,
    expected: Contents,
    moments: usize,
}

impl Cut {
    fn new() -> Cut {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        engine.stream("s").create().unwrap();
        Cut { disk, engine, expected: Contents::default(), moments: 0 }
    }

    fn send(&mut self, queue: usize, text: String) {
        let name = format!("q{queue:02}");
        self.engine.queue(&name).create().unwrap().send(text.as_str()).unwrap();
        self.expected.queues.entry(name).or_default().push(text);
    }

    fn append(&mut self, text: String) {
        self.engine.stream("s").open().unwrap().append(text.as_str()).unwrap();
        self.expected.records.push(text);
    }

    fn ack_all(&mut self, queue: usize) {
        let name = format!("q{queue:02}");
        self.engine.queue(&name).open().unwrap().purge().unwrap();
        self.expected.queues.insert(name, Vec::new());
    }

    fn delete(&mut self, queue: usize) {
        let name = format!("q{queue:02}");
        self.engine.queue(&name).delete().unwrap();
        self.expected.queues.remove(&name);
    }

    /// Makes a checkpoint. At each moment of it the power is cut, in three ways.
    fn checkpoint(&mut self) {
        self.disk.record(1);
        self.engine.checkpoint().unwrap();
        for moment in self.disk.take_moments() {
            for way in 0..3 {
                let moment = moment.fork(way);
                match way {
                    0 => moment.kill(),
                    1 => moment.power_cut_with(&mut |_| 0),
                    _ => moment.power_cut(),
                }
                let engine = open(&moment).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(Contents::of(&engine), self.expected);
                let report = engine.verify().unwrap();
                assert!(report.is_ok(), "{report}");
                // What was left over is swept.
                engine.checkpoint().unwrap();
                let report = engine.verify().unwrap();
                assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
                assert_eq!(Contents::of(&engine), self.expected);
                self.moments += 1;
            }
        }
        self.disk.record(0);
    }

    fn files(&self) -> usize {
        self.disk.files().iter().filter(|it| it.starts_with("store/segments")).count()
    }
}

#[test]
fn small_files_are_rewritten_together() {
    let mut cut = Cut::new();
    for n in 0..12 {
        cut.send(n, format!("message {n}"));
        cut.checkpoint();
    }
    assert!(cut.files() <= 9, "{} files", cut.files());
    assert!(cut.moments > 100, "{}", cut.moments);
}

#[test]
fn a_file_of_which_little_is_needed_is_rewritten_and_a_deleted_queue_lets_go_of_its_part() {
    let mut cut = Cut::new();
    for n in 0..20 {
        cut.send(n, format!("message {n} {}", "x".repeat(n)));
    }
    cut.checkpoint();
    (0..9).for_each(|n| cut.delete(n));
    cut.checkpoint();
    (9..18).for_each(|n| cut.ack_all(n));
    cut.checkpoint();
    cut.checkpoint();
    assert_eq!(cut.files(), 1);
    cut.delete(18);
    cut.checkpoint();
    cut.delete(19);
    cut.checkpoint();
    assert_eq!(cut.files(), 0);
}

#[test]
fn the_parts_of_a_log_are_taken_along_into_one_and_into_a_file_of_its_own() {
    let mut cut = Cut::new();
    cut.send(0, "beside it".to_owned());
    for n in 0..20 {
        cut.append(format!("record {n}"));
        cut.checkpoint();
    }
    // Too much for a part.
    for n in 20..26 {
        cut.append(format!("record {n} {}", "x".repeat(100)));
    }
    cut.checkpoint();
    for n in 26..28 {
        cut.append(format!("record {n}"));
        cut.checkpoint();
    }
    for n in 28..34 {
        cut.append(format!("record {n} {}", "x".repeat(100)));
    }
    cut.checkpoint();
    let report = cut.engine.verify().unwrap();
    assert_eq!(report.read.segments, 2, "that of the queue, and one of the stream: {report}");
}
