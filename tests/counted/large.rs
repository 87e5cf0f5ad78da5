//! What a large message costs: memory beside the message, and bytes written.

use posthouse::{Durability, Engine, IoMode, Options, Start, sim::SimDisk};

use super::heap::peak_of;

const LARGE: usize = 16 << 20;
/// What else a call may take on the heap.
const REST: usize = 512 << 10;

fn open(dir: &std::path::Path, io: IoMode) -> Engine {
    Options::new().durability(Durability::Buffered).io(io).open(dir.join("store")).unwrap()
}

/// The peaks of one message's way, in bytes beside what was there before.
#[derive(Debug)]
struct Peaks {
    send: usize,
    checkpoint: usize,
    receive: usize,
}

fn peaks(io: IoMode) -> Peaks {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), io);
    let queue = engine.queue("q").create().unwrap();
    let message = vec![7_u8; LARGE];
    let (send, _) = peak_of(|| queue.send(message).unwrap());
    let (checkpoint, ()) = peak_of(|| engine.checkpoint().unwrap());
    let (receive, ()) = peak_of(|| {
        let delivery = queue.try_receive().unwrap().unwrap();
        assert_eq!(delivery.payload().len(), LARGE);
        assert!(delivery.payload().iter().all(|byte| *byte == 7));
        delivery.ack().unwrap();
    });
    Peaks { send, checkpoint, receive }
}

#[test]
fn a_large_message_takes_twice_its_size_in_memory_at_most() {
    alone!();
    // The message that is sent is there before the call. It is encoded once.
    let map = peaks(IoMode::Map);
    assert!(map.send <= LARGE + REST, "{map:?}");
    // It goes from the journal's map into the segment, and from the segment's map to the consumer.
    assert!(map.checkpoint <= REST && map.receive <= REST, "{map:?}");
    // Without maps, what is read is on the heap, once.
    let calls = peaks(IoMode::Calls);
    for peak in [calls.send, calls.checkpoint, calls.receive] {
        assert!(peak <= LARGE + REST, "{calls:?}");
    }
}

#[test]
fn large_records_of_streams_transactions_and_tasks_are_encoded_once() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), IoMode::Map);
    let (stream, queue) =
        (engine.stream("s").create().unwrap(), engine.queue("q").create().unwrap());
    let topic = engine.topic("t").create().unwrap();
    topic.subscription("s").create().unwrap();
    let message = || vec![7_u8; LARGE];
    let payload = message();
    let (append, _) = peak_of(|| stream.append(&*payload).unwrap());
    let (publish, _) = peak_of(|| topic.publish(&*payload).unwrap());
    drop(payload);
    let mut tx = engine.transaction();
    tx.send(&queue, message());
    let (commit, _) = peak_of(|| tx.commit().unwrap());
    let batch = vec![message(), b"small".to_vec()];
    let (batched, _) = peak_of(|| stream.append_batch(batch).unwrap());
    for peak in [append, publish, commit, batched] {
        assert!(peak <= LARGE + REST, "{append} {publish} {commit} {batched}");
    }
    let read: Vec<usize> =
        stream.reader(Start::Earliest).unwrap().map(|it| it.unwrap().payload().len()).collect();
    assert_eq!(read, [LARGE, LARGE, 5]);
    assert_eq!(queue.try_receive().unwrap().unwrap().payload().len(), LARGE);
}

#[test]
fn a_large_message_is_written_to_the_journal_once_and_to_a_segment_once() {
    let disk = SimDisk::new(1);
    let options = Options::new().durability(Durability::Buffered).io(IoMode::Map);
    let engine = options.sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    // The first one makes the reserve for a full disk as large as two such messages need.
    queue.send(vec![7_u8; LARGE]).unwrap();
    engine.checkpoint().unwrap();
    queue.try_receive().unwrap().unwrap().ack().unwrap();
    engine.checkpoint().unwrap();
    let (journal, segments) = (disk.bytes_written("journal"), disk.bytes_written("segments"));
    queue.send(vec![8_u8; LARGE]).unwrap();
    engine.checkpoint().unwrap();
    let journal = disk.bytes_written("journal") - journal;
    let segments = disk.bytes_written("segments") - segments;
    // One and a half times its size are the zeros with which its journal file is filled before it is used.
    assert!(journal < LARGE as u64 * 13 / 5, "{journal}");
    assert!(segments < LARGE as u64 + (8 << 10), "{segments}");
    let delivery = queue.try_receive().unwrap().unwrap();
    assert!(delivery.payload().len() == LARGE && delivery.payload().iter().all(|it| *it == 8));
}
