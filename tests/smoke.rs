use posthouse::{sim::SimDisk, *};
use std::time::Duration;

fn exercise(open: &dyn Fn() -> Engine, crash: &dyn Fn()) {
    let engine = open();
    let q = engine.queue("q").create().unwrap();
    for n in 0..100 {
        q.send(format!("m{n}")).unwrap();
    }
    assert_eq!(q.depth().unwrap(), 100);
    let d = q.try_receive().unwrap().unwrap();
    assert_eq!(d.payload(), b"m0");
    d.ack().unwrap();
    let s = engine.stream("s").partitions(4).create().unwrap();
    for n in 0..100 {
        s.append(Message::new(format!("e{n}")).key(format!("k{}", n % 7))).unwrap();
    }
    let t = engine.topic("t").create().unwrap();
    let a = t.subscription("a").create().unwrap();
    let b = t.subscription("b").create().unwrap();
    for n in 0..10 {
        t.publish(format!("p{n}")).unwrap();
    }
    crash();
    drop((q, s, t, a, b, d));
    drop(engine);
    let engine = open();
    let q = engine.queue("q").open().unwrap();
    assert_eq!(q.depth().unwrap(), 99);
    engine.checkpoint().unwrap();
    let d = q.receive(Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!(d.payload(), b"m1");
    d.ack().unwrap();
    let s = engine.stream("s").open().unwrap();
    let mut n = 0;
    for r in s.reader(Start::Earliest).unwrap() {
        r.unwrap();
        n += 1;
    }
    assert_eq!(n, 100);
    crash();
    drop((q, s, d));
    drop(engine);
    let engine = open();
    let q = engine.queue("q").open().unwrap();
    assert_eq!(q.depth().unwrap(), 98);
    let mut seen = 2;
    while let Some(d) = q.try_receive().unwrap() {
        assert_eq!(d.payload(), format!("m{seen}").as_bytes());
        d.ack().unwrap();
        seen += 1;
    }
    assert_eq!(seen, 100);
    let a = engine.topic("t").open().unwrap().subscription("a").open().unwrap();
    assert_eq!(a.depth().unwrap(), 10);
}

#[test]
fn real() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    exercise(&|| Engine::open(&path).unwrap(), &|| {});
}
#[test]
fn simulated() {
    let disk = SimDisk::new(1);
    exercise(&|| Options::new().sim(&disk).open("store").unwrap(), &|| disk.power_cut());
}
