//! Runs that are decoded by what the run before them looks like.

use proptest::prelude::*;

use super::{
    super::{
        commit::{HeadShape, PlainRun, Run},
        record::{take_plain_record, take_record},
    },
    batter,
};
use crate::ids::{LogId, Offset, Timestamp};

fn plain_run(log: u64, first: u64, timestamp: u64, payload: usize) -> Vec<u8> {
    let payload = vec![7; payload];
    let run = PlainRun::new(LogId(log), Offset(first), Timestamp(timestamp), &payload);
    let mut out = vec![0; run.len()];
    run.put(&mut out);
    out
}

/// If the shape tells where the records of a run are, the run is the next one, and decoding it says the same.
fn agrees(before: &[u8], bytes: &[u8]) -> bool {
    let old = Run::decode(before).unwrap();
    let Some(found) = HeadShape::of(&old).and_then(|it| it.next(before, bytes)) else {
        return false;
    };
    let run = Run::decode(bytes).expect("it was taken for the next run");
    assert_eq!(found, (run.body_at, run.len()));
    assert_eq!((run.log, run.first, run.count), (old.log, old.end(), 1));
    assert_eq!(run.timestamp, old.timestamp);
    true
}

#[test]
fn the_next_run_of_a_log_is_known_by_its_head() {
    let known = (0..1000)
        .filter(|n| agrees(&plain_run(3, *n, 1 << 41, 40), &plain_run(3, n + 1, 1 << 41, 90)));
    // An offset whose last digit goes back to zero is decoded.
    assert_eq!(known.count(), 1000 - 7);
    // A damaged head in which that digit is one more, and spills over.
    let before = plain_run(3, 0x3FFF, 1 << 41, 40);
    assert_eq!(before[2..4], [0xFF, 0x7F]);
    let mut damaged = before.clone();
    (damaged[2], damaged[3]) = (0x00, 0x7E);
    assert!(!agrees(&before, &damaged));
}

proptest! {
    #[test]
    fn a_run_that_is_known_by_its_head_is_decoded_alike(
        (log, first) in (0..1_u64 << 50, 0..1_u64 << 50),
        (step, later, other) in (0..3_u64, 0..2_u64, 0..2_u64),
        (old, new) in (0..200_usize, 0..200_usize),
    ) {
        let time = 1_764_000_000_000;
        let before = plain_run(log, first, time, old);
        let bytes = plain_run(log + other, first + step, time + later, new);
        let is_known = agrees(&before, &bytes);
        prop_assert!(!is_known || (step, later, other) == (1, 0, 0));
        // A damaged head is not taken for another one.
        batter(&bytes[..bytes.len().min(40)], |cut| _ = agrees(&before, cut));
    }

    #[test]
    fn a_plain_record_is_taken_as_any_other(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..20_usize) {
        if let Some(spans) = take_plain_record(&bytes, at, Timestamp(5)) {
            prop_assert_eq!(spans, take_record(&bytes, at, Timestamp(5)).unwrap());
        }
    }
}
