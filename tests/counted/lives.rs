//! The work of letting go of what has expired: its memory, its holds of the core, and what it reads.

use std::time::Duration;

use posthouse::{
    Backoff, Durability, Engine, IoMode, Message, Options, Queue,
    sim::{SimDisk, take_longest_holds, take_steps},
};

use super::heap::peak_of;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn open(options: Options) -> (SimDisk, Engine) {
    let disk = SimDisk::new(9);
    let options = options.durability(Durability::Buffered).io(IoMode::Calls);
    let engine = options.sim(&disk).open("store").unwrap();
    (disk, engine)
}

#[test]
fn a_look_holds_few_bytes_of_messages_in_memory_however_large_they_are() {
    alone!();
    for (in_segments, at_once) in [(true, 1), (false, 1), (false, 8)] {
        let (disk, engine) = open(Options::new().journal_bytes(1 << 30));
        let queue = engine.queue("q").time_to_live(SECOND).create().unwrap();
        for _ in 0..64 / at_once {
            queue.send_batch((0..at_once).map(|_| vec![7; 500 << 10])).unwrap();
        }
        if in_segments {
            engine.checkpoint().unwrap();
        }
        disk.advance(SECOND);
        let (peak, stats) = peak_of(|| queue.stats().unwrap());
        assert_eq!((stats.depth, stats.expired), (0, 64));
        assert!(peak < 5 << 20, "{in_segments}, {at_once}: {peak} bytes in memory");
    }
}

/// A queue of expired messages, all of them on lease.
fn all_on_lease(count: usize) -> (SimDisk, Engine, Queue) {
    let (disk, engine) = open(Options::new());
    let queue = engine.queue("q").time_to_live(SECOND).lease(HOUR).backoff(Backoff::None);
    let queue = queue.create().unwrap();
    for _ in 0..count / 1000 {
        queue.send_batch((0..1000).map(|_| "work")).unwrap();
    }
    for _ in 0..count / 1000 {
        let leased = queue.receive_batch(1000, Duration::ZERO).unwrap();
        assert_eq!(leased.len(), 1000);
        leased.iter().for_each(|it| assert_eq!(it.payload(), b"work"));
        std::mem::forget(leased);
    }
    engine.checkpoint().unwrap();
    disk.advance(SECOND);
    (disk, engine, queue)
}

#[test]
fn expired_messages_on_lease_are_looked_at_once_their_leases_have_ended() {
    let measure = |count: usize| {
        let (disk, engine, queue) = all_on_lease(count);
        // One message more keeps commits coming.
        let look = || {
            let read = disk.bytes_read();
            queue.send(Message::new("brief").expire_after(MINUTE)).unwrap();
            disk.advance(SECOND);
            let _ = (take_longest_holds(), take_steps());
            engine.checkpoint().unwrap();
            let longest = take_longest_holds().get("drop expired messages").copied();
            (longest.unwrap_or(0), take_steps(), disk.bytes_read() - read)
        };
        let (longest, first, _) = look();
        let again = (0..5).map(|_| look().1).max().unwrap();
        let (_, _, read) = look();
        assert_eq!(queue.stats().unwrap().in_flight, count as u64);
        assert!(read < 50_000, "{read} bytes were read again");
        disk.advance(HOUR);
        let _ = take_longest_holds();
        let stats = queue.stats().unwrap();
        engine.checkpoint().unwrap();
        assert_eq!((queue.depth().unwrap(), stats.in_flight), (0, 0));
        let longest = longest.max(take_longest_holds()["drop expired messages"]);
        (longest, first, again)
    };
    let (few, many) = (measure(2_000), measure(20_000));
    assert!(many.0 < few.0 + 500 && many.0 < 4000, "a hold is long: {few:?}, {many:?}");
    assert!(many.1 < 12 * few.1, "the work is not linear: {few:?}, {many:?}");
    assert!(many.2 < few.2 + 2_000, "it is done again and again: {few:?}, {many:?}");
}

/// A queue of which each chunk of messages was looked at.
fn looked_at(thousands: usize) -> (SimDisk, Engine, Queue) {
    let (disk, engine) = open(Options::new().journal_bytes(1 << 30));
    let queue = engine.queue("q").create().unwrap();
    for _ in 0..thousands {
        queue.send(Message::new("brief").expire_after(MINUTE)).unwrap();
        queue.send_batch((0..1000).map(|_| Message::new("long").expire_after(HOUR))).unwrap();
    }
    disk.advance(MINUTE);
    engine.checkpoint().unwrap();
    assert_eq!(queue.stats().unwrap().expired, thousands as u64);
    (disk, engine, queue)
}

#[test]
fn what_is_known_of_the_lives_of_many_messages_is_forgotten_in_short_holds() {
    type Act = fn(&SimDisk, &Engine, Queue);
    let acts: [(&str, Act); 3] = [
        ("the time to live has changed", |_, engine, _| {
            engine.queue("q").time_to_live(2 * HOUR).create_or_update().unwrap();
            engine.checkpoint().unwrap();
        }),
        ("they are gone", |disk, engine, queue| {
            queue.purge().unwrap();
            disk.advance(HOUR);
            engine.checkpoint().unwrap();
            queue.send(Message::new("brief").expire_after(MINUTE)).unwrap();
            disk.advance(MINUTE);
            engine.checkpoint().unwrap();
        }),
        ("the queue is deleted", |_, engine, _| engine.queue("q").delete().unwrap()),
    ];
    for (what, act) in acts {
        let measure = |thousands: usize| {
            let (disk, engine, queue) = looked_at(thousands);
            let _ = take_longest_holds();
            act(&disk, &engine, queue);
            let holds = take_longest_holds();
            let of = |operation: &str| holds.get(operation).copied().unwrap_or(0);
            ["drop expired messages", "delete", "create"].into_iter().map(of).max().unwrap()
        };
        let (few, many) = (measure(8), measure(80));
        assert!(many < few + 300 && many < 2500, "{what}: {few} steps, and {many} of many");
    }
}
