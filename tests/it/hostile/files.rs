//! Findings of a hostile review: things in a store's directory that are no regular files, and directories that are
//! taken away while the store is open.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use posthouse::{Engine, ErrorKind, Options};

use crate::support::real;

fn small() -> Options {
    crate::model::small_options()
}

/// All files of a directory, at any depth.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    entries.flat_map(|it| if it.is_dir() { files_in(&it) } else { vec![it] }).collect()
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Runs on a thread of its own, and fails if it does not end.
fn within_a_minute<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, tells) = mpsc::channel();
    thread::spawn(move || told.send(act()));
    tells.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("it hangs: {what}"))
}

fn sample(path: &Path) {
    let engine = small().open(path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    for n in 0..40 {
        queue.send(format!("{n} {}", "x".repeat(200))).unwrap();
    }
    engine.checkpoint().unwrap();
    for n in 40..50 {
        queue.send(n.to_string()).unwrap();
    }
    engine.close().unwrap();
}

/// `verify` and `salvage` waited for ever for a writer of the FIFO, and so did `open`.
#[test]
fn a_fifo_a_directory_or_a_dead_link_in_the_place_of_a_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    sample(&path);
    let files = files_in(&path);
    assert!(files.len() > 5, "{files:?}");
    for (n, file) in files.iter().enumerate() {
        for other in ["fifo", "directory", "link", "loop"] {
            let place = dir.path().join(format!("{n}-{other}"));
            let status = Command::new("cp").arg("-r").arg(&path).arg(&place).status();
            assert!(status.unwrap().success());
            let file = place.join(file.strip_prefix(&path).unwrap());
            fs::remove_file(&file).unwrap();
            match other {
                "fifo" => fifo(&file),
                "link" => symlink(dir.path().join("nothing"), &file).unwrap(),
                "loop" => symlink(&file, &file).unwrap(),
                _ => fs::create_dir(&file).unwrap(),
            }
            check(&place, &file);
        }
    }
}

/// What a store does in which something else is in the place of a file.
fn check(store: &Path, file: &Path) {
    let what = file.display().to_string();
    let at = store.to_owned();
    match within_a_minute(&what, move || posthouse::verify(at)) {
        Err(error) => panic!("{what}: {error}"),
        Ok(report) => {
            let is_named = report.problems.iter().any(|it| it.file == *file);
            // A spare file holds nothing.
            let is_spare = report.unreferenced.iter().any(|it| it == file);
            assert!(is_named || is_spare, "{what}: {report}");
        }
    }
    let (at, to) = (store.to_owned(), store.with_extension("salvaged"));
    let salvaged = within_a_minute(&what, move || posthouse::salvage(at, to));
    assert!(salvaged.is_ok(), "{what}: {salvaged:?}");
    let at = store.to_owned();
    let opened = within_a_minute(&what, move || small().open(at).map(|it| it.close()));
    if let Err(error) = opened {
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(file)), "{error}");
    }
}

/// Other things in the directory, which are not the store's, hang nothing either.
#[test]
fn a_stray_fifo_hangs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    sample(&path);
    fifo(&path.join("segments").join("77"));
    fifo(&path.join("segments/00000000000000003"));
    fifo(&path.join("segments/00000000000000000/00000000000000000099.seg"));
    // A directory from version 2.
    fs::create_dir(path.join("segments/1")).unwrap();
    fifo(&path.join("segments/1/00000000000000000099.0.seg"));
    fifo(&path.join("meta").join("00000000000000000001.meta.new"));
    let store = path.clone();
    assert!(within_a_minute("verify", move || posthouse::verify(store)).unwrap().is_ok());
    let (store, to) = (path.clone(), dir.path().join("salvaged"));
    let report = within_a_minute("salvage", move || posthouse::salvage(store, to)).unwrap();
    assert!(report.lost.is_empty(), "{report}");
    within_a_minute("open", move || {
        let engine = small().open(path).unwrap();
        engine.queue("q").open().unwrap().send("more").unwrap();
        engine.checkpoint().unwrap();
        assert!(engine.verify().unwrap().is_ok());
        engine.close().unwrap();
    });
}

fn checkpointed() -> (Engine, tempfile::TempDir, PathBuf) {
    let (engine, dir) = real();
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    engine.checkpoint().unwrap();
    queue.send("b").unwrap();
    let segments = dir.path().join("store").join("segments");
    (engine, dir, segments)
}

/// A checkpoint made the directory again, which hid that messages were gone, and stood in the way of the directory.
#[test]
fn a_checkpoint_does_not_make_a_directory_of_segments_again() {
    let (engine, _dir, segments) = checkpointed();
    let log = fs::read_dir(&segments).unwrap().next().unwrap().unwrap().path();
    let aside = segments.join("aside");
    fs::rename(&log, &aside).unwrap();
    for _ in 0..2 {
        // The open segment is gone, or a new one cannot be made.
        let error = engine.checkpoint().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.file().unwrap().starts_with(&log), "{error}");
        assert!(!log.exists());
    }
    fs::rename(&aside, &log).unwrap();
    engine.checkpoint().unwrap();
    let queue = engine.queue("q").open().unwrap();
    let texts: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap().payload().to_vec()).collect();
    assert_eq!(texts, [b"a", b"b"]);
    engine.close().unwrap();
}

#[test]
fn a_checkpoint_does_not_make_a_store_again_that_was_moved_away() {
    let (engine, dir, _) = checkpointed();
    engine.queue("other").create().unwrap().send("c").unwrap();
    let (store, aside) = (dir.path().join("store"), dir.path().join("aside"));
    fs::rename(&store, &aside).unwrap();
    assert!(engine.checkpoint().is_err());
    assert!(!store.exists());
    fs::rename(&aside, &store).unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.verify().unwrap().is_ok());
    engine.close().unwrap();
}
