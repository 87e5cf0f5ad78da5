//! A real process on a real disk, killed with SIGKILL at random moments, again and again over the same store.
//! Everything that it reported as committed must be there, buffered commits included. Nothing that it
//! reported as acked may come back.
//!
//! More kills: `POSTHOUSE_KILLS=1000 cargo test --release --test it crash::kill`. Kills at each system
//! call are in `syscalls`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use posthouse::{Durability, IoMode};

use crate::support::process::{
    Endless, Random,
    account::Accounts,
    child::{Child, command, orders},
    options,
};

/// Then there is a new store. More messages are left than are consumed, and each check reads all of them.
const KILLS_OF_A_STORE: u64 = 400;

#[test]
fn child() {
    if let Some((path, work)) = orders() {
        Endless::run(&work, &path);
    }
}

#[test]
fn whatever_was_reported_survives_kills() {
    if orders().is_some() {
        return;
    }
    let kills = std::env::var("POSTHOUSE_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(12);
    let durability = match std::env::var("POSTHOUSE_KILL_DURABILITY").as_deref() {
        Ok("sync") => Durability::Sync,
        _ => Durability::Buffered,
    };
    let mut random = Random::from_clock();
    let (began, mut left, mut messages) = (Instant::now(), kills, 0);
    while left > 0 {
        let dir = tempfile::tempdir().unwrap();
        let kills = left.min(KILLS_OF_A_STORE);
        messages += kill_again_and_again(&dir.path().join("store"), durability, kills, &mut random);
        left -= kills;
    }
    eprintln!("{durability:?}: {kills} kills, {messages} messages, {:.0?}", began.elapsed());
    assert!(messages > 0, "the child has worked");
}

/// Kills the process that works on a store, this many times. Returns how many messages came into it.
fn kill_again_and_again(
    path: &Path,
    durability: Durability,
    kills: u64,
    random: &mut Random,
) -> u64 {
    let mut accounts = Accounts::default();
    for kill in 0..kills {
        let (workers, seed) = (1 + kill % 2, random.next());
        let io = if kill % 4 == 3 { IoMode::Calls } else { IoMode::Auto };
        let work = Endless { durability, io, workers, seed };
        let mut child = Child::start(command(module_path!(), &[], path, &work.to_words()));
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        child.kill();
        let ended = child.end();
        for line in ended.told {
            assert!(!line.starts_with("error"), "{line}");
            accounts.take(&line);
        }
        assert_eq!(ended.errors, "");
        // Some kills follow each other without a check in between.
        if kill % 3 != 1 {
            accounts.check(path, &options(durability, io));
        }
    }
    accounts.check(path, &options(durability, IoMode::Auto));
    accounts.messages()
}
