//! The shop: its parts, and the threads that work in it.
//!
//! Every step is one transaction: it acks a delivery and appends the result to a stream. So each stream shows
//! how far its step has come, and nothing is counted in memory only. After a kill a step goes on behind the
//! last record of its stream.

use std::{
    collections::VecDeque,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use posthouse::{
    Backoff, Engine, Error, ErrorKind, Message, Queue, Stream, Subscription, Threshold, Topic,
};

use crate::{
    kill::{self, Kill, Step},
    stage::Stage,
};
use sales::{Order, Result, Sales};

/// How many threads charge customers.
pub const WORKERS: usize = 4;
/// Every order whose number this divides fails at the first attempt to charge it.
pub const FAILS_EVERY: u32 = 50;
/// Every order whose number this divides is refused, until the shop calls the bank.
pub const REFUSED_EVERY: u32 = 10_000;
/// How often an order is tried before it becomes a dead letter.
const ATTEMPTS: u32 = 3;
/// How long an order waits after its first failure, and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How many orders are under way to the disk at a time.
const ORDERS_UNDER_WAY: usize = 512;
/// How many deliveries a branch takes at a time.
const BATCH: usize = 64;
/// How often a waiting thread checks whether the work is done.
const POLL: Duration = Duration::from_millis(50);

pub struct Shop {
    engine: Engine,
    /// Every order, keyed by customer.
    pub history: Stream,
    /// Announces new orders to the branches.
    announced: Topic,
    pub payments: Queue,
    /// Orders that could not be charged.
    pub unpaid: Queue,
    /// Whether the bank charges the unpaid orders, too.
    has_called: AtomicBool,
    /// Every charge.
    pub ledger: Stream,
    pub branches: Vec<Branch>,
}

/// A department that receives every order and does its part.
pub struct Branch {
    pub name: &'static str,
    pub verb: &'static str,
    event: &'static str,
    pub inbox: Subscription,
    /// The results of its work.
    pub log: Stream,
}

impl Shop {
    /// Opens the shop, or creates it. The subscriptions exist before the first order, so each branch receives
    /// all orders.
    pub fn open(engine: &Engine) -> Result<Shop> {
        let announced = engine.topic("order.created").create()?;
        let branch = |name, verb, event| -> Result<Branch> {
            let inbox = announced.subscription(name).create()?;
            let log = engine.stream(event).create()?;
            Ok(Branch { name, verb, event, inbox, log })
        };
        let branches = vec![
            branch("shipping", "shipped", "order.shipped")?,
            branch("email", "emailed", "order.emailed")?,
            branch("analytics", "analysed", "order.analysed")?,
        ];
        Ok(Shop {
            engine: engine.clone(),
            history: engine.stream("order-history").partitions(8).create()?,
            payments: engine
                .queue("payments")
                .backoff(Backoff::exponential(WAITS.0, WAITS.1))
                .max_attempts(ATTEMPTS)
                .dead_letter_queue("payments.unpaid")
                .create()?,
            unpaid: engine.queue("payments.unpaid").open()?,
            has_called: AtomicBool::new(false),
            ledger: engine.stream("ledger").create()?,
            announced,
            branches,
        })
    }
}

/// How many records a stream has: the sum of its ends, because no record is ever trimmed here.
pub fn records(stream: &Stream) -> Result<u64> {
    let mut records = 0;
    for number in 0..stream.partitions() {
        records += stream.partition(number)?.end()?.0;
    }
    Ok(records)
}

fn event(name: &'static str, order: &Order) -> Message<'static> {
    Message::new(order.to_string()).key(order.key()).header("event", name)
}

/// Creates the orders that are not created yet. Each is one transaction that writes to a stream, a topic and
/// a queue. The transactions are committed in order, and the thread does not wait for each one. After a crash
/// the first few of them are there as a whole, and no others.
pub fn create(shop: &Shop, sales: &Sales, kill: Kill, stage: &Stage<'_>) -> Result<()> {
    let mut under_way = VecDeque::with_capacity(ORDERS_UNDER_WAY);
    for order in sales.behind(stage.before) {
        if !stage.goes_on() {
            return Ok(());
        }
        if under_way.len() == ORDERS_UNDER_WAY
            && let Some(oldest) = under_way.pop_front()
        {
            durable(oldest, stage)?;
        }
        let created = event("order.created", order);
        let mut tx = shop.engine.transaction();
        tx.append(&shop.history, &created)
            .publish(&shop.announced, &created)
            .send(&shop.payments, &created);
        if kill.meets(Step::Create, order) {
            return kill::die(tx, order);
        }
        under_way.push_back(tx.commit_ticket()?);
    }
    under_way.into_iter().try_for_each(|ticket| durable(ticket, stage))
}

fn durable<T>(ticket: posthouse::Ticket<T>, stage: &Stage<'_>) -> Result<()> {
    ticket.wait()?;
    stage.advance(1);
    Ok(())
}

/// Charges orders until all are charged. The ack and the entry in the ledger are one transaction. If the
/// process is killed in between, nobody is charged, and the order is delivered again.
pub fn charge(shop: &Shop, kill: Kill, stage: &Stage<'_>) -> Result<()> {
    while stage.is_open()? {
        let Some(delivery) = shop.payments.receive(POLL)? else {
            continue;
        };
        let order = Order::read(delivery.payload())?;
        let attempt = delivery.attempt();
        if attempt == 1 && order.number.is_multiple_of(FAILS_EVERY) {
            // The bank is busy. The failure is durable, too: the next attempt is the second one, even after a
            // restart. It comes after the backoff, and other orders are charged meanwhile.
            held(delivery.nack())?;
            continue;
        }
        let is_refused = order.number.is_multiple_of(REFUSED_EVERY);
        if is_refused && !shop.has_called.load(Ordering::Relaxed) {
            // After the last attempt the order becomes a dead letter with this reason.
            held(delivery.nack_because("the bank refuses it"))?;
            continue;
        }
        let charged = event("payment.charged", &order).header("attempt", attempt.to_string());
        let mut tx = shop.engine.transaction();
        tx.ack(&delivery).append(&shop.ledger, charged);
        if kill.meets(Step::Charge, &order) {
            return kill::die(tx, &order);
        }
        if held(tx.commit())? {
            stage.advance(1);
        }
    }
    Ok(())
}

/// Waits until only dead letters are left to charge, calls the bank, and charges all of them. Returns how
/// many orders those were.
pub fn settle(shop: &Shop, created: &Stage<'_>, charged: &Stage<'_>) -> Result<u64> {
    let (tell, told) = mpsc::channel();
    let _watch = shop.payments.watch(Threshold::Depth(1), move |alarm| {
        // If the receiver is gone, nobody waits for the call.
        let _ = tell.send(alarm);
    })?;
    let mut settled = 0;
    while charged.is_open()? {
        let _ = told.recv_timeout(POLL);
        if !created.is_open()? && shop.payments.depth()? == 0 && shop.unpaid.depth()? > 0 {
            shop.has_called.store(true, Ordering::Relaxed);
            settled += shop.unpaid.redrive().run()?.moved;
        }
    }
    Ok(settled)
}

/// Does a branch's part for every order: one transaction for each batch.
pub fn handle(shop: &Shop, branch: &Branch, stage: &Stage<'_>) -> Result<()> {
    while stage.is_open()? {
        let deliveries = branch.inbox.receive_batch(BATCH, POLL)?;
        if deliveries.is_empty() {
            continue;
        }
        let mut tx = shop.engine.transaction();
        for delivery in &deliveries {
            let order = Order::read(delivery.payload())?;
            tx.ack(delivery).append(&branch.log, event(branch.event, &order));
        }
        if held(tx.commit())? {
            stage.advance(deliveries.len() as u64);
        }
    }
    Ok(())
}

/// Whether the delivery was still on lease when it was settled. If the machine stalled for longer than a
/// lease, another consumer may have the message by now. Nothing was changed then, so the work goes on.
fn held<T>(settled: Result<T, Error>) -> Result<bool> {
    match settled {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(false),
        Err(error) => Err(error.into()),
    }
}
