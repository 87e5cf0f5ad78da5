//! A service that was added six months later: it rebuilds every customer's total from the history.

use std::sync::atomic::AtomicBool;

use posthouse::{Engine, Message, Stream};

use crate::{report::Line, stage::Stage};
use sales::{Order, Result, Sales, Total, Totals};

const NAME: &str = "customer-totals";

/// Reads the history from the group's offset, which is its beginning at first, and adds it to the customers'
/// totals. The new totals and the group's offsets are one transaction. So each order is counted once, however
/// often this runs and wherever it is killed.
pub fn rebuild(engine: &Engine, history: &Stream, sales: &Sales) -> Result<Line> {
    let group = history.group(NAME).create()?;
    let before = sales.count().saturating_sub(group.lag()?);
    let failed = AtomicBool::new(false);
    let stage = Stage::new("replayed", before, sales.count(), &failed)?;

    let mut added = Totals::new();
    let mut reader = group.reader()?;
    while let Some(record) = reader.try_read()? {
        let order = Order::read(record.payload())?;
        added.entry(order.customer).or_default().add(Total::from(&order));
        stage.advance(1);
    }

    let totals = engine.stream(NAME).create()?;
    let mut tx = engine.transaction();
    for (customer, total) in &added {
        let message = Message::new(total.to_string()).key(format!("{customer:05}"));
        tx.append(&totals, message);
    }
    for place in reader.positions() {
        tx.commit_offset(&group, place.partition, place.offset);
    }
    tx.commit()?;
    Ok(Line::of(&stage, Some(group.lag()?)))
}

/// The totals that the service has stored.
pub fn stored(engine: &Engine) -> Result<Totals> {
    let mut totals = Totals::new();
    for record in engine.stream(NAME).open()?.reader(posthouse::Start::Earliest)? {
        let record = record?;
        let customer = record.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
        let customer = customer.ok_or("a customer's total has no customer")?;
        totals.entry(customer).or_default().add(Total::read(record.payload())?);
    }
    Ok(totals)
}
