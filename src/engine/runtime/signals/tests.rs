//! Tests of the signals.

use super::*;

#[test]
fn the_clocks_are_looked_at_while_the_end_of_a_life_is_awaited() {
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(Agenda { sweep_at: hour, ..Agenda::default() }.next(), Some(LOOK));
    assert_eq!(Agenda::default().next(), None);
}
