//! The house, asserted: who may import whom, that no circle of files reaches across two rooms, where `unsafe`
//! and `std::fs` may stand, and how long files and functions may grow. `docs/ARCHITECTURE.md` shows the same
//! tables to people.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms, floor by floor, from the ground up. A room imports only rooms of lower floors.
const FLOORS: &[&[&str]] = &[
    // The ground floor counts as one room.
    &["audit", "config", "error", "ids", "layout", "message", "prims", "seeded", "subject"],
    &["disk", "format"],
    &["journal", "metalog", "segment"],
    &["store"],
    &["delivery", "inspect", "schedule", "stream"],
    &["engine"],
];

/// The storeys of the engine floor, from the ground up. A storey imports only rooms of lower storeys; rooms on
/// one storey do not import each other.
const STOREYS: &[&[&str]] = &[
    &["runtime"],
    &["core"],
    &["commit"],
    &["consume"],
    &["queue", "stream"],
    // A subscription is redriven to a queue.
    &["subscription"],
    // A topic makes its subscriptions.
    &["topic"],
    // A transaction knows the handles that take part in it, and a schedule those to which it sends.
    &["transaction"],
    &["schedule"],
    &["open"],
    &["options"],
];

/// What the storeys may import of the floors below: a room of the engine that is not listed may import all.
const REACH: &[(&str, usize)] = &[("runtime", 1)];

const LINES_MAX: usize = 450;
const FUNCTION_LINES_MAX: usize = 70;

/// So many files may know each other, inside of one room.
const CIRCLE_MAX: usize = 3;

/// So many lines may stand twice in the engine.
const SAME_LINES_MAX: usize = 10;

struct Source {
    path: PathBuf,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, src: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, src, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(src).unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &src, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "the sources were not found");
    found
}

impl Source {
    /// The path of the module in this file, without `crate`.
    fn module(&self) -> Vec<String> {
        let mut parts: Vec<String> =
            self.path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let file = parts.pop().unwrap();
        match file.trim_end_matches(".rs") {
            "mod" | "lib" => {}
            name => parts.push(name.to_owned()),
        }
        parts
    }

    fn is_test(&self) -> bool {
        let parts = self.path.iter().map(|part| part.to_str().unwrap());
        parts.into_iter().any(|part| matches!(part, "tests" | "tests.rs"))
    }

    fn room(&self) -> String {
        self.module().first().cloned().unwrap_or_default()
    }

    /// The room of the engine floor in which a file is.
    fn storey_room(&self) -> Option<String> {
        let module = self.module();
        (module.len() > 1 && module[0] == "engine").then(|| module[1].clone())
    }

    /// The code without comments and without tests at its end, with the number of each line.
    fn code(&self) -> Vec<(usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        let lines = lines.take_while(|(_, line)| *line != "#[cfg(test)]" || self.is_test());
        lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
    }

    /// The paths that a file imports or names from `crate`, `super` or `self` on, resolved.
    fn imports(&self) -> BTreeSet<Vec<String>> {
        let code: String = self.code().iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
        let mut found = BTreeSet::new();
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in code.match_indices(start) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                    continue;
                }
                for path in tree(&code[at..]) {
                    found.extend(self.resolve(&path));
                }
            }
        }
        found
    }

    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let module = self.module();
        let (mut base, mut rest) = match path[0].as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (module, &path[1..]),
            _ => (module[..module.len().checked_sub(1)?].to_vec(), &path[1..]),
        };
        while rest.first().is_some_and(|part| part == "super") {
            base.pop()?;
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }
}

/// The paths of a `use` tree, or of a path in code, that a text begins with.
fn tree(text: &str) -> Vec<Vec<String>> {
    fn parse(text: &mut std::str::Chars<'_>, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        loop {
            let name: String =
                text.as_str().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            text.nth(name.len().wrapping_sub(1)).filter(|_| !name.is_empty());
            if !name.is_empty() && name != "self" || path.is_empty() {
                path.push(name);
            }
            let rest = text.as_str();
            if let Some(after) = rest.strip_prefix("::") {
                *text = after.chars();
                if let Some(inner) = after.strip_prefix('{') {
                    *text = inner.chars();
                    list(text, &path, found);
                    return;
                }
            } else {
                found.push(path);
                return;
            }
        }
    }
    fn list(text: &mut std::str::Chars<'_>, prefix: &[String], found: &mut Vec<Vec<String>>) {
        loop {
            let rest = text.as_str().trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            *text = rest.chars();
            if let Some(after) = rest.strip_prefix('}') {
                *text = after.chars();
                return;
            }
            if rest.is_empty() || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                return;
            }
            parse(text, prefix, found);
            // `as` gives another name, which is no other import.
            let rest = text.as_str().trim_start();
            if let Some(renamed) = rest.strip_prefix("as ") {
                let end = renamed.find([',', '}']).unwrap_or(renamed.len());
                *text = renamed[end..].chars();
            }
        }
    }
    let mut found = Vec::new();
    parse(&mut text.chars(), &[], &mut found);
    found
}

/// Which file imports which.
fn graph(sources: &[Source]) -> BTreeMap<usize, BTreeSet<usize>> {
    let modules: BTreeMap<Vec<String>, usize> =
        sources.iter().enumerate().map(|(n, source)| (source.module(), n)).collect();
    let mut graph = BTreeMap::new();
    for (n, source) in sources.iter().enumerate() {
        let mut to = BTreeSet::new();
        for path in source.imports() {
            // The longest part of the path that is a file.
            let file = (1..=path.len()).rev().find_map(|len| modules.get(&path[..len]));
            to.extend(file.filter(|it| **it != n));
        }
        graph.insert(n, to);
    }
    graph
}

/// The strongly connected parts of a graph (Tarjan, 1972).
fn circles(graph: &BTreeMap<usize, BTreeSet<usize>>) -> Vec<Vec<usize>> {
    #[derive(Default)]
    struct State {
        index: BTreeMap<usize, usize>,
        low: BTreeMap<usize, usize>,
        stack: Vec<usize>,
        found: Vec<Vec<usize>>,
    }
    fn visit(n: usize, graph: &BTreeMap<usize, BTreeSet<usize>>, state: &mut State) {
        let index = state.index.len();
        state.index.insert(n, index);
        state.low.insert(n, index);
        state.stack.push(n);
        for to in &graph[&n] {
            if !state.index.contains_key(to) {
                visit(*to, graph, state);
                let low = state.low[&n].min(state.low[to]);
                state.low.insert(n, low);
            } else if state.stack.contains(to) {
                let low = state.low[&n].min(state.index[to]);
                state.low.insert(n, low);
            }
        }
        if state.low[&n] == state.index[&n] {
            let at = state.stack.iter().position(|it| *it == n).unwrap();
            let circle = state.stack.split_off(at);
            if circle.len() > 1 {
                state.found.push(circle);
            }
        }
    }
    let mut state = State::default();
    for n in graph.keys() {
        if !state.index.contains_key(n) {
            visit(*n, graph, &mut state);
        }
    }
    state.found
}

fn place_of(table: &[&[&str]], room: &str) -> Option<usize> {
    table.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_go_down() {
    let sources = sources();
    let mut imports = 0;
    for (n, to) in graph(&sources) {
        let from = &sources[n];
        if from.module().is_empty() {
            continue;
        }
        let room = from.room();
        let floor = place_of(FLOORS, &room).unwrap_or_else(|| panic!("{room} is on no floor"));
        for to in to {
            imports += 1;
            let imported = &sources[to];
            if imported.module().is_empty() {
                panic!("{:?} imports from the root of the crate", from.path);
            }
            let other = imported.room();
            let other_floor = place_of(FLOORS, &other).unwrap();
            let is_same_room = other == room || (floor == 0 && other_floor == 0);
            let goes_down = is_same_room || other_floor < floor;
            assert!(goes_down, "{:?} may not import {:?}", from.path, imported.path);
        }
    }
    assert!(imports > 500, "the imports were not found: {imports}");
}

#[test]
fn imports_go_down_the_storeys_of_the_engine() {
    let sources = sources();
    let mut imports = 0;
    for (n, to) in graph(&sources) {
        let from = &sources[n];
        let Some(room) = from.storey_room().filter(|_| !from.is_test()) else { continue };
        let storey = place_of(STOREYS, &room).unwrap_or_else(|| panic!("{room} is on no storey"));
        let reach = REACH.iter().find(|it| it.0 == room).map_or(usize::MAX, |it| it.1);
        for to in to {
            let imported = &sources[to];
            let Some(other) = imported.storey_room() else {
                let floor = place_of(FLOORS, &imported.room()).unwrap_or(0);
                assert!(floor <= reach, "{:?} may not import {:?}", from.path, imported.path);
                continue;
            };
            imports += 1;
            let other_storey = place_of(STOREYS, &other).unwrap();
            let goes_down = other == room || other_storey < storey;
            assert!(goes_down, "{:?} may not import {:?}", from.path, imported.path);
        }
    }
    assert!(imports > 150, "the imports were not found: {imports}");
}

#[test]
fn no_circle_of_files_is_large_or_reaches_across_rooms() {
    let sources = sources();
    for circle in circles(&graph(&sources)) {
        let files: Vec<&Source> = circle.iter().map(|n| &sources[*n]).collect();
        let paths: Vec<&PathBuf> = files.iter().map(|file| &file.path).collect();
        let rooms: BTreeSet<_> =
            files.iter().map(|file| (file.room(), file.storey_room())).collect();
        let floor = place_of(FLOORS, &files[0].room()).unwrap();
        assert!(rooms.len() == 1 || floor == 0, "a circle across rooms: {paths:?}");
        if files[0].room() == "engine" {
            assert!(files.len() <= CIRCLE_MAX, "{} files know each other: {paths:?}", files.len());
        }
    }
}

#[test]
fn the_test_of_circles_sees_them() {
    let graph = |edges: &[(usize, usize)]| {
        let mut graph: BTreeMap<usize, BTreeSet<usize>> =
            (0..6).map(|n| (n, BTreeSet::new())).collect();
        edges.iter().for_each(|(a, b)| _ = graph.get_mut(a).unwrap().insert(*b));
        circles(&graph)
    };
    assert!(graph(&[(0, 1), (1, 2), (0, 2)]).is_empty());
    assert_eq!(graph(&[(0, 1), (1, 2), (2, 0), (3, 0)])[0].len(), 3);
    assert_eq!(graph(&[(0, 1), (1, 0), (4, 5), (5, 4)]).len(), 2);
}

#[test]
fn the_test_of_imports_reads_them() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let text = "use super::{Core, commit::{self, Receipt as R}};\nuse crate::{\n    ids::Lsn,\n    \
                store::{Op, Store},\n};\nfn f() { super::super::x::y(); }";
    let imports = source("engine/core/leases.rs", text).imports();
    let joined: Vec<String> = imports.iter().map(|it| it.join("::")).collect();
    let expected = [
        "engine::core::Core",
        "engine::core::commit",
        "engine::core::commit::Receipt",
        "engine::x::y",
        "ids::Lsn",
        "store::Op",
        "store::Store",
    ];
    assert_eq!(joined, expected);
}

#[test]
fn unsafe_stands_in_one_file() {
    for source in sources() {
        for (line, code) in source.code() {
            let says =
                code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            let is_fine = !says || source.path == Path::new("disk/map.rs");
            assert!(is_fine, "{:?}:{line}: {code}", source.path);
        }
    }
}

#[test]
fn the_file_system_is_touched_in_one_room() {
    for source in sources() {
        if source.room() == "disk" || source.is_test() {
            continue;
        }
        for (line, code) in source.code() {
            let touches = ["std::fs", "fs::", "SystemTime", "Instant"];
            // Users' times are converted there; the clock is asked through the disk.
            let converts = source.path == Path::new("ids/conversions.rs");
            let fine = |it: &str| !code.contains(it) || (converts && it == "SystemTime");
            assert!(touches.iter().all(|it| fine(it)), "{:?}:{line}: {code}", source.path);
        }
    }
}

#[test]
fn threads_and_waiting_are_on_the_top_floor() {
    for source in sources() {
        let room = source.room();
        // The ground floor holds the locks of all, and what checks them.
        let may = matches!(room.as_str(), "engine" | "disk" | "lib" | "prims" | "audit" | "");
        if may || source.is_test() {
            continue;
        }
        for (line, code) in source.code() {
            let waits = ["thread::", "Condvar", "Mutex", "getrandom"];
            assert!(!waits.iter().any(|it| code.contains(it)), "{:?}:{line}: {code}", source.path);
        }
    }
}

#[test]
fn the_page_of_the_locks_names_each_lock_with_its_rank() {
    let page = fs::read_to_string("src/engine/core/mod.rs").unwrap();
    let mut found = 0;
    for Source { path, text } in sources() {
        if path.ends_with("audit.rs") || path.ends_with("tests.rs") {
            continue;
        }
        for lock in text.split("(Rank::").skip(1) {
            let (rank, rest) = lock.split_once([',', ')']).unwrap();
            let Some(name) = rest.trim_start().strip_prefix('"') else { continue };
            let name = &name[..name.find('"').unwrap()];
            let row = page.lines().find(|line| line.starts_with(&format!("//! | `{rank}` |")));
            let row = row.unwrap_or_else(|| panic!("there is no row for {rank}"));
            assert!(row.contains(&format!("*{name}*")), "{}: {rank}, {name:?}", path.display());
            found += 1;
        }
    }
    assert!(found > 15, "{found} locks");
}

#[test]
fn a_file_tells_one_story_and_a_function_fits_on_a_screen() {
    for source in sources() {
        if source.is_test() {
            continue;
        }
        let lines = source.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        assert!(lines <= LINES_MAX, "{:?} has {lines} lines", source.path);
        let mut open: Vec<(usize, usize, String)> = Vec::new();
        for (n, line) in source.code() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let names_function = code.contains("fn ") && !code.starts_with('"');
            if names_function && !code.ends_with(';') && !code.ends_with('}') {
                open.push((indent, n, code.to_owned()));
            }
            if code == "}"
                && let Some((_, begin, name)) = open.pop_if(|it| it.0 == indent)
            {
                let lines = n - begin + 1;
                assert!(lines <= FUNCTION_LINES_MAX, "{:?}: {name} has {lines} lines", source.path);
            }
        }
    }
}

#[test]
fn no_passage_of_the_engine_stands_twice() {
    let sources: Vec<Source> =
        sources().into_iter().filter(|it| it.room() == "engine" && !it.is_test()).collect();
    let mut seen: BTreeMap<Vec<&str>, (&Path, usize)> = BTreeMap::new();
    for source in &sources {
        let lines: Vec<(usize, &str)> = source
            .code()
            .into_iter()
            .map(|(n, line)| (n, line.trim()))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        for window in lines.windows(SAME_LINES_MAX + 1) {
            let passage: Vec<&str> = window.iter().map(|(_, line)| *line).collect();
            let here = (source.path.as_path(), window[0].0);
            // Imports are alike where the same things are used.
            if passage.iter().all(|line| line.ends_with(',') || line.starts_with("use ")) {
                continue;
            }
            if let Some((path, line)) = seen.insert(passage, here) {
                let is_overlap = path == here.0 && here.1 - line < SAME_LINES_MAX;
                assert!(is_overlap, "{path:?}:{line} stands in {:?}:{} again", here.0, here.1);
            }
        }
    }
}
