//! The audit: compares the data on the disk with the data in the file.
//!
//! The audit trusts no counter of this process: it reads each branch back from its stream.

use std::collections::BTreeMap;

use posthouse::{Engine, Start, Stream};

use crate::{
    shop::{FAILS_EVERY, Shop},
    totals,
};
use sales::{Order, Result, Sales, Sums, Total, Totals};

/// The result of the audit.
pub struct Audit {
    /// The total of each branch.
    pub sums: Vec<(&'static str, Sums)>,
    /// How many orders were charged at a second or later attempt.
    pub retried: u64,
    /// The mistakes that were found, as sentences.
    pub differences: Vec<String>,
}

pub fn check(engine: &Engine, shop: &Shop, sales: &Sales) -> Result<Audit> {
    let mut audit = Audit { sums: Vec::new(), retried: 0, differences: Vec::new() };
    audit.orders("history", &shop.history, sales)?;
    audit.orders("payments", &shop.ledger, sales)?;
    for branch in &shop.branches {
        audit.orders(branch.name, &branch.log, sales)?;
        audit.is_zero(&format!("orders wait for {}", branch.name), branch.inbox.depth()?);
    }
    audit.is_zero("orders wait to be paid", shop.payments.depth()?);
    audit.is_zero("orders could not be paid", shop.unpaid.depth()?);
    audit.sequences(&shop.history)?;
    audit.attempts(&shop.ledger)?;
    audit.totals("totals", &totals::stored(engine)?, sales);
    Ok(audit)
}

impl Audit {
    fn found(&mut self, difference: String) {
        self.differences.push(difference);
    }

    fn is_zero(&mut self, what: &str, count: u64) {
        if count != 0 {
            self.found(format!("{count} {what}"));
        }
    }

    /// Checks that a stream holds every order of the file once, as it is in the file.
    fn orders(&mut self, name: &'static str, stream: &Stream, sales: &Sales) -> Result<()> {
        let mut times = vec![0_u32; sales.count() as usize];
        let mut strangers = 0;
        let mut totals = Totals::new();
        for record in stream.reader(Start::Earliest)? {
            let order = Order::read(record?.payload())?;
            totals.entry(order.customer).or_default().add(Total::from(&order));
            if sales.order(order.number) == Some(&order) {
                times[order.number as usize - 1] += 1;
            } else {
                strangers += 1;
            }
        }
        self.is_zero(&format!("records of {name} are no orders of the file"), strangers);
        let lost = times.iter().filter(|times| **times == 0).count();
        let repeated = times.iter().filter(|times| **times > 1).count();
        if lost + repeated > 0 {
            self.found(format!("{name}: {lost} orders are lost, {repeated} came more than once"));
        }
        self.totals(name, &totals, sales);
        Ok(())
    }

    /// Checks every customer's total.
    fn totals(&mut self, name: &'static str, totals: &Totals, sales: &Sales) {
        let (found, expected) = (Sums::of(totals), sales.sums());
        if found != expected {
            self.found(format!("{name}: it comes to {found}; the file to {expected}"));
        }
        let differs = |customer: &&u32| totals.get(customer) != sales.totals.get(customer);
        let more = totals.keys().filter(|customer| !sales.totals.contains_key(customer));
        let customers = sales.totals.keys().chain(more).filter(differs).count();
        if customers > 0 {
            self.found(format!("{name}: the totals of {customers} customers differ"));
        }
        self.sums.push((name, found));
    }

    /// Checks that each customer's orders are in the order in which they were created.
    fn sequences(&mut self, history: &Stream) -> Result<()> {
        let mut last = BTreeMap::new();
        let mut swapped = 0;
        for record in history.reader(Start::Earliest)? {
            let order = Order::read(record?.payload())?;
            let before = last.insert(order.customer, order.number);
            swapped += u64::from(before.is_some_and(|before| before >= order.number));
        }
        self.is_zero("orders stand behind a later one of the same customer", swapped);
        Ok(())
    }

    /// Checks that the orders that fail at first, and no others, were charged at a later attempt.
    fn attempts(&mut self, ledger: &Stream) -> Result<()> {
        let mut wrong = 0;
        for record in ledger.reader(Start::Earliest)? {
            let record = record?;
            let order = Order::read(record.payload())?;
            let attempt = record.headers().find(|(name, _)| *name == "attempt");
            let attempt =
                attempt.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
            let attempt: u32 = attempt.ok_or("a charge does not say which attempt it was")?;
            self.retried += u64::from(attempt > 1);
            // A lease that ran out is an attempt, too: more attempts are no mistake, fewer are.
            wrong += u64::from(attempt == 1 && order.number.is_multiple_of(FAILS_EVERY));
        }
        self.is_zero("orders were charged at first that were to fail", wrong);
        Ok(())
    }
}
