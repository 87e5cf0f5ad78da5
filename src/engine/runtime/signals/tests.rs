//! Tests of the signals.

use super::*;

#[test]
fn the_clocks_are_looked_at_while_the_end_of_a_life_is_awaited() {
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(Agenda { sweep_at: hour, ..Agenda::default() }.next(), Some(LOOK));
    assert_eq!(Agenda::default().next(), None);
}

/// The time for which the machine slept counted for the timeouts of tasks, and not for those of threads.
#[test]
fn a_sleep_of_the_machine_ends_no_sleep_of_a_task() {
    let flusher = FlusherSignal::new(true, Duration::ZERO);
    let (hour, moment) = (Duration::from_secs(3600), Duration::from_millis(1));
    flusher.wake_at(Duration::from_secs(30), Waker::noop().clone());
    flusher.set_timer(Timer { at: hour, cursor: CursorId(1) });
    let duty = |elapsed, stopwatch| flusher.next_duty(|| elapsed, || stopwatch, moment);
    assert!(matches!(duty(8 * hour, moment), Duty::Look));
    assert!(matches!(duty(8 * hour, moment), Duty::Timer(_)));
    let is_due_in = |agenda: &Agenda| agenda.wait_for(8 * hour, || moment);
    assert_eq!(is_due_in(&flusher.agenda.lock()), Some(Duration::from_secs(30) - moment));
    assert!(matches!(duty(8 * hour, Duration::from_secs(30)), Duty::Wake(_)));
    flusher.wake_at(Duration::from_secs(30), Waker::noop().clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(moment);
            flusher.stop();
        });
        assert!(matches!(duty(8 * hour, moment), Duty::Stop), "there is nothing else to do");
    });
}
