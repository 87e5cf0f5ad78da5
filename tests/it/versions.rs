//! Stores that older versions of the format have left: they open, mean what they meant, and go on.
//! `tests/fixtures` has each store beside the program that made it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use posthouse::{DeadLetter, Engine, IoMode, Offset, Options, Start, Timestamp, salvage, verify};

/// The version of this build.
const NEWEST: u32 = 6;

fn options(io: IoMode) -> Options {
    Options::new()
        .io(io)
        .journal_file_bytes_min(16 << 10)
        .journal_file_bytes_max(32 << 10)
        .journal_bytes(128 << 10)
        .segment_bytes(32 << 10)
        .block_bytes(2 << 10)
        .delayed_in_memory(16)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A copy of the store of an older version.
fn version(version: u32, dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    copy(&fixtures.join(format!("version-{version}")), &store);
    store
}

/// The versions in the headers of all files in a folder of the store.
fn versions_in(dir: &Path) -> Vec<u32> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let headers = files.filter(|path| path.extension().is_some_and(|it| it != "new")).map(|path| {
        let bytes = fs::read(path).unwrap();
        u32::from_le_bytes(bytes[8..12].try_into().unwrap())
    });
    headers.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the programs that made the stores of all versions have left in them.
fn assert_that_all_is_there(engine: &Engine, attempts_of_the_held_one: u32) {
    let queues = engine.queues().unwrap();
    for name in ["brief", "lives", "orders", "orders.dead", "reminders"] {
        assert!(queues.contains(&name.to_owned()), "{name}");
    }
    assert!(!queues.contains(&"deleted".to_owned()));

    let orders = engine.queue("orders").open().unwrap();
    let gone = [1, 3, 5, 7, 11];
    let browsed: Vec<_> = orders.browse().unwrap().map(Result::unwrap).collect();
    let expected: Vec<u32> = (0..26).filter(|n| !gone.contains(n)).collect();
    assert_eq!(browsed.len(), expected.len());
    for (message, n) in browsed.iter().zip(expected) {
        assert_eq!(text(message.payload()), format!("order {n}"));
        assert_eq!(message.offset(), Offset(n.into()));
        let (key, priority) = match n {
            0..20 => (Some(format!("customer {}", n % 3)), n % 2),
            _ => (None, 0),
        };
        assert_eq!(message.key().map(text), key);
        assert_eq!(u32::from(message.priority()), priority);
        let attempts = match n {
            9 => 1,
            13 => attempts_of_the_held_one,
            _ => 0,
        };
        assert_eq!(message.attempts(), attempts, "order {n}");
        // The machine's clock tells whether the hour of its backoff is over.
        assert!(message.due().is_none() || n == 9, "order {n}");
    }
    let letters = engine.queue("orders.dead").open().unwrap();
    let letter = letters.browse().unwrap().next().unwrap().unwrap();
    assert_eq!(text(letter.payload()), "order 11");
    let DeadLetter { origin, reason, attempts, offset, .. } =
        letter.dead_letter().unwrap().unwrap();
    assert_eq!((origin.as_str(), reason.as_str()), ("orders", "no such customer"));
    assert_eq!((attempts, offset), (1, Offset(11)));

    let reminders = engine.queue("reminders").open().unwrap();
    assert_eq!((reminders.depth().unwrap(), reminders.delayed().unwrap()), (41, 40));
    let due: Vec<Option<Timestamp>> =
        reminders.browse().unwrap().map(|it| it.unwrap().due()).collect();
    for n in 0..40 {
        assert_eq!(due[n as usize], Some(Timestamp(4_000_000_000_000 + n)));
    }

    let created = engine.topic("created").open().unwrap();
    let waiting = |name: &str| {
        let subscription = created.subscription(name).open().unwrap();
        let all = subscription.browse().unwrap().map(|it| text(it.unwrap().payload()));
        all.collect::<Vec<_>>()
    };
    let events = |from| (from..7).map(|n| format!("event {n}")).collect::<Vec<_>>();
    assert_eq!((waiting("a"), waiting("b")), (events(1), events(0)));

    let history = engine.stream("history").open().unwrap();
    let mut first = history.partition(1).unwrap().reader(Start::Earliest).unwrap();
    assert_eq!(first.try_read().unwrap().unwrap().offset(), Offset(2));
    let records = history.reader(Start::Earliest).unwrap();
    assert_eq!(records.map(Result::unwrap).count(), 29);
    let readers = history.group("readers").open().unwrap();
    assert_eq!(readers.committed(0).unwrap(), Offset(3));
    #[cfg(feature = "cron")]
    let nightly = engine.schedule("nightly").open().unwrap();
    #[cfg(feature = "cron")]
    assert_eq!((nightly.name(), nightly.time_zone()), ("nightly", "Europe/Berlin"));
}

#[test]
fn a_store_of_version_1_opens_means_the_same_and_goes_on() {
    for io in [IoMode::Auto, IoMode::Calls] {
        let dir = tempfile::tempdir().unwrap();
        let store = version(1, dir.path());
        let report = verify(&store).unwrap();
        assert!(report.is_ok(), "{report}");
        let engine = options(io).open(&store).unwrap();
        assert_that_all_is_there(&engine, 1);
        let report = engine.verify().unwrap();
        assert!(report.is_ok(), "{report}");

        // Nothing is known of the lives in its segments, so they are looked through: what has expired leaves by itself.
        let brief = engine.queue("brief").open().unwrap();
        engine.checkpoint().unwrap();
        let left = brief.browse().unwrap().map(|it| text(it.unwrap().payload()));
        assert_eq!(left.collect::<Vec<_>>(), ["stays"]);

        // It goes on, and is of this version bit by bit.
        let delivery = brief.try_receive().unwrap().unwrap();
        assert_eq!(delivery.payload(), b"stays");
        delivery.ack().unwrap();
        let reminders = engine.queue("reminders").open().unwrap();
        assert_eq!(reminders.try_receive().unwrap().unwrap().payload(), b"at once");
        let lives = engine.queue("lives").open().unwrap();
        let later = posthouse::Message::new("later").deliver_after(Duration::from_secs(3600));
        lives.send("next").unwrap();
        engine.queue("new").create().unwrap().send(later).unwrap();
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        assert_eq!(versions_in(&store.join("meta")), [NEWEST]);
        assert!(
            versions_in(&store.join("journal")).contains(&NEWEST),
            "an old build refuses it by name"
        );
        assert!(versions_in(&store.join("segments/1")).contains(&1), "segments stay as they are");

        let engine = options(io).open(&store).unwrap();
        assert_that_all_is_there(&engine, 1);
        assert_eq!(engine.queue("lives").open().unwrap().depth().unwrap(), 2);
        assert_eq!(engine.queue("new").open().unwrap().delayed().unwrap(), 1);
        engine.close().unwrap();
        let report = verify(&store).unwrap();
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn a_store_of_version_1_is_salvaged_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = version(1, dir.path());
    let report = salvage(&store, dir.path().join("salvaged")).unwrap();
    assert!(report.is_complete(), "{report}");
    let engine = options(IoMode::Auto).open(dir.path().join("salvaged")).unwrap();
    assert_that_all_is_there(&engine, 1);
}

fn long(what: &str, n: u64) -> String {
    format!("{what} {n} {}", ".".repeat(500))
}

fn payloads(engine: &Engine, queue: &str) -> Vec<String> {
    let queue = engine.queue(queue).open().unwrap();
    queue.browse().unwrap().map(|it| text(it.unwrap().payload())).collect()
}

/// What version 2 brought.
fn assert_that_all_of_version_2_is_there(engine: &Engine, number: u32) {
    assert_eq!(payloads(engine, "brief"), ["stays"]);
    let bulk = engine.stream("bulk").open().unwrap();
    let records: Vec<String> =
        bulk.reader(Start::Earliest).unwrap().map(|it| text(it.unwrap().payload())).collect();
    let mut expected: Vec<String> = (0..60).map(|n| long("bulk", n)).collect();
    expected.push("bulk 60".to_owned());
    assert_eq!(records, expected);

    // Some messages of version 2 came twice before the last ones came, as their failures wait for a moment only.
    let failed = if number == 2 { [23, 35, 38, 39] } else { [0, 12, 24, 36] };
    let kept = failed.into_iter().chain(40..45);
    assert_eq!(payloads(engine, "thinned"), kept.map(|n| long("thinned", n)).collect::<Vec<_>>());

    let later = engine.queue("later").open().unwrap();
    let mut waiting: Vec<String> = (0..20).map(|n| format!("later {n}")).collect();
    waiting.push("sooner".to_owned());
    assert_eq!(payloads(engine, "later"), waiting);
    let first = later.browse().unwrap().next().unwrap().unwrap();
    assert_eq!(first.priority(), 3);

    assert_eq!(payloads(engine, "changed"), ["changed 1", "changed 2"]);
    let differs = engine.queue("changed").max_messages(3).create().unwrap_err();
    assert!(differs.to_string().contains('7'), "it has its newest settings: {differs}");
    let dead = engine.queue("changed.dead").open().unwrap();
    let letter = dead.browse().unwrap().next().unwrap().unwrap();
    assert_eq!(text(letter.payload()), "changed 0", "it was redriven, and died once more");
    assert_eq!(letter.dead_letter().unwrap().unwrap().reason, "never");
}

/// It opens, goes on behind full segments and others, and where messages have left, and opens again.
fn opens_means_the_same_and_goes_on(number: u32) {
    for io in [IoMode::Auto, IoMode::Calls] {
        let dir = tempfile::tempdir().unwrap();
        let store = version(number, dir.path());
        let report = verify(&store).unwrap();
        assert!(report.is_ok(), "{report}");
        let engine = options(io).open(&store).unwrap();
        assert_that_all_is_there(&engine, 1);
        assert_that_all_of_version_2_is_there(&engine, number);
        assert_that_all_of_later_versions_is_there(&engine, number);
        let report = engine.verify().unwrap();
        assert!(report.is_ok(), "{report}");

        let bulk = engine.stream("bulk").open().unwrap();
        let thinned = engine.queue("thinned").open().unwrap();
        for n in 61..100 {
            bulk.append(long("bulk", n)).unwrap();
        }
        for _ in 0..4 {
            thinned.try_receive().unwrap().unwrap().ack().unwrap();
        }
        let left = payloads(&engine, "thinned");
        engine.queue("lives").open().unwrap().send("next").unwrap();
        engine.checkpoint().unwrap();
        let report = engine.verify().unwrap();
        assert!(report.is_ok(), "{report}");
        engine.close().unwrap();
        assert_eq!(versions_in(&store.join("meta")), [NEWEST], "an old build refuses it by name");

        let engine = options(io).open(&store).unwrap();
        assert_that_all_is_there(&engine, 1);
        assert_that_all_of_later_versions_is_there(&engine, number);
        let bulk = engine.stream("bulk").open().unwrap();
        let records = bulk.reader(Start::Earliest).unwrap().map(|it| text(it.unwrap().payload()));
        let expected =
            (0..100).map(|n| if n == 60 { "bulk 60".to_owned() } else { long("bulk", n) });
        assert_eq!(records.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(payloads(&engine, "thinned"), left);
        engine.close().unwrap();
        let report = verify(&store).unwrap();
        assert!(report.is_ok(), "{report}");
        let is_segment = |path: &PathBuf| path.starts_with(store.join("segments"));
        assert!(!report.unreferenced.iter().any(is_segment), "{report}");
    }
}

/// What versions from the third on brought.
fn assert_that_all_of_later_versions_is_there(engine: &Engine, number: u32) {
    if number >= 3 {
        assert_that_all_of_version_3_is_there(engine);
    }
    if number >= 4 {
        assert_that_all_of_version_4_is_there(engine);
    }
    if number >= 5 {
        assert_that_all_of_version_5_is_there(engine);
    }
}

/// What version 3 brought.
fn assert_that_all_of_version_3_is_there(engine: &Engine) {
    for n in 0..12 {
        let all = [format!("a {n}"), format!("b {n}")];
        assert_eq!(payloads(engine, &format!("small {n}")), all[usize::from(n == 3)..]);
    }
    let waiting = |name: &str| waiting(engine, "invoices", name);
    assert_eq!(waiting("x"), ["invoice 0", "invoice 1"], "its letter went back to it");
    assert_eq!(waiting("y"), ["invoice 1"]);
    assert_eq!(waiting("z"), ["invoice 0", "invoice 1"], "it has the first one once");
}

fn waiting(engine: &Engine, topic: &str, subscription: &str) -> Vec<String> {
    let subscription = engine.topic(topic).open().unwrap().subscription(subscription).open();
    let all = subscription.unwrap().browse().unwrap();
    all.map(|it| text(it.unwrap().payload())).collect()
}

/// What version 4 brought.
fn assert_that_all_of_version_4_is_there(engine: &Engine) {
    let parcels = |name| waiting(engine, "parcels", name);
    assert_eq!(parcels("a"), ["parcel 1", "parcel 2", "parcel 0"], "its letter went back to it");
    assert_eq!(parcels("b"), ["parcel 2", "parcel 1"], "its letter went back to it");
    for other in ["c", "d"] {
        assert_eq!(parcels(other), ["parcel 0", "parcel 1", "parcel 2"], "{other}");
    }
    let accounts = engine.stream("accounts").open().unwrap();
    let all = accounts.reader(Start::Earliest).unwrap();
    let mut all: Vec<_> = all.map(|it| text(it.unwrap().payload())).collect();
    all.sort();
    assert_eq!(all, ["-100", "100", "opened"]);
}

/// What version 5 brought. A salvage takes limits away that may be old.
fn assert_that_all_of_version_5_is_there(engine: &Engine) {
    let newest = engine.stream("newest").open().unwrap();
    let all = newest.reader(Start::Earliest).unwrap();
    let all: Vec<_> = all.map(|it| text(it.unwrap().payload())).collect();
    let is_one = |(n, it): (usize, &String)| *it == format!("newest {}", 11 - all.len() + n);
    assert!((4..=5).contains(&all.len()) && all.iter().enumerate().all(is_one), "{all:?}");
    let spared = engine.stream("spared").open().unwrap();
    let audit = spared.group("audit").open().unwrap();
    assert_eq!((audit.committed(0).unwrap(), audit.committed(1).unwrap()), (Offset(3), Offset(0)));
    let first = spared.partition(0).unwrap().start().unwrap();
    assert!(first <= Offset(3), "the group holds it back: {first:?}");
    assert_eq!(spared.partition(1).unwrap().len().unwrap(), 5);
    let kept = engine.stream("kept").open().unwrap();
    assert_eq!((kept.len().unwrap(), kept.settings().unwrap().max_age), (10, None));
}

#[test]
fn a_store_of_version_2_opens_means_the_same_and_goes_on() {
    opens_means_the_same_and_goes_on(2);
}

#[test]
fn a_store_of_version_3_opens_means_the_same_and_goes_on() {
    opens_means_the_same_and_goes_on(3);
}

#[test]
fn a_store_of_version_4_opens_means_the_same_and_goes_on() {
    opens_means_the_same_and_goes_on(4);
}

#[test]
fn a_store_of_version_5_opens_means_the_same_and_goes_on() {
    opens_means_the_same_and_goes_on(5);
}

fn is_salvaged_whole(number: u32) {
    let dir = tempfile::tempdir().unwrap();
    let store = version(number, dir.path());
    let report = salvage(&store, dir.path().join("salvaged")).unwrap();
    assert!(report.is_complete(), "{report}");
    let engine = options(IoMode::Auto).open(dir.path().join("salvaged")).unwrap();
    assert_that_all_is_there(&engine, 1);
    assert_that_all_of_version_2_is_there(&engine, number);
    assert_that_all_of_later_versions_is_there(&engine, number);
}

#[test]
fn a_store_of_version_2_is_salvaged_whole() {
    is_salvaged_whole(2);
}

#[test]
fn a_store_of_version_3_is_salvaged_whole() {
    is_salvaged_whole(3);
}

#[test]
fn a_store_of_version_4_is_salvaged_whole() {
    is_salvaged_whole(4);
}

#[test]
fn a_store_of_version_5_is_salvaged_whole() {
    is_salvaged_whole(5);
}
