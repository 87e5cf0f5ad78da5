//! A projection: the balances of all accounts, from a stream of payments. The balances and the place up to which they count
//! are one commit, so each payment counts once, whenever the process is killed. Kill it, and run it again on its directory:
//! `cargo run --release --example projection -- bank`.

use std::{collections::BTreeMap, error::Error, path::Path, time::Duration};

use posthouse::{Engine, Message, Stream};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
pub type Balances = BTreeMap<String, i64>;
pub const PAYMENTS: u64 = 20_000;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).ok_or("name a directory")?;
    let balances = run(Path::new(&dir))?;
    println!("{} accounts, {} in all", balances.len(), balances.values().sum::<i64>());
    Ok(())
}

/// Makes the payments that are not made yet, and counts those that are not counted yet.
pub fn run(dir: &Path) -> Result<Balances> {
    let engine = Engine::open(dir)?;
    let payments = engine.stream("payments").partitions(4).create()?;
    pay(&payments)?;
    let balances = project(&engine, &payments)?;
    engine.close()?;
    Ok(balances)
}

/// The account and the amount of a payment.
pub fn payment(number: u64) -> (String, i64) {
    (format!("account {}", number % 97), (number % 1000) as i64 - 300)
}

fn pay(payments: &Stream) -> Result<()> {
    for next in (payments.len()?..PAYMENTS).step_by(500) {
        let batch = (next..next + 500).map(payment);
        let batch = batch.map(|(account, amount)| Message::new(amount.to_string()).key(account));
        payments.append_batch(batch)?; // all of them, or none
    }
    Ok(())
}

fn project(engine: &Engine, payments: &Stream) -> Result<Balances> {
    let group = payments.group("balances").create()?;
    let states = engine.stream("balances").create()?;
    let newest = states.partition(0)?.last()?;
    let mut balances = newest.map_or(Ok(Balances::new()), |state| read(state.payload()))?;
    let mut reader = group.reader()?; // behind the last payment that the state has
    loop {
        let batch = reader.read_batch(100, Duration::ZERO)?;
        if batch.is_empty() {
            return Ok(balances);
        }
        for payment in &batch {
            let account = std::str::from_utf8(payment.key().ok_or("a payment has an account")?)?;
            let amount: i64 = std::str::from_utf8(payment.payload())?.parse()?;
            *balances.entry(account.to_owned()).or_default() += amount;
        }
        let mut tx = engine.transaction();
        tx.append(&states, write(&balances)).commit_reader(&group, &reader);
        let state = tx.commit()?[0]; // the balances and the place, or neither
        if state.offset.0 % 50 == 0 {
            states.partition(0)?.trim_before(state.offset)?; // older states are not needed
        }
    }
}

fn write(balances: &Balances) -> String {
    balances.iter().map(|(account, balance)| format!("{account}\t{balance}\n")).collect()
}

pub fn read(state: &[u8]) -> Result<Balances> {
    let line = |line: &str| {
        let (account, balance) = line.split_once('\t').ok_or("a line without a balance")?;
        Ok((account.to_owned(), balance.parse()?))
    };
    std::str::from_utf8(state)?.lines().map(line).collect()
}
