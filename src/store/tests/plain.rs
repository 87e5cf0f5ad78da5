//! The plain commits against `Store::commit`: two stores get the same commits, by one way and by the other.

use std::{path::Path, sync::Arc};

use proptest::prelude::*;

use super::checkpoint::commit;
use crate::{
    config::Config,
    disk::sim::SimDisk,
    error::Result,
    format::entity::{Creation, Delivering, EntityKind},
    ids::{CursorId, LogId, Lsn, Now, Offset, StoreId, Timestamp},
    message::Message,
    store::{self, Op, Receipt, Refused, Shortage, Store},
};

/// A commit of one operation, as an application may ask for it.
#[derive(Clone, Debug)]
enum Asked {
    Append { log: u64, payload: Vec<u8>, kind: u8, now: u64, skew: u64 },
    Ack { cursor: u64, offset: u64 },
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..300),
        1 => prop::collection::vec(any::<u8>(), 1000..2100),
    ];
    // The logs 1 to 3 exist. A message of kind 0 has only a payload. The clock was set if there is a skew.
    let append = (1..5u64, payload, 0..6u8, 0..1u64 << 42, prop_oneof![3 => Just(0), 1 => 1..9u64]);
    let append = append.prop_map(|(log, payload, kind, now, skew)| Asked::Append {
        log,
        payload,
        kind: kind.saturating_sub(2),
        now,
        skew,
    });
    let ack = (prop_oneof![4 => Just(1u64), 1 => Just(9)], 0..40u64);
    prop_oneof![2 => append, 1 => ack.prop_map(|(cursor, offset)| Asked::Ack { cursor, offset })]
}

fn message<'a>(payload: &'a [u8], kind: u8) -> Message<'a> {
    let message = Message::new(payload);
    match kind {
        0 => message,
        1 => message.key("a key"),
        2 => message.header("a name", "a value"),
        _ => message.timestamp(Timestamp(77)),
    }
}

fn open() -> Store {
    let config = Config {
        journal_file_bytes_min: 8 << 10,
        journal_file_bytes_max: 16 << 10,
        journal_bytes: 256 << 10,
        message_bytes_max: 2000,
        commit_bytes_max: 2020,
        ..Config::default()
    };
    let disk = Arc::new(SimDisk::new(1).process());
    let mut store =
        store::open(disk, Path::new("store"), config, StoreId([1; 16])).expect("it opens");
    let kinds = [
        EntityKind::Queue(Delivering::leasing(1000).into()),
        EntityKind::Topic { retention: None },
        EntityKind::Stream { partitions: 1, retention: None },
    ];
    for (kind, name) in kinds.into_iter().zip(["queue", "topic", "stream"]) {
        let entity = store.new_entity(name, kind);
        let creation = Creation { entity, starts: vec![Offset(0)] };
        commit(&mut store, &[Op::Create { creation: &creation }]).expect("there is room");
    }
    store
}

/// Commits, and makes the space that the commit lacks.
fn made(
    store: &mut Store,
    mut attempt: impl FnMut(&mut Store) -> Result<Receipt, Refused>,
) -> Result<Receipt, String> {
    loop {
        match attempt(store) {
            Ok(receipt) => return Ok(receipt),
            Err(Refused::NeedsSpace(Shortage::File { bytes, urgency })) => {
                let job = store.journal.begin_prepare(Some(bytes), urgency, 0);
                let job = job.expect("nobody else prepares");
                store.journal.finish_prepare(job.run()).expect("the disk works");
            }
            Err(refused) => return Err(format!("{refused:?}")),
        }
    }
}

fn commit_by(store: &mut Store, asked: &Asked, is_plain: bool) -> Result<Receipt, String> {
    match asked {
        Asked::Append { log, payload, kind, now, skew } => {
            let (log, messages) = (LogId(*log), [message(payload, *kind)]);
            let (stamp, even) = (Timestamp(*now), Timestamp(now + skew));
            let now = Now { stamp, even, start: even, set: None };
            made(store, |store| match is_plain {
                true => store.append_one(log, &messages[0], now),
                false => store.commit(&[Op::Append { log, messages: &messages, delay_ms: 0 }], now),
            })
        }
        Asked::Ack { cursor, offset } => {
            let (cursor, offsets) = (CursorId(*cursor), [Offset(*offset)]);
            made(store, |store| match is_plain {
                true => store.ack_one(cursor, offsets[0]),
                false => {
                    store.commit(&[Op::Ack { cursor, offsets: &offsets }], Timestamp(9).into())
                }
            })
        }
    }
}

fn bytes(store: &Store, from: Lsn) -> Vec<u8> {
    let len = (store.journal.tail().0 - from.0) as usize;
    store.journal.bytes(from, len).and_then(|bytes| Ok(bytes.read()?.to_vec())).expect("it reads")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }))]

    #[test]
    fn a_plain_commit_is_that_of_the_full_way(all in prop::collection::vec(any_asked(), 1..60)) {
        let (mut plain, mut full) = (open(), open());
        for asked in &all {
            let is_message = matches!(asked, Asked::Append { .. });
            let from = full.journal.tail();
            let by_plain = commit_by(&mut plain, asked, true);
            let by_full = commit_by(&mut full, asked, false);
            prop_assert_eq!(&by_plain, &by_full);
            if by_full.is_ok() {
                // A commit that went on in the next file stands behind its begin.
                let begin = full.journal.boundaries().last().unwrap_or(from);
                let from = begin.max(from);
                prop_assert_eq!(bytes(&plain, from), bytes(&full, from));
                let placed = |store: &Store| store.placed().collect::<Vec<_>>();
                prop_assert_eq!(placed(&plain), placed(&full));
                prop_assert_eq!(plain.has_placed(), is_message);
            }
            prop_assert_eq!(format!("{:?}", plain.state), format!("{:?}", full.state));
        }
    }
}
