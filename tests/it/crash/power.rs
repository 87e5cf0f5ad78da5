//! Power cuts under a real process on a real file system. A child works on a store on a loop-mounted image.
//! At a random moment the file system is shut down without a flush of its log: a power cut leaves the same.
//! Then the image is mounted again. The store must agree with everything that the child reported, also after
//! the cut. Then work goes on over the same store.
//!
//! Mounting needs root: without it, or without the tools, the tests say so and pass. More cuts:
//! `POSTHOUSE_POWER_CUTS=500 cargo test --release --test it -- --nocapture crash::power`.

use std::{
    fs::File,
    num::NonZeroU64,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use posthouse::{Durability, IoMode};
use rustix::fs::Advice;

use crate::support::process::{
    Endless, Random,
    account::Accounts,
    child::{Child, command, orders, test_of},
    options,
};

/// Set in the process that has mounts of its own.
const INSIDE: &str = "POSTHOUSE_POWER_INSIDE";

const CUTS_DEFAULT: u64 = 12;

#[test]
fn child() {
    if let Some((path, work)) = orders() {
        Endless::run(&work, &path);
    }
}

#[test]
fn power_cuts_on_ext4_with_maps() {
    power_cuts("power_cuts_on_ext4_with_maps", "ext4", IoMode::Auto);
}

#[test]
fn power_cuts_on_ext4_with_calls() {
    power_cuts("power_cuts_on_ext4_with_calls", "ext4", IoMode::Calls);
}

#[test]
fn power_cuts_on_xfs_with_maps() {
    power_cuts("power_cuts_on_xfs_with_maps", "xfs", IoMode::Auto);
}

#[test]
fn power_cuts_on_xfs_with_calls() {
    power_cuts("power_cuts_on_xfs_with_calls", "xfs", IoMode::Calls);
}

/// Runs the test in a process of its own, whose mounts no other process sees. They vanish with the process,
/// however it ends.
fn power_cuts(test: &str, kind: &str, io: IoMode) {
    if orders().is_some() {
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        return cut_again_and_again(test, kind, io);
    }
    if std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() != 0) {
        return eprintln!("{test} is skipped: mounting needs root");
    }
    let inside = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test_of(module_path!(), test), "--nocapture", "--quiet"])
        .env(INSIDE, "yes")
        .output();
    match inside {
        Err(error) => eprintln!("{test} is skipped: unshare cannot be run: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprint!("{said}");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

fn run(tool: &str, arguments: &[&str]) -> Result<Output, String> {
    let ran = Command::new(tool).args(arguments).output();
    let output = ran.map_err(|error| format!("{tool} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A file system in a file.
struct Image {
    file: PathBuf,
    place: PathBuf,
}

impl Image {
    fn make(dir: &Path, kind: &str) -> Result<Image, String> {
        let image = Image { file: dir.join("image"), place: dir.join("mounted") };
        // The smallest size that xfs takes. Only the written part of it is in use.
        File::create(&image.file).and_then(|file| file.set_len(320 << 20)).unwrap();
        std::fs::create_dir(&image.place).unwrap();
        run(&format!("mkfs.{kind}"), &["-q", image.file.to_str().unwrap()])?;
        Ok(image)
    }

    fn mount(&self) -> Result<Mounted<'_>, String> {
        let (file, place) = (self.file.to_str().unwrap(), self.place.to_str().unwrap());
        // The loop device goes by itself with the mount.
        run("mount", &["-o", "loop", file, place])?;
        Ok(Mounted { image: self })
    }
}

/// The image, as long as it is mounted.
struct Mounted<'a> {
    image: &'a Image,
}

impl Mounted<'_> {
    fn store(&self) -> PathBuf {
        self.image.place.join("store")
    }

    /// Shuts the file system down: data that are only in its memory never reach the image.
    fn cut_power(&self) {
        /// `FS_IOC_GOINGDOWN`, which ext4 and xfs have in common.
        const GOING_DOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const WITHOUT_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.image.place).unwrap();
        // SAFETY: this call reads a `u32` of flags through its pointer, and writes nothing there,
        // whatever the direction in its number says; the setter's input lives until it returns.
        #[allow(unsafe_code)]
        unsafe {
            let call = rustix::ioctl::Setter::<GOING_DOWN, u32>::new(WITHOUT_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, call).unwrap();
        }
    }

    /// Writes some pages back early, as a system short of memory does, so that the surviving writes are no
    /// prefix of all writes.
    fn write_back(&self, random: &mut Random) {
        let mut files = Vec::new();
        for dir in ["journal", "meta"] {
            let entries = std::fs::read_dir(self.store().join(dir));
            files.extend(entries.into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        for _ in 0..random.below(8) {
            let path = files.get(random.below(1 + files.len() as u64) as usize);
            // It may be gone meanwhile.
            let Some(Ok(file)) = path.map(File::open) else { continue };
            let pages = file.metadata().unwrap().len() / 4096 + 1;
            let (page, count) = (random.below(pages), 1 + random.below(3));
            let bytes = NonZeroU64::new(4096 * count);
            rustix::fs::fadvise(&file, 4096 * page, bytes, Advice::DontNeed).unwrap();
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let place = self.image.place.to_str().unwrap();
        // Another program of the system may open a new device for a moment.
        for _ in 0..100 {
            match run("umount", &[place]) {
                Ok(_) => return,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        if let Err(why) = run("umount", &["--lazy", place]) {
            eprintln!("{place} stays mounted: {why}");
        }
    }
}

fn cut_again_and_again(test: &str, kind: &str, io: IoMode) {
    let cuts = std::env::var("POSTHOUSE_POWER_CUTS").ok().and_then(|it| it.parse().ok());
    let cuts = cuts.unwrap_or(CUTS_DEFAULT);
    // In memory, if there is such a place: it is as fast as a fast disk, so that much is under way.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let image = Image::make(dir.path(), kind);
    let mounted = match image.as_ref().map_err(Clone::clone).and_then(Image::mount) {
        Ok(mounted) => mounted,
        Err(why) => return eprintln!("{test} is skipped: {why}"),
    };
    let image = image.as_ref().unwrap();
    let mut mounted = Some(mounted);
    let mut accounts = Accounts::default();
    let mut random = Random::from_clock();
    let began = Instant::now();
    for cut in 0..cuts {
        let now = mounted.take().unwrap();
        let durability = match random.below(3) {
            0 => Durability::Buffered,
            _ => Durability::Sync,
        };
        // Some children are only killed. Everything that a later child then finds, and shows, must stay.
        for _ in 0..random.below(6).saturating_sub(3) {
            let told = live(&now, durability, io, &mut random, false);
            told.iter().for_each(|line| accounts.take(line));
        }
        let told = live(&now, durability, io, &mut random, true);
        told.iter().for_each(|line| accounts.take(line));
        accounts.cut_power();
        drop(now);
        let now = image.mount().unwrap();
        // Some cuts follow each other without a check in between.
        if cut % 3 != 1 || cut + 1 == cuts {
            accounts.check(&now.store(), &options(durability, io));
        }
        mounted = Some(now);
    }
    let (messages, took) = (accounts.messages(), began.elapsed());
    eprintln!("{test}: {cuts} cuts, {messages} messages, {took:?}");
    assert!(messages > 0, "the children have worked");
}

/// Lets a child run for a moment, and returns its reports.
fn live(
    mounted: &Mounted<'_>,
    durability: Durability,
    io: IoMode,
    random: &mut Random,
    cut: bool,
) -> Vec<String> {
    let work = Endless { durability, io, workers: 1 + random.below(3), seed: random.next() };
    let mut child = Child::start(command(module_path!(), &[], &mounted.store(), &work.to_words()));
    // Many end while the store is being opened.
    let longest = [15_000, 100_000, 250_000][random.below(3) as usize];
    std::thread::sleep(Duration::from_micros(random.below(longest)));
    let well = child.is_running();
    if cut {
        mounted.write_back(random);
        mounted.cut_power();
        // The child may try to work on a little. Its reports still count.
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
    }
    child.kill();
    let ended = child.end();
    assert!(well, "it ended by itself: {:?} {}", ended.told.last(), ended.errors);
    // On a dead file system it may end in any way; a map's pages may raise SIGBUS.
    let (errors, told): (Vec<_>, Vec<_>) =
        ended.told.into_iter().partition(|line| line.starts_with("error"));
    assert!(cut || errors.is_empty(), "{errors:?}");
    told
}
