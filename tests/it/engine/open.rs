//! Opening a store, and opening it from elsewhere at the same time.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use posthouse::{Engine, ErrorKind, Options, sim::SimDisk};

use crate::support::{kind, real};

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Engine::open(&path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let error = Engine::open(&path).expect_err("it is open");
    assert_eq!(error.kind(), ErrorKind::Locked { holder: Some(std::process::id()) });
    drop(engine);
    assert!(Engine::open(&path).is_err(), "a handle keeps it open");
    queue.send("a").unwrap();
    drop(queue);
    let engine = Engine::open(&path).unwrap();
    let queue = engine.queue("q").open().unwrap();
    engine.close().unwrap();
    engine.close().unwrap();
    assert_eq!(kind(queue.send("b")), ErrorKind::Closed);
    assert_eq!(kind(queue.try_receive()), ErrorKind::Closed);
    assert_eq!(kind(engine.checkpoint()), ErrorKind::Closed);
    let engine = Engine::open(&path).unwrap();
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 1);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_a_store() {
    use std::os::unix::fs::PermissionsExt;
    fn check(dir: &Path, entries: &mut usize) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let is_dir = entry.file_type().unwrap().is_dir();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if is_dir { 0o700 } else { 0o600 }, "{:?}", entry.path());
            *entries += 1;
            if is_dir {
                check(&entry.path(), entries);
            }
        }
    }
    let (engine, dir) = real();
    engine.queue("q").create().unwrap().send("a").unwrap();
    engine.checkpoint().unwrap();
    let mut entries = 0;
    check(dir.path(), &mut entries);
    assert!(entries >= 8, "{entries}");
}

/// A child process that another thread is just starting holds the lock's file too, until it becomes another
/// program.
#[cfg(unix)]
#[test]
fn a_store_can_be_opened_again_at_once_while_children_are_started() {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let opened: Vec<_> = (0..40)
            .map(|_| Engine::open(dir.path().join("store")).and_then(|engine| engine.close()))
            .collect();
        stop.store(true, Ordering::Relaxed);
        let failed = opened.iter().filter(|it| it.is_err()).count();
        assert_eq!(failed, 0, "{:?}", opened.iter().find(|it| it.is_err()));
    });
}

#[test]
fn a_directory_of_others_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        assert_eq!(kind(Engine::open(path)), ErrorKind::InvalidInput { field: "path" });
    };
    let (file, theirs) = (dir.path().join("file"), dir.path().join("theirs"));
    fs::write(&file, "text").unwrap();
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("notes.txt"), "text").unwrap();
    fs::create_dir(theirs.join("segments")).unwrap();
    refused(&file);
    refused(&file.join("below"));
    refused(&theirs);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 2, "nothing was added");

    // Neither the remains of making a store nor the root of a file system are an obstacle.
    for (n, names) in [&["lost+found"][..], &["segments"], &["journal", "segments", "meta"]]
        .into_iter()
        .enumerate()
    {
        let begun = dir.path().join(n.to_string());
        for name in names {
            fs::create_dir_all(begun.join(name)).unwrap();
        }
        drop(Engine::open(&begun).unwrap());
        // A stray file in a store is ignored.
        fs::write(begun.join("notes.txt"), "text").unwrap();
        drop(Engine::open(&begun).unwrap());
    }
}

#[test]
fn making_a_store_can_be_cut_off_anywhere() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.set_pessimal(true);
        disk.record(1);
        drop(Options::new().sim(&disk).open("store").unwrap());
        for moment in disk.take_moments() {
            moment.power_cut();
            drop(Options::new().sim(&moment).open("store").unwrap());
        }
    }
}
