//! An online shop on Posthouse: 69,659 real purchases go through a stream, a topic and a queue. Every branch
//! is compared with the file of the purchases, to the cent.
//!
//! ```text
//! cargo run --release --example orders
//! cargo run --release --example orders -- --dir shop --kill-at 40001    # aborts
//! cargo run --release --example orders -- --dir shop                    # goes on
//! ```
//!
//! What to read here:
//! - [`shop::create`] writes to three places in one transaction, and keeps hundreds of transactions under
//!   way.
//! - [`shop::charge`] and [`shop::handle`] ack a delivery in the transaction that holds its result. So
//!   nothing is done twice, whenever the process is killed.
//! - An order that fails is tried again. An order that always fails is moved to the dead letters, and
//!   [`shop::settle`] charges it in the end.
//! - [`totals::rebuild`] joins late, and reads everything from the beginning.
#![allow(clippy::disallowed_methods)] // The clock comes through `Disk` inside the engine only.

mod args;
mod audit;
mod kill;
mod report;
mod shop;
mod stage;
mod totals;

use std::{
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use posthouse::{Durability, Options};

use args::Args;
use kill::Kill;
use report::Line;
use sales::{Result, Sales};
use shop::{Shop, WORKERS};
use stage::Stage;

fn main() -> ExitCode {
    let args = match Args::of_the_process() {
        Ok(args) => args,
        Err(error) => return refused(&error.to_string()),
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with the command line.
fn refused(what: &str) -> ExitCode {
    eprintln!("error: {what}\n\nFor more information, try '--help'.");
    ExitCode::from(2)
}

/// Whether all sums are right.
fn run(args: &Args) -> Result<bool> {
    let sales = Sales::load()?;
    args.kill.check(&sales)?;
    let Some(dir) = &args.dir else {
        let temporary = tempfile::tempdir()
            .map_err(|error| format!("no temporary directory can be made: {error}"))?;
        return all_of_it(args, &temporary.path().join("orders.posthouse"), &sales);
    };
    all_of_it(args, dir, &sales)
}

fn all_of_it(args: &Args, dir: &Path, sales: &Sales) -> Result<bool> {
    let begun = Instant::now();
    let open = || {
        let durability = if args.buffered { Durability::Buffered } else { Durability::Sync };
        Options::new().durability(durability).open(dir)
    };

    let (mut lines, settled) = {
        let engine = open()?;
        let traded = trade(&Shop::open(&engine)?, sales, args.kill)?;
        args.kill.missed();
        // Handled messages leave the journal, so the replay below reads segments.
        engine.checkpoint()?;
        engine.close()?;
        traded
    };

    // Six months later, after a restart.
    let reopening = Instant::now();
    let engine = open()?;
    let shop = Shop::open(&engine)?;
    let reopened = reopening.elapsed();
    lines.push(totals::rebuild(&engine, &shop.history, sales)?);

    let audit = audit::check(&engine, &shop, sales)?;
    report::print(&lines, &audit, &sales.sums(), settled, (reopened, begun.elapsed()));
    engine.close()?;
    Ok(audit.differences.is_empty())
}

/// Creates the orders that are not created yet, and handles them at the same time, until nothing is left to
/// do. Returns the outcome of each stage, and how many orders were settled by hand.
fn trade(shop: &Shop, sales: &Sales, kill: Kill) -> Result<(Vec<Line>, u64)> {
    let failed = AtomicBool::new(false);
    let stage = |name, before| Stage::new(name, before, sales.count(), &failed);

    let created = stage("created", shop::records(&shop.history)?)?;
    let charged = stage("charged", shop::records(&shop.ledger)?)?;
    let mut branches = Vec::new();
    for branch in &shop.branches {
        branches.push((branch, stage(branch.verb, shop::records(&branch.log)?)?));
    }

    // A thread that fails tells the others to stop.
    let watched = |result: Result<()>| {
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    let settled = thread::scope(|scope| -> Result<u64> {
        let settling = scope.spawn(|| {
            let settled = shop::settle(shop, &created, &charged);
            failed.fetch_or(settled.is_err(), Ordering::Relaxed);
            settled
        });
        let mut threads = vec![scope.spawn(|| watched(shop::create(shop, sales, kill, &created)))];
        for _ in 0..WORKERS {
            threads.push(scope.spawn(|| watched(shop::charge(shop, kill, &charged))));
        }
        for (branch, stage) in &branches {
            threads.push(scope.spawn(move || watched(shop::handle(shop, branch, stage))));
        }
        threads.into_iter().try_for_each(finish)?;
        finish(settling)
    })?;

    let mut lines =
        vec![Line::of(&created, None), Line::of(&charged, Some(shop.payments.depth()?))];
    for (branch, stage) in &branches {
        lines.push(Line::of(stage, Some(branch.inbox.depth()?)));
    }
    Ok((lines, settled))
}

fn finish<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
