//! Request and reply over queues: each caller has a queue for its replies, which it makes and deletes. A request is answered
//! once, also over crashes: its ack and its reply are one commit. `cargo run --release --example request_reply`.

use std::{error::Error, path::Path, thread, time::Duration};

use posthouse::{Delivery, Engine, ErrorKind, Message, Queue, Worker};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CALLERS: u32 = 4;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    println!("{} replies have come", run(&dir.path().join("prices.posthouse"))?);
    Ok(())
}

pub fn run(dir: &Path) -> Result<usize> {
    let engine = Engine::open(dir)?;
    let requests = engine.queue("prices").max_attempts(5).create()?;
    let service = serve(&engine, &requests)?;
    let replies = thread::scope(|scope| {
        let (engine, requests) = (&engine, &requests);
        let begin = |caller| scope.spawn(move || call(engine, requests, caller));
        let callers: Vec<_> = (0..CALLERS).map(begin).collect();
        callers.into_iter().map(|it| it.join().expect("no caller panics")).sum::<Result<usize>>()
    })?;
    service.stop()?;
    engine.close()?;
    Ok(replies)
}

/// Asks for prices, each of them under an id, and waits for the replies.
fn call(engine: &Engine, requests: &Queue, caller: u32) -> Result<usize> {
    // The name is that of this caller only. What it does not fetch goes after a minute.
    let name = format!("replies.{caller}");
    let replies = engine.queue(&name).time_to_live(Duration::from_secs(60)).create()?;
    let mut open: Vec<String> = (0..25).map(|n| format!("{caller}-{n}")).collect();
    for id in &open {
        let request = Message::new("tea").header("id", id).header("reply_to", replies.name());
        requests.send(request.expire_after(Duration::from_secs(60)))?;
    }
    let asked = open.len();
    while !open.is_empty() {
        let reply =
            replies.receive(Duration::from_secs(60))?.ok_or("the service does not answer")?;
        let id = std::str::from_utf8(reply.header("id").ok_or("a reply without an id")?)?;
        open.retain(|it| it != id);
        reply.ack()?;
    }
    engine.queue(&name).delete()?; // a reply that comes later finds no queue
    Ok(asked)
}

fn serve(engine: &Engine, requests: &Queue) -> Result<Worker> {
    let engine = engine.clone();
    Ok(requests.worker().concurrency(2).start(move |request| answer(&engine, request))?)
}

/// The reply and the ack are one commit. A request whose caller is gone is acked by the worker.
fn answer(engine: &Engine, request: &Delivery) -> posthouse::Result<()> {
    let Some(Ok(name)) = request.header("reply_to").map(std::str::from_utf8) else { return Ok(()) };
    let replies = match engine.queue(name).open() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let reply = Message::new("3").header("id", request.header("id").unwrap_or_default());
    let mut tx = engine.transaction();
    tx.ack(request).send(&replies, reply);
    tx.commit().map(drop)
}
