//! Subscriptions with filters in a damaged store: nothing is lost, and what comes back is said to be uncertain.

use posthouse::Message;

use super::{
    check::{Tally, check_damaged, files},
    sample::{dumped, filtered_sample, open, options},
};
use crate::support::one_in;

#[test]
fn a_store_with_filters_is_salvaged_whole() {
    for close in [true, false] {
        let sample = filtered_sample(close);
        let report = options().sim(&sample.disk).salvage("store", "to").unwrap();
        assert!(report.is_complete() && report.problems.is_empty(), "{report}");
        assert_eq!(&dumped(&sample.disk, "to").unwrap(), sample.states.last().unwrap());
        // The filter goes on.
        let topic = open(&sample.disk, "to").unwrap().topic("events").open().unwrap();
        let filtered = topic.subscription("filtered").open().unwrap();
        let before = filtered.depth().unwrap();
        ["a.x", "b"]
            .iter()
            .for_each(|it| _ = topic.publish(Message::new("m").subject(*it)).unwrap());
        assert_eq!(filtered.depth().unwrap(), before + 1);
    }
}

#[test]
fn a_damage_loses_nothing_that_a_filter_may_have_let_pass() {
    let sample = filtered_sample(true);
    let (mut tally, mut n) = (Tally::default(), 0);
    for (path, content) in files(&sample.disk) {
        if path.ends_with("LOCK") {
            continue;
        }
        for at in (0..content.len()).step_by(61) {
            n += 1;
            if n % one_in(40) > 0 {
                continue;
            }
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            let disk = sample.disk.fork(1);
            disk.plant(&path, Some(flipped));
            check_damaged(&sample, &disk, &path, &format!("bit flipped at {at}"), &mut tally);
        }
        let disk = sample.disk.fork(1);
        disk.plant(&path, None);
        check_damaged(&sample, &disk, &path, "missing", &mut tally);
    }
    assert!(tally.named > 10 && tally.lossy > 0, "{tally:?}");
}
