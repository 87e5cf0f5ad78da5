//! The child, which works through a fixed script.

use std::path::PathBuf;

use posthouse::{Durability, Engine, Error, ErrorKind, IoMode, Options};

use crate::support::process::{
    child::{error_line, orders, tell},
    io_of,
    worker::{Pace, Tell, Worker},
};

pub const MODULE: &str = module_path!();

/// Files so small that the script fills several of each kind.
pub fn options(io: IoMode) -> Options {
    crate::support::process::options(Durability::Sync, io)
        .journal_file_bytes_max(32 << 10)
        .journal_bytes(64 << 10)
        .segment_bytes(16 << 10)
        .block_bytes(4 << 10)
}

/// The child. It goes on after each failure, and reports it.
struct Script {
    path: PathBuf,
    io: IoMode,
    /// Whether the child drops a poisoned engine at once, and opens a new one.
    reopens: bool,
    tell: Tell,
    now: Option<(Engine, Worker)>,
}

impl Script {
    fn attach(&mut self) -> Result<(), Error> {
        (self.tell)("opening".to_owned());
        let engine = options(self.io).open(&self.path)?;
        let worker = Worker::attach(engine.clone(), "w", Durability::Sync, self.tell.clone())?;
        self.now = Some((engine, worker));
        Ok(())
    }

    /// Does a step, with an engine if one can be opened.
    fn step(&mut self, act: impl FnOnce(&mut Worker) -> Result<(), Error>) {
        let mut done = if self.now.is_none() { self.attach() } else { Ok(()) };
        if let (Ok(()), Some((_, worker))) = (&done, &mut self.now) {
            done = act(worker);
        }
        if let Err(error) = done {
            (self.tell)(error_line(&error));
            if self.reopens && error.kind() == ErrorKind::Poisoned {
                self.now = None;
            }
        }
    }

    fn rounds(&mut self, count: u64, pace: Pace) {
        for _ in 0..count {
            self.step(|worker| worker.send(pace));
            self.step(|worker| worker.consume(pace));
            self.step(Worker::read);
        }
    }

    fn close(&mut self) {
        if let Some((_, worker)) = self.now.take()
            && let Err(error) = worker.close()
        {
            (self.tell)(error_line(&error));
        }
    }

    pub fn script(&mut self) {
        self.rounds(10, Pace::Sync);
        self.step(|worker| worker.toggle_extra());
        self.rounds(10, Pace::Buffered);
        self.step(Worker::checkpoint);
        self.rounds(10, Pace::Ticket);
        self.step(|worker| worker.toggle_extra());
        self.step(|worker| worker.trim(5));
        self.rounds(10, Pace::Sync);
        self.step(Worker::checkpoint);
        self.close();
        self.rounds(5, Pace::Buffered);
        self.close();
        self.step(Worker::checkpoint);
        self.rounds(5, Pace::Ticket);
        self.step(Worker::sync);
        self.close();
    }
}

#[test]
fn child() {
    let Some((path, words)) = orders() else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let (io, reopens) = (io_of(words[1]), words[2] == "reopens");
    let tell = tell();
    let mut child = Script { path, io, reopens, tell: tell.clone(), now: None };
    child.script();
    tell("end".to_owned());
    if reopens {
        // Until it is killed.
        child.rounds(u64::MAX, Pace::Buffered);
    }
}

pub fn script(io: IoMode, reopens: bool) -> String {
    format!("script {io:?} {}", if reopens { "reopens" } else { "stays" })
}
