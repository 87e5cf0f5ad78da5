//! The side of the parent: the reports of a child, and what must therefore be in the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use posthouse::{Engine, ErrorKind, Offset, Options, Start};

/// The accounts of all workers of a store.
#[derive(Default)]
pub struct Accounts(BTreeMap<String, Account>);

impl Accounts {
    /// Takes the report of a worker. Other lines are not for the accounts.
    pub fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        if let [name, what, n] = words[..]
            && let Ok(n) = n.parse()
        {
            self.0.entry(name.to_owned()).or_default().take(what, n);
        }
    }

    /// The power was cut: a commit that was not durable may be there or not.
    pub fn cut_power(&mut self) {
        for account in self.0.values_mut() {
            account.buffered.clear();
        }
    }

    /// Opens the store, without a power cut since the last report, and checks it. Everything that is seen now
    /// must always be seen.
    pub fn check(&mut self, path: &Path, options: &Options) {
        let engine = super::open(path, options);
        let mut held = Vec::new();
        for (name, account) in &mut self.0 {
            account.check(name, &engine, &mut held);
        }
        // The deliveries are held until the engine is closed, so that checking counts no failures.
        engine.close().unwrap();
    }

    pub fn messages(&self) -> u64 {
        self.0.values().map(|account| account.sent).sum()
    }
}

#[derive(Default)]
struct Account {
    /// Everything before this was reported durable, or was seen.
    sent: u64,
    /// Nothing from here on was ever sent.
    tried: u64,
    consumers: [Acks; 2],
    trimmed: u64,
    trimming: u64,
    /// Whether the further queue is there, if that is certain.
    extra: Option<bool>,
    extra_sure: bool,
    /// Reported as done, and a power cut may take it back.
    buffered: Vec<Buffered>,
}

struct Buffered {
    what: String,
    n: u64,
    /// How many messages had been tried by then.
    tried: u64,
}

#[derive(Default)]
struct Acks {
    /// All before this is acked.
    floor: u64,
    done: BTreeSet<u64>,
    /// Done or not.
    unsure: BTreeSet<u64>,
}

impl Account {
    fn take(&mut self, what: &str, n: u64) {
        if let Some(what) = what.strip_prefix('~') {
            return self.buffered.push(Buffered { what: what.to_owned(), n, tried: self.tried });
        }
        match what {
            // All commits before a durable one are durable. A recovery makes durable everything that it has
            // found, and it finds everything that a killed process did.
            "there" | "sent" | "synced" | "acked-q" | "acked-s" | "trimmed" => self.all_counts(),
            // Of a ticket that was got earlier.
            "settled" => {
                let before = self.buffered.partition_point(|it| it.tried <= n);
                for Buffered { what, n, .. } in self.buffered.drain(..before).collect::<Vec<_>>() {
                    self.note(&what, n);
                }
            }
            _ => {}
        }
        self.note(what, n);
    }

    fn all_counts(&mut self) {
        for Buffered { what, n, .. } in std::mem::take(&mut self.buffered) {
            self.note(&what, n);
        }
    }

    fn note(&mut self, what: &str, n: u64) {
        match what {
            "there" => {
                assert!(self.sent <= n, "{} were durable or seen, {n} are there", self.sent);
                assert!(n <= self.tried, "{n} are there, {} were sent", self.tried);
                (self.sent, self.tried) = (n, n);
                for acks in &mut self.consumers {
                    // A message that was lost, and had been acked before, will be sent again.
                    acks.unsure.retain(|it| *it < n);
                }
            }
            "trying" => self.tried = self.tried.max(n + 1),
            "undone" => self.tried = n,
            "sent" | "settled" | "seen" => {
                assert!(n < self.tried, "{n} was never sent");
                self.sent = self.sent.max(n + 1);
            }
            "acking-q" => drop(self.consumers[0].unsure.insert(n)),
            "acking-s" => drop(self.consumers[1].unsure.insert(n)),
            "kept-q" => drop(self.consumers[0].unsure.remove(&n)),
            "kept-s" => drop(self.consumers[1].unsure.remove(&n)),
            "acked-q" => self.consumers[0].acked(n),
            "acked-s" => self.consumers[1].acked(n),
            "trimming" => self.trimming = self.trimming.max(n),
            "untrimmed" => self.trimming = n,
            "trimmed" => self.trimmed = n,
            "creating" | "deleting" => {
                self.extra_sure = false;
                // What was reported of it before says no more what is there.
                self.buffered.retain(|it| !matches!(&it.what[..], "created" | "deleted"));
            }
            "created" | "deleted" => {
                (self.extra, self.extra_sure) = (Some(what == "created"), true);
            }
            "synced" | "lost" => {}
            _ => panic!("what is {what:?}?"),
        }
    }

    fn check(&mut self, name: &str, engine: &Engine, held: &mut Vec<posthouse::Delivery>) {
        self.all_counts();
        let there = engine.queues().unwrap().contains(&format!("{name}-extra"));
        assert!(!self.extra_sure || self.extra == Some(there), "{name}: the further queue");
        (self.extra, self.extra_sure) = (Some(there), true);

        let stream = match engine.stream(&format!("{name}-s")).open() {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!((self.sent, error.kind()), (0, ErrorKind::NotFound), "{error}");
                return;
            }
        };
        let partition = stream.partition(0).unwrap();
        let (start, count) = (partition.start().unwrap().0, partition.end().unwrap().0);
        assert!((self.trimmed..=self.trimming).contains(&start), "{name} begins at {start}");
        let records = stream.reader(Start::Earliest).unwrap();
        let records: Vec<u64> = records.map(|it| super::number(it.unwrap().payload())).collect();
        assert_eq!(records, (start..count).collect::<Vec<_>>(), "{name}: no holes");
        let (sent, tried) = (self.sent, self.tried);
        assert!(sent <= count, "{name}: {sent} were durable or seen, {count} are there");
        assert!(count <= tried, "{name}: {count} are there, {tried} were sent");
        match stream.group("g").open() {
            Ok(group) => {
                assert_eq!(group.committed(0).unwrap(), Offset(count.saturating_sub(1)), "{name}");
            }
            Err(error) => assert_eq!((count, error.kind()), (0, ErrorKind::NotFound), "{error}"),
        }
        (self.sent, self.tried) = (count, count);
        (self.trimmed, self.trimming) = (start, start);

        let queue = engine.queue(&format!("{name}-q")).open().unwrap();
        let topic = engine.topic(&format!("{name}-t")).open().unwrap();
        let subscription = topic.subscription("s").open().unwrap();
        for (consumer, acks) in self.consumers.iter_mut().enumerate() {
            let mut left = BTreeSet::new();
            loop {
                let got =
                    if consumer == 0 { queue.try_receive() } else { subscription.try_receive() };
                let Some(delivery) = got.unwrap() else { break };
                let n = super::number(delivery.payload());
                assert!(n < count, "{name}: {n} of {count} was delivered");
                assert!(left.insert(n), "{name}: {n} was delivered twice");
                held.push(delivery);
            }
            acks.check(&left, count).unwrap_or_else(|what| panic!("{name}, {consumer}: {what}"));
        }
    }
}

impl Acks {
    fn acked(&mut self, n: u64) {
        self.unsure.remove(&n);
        self.done.insert(n);
    }

    /// Each message is either left or acked, as was reported. If that was unsure, it now is not.
    fn check(&mut self, left: &BTreeSet<u64>, count: u64) -> Result<(), String> {
        if let Some(n) = left.range(..self.floor).next() {
            return Err(format!("{n} was acked and is back"));
        }
        for n in self.floor..count {
            let (is_left, unsure) = (left.contains(&n), self.unsure.remove(&n));
            match (is_left, self.done.contains(&n)) {
                (true, true) => return Err(format!("{n} was acked and is back")),
                (false, false) if !unsure => return Err(format!("{n} is lost")),
                (false, false) => self.acked(n),
                (true, false) | (false, true) => {}
            }
        }
        self.unsure.clear();
        while self.done.remove(&self.floor) {
            self.floor += 1;
        }
        Ok(())
    }
}
