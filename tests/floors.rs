//! The floors of the house, asserted: who may import whom, where `unsafe` and `std::fs` may stand,
//! and how long a file may grow. `docs/ARCHITECTURE.md` shows the same table to people.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, floor by floor, from the ground up. A room imports only rooms of lower floors.
const FLOORS: &[&[&str]] = &[
    // The ground floor counts as one room.
    &["config", "error", "ids", "layout", "message", "prims", "seeded"],
    &["disk", "format"],
    &["journal", "metalog", "segment"],
    &["store"],
    &["delivery", "inspect", "schedule", "stream"],
    &["engine"],
];

const LINES_MAX: usize = 500;

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found.into_iter().map(|(path, text)| (path.strip_prefix(&src).unwrap().into(), text)).collect()
}

fn room_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

/// The code of a file without its comments, with the number of each line.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The names that directly follow `crate::` in a file, those in a `use crate::{...}` included.
fn crate_names(text: &str) -> Vec<String> {
    let code: String = code(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => names.push(rest.to_owned()),
            Some(list) => {
                let mut depth = 0;
                for (at, c) in list.char_indices() {
                    let before = list[..at].trim_end();
                    let starts = before.is_empty() || before.ends_with(',');
                    if depth == 0 && starts && c.is_alphanumeric() {
                        names.push(list[at..].to_owned());
                    }
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    if depth < 0 {
                        break;
                    }
                }
            }
        }
    }
    let word = |name: String| {
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        name[..end].to_owned()
    };
    names.into_iter().map(word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_go_down() {
    let mut imports = 0;
    for (path, text) in sources() {
        let room = room_of(&path);
        if room == "lib" {
            continue;
        }
        let floor = floor_of(&room).unwrap_or_else(|| panic!("{room} is on no floor"));
        for name in crate_names(&text) {
            imports += 1;
            if name.starts_with(char::is_uppercase) {
                assert_eq!(room, "engine", "{path:?} uses crate::{name}, a name for users");
                continue;
            }
            let imported = floor_of(&name).unwrap_or_else(|| panic!("{path:?}: crate::{name}"));
            let same_room = name == room || (floor == 0 && imported == 0);
            assert!(same_room || imported < floor, "{path:?} may not import {name}");
        }
    }
    assert!(imports > 200, "the imports were not found");
}

#[test]
fn unsafe_stands_in_one_file() {
    for (path, text) in sources() {
        for (line, code) in code(&text) {
            let says =
                code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            assert!(!says || path == Path::new("disk/map.rs"), "{path:?}:{line}: {code}");
        }
    }
}

#[test]
fn the_file_system_is_touched_in_one_room() {
    for (path, text) in sources() {
        if room_of(&path) == "disk" || is_test(&path) {
            continue;
        }
        for (line, code) in code(&text) {
            let touches = ["std::fs", "fs::", "SystemTime", "Instant"];
            // Users' times are converted there; the clock is asked through the disk.
            let converts = path == Path::new("engine/time.rs");
            let fine = |it: &str| !code.contains(it) || (converts && it == "SystemTime");
            assert!(touches.iter().all(|it| fine(it)), "{path:?}:{line}: {code}");
        }
    }
}

#[test]
fn threads_and_waiting_are_on_the_top_floor() {
    for (path, text) in sources() {
        if matches!(room_of(&path).as_str(), "engine" | "disk" | "lib" | "prims") || is_test(&path)
        {
            continue;
        }
        for (line, code) in code(&text) {
            let waits = ["thread::", "Condvar", "Mutex", "getrandom"];
            assert!(!waits.iter().any(|it| code.contains(it)), "{path:?}:{line}: {code}");
        }
    }
}

#[test]
fn a_file_tells_one_story() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX || is_test(&path), "{path:?} has {lines} lines");
    }
}
