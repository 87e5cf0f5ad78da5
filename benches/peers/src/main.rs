//! Posthouse beside the bare limit of the machine and beside other engines: see `README.md`.

mod bench;
mod child;
mod cli;
mod os;
mod outcome;
mod payload;
mod progress;
mod report;
mod scale;
mod side;
mod sides;
mod workloads;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use bench::Bench;
use cli::Arguments;
use outcome::{Row, Run};
use progress::Progress;
use report::{docs, keep, number, table};
use scale::{Mode, Scale};
use side::Result;
use workloads::Workload;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.child {
        Some(task) => child::main(task).map(|()| ExitCode::SUCCESS),
        None => act(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn act(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let workloads = arguments
        .workloads()
        .unwrap_or_else(|error| Arguments::command().error(ErrorKind::InvalidValue, error).exit());
    let kept = arguments.json.as_deref().map(keep::read).transpose()?.flatten();
    let mut run = match (arguments.report, kept) {
        (true, None) => return Err("the file of --json is not there".into()),
        (_, kept) => kept.unwrap_or_default(),
    };
    let mut failed = 0;
    if arguments.report {
        run.rows.iter().for_each(|row| println!("{}", table::row(row)));
    } else {
        failed = measure(arguments, &workloads, &mut run)?;
    }
    println!("{}", table::verdicts(&run));
    if arguments.write_docs {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/BENCHMARKS.md");
        docs::write(&page, &run)?;
        println!("\nwritten: docs/BENCHMARKS.md and its plots");
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list() {
    println!("Workloads, and what they are to reach:\n");
    for Workload { name, title, target, is_long, .. } in workloads::ALL {
        let long = if *is_long { " (not in --quick)" } else { "" };
        println!("  {name:17} {title}{long}\n  {:17} -> {target}", "");
    }
    println!("\nSides:\n");
    let versions = keep::versions();
    for side in sides::ALL {
        let version = versions.iter().find(|(name, _)| name == side.name());
        let version = version.map_or("", |(_, version)| version.as_str());
        println!("  {:17} {version}", side.name());
    }
}

/// Runs the workloads, and returns how many of them failed. In a smoke run a side that fails
/// counts, too.
fn measure(arguments: &Arguments, workloads: &[&Workload], run: &mut Run) -> Result<usize> {
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("posthouse-peers-").tempdir_in(&parent);
    let dir = made.map_err(|error| format!("--dir {}: {error}", parent.display()))?;
    prepare_variables(dir.path());
    let (mode, began) = (arguments.mode(), Instant::now());
    let bench = Bench::new(Scale::of(mode), dir.path(), Progress::new(workloads.len()));
    let machine = keep::machine(dir.path());
    bench.progress.print(&format!(
        "{} run on {}, {}, {}; {}",
        mode.name(),
        machine.system,
        machine.processor,
        machine.file_system,
        keep::room(dir.path())
    ));
    touch(&bench)?;
    let mut failures = 0;
    for workload in workloads {
        bench.progress.workload(workload.title);
        let found = (workload.run)(&bench);
        bench.clear()?;
        match found {
            Ok(row) => {
                let row = named(row, workload, mode);
                if mode == Mode::Smoke {
                    failures +=
                        row.left_out.iter().filter(|(_, why)| why.contains("failed")).count();
                }
                bench.progress.print(&table::row(&row));
                let (machines, versions) = (vec![machine.clone()], keep::versions());
                let order: Vec<&str> = workloads::ALL.iter().map(|it| it.name).collect();
                run.take_over(Run { machines, versions, rows: vec![row] }, &order);
                // After each workload, so that a run that is ended early has kept what it found.
                keep_run(arguments.json.as_ref(), run)?;
            }
            Err(error) => {
                failures += 1;
                bench.progress.print(&format!("\n{}: FAILED: {error}", workload.name));
            }
        }
        bench.progress.done();
    }
    bench.progress.finish();
    println!("\n{} in all", number::seconds(began.elapsed().as_secs_f64()));
    Ok(failures)
}

fn named(row: Row, workload: &Workload, mode: Mode) -> Row {
    Row {
        workload: workload.name.to_owned(),
        title: workload.title.to_owned(),
        mode: mode.name().to_owned(),
        ..row
    }
}

fn keep_run(path: Option<&PathBuf>, run: &Run) -> Result<()> {
    path.map_or(Ok(()), |path| keep::write(path, run))
}

/// Touches memory once, all but what others may need.
fn touch(bench: &Bench) -> Result<()> {
    const LEFT: u64 = 3 << 30;
    let available = os::available_bytes().unwrap_or_default();
    let bytes = bench.scale.touch.min(available.saturating_sub(LEFT));
    bench.progress.says("touches memory");
    os::touch_memory(bytes, |done| bench.progress.at(done, bytes))?;
    Ok(())
}

/// walrus finds its directory by the environment, and prints unless it is told not to.
#[allow(unsafe_code)]
fn prepare_variables(dir: &Path) {
    // SAFETY: no other thread was started yet.
    unsafe {
        os::set_variable("WALRUS_DATA_DIR", dir.as_os_str());
        os::set_variable("WALRUS_QUIET", "1".as_ref());
    }
}
