//! The patterns do what they say, also where the process is killed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, dead_code)]

#[path = "projection.rs"]
mod projection;
#[path = "request_reply.rs"]
mod request_reply;

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Engine, Options, Start};
use projection::{Balances, PAYMENTS, payment};

/// The directory of the store, in the process of a child.
const DIR: &str = "POSTHOUSE_PATTERNS_DIR";

fn expected() -> Balances {
    let mut balances = BTreeMap::new();
    for (account, amount) in (0..PAYMENTS).map(payment) {
        *balances.entry(account).or_default() += amount;
    }
    balances
}

/// The projection, in a process of its own that the test kills.
#[test]
#[ignore = "it is a child of another test"]
fn projection_child() {
    let dir = env::var_os(DIR).expect("the parent names the directory");
    projection::run(Path::new(&dir)).unwrap();
}

/// Runs a child for so long. Returns whether it was killed before it ended. One that ends by itself succeeds.
fn killed_after(dir: &Path, time: Duration) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["projection_child", "--exact", "--ignored"]).env(DIR, dir);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(time);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    ended.is_none_or(|status| {
        assert!(status.success(), "{status}");
        false
    })
}

#[test]
fn a_projection_that_is_killed_counts_each_payment_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("bank");
    // How long a run takes from the beginning decides when it is killed.
    let other = dir.path().join("other");
    let begun = Instant::now();
    assert_eq!(projection::run(&other).unwrap(), expected());
    let whole = begun.elapsed();
    // The first one is killed at once, however fast the machine is.
    let mut kills = u32::from(killed_after(&store, Duration::ZERO));
    for n in 1..=40 {
        kills += u32::from(killed_after(&store, whole * (n % 7 + 1) / 24));
        let counted = counted(&store);
        assert!(counted <= PAYMENTS, "{counted}");
        if counted == PAYMENTS {
            break;
        }
    }
    assert!(kills > 0, "no child was killed in {whole:?}");
    assert_eq!(projection::run(&store).unwrap(), expected(), "after {kills} kills");
    assert_eq!(projection::run(&store).unwrap(), expected(), "nothing is counted again");
}

/// How many payments the stored state has. The state and the place of the group belong together.
fn counted(store: &Path) -> u64 {
    if !store.exists() {
        return 0;
    }
    let engine = Options::new().open(store).unwrap();
    let Ok(payments) = engine.stream("payments").open() else { return 0 };
    let Ok(group) = payments.group("balances").open() else { return 0 };
    let places = (0..4).map(|n| group.committed(n).unwrap().0).collect::<Vec<_>>();
    let mut balances = Balances::new();
    for record in payments.reader(Start::Earliest).unwrap() {
        let record = record.unwrap();
        if record.offset().0 < places[record.partition() as usize] {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let amount: i64 = text(record.payload()).parse().unwrap();
            *balances.entry(text(record.key().unwrap())).or_default() += amount;
        }
    }
    let states = engine.stream("balances").open();
    let state = states.ok().and_then(|it| it.partition(0).unwrap().last().unwrap());
    let state = state.map_or(Ok(Balances::new()), |it| projection::read(it.payload())).unwrap();
    assert_eq!(state, balances);
    engine.close().unwrap();
    places.iter().sum()
}

#[test]
fn each_request_has_its_reply_and_no_queue_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("prices");
    assert_eq!(request_reply::run(&store).unwrap(), 100);
    let engine = Engine::open(&store).unwrap();
    assert_eq!(engine.queues().unwrap(), ["prices", "prices.dead"]);
    assert_eq!(engine.queue("prices").open().unwrap().depth().unwrap(), 0);
}
