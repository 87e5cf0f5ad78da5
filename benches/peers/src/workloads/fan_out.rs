//! Publishing to a topic with 1, 10 and 100 subscriptions, and delivering to all of them.
//!
//! No other embedded engine here has subscriptions with acks of their own, so the row has Posthouse alone.
//! The cost of publishing must not depend on the number of subscriptions.

use std::time::{Duration, Instant};

use posthouse::{Engine, Subscription, Topic};

use super::PAYLOAD;
use crate::{
    bench::Bench,
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result},
    sides::posthouse as ours,
};

const COUNTS: [usize; 3] = [1, 10, 100];
/// How many deliveries a consumer takes and acks at a time, in the batched form.
const BATCH: usize = 256;

struct Fan {
    engine: Engine,
    topic: Topic,
    subscriptions: Vec<Subscription>,
    publishing: Vec<f64>,
    delivering: Vec<f64>,
    singly: Vec<f64>,
}

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let mut fans = COUNTS.iter().map(|count| open(bench, *count)).collect::<Result<Vec<_>>>()?;
    let mut payloads = Payloads::new(PAYLOAD);
    bench.progress.begin((bench.scale.rounds + 1) * fans.len());
    for round in 0..=bench.scale.rounds {
        for fan in &mut fans {
            bench.progress.step(&format!("{} subscriptions", fan.subscriptions.len()));
            // What the acks of the last round have left is not part of this round's publishing.
            fan.engine.checkpoint()?;
            let rates = lap(fan, &mut payloads, bench.scale.fan_out)?;
            if round > 0 {
                fan.publishing.push(rates[0]);
                fan.delivering.push(rates[1]);
                fan.singly.push(rates[2]);
            }
        }
    }
    let words = ours::words(Durability::Buffered);
    for (count, fan) in COUNTS.iter().zip(&fans) {
        for (what, rates) in [
            ("publishes", &fan.publishing),
            ("deliveries, 256 received and acked at a time", &fan.delivering),
            ("deliveries, received and acked one by one", &fan.singly),
        ] {
            let plural = if *count == 1 { "" } else { "s" };
            let name = format!("{count} subscription{plural}: {what}");
            let figure = Figure::new(name, Kind::Ours, Unit::PerSecond, rates.clone());
            row.figures.push(figure.durable(words));
        }
    }
    judge(&mut row);
    row.notes
        .push("No other embedded engine here has subscriptions with acks of their own.".into());
    Ok(row)
}

fn judge(row: &mut Row) {
    let one = row.value("1 subscription: publishes").unwrap_or(f64::NAN);
    let hundred = row.value("100 subscriptions: publishes").unwrap_or(f64::NAN);
    let shown = format!("{} times the cost with 1", number::ratio(one / hundred));
    row.at_most("publish to 100 costs at most 1.2 times", one / hundred, 1.2, shown);
    let together = "100 subscriptions: deliveries, 256 received and acked at a time";
    if let Some(rate) = row.value(together) {
        row.at_least("8 M deliveries/s by batches", rate, 8e6, number::rate(rate));
    }
    if let Some(rate) = row.value("100 subscriptions: deliveries, received and acked one by one") {
        row.at_least("5 M deliveries/s one by one", rate, 5e6, number::rate(rate));
    }
}

fn open(bench: &Bench, count: usize) -> Result<Fan> {
    let dir = bench.fresh_dir("fan-out");
    let engine = ours::options(Job::Append(Durability::Buffered)).open(dir)?;
    let topic = engine.topic("t").create()?;
    let create = |n: usize| Ok(topic.subscription(&n.to_string()).create()?);
    let subscriptions = (0..count).map(create).collect::<Result<_>>()?;
    let (publishing, delivering, singly) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Fan { engine, topic, subscriptions, publishing, delivering, singly })
}

/// Publishes and delivers twice: with batches, and one by one. The rates of the first publishing
/// and of both deliveries.
fn lap(fan: &Fan, payloads: &mut Payloads, messages: u64) -> Result<[f64; 3]> {
    let publishing = publish(fan, payloads, messages)?;
    let began = Instant::now();
    let mut count = 0;
    for subscription in &fan.subscriptions {
        count += drain_batches(subscription)?;
    }
    let delivering = count as f64 / began.elapsed().as_secs_f64();
    let fewer = (messages / fan.subscriptions.len() as u64).max(10);
    publish(fan, payloads, fewer)?;
    let began = Instant::now();
    let mut count = 0;
    for subscription in &fan.subscriptions {
        while let Some(delivery) = subscription.try_receive()? {
            std::hint::black_box(delivery.payload());
            delivery.ack()?;
            count += 1;
        }
    }
    Ok([publishing, delivering, f64::from(count) / began.elapsed().as_secs_f64()])
}

fn publish(fan: &Fan, payloads: &mut Payloads, messages: u64) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..messages {
        fan.topic.publish(payloads.next())?;
    }
    Ok(messages as f64 / began.elapsed().as_secs_f64())
}

fn drain_batches(subscription: &Subscription) -> Result<u64> {
    let mut count = 0;
    loop {
        let deliveries = subscription.receive_batch(BATCH, Duration::ZERO)?;
        if deliveries.is_empty() {
            return Ok(count);
        }
        for delivery in &deliveries {
            std::hint::black_box(delivery.payload());
        }
        subscription.ack_batch(&deliveries)?;
        count += deliveries.len() as u64;
    }
}
