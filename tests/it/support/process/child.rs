//! Starting a child, hearing its reports, and ending it.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use posthouse::Error;

use super::worker::Tell;

const PATH: &str = "POSTHOUSE_CHILD";
const WORK: &str = "POSTHOUSE_CHILD_WORK";
const ALONE: &str = "POSTHOUSE_ALONE";

/// No step takes so long. A child that does hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// In a child: the store's path, and its orders, as [`command`] got them.
pub fn orders() -> Option<(PathBuf, String)> {
    Some((std::env::var_os(PATH)?.into(), std::env::var(WORK).ok()?))
}

/// Reports to the parent. A line goes into the pipe as a whole.
pub fn tell() -> Tell {
    Arc::new(|line| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("told {line};\n").as_bytes()).unwrap();
        out.flush().unwrap();
    })
}

pub fn error_line(error: &Error) -> String {
    format!("error {:?} {error}", error.kind())
}

/// This very binary, if the system can give it, even if another build has replaced it meanwhile.
fn this_binary() -> PathBuf {
    let running = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    if running.exists() { running } else { std::env::current_exe().unwrap() }
}

/// The name by which the test harness knows a test of a module. `module_path!` names the module.
pub fn test_of(module: &str, name: &str) -> String {
    let (_binary, module) = module.split_once("::").expect("a module of this binary");
    format!("{module}::{name}")
}

/// The command that runs the test `child` of a module in a process of its own. `before` stands in front of
/// it, as for `strace`.
pub fn command(module: &str, before: &[OsString], path: &Path, work: &str) -> Command {
    let this = this_binary();
    let mut words = before.to_vec();
    words.push(this.into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", &test_of(module, "child"), "--nocapture", "--quiet"])
        .env(PATH, path)
        .env(WORK, work);
    command
}

/// Runs a test in a process of its own, whose memory holds nothing else. One at a time.
pub fn alone(module: &str, name: &str, test: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(this_binary());
    command.args([
        "--exact",
        &test_of(module, name),
        "--include-ignored",
        "--nocapture",
        "--quiet",
    ]);
    assert!(command.env(ALONE, "yes").status().unwrap().success());
}

pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
    errors: JoinHandle<String>,
}

/// The outcome of a child that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub told: Vec<String>,
    pub errors: String,
}

impl Child {
    pub fn start(mut command: Command) -> Child {
        // A process group of its own, so that it can be killed together with a process that watches it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (output, mut stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Not the harness's own output, nor a line that was cut off.
                if let Some((_, line)) = line.split_once("told ")
                    && let Some(line) = line.strip_suffix(';')
                {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Child { process, lines, errors }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Kills the child and all that it has started.
    pub fn kill(&mut self) {
        let group = format!("-{}", self.process.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).output().unwrap();
        // It may have ended by itself.
        drop(killed);
    }

    /// Waits until the child reports a word, or ends. Returns the lines up to there.
    pub fn hear_until(&mut self, word: &str) -> Vec<String> {
        let mut told = Vec::new();
        let end = Instant::now() + LONGEST;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line == word => return told,
                Ok(line) => told.push(line),
                Err(RecvTimeoutError::Disconnected) => return told,
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    panic!("the child hangs; it told {told:#?}");
                }
            }
        }
    }

    /// Waits until the child ends.
    pub fn end(mut self) -> Ended {
        let told = self.hear_until("");
        let status = self.process.wait().unwrap();
        Ended { status, told, errors: self.errors.join().unwrap() }
    }
}
