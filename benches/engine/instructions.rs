//! Counts the instructions of the engine's basic operations, and fails if one takes a tenth more than the table says.
//!
//! `cargo bench --manifest-path benches/engine/Cargo.toml --bench instructions` runs itself under callgrind, once with a few
//! messages and once with many. The difference is what the operations take, without opening. `-- --write` writes the table
//! anew. Instructions do not depend on how busy the machine is, so this also says something where times do not. They depend
//! a little on the compiler and on the processor, so a tenth is the least that means something.
//!
//! Without valgrind it says so, and succeeds: set `INSTRUCTIONS=required` to have it fail.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use posthouse::{Delivery, Durability, Engine, Message, Options, Queue};

const PAYLOAD: [u8; 100] = [7; 100];
const BATCH: usize = 100;
const FEW: usize = 2_000;
const MANY: usize = 12_000;

/// What is counted: a name, the operations that come first and are not counted, and the operation.
struct Row {
    name: &'static str,
    first: Option<&'static str>,
    run: fn(&Bench, usize),
}

const ROWS: &[Row] = &[
    Row { name: "append", first: None, run: |bench, n| (0..n).for_each(|_| bench.append()) },
    Row { name: "append, 100 a commit", first: None, run: Bench::append_batches },
    Row { name: "send", first: None, run: |bench, n| bench.send(n) },
    Row { name: "send, 100 a commit", first: None, run: Bench::send_batches },
    Row { name: "receive", first: Some("send"), run: |bench, n| bench.keep(bench.receive(n)) },
    Row { name: "ack", first: Some("receive"), run: |bench, n| bench.ack(&bench.receive(n)) },
    Row {
        name: "receive, 100 at a time",
        first: Some("send"),
        run: |bench, n| bench.keep(bench.receive_batches(n)),
    },
    Row {
        name: "ack, 100 a commit",
        first: Some("receive, 100 at a time"),
        run: |bench, n| bench.ack_batches(&bench.receive_batches(n)),
    },
    Row {
        name: "receive, 100 at a time, sent so",
        first: Some("send, 100 a commit"),
        run: |bench, n| {
            bench.send_batches(n);
            bench.keep(bench.take_batches(n));
        },
    },
    Row { name: "send, receive and ack", first: None, run: Bench::cycle },
];

struct Bench {
    engine: Engine,
    queue: Queue,
}

impl Bench {
    fn open(dir: &Path) -> Bench {
        let engine = Options::new().durability(Durability::Buffered).open(dir).unwrap();
        let queue = engine.queue("q").lease(Duration::from_secs(36_000)).create().unwrap();
        Bench { engine, queue }
    }

    fn append(&self) {
        thread_local! {
            static STREAM: std::cell::OnceCell<posthouse::Stream> = const { std::cell::OnceCell::new() };
        }
        STREAM.with(|stream| {
            let stream = stream.get_or_init(|| self.engine.stream("s").create().unwrap());
            stream.append(black_box(&PAYLOAD)).unwrap();
        });
    }

    fn append_batches(&self, n: usize) {
        let stream = self.engine.stream("s").create().unwrap();
        for _ in 0..n / BATCH {
            stream.append_batch((0..BATCH).map(|_| Message::new(black_box(&PAYLOAD)))).unwrap();
        }
    }

    fn send(&self, n: usize) {
        for _ in 0..n {
            self.queue.send(black_box(&PAYLOAD)).unwrap();
        }
    }

    fn send_batches(&self, n: usize) {
        for _ in 0..n / BATCH {
            self.queue.send_batch((0..BATCH).map(|_| Message::new(black_box(&PAYLOAD)))).unwrap();
        }
    }

    fn receive(&self, n: usize) -> Vec<Delivery> {
        self.send(n);
        let mut all = Vec::with_capacity(n);
        all.extend((0..n).map(|_| self.queue.try_receive().unwrap().unwrap()));
        all
    }

    fn receive_batches(&self, n: usize) -> Vec<Vec<Delivery>> {
        self.send(n);
        self.take_batches(n)
    }

    fn take_batches(&self, n: usize) -> Vec<Vec<Delivery>> {
        let take = |_| self.queue.receive_batch(BATCH, Duration::ZERO).unwrap();
        (0..n / BATCH).map(take).collect()
    }

    fn ack(&self, all: &[Delivery]) {
        all.iter().for_each(|delivery| delivery.ack().unwrap());
    }

    fn ack_batches(&self, all: &[Vec<Delivery>]) {
        all.iter().for_each(|batch| self.queue.ack_batch(batch).unwrap());
    }

    fn cycle(&self, n: usize) {
        for _ in 0..n {
            self.queue.send(black_box(&PAYLOAD)).unwrap();
            self.queue.try_receive().unwrap().unwrap().ack().unwrap();
        }
    }

    /// Ends the process: what a drop of the deliveries would do is not counted.
    fn keep<T>(&self, _kept: T) {
        std::process::abort();
    }
}

/// The instructions of a process that does one row with so many messages.
fn count(row: &str, messages: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--cache-sim=no", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(env::current_exe().unwrap())
        .args(["--run", row, &messages.to_string()])
        .arg(dir.path().join("store"))
        .output()
        .unwrap();
    let log = fs::read_to_string(&log).unwrap_or_default();
    let counted = log.lines().find_map(|line| line.split("Collected :").nth(1));
    let counted = counted.and_then(|counted| counted.trim().parse().ok());
    counted.unwrap_or_else(|| panic!("callgrind counted nothing: {log}\n{output:?}"))
}

fn run(args: &[String]) {
    let [row, messages, dir] = args else { panic!("--run <row> <messages> <directory>") };
    let row = ROWS.iter().find(|it| it.name == row).expect("a row of the table");
    (row.run)(&Bench::open(Path::new(dir)), messages.parse().unwrap());
    // An orderly end is not counted.
    std::process::abort();
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// The table: a row in each line, and the count in front of it.
fn read_table() -> Vec<(String, u64)> {
    let text = fs::read_to_string(table()).expect("the table is beside this file");
    let rows = text.lines().filter_map(|line| line.trim().split_once(' '));
    rows.map(|(count, name)| (name.trim().to_owned(), count.parse().unwrap())).collect()
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|it| it == "--run") {
        run(&args[at + 1..]);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("left out: valgrind is not installed");
        let is_required = env::var_os("INSTRUCTIONS").is_some_and(|it| it == "required");
        return if is_required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let of_all = |row: &str| (count(row, MANY) - count(row, FEW)) / (MANY - FEW) as u64;
    let mut counted: Vec<(&str, u64, u64)> = Vec::new();
    for row in ROWS {
        let all = of_all(row.name);
        let before = |name| counted.iter().find(|it| it.0 == name).expect("it comes first").2;
        counted.push((row.name, all - row.first.map_or(0, before), all));
    }
    if args.iter().any(|it| it == "--write") {
        let line = |(name, count, _): &(&str, u64, u64)| format!("{count} {name}\n");
        fs::write(table(), counted.iter().map(line).collect::<String>()).unwrap();
    }
    let table = read_table();
    let mut has_grown = false;
    for (name, count, _) in counted {
        let most = table.iter().find(|it| it.0 == name).map_or(0, |it| it.1 + it.1 / 10);
        let word = if count > most { "GREW" } else { "" };
        println!("{count:7} {name} (at most {most}) {word}");
        has_grown |= count > most;
    }
    if has_grown {
        println!("an operation takes a tenth more than `instructions.txt` says");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
