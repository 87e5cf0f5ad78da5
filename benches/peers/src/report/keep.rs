//! The file that keeps a run, and the facts about the machine.

use std::{fs, path::Path};

use crate::{
    os,
    outcome::{Machine, Run},
    report::number,
    side::Result,
};

/// Reads a run that was kept. None if there is no such file.
pub fn read(path: &Path) -> Result<Option<Run>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let run = serde_json::from_str(&text)
        .map_err(|error| format!("{} is not a run that was kept: {error}", path.display()))?;
    Ok(Some(run))
}

/// Keeps a run.
pub fn write(path: &Path, run: &Run) -> Result<()> {
    let text = serde_json::to_string_pretty(run)?;
    fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}

fn line_with(path: &str, word: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(word))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Where this run is made.
pub fn machine(dir: &Path) -> Machine {
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    let kib = line_with("/proc/meminfo", "MemTotal:")
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    Machine {
        date: today(),
        system: format!("{} {}", std::env::consts::OS, release.join(".")),
        processor: format!(
            "{cores} cores of {}",
            line_with("/proc/cpuinfo", "model name").unwrap_or_else(unknown)
        ),
        memory: kib.map_or_else(unknown, |kib| number::bytes(kib * 1024.0)),
        file_system: file_system(dir).unwrap_or_else(unknown),
    }
}

/// The kind of file system that is mounted nearest above a directory.
fn file_system(dir: &Path) -> Option<String> {
    let dir = fs::canonicalize(dir).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        dir.starts_with(place).then(|| (place.len(), kind.to_owned()))
    });
    above.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// The day, in UTC, by the calendar of 400 years.
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    date_of(now.map_or(0, |it| it.as_secs()) / 86_400)
}

fn date_of(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The versions of the sides: of crates by the lock file that this program was built with, of
/// servers by what they say themselves.
pub fn versions() -> Vec<(String, String)> {
    const LOCK: &str = include_str!("../../Cargo.lock");
    const CRATES: [(&str, &str); 13] = [
        ("posthouse", "posthouse"),
        ("walrus", "walrus-rust"),
        ("yaque", "yaque"),
        ("khata", "khata-rs"),
        ("okaywal", "okaywal"),
        ("open-wal", "open-wal"),
        ("seglog", "seglog"),
        ("commitlog", "commitlog"),
        ("redb", "redb"),
        ("fjall", "fjall"),
        ("LMDB", "heed"),
        ("SQLite", "rusqlite"),
        ("honker", "honker"),
    ];
    let version_of = |name: &str| {
        let mut lines = LOCK.lines().skip_while(|line| *line != format!("name = \"{name}\""));
        lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"').map(str::to_owned)
    };
    let mut versions: Vec<(String, String)> = CRATES
        .iter()
        .filter_map(|(side, name)| Some((*side).to_owned()).zip(version_of(name)))
        .collect();
    if let Some((_, version)) = versions.iter_mut().find(|(side, _)| side == "SQLite") {
        *version = format!("{} (rusqlite {version})", rusqlite::version());
    }
    if let Some((_, version)) = versions.iter_mut().find(|(side, _)| side == "LMDB") {
        *version = format!("heed {version}");
    }
    for (side, program) in [("Redis", "redis-server"), ("NATS JetStream", "nats-server")] {
        if let Some(version) = server_version(program) {
            versions.push((side.to_owned(), version));
        }
    }
    versions
}

fn server_version(program: &str) -> Option<String> {
    let program = crate::sides::server::installed(program)?;
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |word: &str| {
        let word = word.trim_start_matches("v=").trim_start_matches('v');
        word.starts_with(|sign: char| sign.is_ascii_digit()).then(|| word.to_owned())
    };
    text.split_whitespace().find_map(number)
}

/// Free space and memory, as a line for the start of a run.
pub fn room(dir: &Path) -> String {
    let free = os::free_bytes(dir).map_or_else(String::new, |it| number::bytes(it as f64));
    let memory = os::available_bytes().map_or_else(String::new, |it| number::bytes(it as f64));
    format!("stores in {}, {free} free; memory available: {memory}", dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(11_016), "2000-02-29");
        assert_eq!(date_of(20_782), "2026-11-25");
    }

    #[test]
    fn every_crate_has_a_version() {
        let versions = versions();
        assert!(versions.len() >= 10, "{versions:?}");
    }
}
