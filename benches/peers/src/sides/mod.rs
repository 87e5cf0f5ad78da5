//! All sides, in the order of the tables.

pub mod commitlog;
pub mod fjall;
pub mod honker;
pub mod khata;
pub mod limit;
pub mod lmdb;
pub mod nats;
pub mod okaywal;
pub mod open_wal;
pub mod posthouse;
pub mod redb;
pub mod redis;
pub mod seglog;
pub mod server;
pub mod sqlite;
pub mod walrus;
pub mod yaque;

use crate::side::{Able, Job, Side};

/// All sides.
pub const ALL: [&dyn Side; 18] = [
    &limit::Limit,
    &limit::Crowd,
    &posthouse::Posthouse,
    &walrus::WalrusSide,
    &yaque::Yaque,
    &khata::Khata { checksums: true },
    &khata::Khata { checksums: false },
    &okaywal::Okaywal,
    &open_wal::OpenWal,
    &seglog::Seglog,
    &commitlog::Commitlog,
    &redb::Redb,
    &fjall::Fjall,
    &lmdb::Lmdb,
    &sqlite::Sqlite,
    &honker::Honker,
    &redis::Redis,
    &nats::Nats,
];

/// The sides that can do a job, and the others with their reasons.
pub fn split(job: Job) -> (Vec<Able>, Vec<(&'static str, &'static str)>) {
    let (mut able, mut others) = (Vec::new(), Vec::new());
    for side in ALL {
        match side.offer(job) {
            Ok(durability) => able.push(Able { side, durability }),
            Err(why) => others.push((side.name(), why)),
        }
    }
    (able, others)
}
