//! The content of a message, and its size limits.

use std::time::Duration;

use posthouse::{ErrorKind, Message, Offset, Options, Start, Timestamp};

use crate::support::{everywhere, kind, real};

#[test]
fn a_message_comes_as_it_was_sent() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").create().unwrap();
        let message = Message::new(&[0, 255, 10])
            .key("key")
            .header("a", "1")
            .header("b", vec![])
            .header("a", "2")
            .timestamp(Timestamp(5));
        for round in 0..3 {
            queue.send(&message).unwrap();
            queue.send("").unwrap();
            let got = queue.try_receive().unwrap().unwrap();
            assert_eq!(got.payload(), [0, 255, 10]);
            assert_eq!(got.key(), Some(&b"key"[..]));
            let headers: Vec<_> = got.headers().collect();
            assert_eq!(headers, [("a", &b"1"[..]), ("b", b""), ("a", b"2")]);
            assert_eq!(got.header("a"), Some(&b"1"[..]));
            assert_eq!(got.header("c"), None);
            assert_eq!(got.timestamp(), Timestamp(5));
            assert_eq!(got.offset(), Offset(2 * round));
            got.ack().unwrap();
            let empty = queue.try_receive().unwrap().unwrap();
            assert_eq!((empty.payload(), empty.key()), (&b""[..], None));
            assert!(empty.headers().next().is_none());
            empty.ack().unwrap();
            assert_eq!(queue.oldest_age().unwrap(), None);
            engine.checkpoint().unwrap();
        }
    });
}

#[test]
fn messages_of_any_size_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().message_bytes_max(3 << 20).commit_bytes_max(8 << 20);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let payload = |bytes: usize| -> Vec<u8> { (0..bytes).map(|n| (n % 251) as u8).collect() };
    let sizes = [0, 1, 127, 128, 4096, 65_536, 262_144, 1 << 20, 3 << 20];
    for bytes in sizes {
        queue.send(payload(bytes)).unwrap();
    }
    let too_large = payload((3 << 20) + 1);
    assert_eq!(kind(queue.send(&too_large)), ErrorKind::TooLarge);
    let with_key = Message::new(&too_large[1..]).key("k");
    assert_eq!(kind(queue.send(with_key)), ErrorKind::TooLarge);
    let three = std::iter::repeat_n(&too_large[1..], 3);
    assert_eq!(kind(queue.send_batch(three)), ErrorKind::TooLarge);
    assert_eq!(queue.depth().unwrap(), sizes.len() as u64, "nothing of it was sent");
    engine.checkpoint().unwrap();
    for bytes in sizes {
        let got = queue.try_receive().unwrap().unwrap();
        assert_eq!(got.payload(), payload(bytes));
        got.ack().unwrap();
    }
}

#[test]
fn a_delivered_message_can_be_sent_on() {
    let (engine, _dir) = real();
    let (from, to) = (engine.queue("a").create().unwrap(), engine.queue("b").create().unwrap());
    let stream = engine.stream("s").create().unwrap();
    from.send(Message::new("x").key("k").header("h", "1").timestamp(Timestamp(7))).unwrap();
    let delivery = from.try_receive().unwrap().unwrap();
    stream.append(&delivery).unwrap();
    delivery.ack().unwrap();
    for again in [delivery.ack(), delivery.nack(), delivery.extend(Duration::from_secs(1))] {
        let error = again.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
        assert_eq!(error.to_string(), "this delivery was already acked or nacked");
    }
    let mut reader = stream.reader(Start::Earliest).unwrap();
    to.send(&reader.try_read().unwrap().unwrap()).unwrap();
    to.send(&stream.reader(Start::Earliest).unwrap().next().unwrap().unwrap()).unwrap();
    for _ in 0..2 {
        let arrived = to.try_receive().unwrap().unwrap();
        assert_eq!((arrived.payload(), arrived.key()), (&b"x"[..], Some(&b"k"[..])));
        assert_eq!(arrived.header("h"), Some(&b"1"[..]));
        assert_ne!(arrived.timestamp(), Timestamp(7), "it bears the time of its own commit");
        arrived.ack().unwrap();
    }
}
