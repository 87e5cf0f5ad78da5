//! The purchases: one file, built into the program, and its sums.

use std::{collections::BTreeMap, error::Error, fmt, str::SplitWhitespace};

/// A failure as a sentence: from the engine, from the data, or from the example itself.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

static CDNOW: &str = include_str!("../data/cdnow.txt");

/// One purchase. Its number is its place in the file once the file is sorted by date, from 1 on.
///
/// As text it is a line of the file with that number in front. Messages hold this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub number: u32,
    pub customer: u32,
    date: u32,
    pub cds: u64,
    pub cents: u64,
}

impl Order {
    /// Reads an order from a message.
    pub fn read(payload: &[u8]) -> Result<Order> {
        let text = std::str::from_utf8(payload)?;
        let order = || {
            let mut words = text.split_whitespace();
            let number = words.next()?.parse().ok()?;
            purchase(number, words)
        };
        order().ok_or_else(|| format!("a message holds no order: {text:?}").into())
    }

    /// The customer's number as a message's key.
    pub fn key(&self) -> String {
        format!("{:05}", self.customer)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order { number, customer, date, cds, cents } = self;
        write!(f, "{number} {customer:05} {date} {cds} {}.{:02}", cents / 100, cents % 100)
    }
}

/// A purchase from the columns of its line.
fn purchase(number: u32, mut columns: SplitWhitespace<'_>) -> Option<Order> {
    let customer = columns.next()?.parse().ok()?;
    let date = columns.next()?.parse().ok()?;
    let cds = columns.next()?.parse().ok()?;
    let cents = cents(columns.next()?)?;
    let order = Order { number, customer, date, cds, cents };
    columns.next().is_none().then_some(order)
}

/// Dollars and cents as cents. No float is used: sums are exact.
fn cents(money: &str) -> Option<u64> {
    let (dollars, cents) = money.split_once('.')?;
    if cents.len() != 2 {
        return None;
    }
    let (dollars, cents): (u64, u64) = (dollars.parse().ok()?, cents.parse().ok()?);
    dollars.checked_mul(100)?.checked_add(cents)
}

/// The sums of some orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub orders: u64,
    pub cds: u64,
    pub cents: u64,
}

impl Total {
    pub fn add(&mut self, other: Total) {
        self.orders += other.orders;
        self.cds += other.cds;
        self.cents += other.cents;
    }

    /// Reads a total from a message.
    pub fn read(payload: &[u8]) -> Result<Total> {
        let text = std::str::from_utf8(payload)?;
        let total = || {
            let mut words = text.split_whitespace().map(|word| word.parse().ok());
            let mut next = || words.next().flatten();
            Some(Total { orders: next()?, cds: next()?, cents: next()? })
        };
        total().ok_or_else(|| format!("a message holds no total: {text:?}").into())
    }
}

impl From<&Order> for Total {
    fn from(order: &Order) -> Total {
        Total { orders: 1, cds: order.cds, cents: order.cents }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.orders, self.cds, self.cents)
    }
}

/// Totals by customer.
pub type Totals = BTreeMap<u32, Total>;

/// The sum of all customers' totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub customers: usize,
    pub total: Total,
}

impl Sums {
    pub fn of(totals: &Totals) -> Sums {
        let mut total = Total::default();
        totals.values().for_each(|one| total.add(*one));
        Sums { customers: totals.len(), total }
    }
}

/// The file.
pub struct Sales {
    orders: Vec<Order>,
    pub totals: Totals,
}

impl Sales {
    pub fn load() -> Result<Sales> {
        let mut orders = Vec::new();
        for (at, line) in CDNOW.lines().enumerate().skip(1) {
            let order = purchase(0, line.split_whitespace());
            let wrong = || format!("line {} of the data holds no purchase: {line:?}", at + 1);
            orders.push(order.ok_or_else(wrong)?);
        }
        // The file is sorted by customers. The shop's orders come by date.
        orders.sort_by_key(|order| order.date);
        let mut totals = Totals::new();
        for (number, order) in (1..).zip(&mut orders) {
            order.number = number;
            totals.entry(order.customer).or_default().add(Total::from(&*order));
        }
        Ok(Sales { orders, totals })
    }

    pub fn count(&self) -> u64 {
        self.orders.len() as u64
    }

    /// The last order's number.
    pub fn last(&self) -> u32 {
        self.orders.last().map_or(0, |order| order.number)
    }

    /// The orders behind the first ones.
    pub fn behind(&self, count: u64) -> &[Order] {
        &self.orders[self.orders.len().min(count as usize)..]
    }

    /// The order with a number.
    pub fn order(&self, number: u32) -> Option<&Order> {
        self.orders.get((number as usize).checked_sub(1)?)
    }

    pub fn sums(&self) -> Sums {
        Sums::of(&self.totals)
    }
}

/// Sums as part of a sentence.
impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sums { customers, total: Total { orders, cds, cents } } = *self;
        let (orders, customers, cds) = (grouped(orders), grouped(customers as u64), grouped(cds));
        let dollars = dollars(cents);
        write!(f, "{orders} orders of {customers} customers, {cds} CDs, {dollars} dollars")
    }
}

pub fn dollars(cents: u64) -> String {
    format!("{}.{:02}", grouped(cents / 100), cents % 100)
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
