//! The report that is printed at the end.

use std::time::Duration;

use crate::{audit::Audit, stage::Stage};
use sales::{Sums, Total, dollars, grouped};

/// The outcome of one stage.
pub struct Line {
    name: &'static str,
    before: u64,
    now: u64,
    took: Duration,
    /// What is left in the queue, subscription or group, if the stage has one.
    depth: Option<u64>,
}

impl Line {
    pub fn of(stage: &Stage<'_>, depth: Option<u64>) -> Line {
        let now = stage.total - stage.before;
        Line { name: stage.name, before: stage.before, now, took: stage.took(), depth }
    }
}

pub fn print(
    lines: &[Line],
    audit: &Audit,
    file: &Sums,
    settled: u64,
    (reopened, all): (Duration, Duration),
) {
    println!(
        "{:<10} {:>9} {:>9} {:>8} {:>9} {:>6}",
        "", "before", "this run", "s", "per s", "left"
    );
    for Line { name, before, now, took, depth } in lines {
        let seconds = took.as_secs_f64();
        let rate = (*now > 0).then(|| (*now as f64 / seconds) as u64);
        let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
        let (rate, depth) = (known(rate), known(*depth));
        let (before, now) = (grouped(*before), grouped(*now));
        println!("{name:<10} {before:>9} {now:>9} {seconds:>8.2} {rate:>9} {depth:>6}");
    }
    println!();
    println!("{:<10} {:>9} {:>9} {:>9} {:>14}", "", "orders", "customers", "CDs", "dollars");
    for (name, sums) in [("the file", *file)].iter().chain(&audit.sums) {
        let Sums { customers, total: Total { orders, cds, cents } } = *sums;
        let (orders, customers, cds) = (grouped(orders), grouped(customers as u64), grouped(cds));
        let dollars = dollars(cents);
        println!("{name:<10} {orders:>9} {customers:>9} {cds:>9} {dollars:>14}");
    }
    println!();
    println!("{} orders were charged at a later attempt than the first", grouped(audit.retried));
    println!("{} were put aside as dead letters, and redriven", grouped(settled));
    println!("the store was reopened in {:.0} ms", reopened.as_secs_f64() * 1e3);
    if audit.differences.is_empty() {
        println!("all sums match, after {:.1} s", all.as_secs_f64());
        return;
    }
    println!("THE SUMS DO NOT MATCH:");
    for difference in &audit.differences {
        println!("- {difference}");
    }
}
