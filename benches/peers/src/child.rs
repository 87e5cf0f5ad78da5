//! Work in a process of its own: this program, called again. It serves measurements of a whole process, such
//! as its memory, and work that must end with its process.
//!
//! A child prints `at <done> <of>` while it works, and at the end `result <json>`.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{bench::Bench, os, side::Result, workloads};

/// Something that a child can do with a store's directory and a number.
pub type Task = fn(&Path, u64) -> Result<Value>;

/// Runs a task in a child, and returns its result. `Null` if it ended on purpose without one.
pub fn run(bench: &Bench, task: &str, dir: &Path, number: u64) -> Result<Value> {
    bench.progress.says(task);
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", task])
        .arg(dir)
        .arg(number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;
    let mut result = Value::Null;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(json) = line.strip_prefix("result ") {
            result = serde_json::from_str(json)?;
        } else if let Some(("at", numbers)) = line.split_once(' ') {
            let mut numbers = numbers.split(' ').filter_map(|it| it.parse().ok());
            if let (Some(done), Some(of)) = (numbers.next(), numbers.next()) {
                bench.progress.at(done, of);
            }
        }
    }
    let status = child.wait()?;
    if result.is_null() && status.code().is_some() {
        return Err(format!("the child for {task} ended without a result: {status}").into());
    }
    Ok(result)
}

/// The work of the child: `arguments` are the task, the directory and the number.
pub fn main(arguments: &[String]) -> Result<()> {
    let [task, dir, number] = arguments else {
        return Err("a child takes a task, a directory and a number".into());
    };
    let found = workloads::TASKS.iter().find(|(name, _)| name == task);
    let (_, task) = found.ok_or_else(|| format!("there is no task {task}"))?;
    let value = task(Path::new(dir), number.parse()?)?;
    println!("result {value}");
    Ok(())
}

/// The most anonymous memory that was seen, read from time to time.
#[derive(Debug, Default)]
pub struct Peak(u64);

impl Peak {
    /// Reads the memory, and reports the progress to the parent.
    pub fn look(&mut self, done: u64, of: u64) {
        self.0 = self.0.max(os::anonymous_bytes().unwrap_or_default());
        println!("at {done} {of}");
    }

    /// The most so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0
    }
}

/// A number of a child's result.
pub fn field(value: &Value, name: &str) -> Result<f64> {
    let found = value.get(name).and_then(Value::as_f64);
    found.ok_or_else(|| format!("the child says nothing of {name}").into())
}
