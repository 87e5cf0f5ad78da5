//! The place where a child runs under `strace`, and the calls that it makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use posthouse::IoMode;

use super::{Case, Harm, child::script};
use crate::support::process::child::{Child, command};

/// The script's calls, known from a run in which nothing fails. Each thread counts its own calls.
pub struct Calls {
    pub counts: BTreeMap<String, u64>,
    /// The files and directories of the store.
    paths: BTreeSet<String>,
}

/// Calls that are counted, and fail, only if they are about the store.
pub const ABOUT_PATHS: &[&str] = &[
    "mkdir",
    "openat",
    "flock",
    "pread64",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "rmdir",
    "mmap",
    "ftruncate",
    "statx",
    "getdents64",
    "statfs",
];

/// Calls without a path: those of the whole process. With `write` the child reports to its parent, so the
/// child is killed between each deed and its report.
pub const OF_ALL: &[&str] = &["write", "madvise", "clone3"];

/// Calls that are made only with maps.
pub const OF_MAPS: &[&str] = &["mmap", "statfs"];

pub fn is_about_paths(call: &str) -> bool {
    ABOUT_PATHS.contains(&call)
}

/// The place of a store. It is the same for all cases, because calls are identified by their paths.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        // Nothing here depends on the disk; in memory its thousands of syncs cost little.
        let memory = tempfile::tempdir_in("/dev/shm");
        Place { dir: memory.or_else(|_| tempfile::tempdir()).unwrap() }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn strace(&self, arguments: &[&str], work: &str) -> Child {
        let _ = std::fs::remove_dir_all(self.store());
        let mut before: Vec<OsString> = ["strace", "-f", "-qq", "-o"].map(Into::into).to_vec();
        before.push(self.log().into());
        before.extend(arguments.iter().map(Into::into));
        before.push("--".into());
        Child::start(command(super::child::MODULE, &before, &self.store(), work))
    }

    pub fn calls(&self, io: IoMode) -> Calls {
        let traced = format!("trace={},{}", ABOUT_PATHS.join(","), OF_ALL.join(","));
        let ended = self.strace(&["-y", "-e", &traced], &script(io, false)).end();
        assert!(ended.status.success(), "{}", ended.errors);
        assert_eq!(ended.told.iter().find(|line| line.starts_with("error")), None);
        let store = self.store().to_str().unwrap().to_owned();
        let mut paths = BTreeSet::new();
        let mut of_threads: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in std::fs::read_to_string(self.log()).unwrap().lines() {
            let mut words = line.split_whitespace();
            let (thread, call) = (words.next().unwrap(), words.next().unwrap_or_default());
            let Some((call, _)) = call.split_once('(') else { continue };
            let mut is_of_store = false;
            for (at, _) in line.match_indices(&store) {
                let path = line[at..].split(['"', '>', '(', ',']).next().unwrap();
                paths.insert(path.to_owned());
                is_of_store = true;
            }
            if is_of_store || !is_about_paths(call) {
                *of_threads.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for ((call, _), count) in of_threads {
            let most = counts.entry(call).or_default();
            *most = (*most).max(count);
        }
        Calls { counts, paths }
    }

    pub fn start(&self, case: Case, calls: &Calls) -> Child {
        let Case { call, when, .. } = case;
        let tampering = match case.harm {
            Harm::Kill => format!("signal=SIGKILL:when={when}"),
            Harm::Fail(error) => format!("error={error}:when={when}"),
            Harm::FailForGood(error) => format!("error={error}:when={when}+"),
        };
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{tampering}"));
        let mut arguments = vec!["-e", &trace, "-e", &inject];
        if case.harm != Harm::Kill {
            // This is much faster, but delivers no signal.
            arguments.push("--seccomp-bpf");
        }
        if is_about_paths(call) {
            arguments.extend(calls.paths.iter().flat_map(|path| ["-P", path]));
        }
        self.strace(&arguments, &script(case.io, case.reopens))
    }

    /// Whether the harm was done.
    pub fn was_harmed(&self) -> bool {
        let log = std::fs::read_to_string(self.log()).unwrap();
        log.contains("(INJECTED)") || log.contains("killed by SIGKILL")
    }
}
