//! Words of errors that say what to do, as a newcomer meets them.

use posthouse::{ErrorKind, Message, Offset, Position, Start};

use crate::support::{Sim, field};

fn words<T: std::fmt::Debug>(result: posthouse::Result<T>) -> String {
    result.unwrap_err().to_string()
}

fn says<T: std::fmt::Debug>(result: posthouse::Result<T>, what: &[&str]) {
    let words = words(result);
    assert!(what.iter().all(|it| words.contains(it)), "{words}");
}

#[test]
fn errors_of_streams_name_the_stream_and_the_partition() {
    let Sim { engine, .. } = Sim::new();
    let stream = engine.stream("prices").partitions(3).create().unwrap();
    let partition = stream.partition(1).unwrap();
    for n in 0..4 {
        partition.append_if(Offset(n), "tea").unwrap();
    }
    partition.trim_before(Offset(2)).unwrap();
    let what = ["stream \"prices\", partition 1: offset 1 was trimmed", "the earliest is 2"];
    says(partition.reader(Start::Offset(Offset(1))), &what);
    says(stream.reader_at([Position { partition: 1, offset: Offset(1) }]), &what);
    let of_one = partition.reader(Start::Earliest).unwrap();
    let elsewhere = of_one.until([Position { partition: 2, offset: Offset(1) }]);
    says(elsewhere, &["the reader reads partition 1 only, and not 2"]);
    let other = engine.stream("prices").partitions(4).create();
    says(
        other,
        &[
            "another number of partitions: it is 3 there, and 4 here. Leave out partitions(), or call open()",
        ],
    );

    // A transaction compares with the ends before its own records.
    let mut tx = engine.transaction();
    tx.append_if(&partition, Offset(4), "milk").append_if(&partition, Offset(6), "milk");
    assert_eq!(field(tx.commit()), "expected_end");
    let mut tx = engine.transaction();
    tx.append_if(&partition, Offset(5), "milk").append_if(&partition, Offset(6), "milk");
    let error = tx.commit().unwrap_err();
    let expected = ErrorKind::Conflict { partition: 1, expected: Offset(5), actual: Offset(4) };
    assert_eq!(error.kind(), expected);
    says::<()>(
        Err(error),
        &["ends at 4, and 5 was expected", "before the transaction's own records"],
    );
    assert_eq!(stream.partition_of_key("tea"), posthouse::partition_of(b"tea", 3));
}

#[test]
fn errors_of_names_say_whose_they_are() {
    let Sim { engine, .. } = Sim::new();
    let topic = engine.topic("news").create().unwrap();
    says(topic.subscription("mail").open(), &["no subscription named \"mail\" of \"news\""]);
    says(topic.subscription("mail").delete(), &["of \"news\""]);
    let stream = engine.stream("prices").create().unwrap();
    says(stream.group("bill").open(), &["no group named \"bill\" of \"prices\": create()"]);
    says(engine.queue("mail").open(), &["there is no queue named \"mail\": create()"]);

    // The user has named no queue for dead letters.
    let long = "q".repeat(253);
    let refused = engine.queue(&long).max_attempts(3).create();
    assert_eq!(field(refused), "dead_letter_queue");
    let refused = engine.queue(&long).max_attempts(3).create();
    says(refused, &["the dead letters of queue \"qq", "258 bytes", "dead_letter_queue()"]);
    let named = engine.queue(&long).max_attempts(3).dead_letter_queue("dead");
    named.create().unwrap();
    let refused = topic.subscription(&long).max_attempts(3).create();
    says(refused, &["the dead letters of subscription \"qq", "263 bytes"]);
}

#[test]
fn errors_of_priorities_say_who_has_none() {
    let Sim { engine, .. } = Sim::new();
    let urgent = || Message::new("x").priority(3);
    let ordered = engine.queue("q").ordered_by_key(true).create().unwrap();
    says(ordered.send(urgent()), &["the queue is ordered by key"]);
    says(
        engine.topic("t").create().unwrap().publish(urgent()),
        &["messages of topics and streams"],
    );
    says(
        engine.stream("s").create().unwrap().append(urgent()),
        &["messages of topics and streams"],
    );
}

/// The delivery was settled by the transaction, and no lease was too short.
#[test]
fn a_second_ack_is_told_of_the_first_one() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    queue.send("x").unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    let mut tx = engine.transaction();
    tx.ack(&delivery);
    tx.commit().unwrap();
    let words = words(delivery.ack());
    let settled = words.find("settled before, by a transaction").unwrap_or(usize::MAX);
    assert!(words.find("its lease has run out").is_some_and(|it| settled < it), "{words}");
}

#[test]
fn a_letter_names_its_topic_and_its_subscription() {
    let Sim { engine, .. } = Sim::new();
    let topic = engine.topic("news/eu").create().unwrap();
    let mail = topic.subscription("mail/1").max_attempts(1).dead_letter_queue("dead");
    let mail = mail.create().unwrap();
    let queue = engine.queue("q/7").max_attempts(1).dead_letter_queue("dead").create().unwrap();
    topic.publish("x").unwrap();
    queue.send("y").unwrap();
    mail.try_receive().unwrap().unwrap().reject("no").unwrap();
    queue.try_receive().unwrap().unwrap().reject("no").unwrap();
    let letters = engine.queue("dead").open().unwrap().browse().unwrap();
    let names = letters.map(|it| {
        let death = it.unwrap().dead_letter().unwrap().unwrap();
        (death.topic().map(str::to_owned), death.subscription().map(str::to_owned))
    });
    let of_mail = (Some("news/eu".to_owned()), Some("mail/1".to_owned()));
    assert_eq!(names.collect::<Vec<_>>(), [of_mail, (None, None)]);
}

/// After a close messages may be in the journal only, and the reserve for a full disk is there.
#[test]
fn a_report_counts_records_in_the_journal_and_lists_no_reserve() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch((0..7).map(|n| n.to_string())).unwrap();
    assert_eq!(engine.verify().unwrap().read.journal_records, 7);
    engine.close().unwrap();
    assert!(disk.files().iter().any(|it| it.ends_with("reserve.new")), "{:?}", disk.files());
    let report = crate::model::small_options().sim(&disk).verify("store").unwrap();
    assert_eq!((report.read.journal_records, report.read.records), (7, 0));
    assert!(report.to_string().contains("7 records in "), "{report}");
    assert!(!report.to_string().contains("reserve"), "{report}");
}
