//! How the costs of Posthouse grow with the number of things: see `README.md`.

mod cost;
mod counted;
mod heap;
mod plot;
mod probe;
mod rows;
mod table;
mod target;
mod work;

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Parser;

use self::{
    cost::Cost,
    rows::{ROWS, Row},
};

/// The error of a row: whatever went wrong ends the program.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures how costs grow with the number of queues, subscriptions, leases, readers and partitions.
#[derive(Debug, Parser)]
struct Arguments {
    /// The two smaller sizes only, and the smallest one of rows that take long.
    #[arg(long)]
    quick: bool,
    /// This program, built with the profile `counted`: it measures the holds of the core, syncs and the heap, which this build
    /// cannot see. Each row is then run once by each of them.
    #[arg(long, value_name = "PROGRAM")]
    counted: Option<PathBuf>,
    /// Counts work on a simulated disk in place of times, and fails where a bound is not kept. It needs a build with debug
    /// assertions.
    #[arg(long)]
    count: bool,
    /// The rows to measure; all if none is named.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Names the rows.
    #[arg(long)]
    list: bool,
    /// Where the stores are made. By default, in the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measures nothing, and draws the table in a Markdown file as an SVG.
    #[arg(long, value_name = "SVG", requires = "table")]
    plot: Option<PathBuf>,
    /// The file with the table for `--plot`.
    #[arg(long, value_name = "FILE", requires = "plot")]
    table: Option<PathBuf>,
    /// Measures one row at one size, and prints its cost for the program that has started this one.
    #[arg(long, hide = true, num_args = 2)]
    child: Option<Vec<String>>,
}

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        ROWS.iter().for_each(|row| println!("{:20} {}", row.name, row.title));
        return Ok(());
    }
    if let (Some(svg), Some(table)) = (&arguments.plot, &arguments.table) {
        return plot::draw(table, svg);
    }
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    if let Some([name, size]) = arguments.child.as_deref() {
        let size = size.parse()?;
        let cost = measure(find(name)?, size, &dir)?;
        println!("{}", cost.line());
        return Ok(());
    }
    let chosen: Vec<&Row> = match &*arguments.row {
        [] => ROWS.iter().collect(),
        names => names.iter().map(|name| find(name)).collect::<Result<_>>()?,
    };
    if arguments.count {
        return count(&chosen, arguments.quick, &dir);
    }
    println!("{}", table::head());
    for row in chosen {
        let sizes = row.sizes(arguments.quick);
        let mut costs = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let mut cost = in_child(&std::env::current_exe()?, row, *size, &dir)?;
            if let Some(program) = &arguments.counted {
                cost.take_counted(&in_child(program, row, *size, &dir)?);
            }
            costs.push((*size, cost));
            println!("{}", table::line(row, &costs, n + 1 == sizes.len()));
        }
    }
    Ok(())
}

/// Counts the work of rows on a simulated disk, where no thread but this one works.
fn count(chosen: &[&Row], is_quick: bool, dir: &Path) -> Result<()> {
    counted::turn_on()?;
    println!("{}", counted::HEAD);
    let mut broken = Vec::new();
    for row in chosen {
        let Some(bounds) = row.bounds else { continue };
        let sizes = if is_quick { &row.counted[..2] } else { &row.counted[..] };
        broken.extend(counted::run(row, bounds, sizes, |size| measure(row, size, dir).map(drop))?);
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n").into()) }
}

fn find(name: &str) -> Result<&'static Row> {
    let row = ROWS.iter().find(|row| row.name == name);
    row.ok_or_else(|| format!("there is no row {name}; --list names them").into())
}

fn measure(row: &Row, size: u64, dir: &Path) -> Result<Cost> {
    let dir = tempfile::Builder::new().prefix("posthouse-scale-").tempdir_in(dir)?;
    (row.run)(&dir.path().join("store"), size)
}

/// Measures in a process of its own, so that the memory of one size is not that of another.
fn in_child(program: &Path, row: &Row, size: u64, dir: &Path) -> Result<Cost> {
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir).args(["--child", row.name, &size.to_string()]);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} at {size}: {}", row.name, output.status).into());
    }
    Cost::parse(String::from_utf8(output.stdout)?.trim())
        .ok_or_else(|| format!("{} at {size} printed no cost", row.name).into())
}
