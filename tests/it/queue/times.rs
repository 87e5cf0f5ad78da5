//! Which time is which: durations go on evenly, and a time of day follows the clock when it is set.

use std::time::Duration;

use posthouse::{Backoff, Engine, ErrorKind, Message, Options, Queue, Timestamp, sim::SimDisk};

use crate::support::{EIO, EMFILE, HOUR, MINUTE, SECOND, Sim, kind, open, take};

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
const NOW: u64 = 1_700_000_000_000;

fn at(ms: u64) -> Message<'static> {
    Message::new("at").deliver_at(Timestamp(ms))
}

fn after(by: Duration) -> Message<'static> {
    Message::new("after").deliver_after(by)
}

/// Receives and acks everything that is due.
fn drain(queue: &Queue) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(delivery) = take(queue) {
        texts.push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        delivery.ack().unwrap();
    }
    texts
}

/// Receives everything that is due, and gives it back.
fn drain_unsettled(queue: &Queue) -> Vec<String> {
    let all = queue.receive_batch(9, Duration::ZERO).unwrap();
    let text = |it: posthouse::Delivery| {
        let text = String::from_utf8(it.payload().to_vec()).unwrap();
        it.release().unwrap();
        text
    };
    all.into_iter().map(text).collect()
}

#[test]
fn deliver_at_follows_the_time_of_day_and_a_delay_does_not() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(at(NOW + 2 * HOUR_MS)).unwrap();
    queue.send(after(2 * HOUR)).unwrap();
    sim.disk.set_now(Timestamp(NOW + 3 * HOUR_MS));
    assert_eq!(drain(&queue), ["at"], "the time of day has come");
    sim.disk.advance(2 * HOUR - SECOND);
    assert!(drain(&queue).is_empty());
    sim.disk.advance(SECOND);
    assert_eq!(drain(&queue), ["after"]);
}

#[test]
fn a_clock_that_is_set_back_makes_a_time_of_day_wait_and_no_delay() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(at(NOW + HOUR_MS)).unwrap();
    queue.send(after(HOUR)).unwrap();
    sim.disk.set_now(Timestamp(NOW - HOUR_MS));
    sim.disk.advance(HOUR);
    assert_eq!(drain(&queue), ["after"]);
    sim.disk.advance(HOUR - SECOND);
    assert!(drain(&queue).is_empty());
    sim.disk.advance(SECOND);
    assert_eq!(drain(&queue), ["at"]);
}

#[test]
fn a_machine_that_boots_without_a_clock_delivers_on_time_once_it_is_set() {
    let disk = SimDisk::new(7);
    disk.set_now(Timestamp(0));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send(at(NOW + HOUR_MS)).unwrap();
    disk.set_now(Timestamp(NOW));
    queue.send(at(NOW + HOUR_MS / 2)).unwrap();
    assert!(drain(&queue).is_empty());
    disk.advance(HOUR / 2);
    assert_eq!(drain(&queue).len(), 1);
    disk.advance(HOUR / 2);
    assert_eq!(drain(&queue).len(), 1);
}

#[test]
fn both_kinds_of_due_times_survive_restarts_with_the_clock_set() {
    for (power, checkpoint) in [(false, false), (false, true), (true, false), (true, true)] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send(at(NOW + 10 * HOUR_MS)).unwrap();
        queue.send(after(10 * HOUR)).unwrap();
        sim.disk.set_now(Timestamp(NOW + 4 * HOUR_MS));
        queue.send("the setting is noticed").unwrap();
        if checkpoint {
            sim.engine.checkpoint().unwrap();
        }
        let disk = sim.disk.clone();
        if power {
            disk.power_cut();
        } else {
            disk.kill();
        }
        drop((queue, sim));
        let engine = open(&disk).unwrap();
        let queue = engine.queue("q").open().unwrap();
        assert_eq!(drain(&queue), ["the setting is noticed"]);
        disk.advance(6 * HOUR - SECOND);
        assert!(drain(&queue).is_empty(), "power {power}, checkpoint {checkpoint}");
        disk.advance(SECOND);
        assert_eq!(drain(&queue), ["at"], "power {power}, checkpoint {checkpoint}");
        disk.advance(4 * HOUR - SECOND);
        assert!(drain(&queue).is_empty(), "power {power}, checkpoint {checkpoint}");
        disk.advance(SECOND);
        assert_eq!(drain(&queue), ["after"], "power {power}, checkpoint {checkpoint}");
    }
}

#[test]
fn a_life_goes_on_evenly_over_a_restart_after_the_clock_was_set() {
    for by in [-(YEAR_MS as i64), -20_000, 20_000, 50 * YEAR_MS as i64] {
        for (power, checkpoint) in [(false, false), (false, true), (true, false), (true, true)] {
            let what = format!("{by} ms, power {power}, checkpoint {checkpoint}");
            let sim = Sim::new();
            let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
            queue.send("before").unwrap();
            sim.disk.set_now(Timestamp(NOW.checked_add_signed(by).unwrap()));
            queue.send("after").unwrap();
            if checkpoint {
                sim.engine.checkpoint().unwrap();
            }
            let disk = sim.disk.clone();
            if power {
                disk.power_cut();
            } else {
                disk.kill();
            }
            drop((queue, sim));
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").open().unwrap();
            disk.advance(59 * SECOND);
            let received = [take(&queue), take(&queue)];
            assert!(received.iter().all(Option::is_some), "{what}: lost before their time");
            drop(received);
            disk.advance(2 * SECOND);
            assert!(take(&queue).is_none(), "{what}: they outlive their time to live");
        }
    }
}

#[test]
fn a_clock_that_is_set_while_the_store_is_closed_ends_no_life_within_one_boot() {
    for by in [-(YEAR_MS as i64), 50 * YEAR_MS as i64] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
        queue.send("work").unwrap();
        queue.send(after(SECOND)).unwrap();
        sim.engine.close().unwrap();
        sim.disk.set_now(Timestamp(NOW.checked_add_signed(by).unwrap()));
        let engine = open(&sim.disk).unwrap();
        let queue = engine.queue("q").open().unwrap();
        assert_eq!(drain(&queue), ["work"], "{by}");
        sim.disk.advance(SECOND);
        assert_eq!(drain(&queue), ["after"], "{by}");
    }
}

#[test]
fn the_time_while_the_machine_is_off_counts() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(HOUR).create().unwrap();
    queue.send("old").unwrap();
    queue.send(after(30 * MINUTE)).unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    disk.advance(2 * HOUR);
    drop((queue, sim));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    assert!(drain(&queue).is_empty(), "both are over");
    assert_eq!(queue.depth().unwrap(), 0);
}

/// A machine without a battery for its clock: each boot begins in 1970, until the network sets the clock.
#[test]
fn a_machine_that_forgets_the_time_counts_the_time_off_once_the_clock_is_set() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let brief = || Message::new("brief").expire_after(HOUR);
    queue.send(brief()).unwrap();
    queue.send(after(3 * HOUR)).unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    drop((queue, sim));
    disk.set_now(Timestamp(5000));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    let delivery = take(&queue).expect("nobody knows that its life is over");
    assert_eq!(delivery.payload(), b"brief");
    drop(delivery);
    // The clock is set: it was off for two hours.
    disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
    assert!(take(&queue).is_none(), "now it is known");
    disk.advance(HOUR - SECOND);
    assert!(take(&queue).is_none());
    disk.advance(SECOND);
    assert_eq!(drain(&queue), ["after"]);
}

/// The time for which the machine was off came before these messages.
#[test]
fn messages_that_are_sent_while_the_clock_is_in_doubt_keep_their_durations() {
    for (boot_at, kill) in
        [(5000, false), (NOW - YEAR_MS, false), (5000, true), (NOW - YEAR_MS, true)]
    {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send(Message::new("old").expire_after(HOUR)).unwrap();
        let disk = sim.disk.clone();
        disk.power_cut();
        drop((queue, sim));
        disk.set_now(Timestamp(boot_at));
        let mut engine = open(&disk).unwrap();
        let mut queue = engine.queue("q").open().unwrap();
        queue.send(Message::new("lives an hour").expire_after(HOUR)).unwrap();
        queue.send(Message::new("waits a day").deliver_after(24 * HOUR)).unwrap();
        if kill {
            disk.kill();
            drop((queue, engine));
            engine = open(&disk).unwrap();
            queue = engine.queue("q").open().unwrap();
        }
        disk.advance(30 * MINUTE);
        disk.set_now(Timestamp(NOW + 48 * HOUR_MS));
        // The old message lives longer. Nobody loses one.
        assert_eq!(drain(&queue), ["old", "lives an hour"]);
        queue.send(Message::new("new").expire_after(HOUR)).unwrap();
        disk.advance(23 * HOUR + 30 * MINUTE - SECOND);
        assert!(drain(&queue).is_empty(), "the delay goes on evenly, and the last life is over");
        disk.advance(SECOND);
        assert_eq!(drain(&queue), ["waits a day"]);

        // The clock is right: the next time off counts.
        queue.send(Message::new("brief").expire_after(HOUR)).unwrap();
        disk.power_cut();
        disk.advance(2 * HOUR);
        drop((queue, engine));
        let engine = open(&disk).unwrap();
        assert!(drain(&engine.queue("q").open().unwrap()).is_empty(), "{boot_at}");
    }
}

/// The life of a letter, and of one that is redriven, begins when it moves. So that ends the doubt as a send does.
#[test]
fn letters_that_move_while_the_clock_is_in_doubt_keep_their_lives() {
    for kill in [false, true] {
        let sim = Sim::new();
        let dead = sim.engine.queue("q.dead").time_to_live(HOUR).create().unwrap();
        let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
        let other = sim.engine.queue("other").create().unwrap();
        queue.send("a letter").unwrap();
        queue.send(Message::new("redriven").expire_after(HOUR)).unwrap();
        take(&queue).unwrap().release().unwrap();
        let disk = sim.disk.clone();
        disk.power_cut();
        drop((queue, dead, other, sim));
        disk.set_now(Timestamp(5000));
        let mut engine = open(&disk).unwrap();
        let open_all = |engine: &Engine| {
            ["q", "q.dead", "other"].map(|name| engine.queue(name).open().unwrap())
        };
        let [mut queue, mut dead, mut other] = open_all(&engine);
        take(&queue).unwrap().nack().unwrap();
        take(&queue).unwrap().nack().unwrap();
        let moved = dead.redrive().to(&other).only(|it| it.payload() == b"redriven").run();
        assert_eq!(moved.unwrap().moved, 1);
        if kill {
            disk.kill();
            drop((queue, dead, other, engine));
            engine = open(&disk).unwrap();
            [queue, dead, other] = open_all(&engine);
        }
        disk.advance(30 * MINUTE);
        disk.set_now(Timestamp(NOW + 48 * HOUR_MS));
        assert_eq!(queue.depth().unwrap(), 0);
        assert_eq!(drain_unsettled(&dead), ["a letter"], "its life began when it moved");
        assert_eq!(drain_unsettled(&other), ["redriven"], "its life began anew");
        disk.advance(31 * MINUTE);
        assert!(take(&dead).is_none() && take(&other).is_none(), "their lives are over");
        drop(engine);
    }
}

/// What only a checkpoint has noticed of a setting of the clock is synced within the interval, too.
#[test]
fn a_setting_that_a_checkpoint_noticed_is_synced_without_a_commit() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("a").expire_after(HOUR)).unwrap();
    sim.engine.checkpoint().unwrap();
    queue.send(Message::new("b").expire_after(HOUR)).unwrap();
    sim.disk.advance(MINUTE);
    assert_eq!(queue.depth().unwrap(), 2);
    sim.disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(Duration::from_millis(200));
    assert_eq!(queue.depth().unwrap(), 2);
    let disk = sim.disk.clone();
    disk.power_cut_with(&mut |_| 0);
    drop((queue, sim));
    let engine = open(&disk).unwrap();
    assert_eq!(drain(&engine.queue("q").open().unwrap()), ["a", "b"], "no time has passed");
}

/// A record of a stream has no life. So it does not end the doubt about the clock.
#[test]
fn a_record_ends_no_doubt_about_the_clock() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("later").deliver_after(24 * HOUR)).unwrap();
    sim.engine.stream("s").create().unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    drop((queue, sim));
    disk.set_now(Timestamp(5000));
    let engine = open(&disk).unwrap();
    let (queue, stream) = (engine.queue("q").open().unwrap(), engine.stream("s").open().unwrap());
    stream.append("a record").unwrap();
    stream.append_batch((0..100).map(|_| "records")).unwrap();
    disk.set_now(Timestamp(NOW + 25 * HOUR_MS));
    assert_eq!(drain(&queue), ["later"], "the machine was off for a day");
}

/// The time for which the machine was off makes messages older at once, and their watches hear of it.
#[test]
fn an_age_that_the_time_off_has_raised_is_told_at_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send("old").unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    drop((queue, sim));
    disk.set_now(Timestamp(NOW - HOUR_MS));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let call = move |alarm| tell.send(alarm).unwrap();
    let _watch = queue.watch(posthouse::Threshold::OldestAge(HOUR), call).unwrap();
    assert!(told.try_recv().is_err());
    disk.set_now(Timestamp(NOW + 8 * HOUR_MS));
    _ = queue.stats().unwrap();
    disk.advance(SECOND);
    _ = queue.stats().unwrap();
    assert!(matches!(told.try_recv(), Ok(posthouse::Alarm::Raised(age)) if age >= 8 * HOUR_MS));
}

/// The note of a letter says when its life begins: the commit that moves it knows, and not the call that wrote it.
#[test]
fn letters_that_are_written_before_the_clock_is_right_live_from_the_commit_on() {
    for in_transaction in [false, true] {
        let sim = Sim::new();
        sim.engine.queue("q.dead").time_to_live(HOUR).create().unwrap();
        let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
        queue.send("a letter").unwrap();
        let disk = sim.disk.clone();
        disk.power_cut();
        drop((queue, sim));
        disk.set_now(Timestamp(5000));
        let engine = open(&disk).unwrap();
        let queue = engine.queue("q").open().unwrap();
        let delivery = take(&queue).unwrap();
        let mut tx = engine.transaction();
        if in_transaction {
            tx.nack(&delivery);
        }
        disk.set_now(Timestamp(NOW + 48 * HOUR_MS));
        match in_transaction {
            true => drop(tx.commit().unwrap()),
            false => delivery.nack().unwrap(),
        }
        let dead = engine.queue("q.dead").open().unwrap();
        disk.advance(59 * MINUTE);
        assert_eq!(drain_unsettled(&dead), ["a letter"], "in a transaction: {in_transaction}");
        disk.advance(2 * MINUTE);
        assert!(take(&dead).is_none());
        drop(engine);
    }
}

/// What is noticed of a setting of the clock is synced within the interval, although nobody commits anything.
#[test]
fn a_setting_that_was_noticed_is_synced_without_a_commit() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("a").expire_after(HOUR)).unwrap();
    sim.disk.advance(MINUTE);
    assert_eq!(queue.depth().unwrap(), 1);
    sim.disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
    assert_eq!(queue.depth().unwrap(), 1);
    sim.disk.advance(Duration::from_millis(200));
    assert_eq!(queue.depth().unwrap(), 1);
    let disk = sim.disk.clone();
    disk.power_cut_with(&mut |_| 0);
    drop((queue, sim));
    let engine = open(&disk).unwrap();
    assert_eq!(drain(&engine.queue("q").open().unwrap()), ["a"], "no time has passed");
}

/// Nothing was sent, so nothing depends on the clock in doubt.
#[test]
fn a_send_that_is_refused_ends_no_doubt_about_the_clock() {
    for kill in [false, true] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send(Message::new("brief").expire_after(HOUR)).unwrap();
        let disk = sim.disk.clone();
        disk.power_cut();
        drop((queue, sim));
        disk.set_now(Timestamp(5000));
        let mut engine = open(&disk).unwrap();
        let mut queue = engine.queue("q").open().unwrap();
        let many = || (0..64).map(|_| Message::new(vec![0; 1 << 20]).expire_after(HOUR));
        assert_eq!(kind(queue.send_batch(many())), ErrorKind::TooLarge);
        let mut tx = engine.transaction();
        many().for_each(|message| _ = tx.send(&queue, message));
        assert_eq!(kind(tx.commit()), ErrorKind::TooLarge);
        if kill {
            disk.kill();
            drop((queue, engine));
            engine = open(&disk).unwrap();
            queue = engine.queue("q").open().unwrap();
        }
        assert_eq!(drain_unsettled(&queue), ["brief"], "nobody knows that its life is over");
        disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
        assert!(take(&queue).is_none(), "the machine was off for two hours");
        drop(engine);
    }
}

/// A clock that was never put right while the machine ran does not tell how long it is off.
#[test]
fn messages_that_were_sent_in_doubt_survive_a_boot_with_the_right_clock() {
    for (boot_at, next) in [
        (5000, NOW + 48 * HOUR_MS),
        (NOW - YEAR_MS, NOW + 48 * HOUR_MS),
        (5000, 3_000),
        (5000, 10 * YEAR_MS),
    ] {
        for checkpoint in [false, true] {
            let sim = Sim::new();
            let queue = sim.engine.queue("q").create().unwrap();
            queue.send("noticed").unwrap();
            let disk = sim.disk.clone();
            disk.power_cut();
            drop((queue, sim));
            disk.set_now(Timestamp(boot_at));
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").open().unwrap();
            queue.send(Message::new("lives an hour").expire_after(HOUR)).unwrap();
            queue.send(Message::new("waits a day").deliver_after(24 * HOUR)).unwrap();
            if checkpoint {
                engine.checkpoint().unwrap();
            }
            disk.power_cut();
            drop((queue, engine));
            disk.set_now(Timestamp(next));
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").open().unwrap();
            assert_eq!(drain(&queue), ["noticed", "lives an hour"], "{boot_at} {next}");
            disk.advance(24 * HOUR - SECOND);
            assert!(drain(&queue).is_empty(), "{boot_at} {next}: early");
            disk.advance(SECOND);
            assert_eq!(drain(&queue), ["waits a day"], "{boot_at} {next}");
        }
    }
}

/// The clock was put right, and nobody had received since.
#[test]
fn a_message_that_is_sent_after_the_clock_was_put_right_does_not_stop_the_time_off_from_counting() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("over").expire_after(HOUR)).unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    drop((queue, sim));
    disk.set_now(Timestamp(5000));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
    queue.send(Message::new("lives an hour").expire_after(HOUR)).unwrap();
    assert_eq!(drain(&queue), ["lives an hour"]);
}

#[test]
fn nothing_is_kept_for_ever_by_a_clock_that_was_set_back() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
    queue.send("old").unwrap();
    queue.send(after(MINUTE - SECOND)).unwrap();
    let disk = sim.disk.clone();
    disk.power_cut();
    drop((queue, sim));
    disk.set_now(Timestamp(NOW - YEAR_MS));
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    disk.advance(2 * MINUTE);
    assert!(drain(&queue).is_empty());
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (0, 0), "all are over");
}

#[test]
fn a_backoff_and_a_queues_delay_go_on_evenly() {
    for by in [-(YEAR_MS as i64), YEAR_MS as i64] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").delay(MINUTE).backoff(Backoff::Fixed(MINUTE));
        let queue = queue.create().unwrap();
        queue.send("work").unwrap();
        sim.disk.set_now(Timestamp(NOW.checked_add_signed(by).unwrap()));
        sim.disk.advance(MINUTE - SECOND);
        assert!(take(&queue).is_none(), "{by}: early");
        sim.disk.advance(SECOND);
        take(&queue).expect("it is due").nack().unwrap();
        sim.disk.set_now(Timestamp(NOW));
        sim.disk.advance(MINUTE - SECOND);
        assert!(take(&queue).is_none(), "{by}: early");
        sim.disk.advance(SECOND);
        assert!(take(&queue).is_some(), "{by}: late");
    }
}

#[test]
fn an_age_goes_on_evenly() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let age = || queue.oldest_age().unwrap().unwrap();
    queue.send("work").unwrap();
    sim.disk.set_now(Timestamp(NOW + YEAR_MS));
    sim.disk.advance(MINUTE);
    assert_eq!(age(), MINUTE);
    take(&queue).unwrap().ack().unwrap();
    queue.send("work").unwrap();
    sim.disk.set_now(Timestamp(NOW));
    sim.disk.advance(MINUTE);
    assert_eq!(age(), MINUTE, "sent after the clock was set");
}

#[test]
fn spilled_messages_follow_the_clock_as_others_do() {
    for by in [-(HOUR_MS as i64), HOUR_MS as i64] {
        let disk = SimDisk::new(7);
        disk.set_now(Timestamp(NOW));
        let engine = Options::new().sim(&disk).delayed_in_memory(4).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        for n in 0..40 {
            queue.send(at(NOW + (10 + n) * HOUR_MS)).unwrap();
            queue.send(after(Duration::from_millis((10 + n) * HOUR_MS))).unwrap();
        }
        disk.set_now(Timestamp(NOW.checked_add_signed(by).unwrap()));
        let shift = by / HOUR_MS as i64;
        for hour in 1..=51 {
            disk.advance(HOUR);
            let mut expected = Vec::new();
            if (10..50).contains(&(hour + shift)) {
                expected.push("at");
            }
            if (10..50).contains(&hour) {
                expected.push("after");
            }
            let mut came = drain(&queue);
            came.sort_unstable();
            expected.sort_unstable();
            assert_eq!(came, expected, "{by}: after {hour} hours");
        }
        assert_eq!(queue.depth().unwrap(), 0);
    }
}

#[test]
fn a_due_time_is_shown_as_a_time_of_day() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    sim.disk.set_now(Timestamp(NOW + YEAR_MS));
    queue.send(after(HOUR)).unwrap();
    queue.send(at(NOW + YEAR_MS + HOUR_MS)).unwrap();
    let due = || queue.browse().unwrap().map(|it| it.unwrap().due().unwrap()).collect::<Vec<_>>();
    assert_eq!(due(), [Timestamp(NOW + YEAR_MS + HOUR_MS); 2]);
}

/// The clock was ahead for a moment. What had come due by it, and was not received, came at once.
#[test]
fn what_a_wrong_clock_brought_waits_again_once_it_is_set_back() {
    for more in [0, 300] {
        for priority in [0, 5] {
            let sim = Sim::new();
            let queue = sim.engine.queue("q").create().unwrap();
            for n in 0..=more {
                queue.send(at(NOW + HOUR_MS + n).priority(priority)).unwrap();
            }
            queue.send(at(NOW + 1000)).unwrap();
            queue.send(after(SECOND)).unwrap();
            queue.send("now").unwrap();
            sim.disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
            sim.disk.advance(SECOND);
            assert!(queue.stats().unwrap().ready > 3);
            sim.disk.set_now(Timestamp(NOW + SECOND.as_millis() as u64));
            let mut got = drain(&queue);
            got.sort();
            assert_eq!(got, ["after", "at", "now"], "{more}, {priority}");
            let stats = queue.stats().unwrap();
            assert_eq!((stats.ready, stats.delayed), (0, more + 1));
            assert!(queue.browse().unwrap().all(|it| it.unwrap().due().is_some()));
            sim.disk.advance(HOUR - 2 * SECOND);
            assert!(drain(&queue).is_empty());
            sim.disk.advance(2 * SECOND);
            assert_eq!(drain(&queue).len() as u64, more + 1);
        }
    }
}

/// An engine was open for hours, and committed nothing. Then the machine went off, and its clock was behind.
#[test]
fn a_close_records_the_time_of_an_engine_that_has_only_looked() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(10 * HOUR).create().unwrap();
    queue.send("work").unwrap();
    drop(queue);
    sim.engine.close().unwrap();
    sim.engine = open(&sim.disk).unwrap();
    sim.disk.advance(9 * HOUR);
    sim.engine.close().unwrap();
    sim.disk.power_cut();
    sim.disk.set_now(Timestamp(NOW));
    sim.engine = open(&sim.disk).unwrap();
    let queue = sim.engine.queue("q").open().unwrap();
    sim.disk.advance(HOUR - MINUTE);
    assert_eq!(queue.depth().unwrap(), 1);
    sim.disk.advance(2 * MINUTE);
    assert!(take(&queue).is_none());
}

/// A queue on a disk whose calls can fail, with a message for a time of day. The clock is ahead, and the message is due by it.
fn due_by_a_wrong_clock(attempts: Option<u32>, priority: u8) -> (SimDisk, Engine, Queue) {
    let disk = SimDisk::new(1);
    disk.set_now(Timestamp(NOW));
    let calls = posthouse::IoMode::Calls;
    let open = || crate::model::small_options().io(calls).sim(&disk).open("store").unwrap();
    let engine = open();
    let queue = engine.queue("q");
    let queue = match attempts {
        Some(most) => queue.max_attempts(most).create().unwrap(),
        None => queue.create().unwrap(),
    };
    queue.send(at(NOW + HOUR_MS).priority(priority)).unwrap();
    let others = engine.queue("others").create().unwrap();
    (0..3).for_each(|_| _ = others.send(vec![7; 1200]).unwrap());
    engine.checkpoint().unwrap();
    drop((queue, others));
    engine.close().unwrap();
    // Its segment is not open from here on.
    let engine = open();
    let queue = engine.queue("q").open().unwrap();
    disk.set_now(Timestamp(NOW + 2 * HOUR_MS));
    // It brings what is due, and reads nothing.
    assert_eq!(queue.depth().unwrap(), 1);
    (disk, engine, queue)
}

/// The clock is right again: the message waits until its time.
fn assert_waits_again(disk: &SimDisk, queue: &Queue, what: &str) {
    disk.set_now(Timestamp(NOW));
    assert!(take(queue).is_none(), "{what}");
    let stats = queue.stats().unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.in_flight), (0, 1, 0), "{what}");
    disk.advance(HOUR);
    assert_eq!(take(queue).expect("its time has come").attempt(), 1, "{what}");
}

/// A read or a write failed, so no consumer had the message. It was among the fresh or the released ones then, and came early.
#[test]
fn what_could_not_be_received_waits_again_once_the_clock_is_set_back() {
    for (attempts, priority, in_batch) in [
        (None, 0, false),
        (None, 5, false),
        (None, 0, true),
        (Some(3), 0, false),
        (Some(3), 5, false),
    ] {
        let mut failures = Vec::new();
        for (failed, error) in (0..8).flat_map(|failed| [(failed, EIO), (failed, EMFILE)]) {
            let (disk, _engine, queue) = due_by_a_wrong_clock(attempts, priority);
            disk.fail_call(disk.calls() + failed, error, true);
            let received = posthouse::sim::still(|| match in_batch {
                true => queue.receive_batch(2, Duration::ZERO).map(drop),
                false => queue.try_receive().map(drop),
            });
            let call = disk.failed_call().filter(|_| received.is_err());
            disk.heal();
            let Some(call) = call else { continue };
            failures.push(call);
            let what = format!("{attempts:?} {priority} {in_batch} {failed}");
            assert_waits_again(&disk, &queue, &what);
        }
        assert!(failures.contains(&"read"), "{failures:?}");
        assert_eq!(attempts.is_some(), failures.contains(&"write"), "{failures:?}");
    }
}

/// Nobody has looked into it, or the consumer gave it back at once.
#[test]
fn what_was_received_in_vain_waits_again_once_the_clock_is_set_back() {
    for (attempts, priority) in [(None, 0), (Some(3), 0), (None, 5), (Some(3), 5)] {
        let back_before = |disk: &SimDisk| disk.set_now(Timestamp(NOW));
        for before in [false, true] {
            let (disk, _engine, queue) = due_by_a_wrong_clock(attempts, priority);
            let batch = queue.receive_batch(2, Duration::ZERO).unwrap();
            if before {
                back_before(&disk);
                queue.stats().unwrap();
            }
            assert_eq!(batch.len(), 1);
            drop(batch);
            assert_waits_again(&disk, &queue, &format!("batch {attempts:?} {priority} {before}"));
            let (disk, _engine, queue) = due_by_a_wrong_clock(None, priority);
            let delivery = take(&queue).unwrap();
            if before {
                back_before(&disk);
                queue.stats().unwrap();
            }
            delivery.release().unwrap();
            drop(delivery);
            assert_waits_again(&disk, &queue, &format!("released {priority} {before}"));
        }
    }
}

/// What had come due by a wrong clock was moved without its time of day.
#[test]
fn what_a_wrong_clock_brought_waits_again_also_after_it_was_moved() {
    for (priority, is_received, stays) in
        [(0, false, false), (0, true, false), (5, false, false), (0, false, true)]
    {
        let (disk, engine, queue) = due_by_a_wrong_clock(None, priority);
        let other = engine.queue("other").create().unwrap();
        assert_eq!(queue.redrive().to(&other).run().unwrap().moved, 1);
        if is_received {
            take(&other).expect("it is due at once").release().unwrap();
        }
        if stays {
            assert_eq!(take(&other).expect("it is due at once").payload(), b"at");
            continue;
        }
        assert_waits_again(&disk, &other, &format!("{priority} {is_received}"));
    }
}

/// The times of day that have passed are in the memory of the queue that gets the messages, so a redrive keeps few of them.
#[test]
fn a_redrive_keeps_a_bounded_number_of_times_that_have_passed() {
    let disk = SimDisk::new(1);
    disk.set_now(Timestamp(NOW));
    let engine = Options::new().delayed_in_memory(16).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let at = |n: u64| Message::new("at").deliver_at(Timestamp(NOW + 60_000 + n));
    // Others do not count.
    (0..300).for_each(|_| _ = queue.send("at once").unwrap());
    (0..1000).for_each(|n| _ = queue.send(at(n)).unwrap());
    disk.set_now(Timestamp(NOW + 3_600_000));
    let other = engine.queue("other").create().unwrap();
    // Many redrives keep no more than one.
    while queue.redrive().to(&other).most(300).run().unwrap().moved > 0 {}
    disk.set_now(Timestamp(NOW));
    let stats = other.stats().unwrap();
    assert_eq!((stats.depth, queue.depth().unwrap()), (1300, 0));
    assert!((1..=2 * 16).contains(&stats.delayed), "{stats:?}");
}

/// A queue that is ordered by key delays nothing.
#[test]
fn what_has_come_due_moves_to_an_ordered_queue_for_good() {
    let (disk, engine, queue) = due_by_a_wrong_clock(None, 0);
    let other = engine.queue("other").ordered_by_key(true).create().unwrap();
    assert_eq!(queue.redrive().to(&other).run().unwrap().moved, 1);
    disk.set_now(Timestamp(NOW));
    assert_eq!(take(&other).expect("it is due at once").payload(), b"at");
}

/// They are due again, in front of the others.
#[test]
fn due_messages_that_are_given_back_keep_their_order() {
    for priority in [0, 3] {
        let sim = Sim::new();
        sim.disk.set_now(Timestamp(NOW));
        let queue = sim.engine.queue("q").create().unwrap();
        let send = |n: u64| {
            let message = Message::new(n.to_string()).deliver_at(Timestamp(NOW + 1000 * n));
            queue.send(message.priority(priority)).unwrap();
        };
        (1..=5).for_each(send);
        sim.disk.advance(5 * SECOND);
        let batch = queue.receive_batch(3, Duration::ZERO).unwrap();
        drop(batch);
        assert_eq!(drain(&queue), ["1", "2", "3", "4", "5"]);
    }
}
