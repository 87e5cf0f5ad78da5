//! NATS JetStream, over loopback: context, since each operation is a round trip to a server.
//!
//! A stream in files and a pull consumer with explicit acks. It acknowledges before it syncs, by
//! default every two minutes, so it has no Sync form here. The protocol is spoken by hand: it is
//! text, and a client library would bring a runtime along.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::Arc,
};

use super::server::{Server, installed};
use crate::{
    payload::Payloads,
    side::{Durability, Job, Kind, Offer, Replay, Result, Seen, Side, Store, Taker, Writer},
};

/// NATS JetStream.
pub struct Nats;

const PROGRAM: &str = "nats-server";
/// How many messages a replay asks for at a time.
const PULL: u64 = 1000;

impl Side for Nats {
    fn name(&self) -> &'static str {
        "NATS JetStream"
    }

    fn kind(&self) -> Kind {
        Kind::Server
    }

    fn offer(&self, job: Job) -> Offer {
        if installed(PROGRAM).is_none() {
            return Err("nats-server is not installed");
        }
        match (job, job.durability()) {
            (Job::Transact(_), _) => Err("it has no transactions"),
            (_, Durability::Buffered) => Ok("server; synced each 2 minutes"),
            (_, Durability::Sync) => Err("it acknowledges before it syncs"),
        }
    }

    fn open(&self, dir: &Path, _job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let program = installed(PROGRAM).ok_or("nats-server is not installed")?;
        let server = Server::start(|port| {
            let mut command = Command::new(program);
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(dir);
            command
        })?;
        let mut connection = Connection::open(&server)?;
        let stream = r#"{"name":"S","subjects":["s"],"storage":"file","retention":"limits"}"#;
        connection.ask("$JS.API.STREAM.CREATE.S", stream.as_bytes())?;
        Ok(Box::new(Opened(Arc::new(server))))
    }
}

struct Opened(Arc<Server>);

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Connection::open(&self.0)?))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        let mut connection = Connection::open(&self.0)?;
        connection.consume("Q", "explicit")?;
        Ok(Box::new(connection))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Connection::open(&self.0)?))
    }
}

/// A message from the server: where an answer to it would go, and its body. No body with a status,
/// such as that there is nothing.
struct Message {
    reply: String,
    body: Option<Vec<u8>>,
}

struct Connection {
    reader: BufReader<TcpStream>,
    inbox: String,
    came: VecDeque<Message>,
}

impl Connection {
    fn open(server: &Server) -> Result<Connection> {
        let stream = server.connect()?;
        let port = stream.local_addr()?.port();
        let inbox = format!("_INBOX.{port}");
        let mut connection = Connection {
            reader: BufReader::with_capacity(1 << 16, stream),
            inbox,
            came: VecDeque::new(),
        };
        let mut hello = String::new();
        connection.reader.read_line(&mut hello)?;
        let options = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
        let inbox = connection.inbox.clone();
        connection.write(format!("CONNECT {options}\r\nSUB {inbox} 1\r\n").as_bytes())?;
        Ok(connection)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    fn frame(&self, subject: &str, body: &[u8], answered: bool) -> Vec<u8> {
        let inbox = if answered { self.inbox.as_str() } else { "" };
        let mut frame = format!("PUB {subject} {inbox} {}\r\n", body.len()).into_bytes();
        frame.extend_from_slice(body);
        frame.extend_from_slice(b"\r\n");
        frame
    }

    /// The next message that comes.
    fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.came.pop_front() {
                return Ok(message);
            }
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err("the server hung up".into());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["MSG", _, _, rest @ .., size] => {
                    let body = Some(self.body(size.parse()?)?);
                    let reply = rest.first().copied().unwrap_or_default().to_owned();
                    self.came.push_back(Message { reply, body });
                }
                ["HMSG", _, _, rest @ .., headers, size] => {
                    let bytes = self.body(size.parse()?)?;
                    // A line with a status and no body: there is nothing, or time ran out.
                    let status = bytes.get(8) == Some(&b' ');
                    let body = (!status).then(|| bytes[headers.parse().unwrap_or(0)..].to_vec());
                    let reply = rest.first().copied().unwrap_or_default().to_owned();
                    self.came.push_back(Message { reply, body });
                }
                ["PING"] => self.write(b"PONG\r\n")?,
                ["-ERR", what @ ..] => return Err(what.join(" ").into()),
                _ => {}
            }
        }
    }

    fn body(&mut self, size: usize) -> Result<Vec<u8>> {
        let mut body = vec![0; size + 2];
        self.reader.read_exact(&mut body)?;
        body.truncate(size);
        Ok(body)
    }

    fn ask(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>> {
        let frame = self.frame(subject, body, true);
        self.write(&frame)?;
        let body = self.next()?.body.ok_or("nobody answers")?;
        match body.windows(7).any(|it| it == b"\"error\"") {
            true => Err(String::from_utf8_lossy(&body).into_owned().into()),
            false => Ok(body),
        }
    }

    fn consume(&mut self, name: &str, acks: &str) -> Result<()> {
        let config = format!(
            r#"{{"stream_name":"S","config":{{"durable_name":"{name}","ack_policy":"{acks}","max_ack_pending":-1}}}}"#
        );
        self.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.S.{name}"), config.as_bytes())?;
        Ok(())
    }

    /// Asks for the next message of a queue: for one that is there, or with a wait.
    fn lease(&mut self, how: &str) -> Result<Option<Message>> {
        let frame = self.frame("$JS.API.CONSUMER.MSG.NEXT.S.Q", how.as_bytes(), true);
        self.write(&frame)?;
        let message = self.next()?;
        Ok(message.body.is_some().then_some(message))
    }

    fn ack(&mut self, message: &Message) -> Result<()> {
        // With an answer to it, as the others' acks return when they are done.
        let frame = self.frame(&message.reply, b"+ACK", true);
        self.write(&frame)?;
        self.next()?;
        Ok(())
    }
}

impl Writer for Connection {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.ask("s", payloads.next())?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        // It has no batches: so many publishes are under way at a time.
        for _ in 0..count {
            let mut frames = Vec::new();
            for _ in 0..size {
                frames.extend_from_slice(&self.frame("s", payloads.next(), true));
            }
            self.write(&frames)?;
            for _ in 0..size {
                self.next()?;
            }
        }
        Ok(())
    }
}

impl Taker for Connection {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let Some(message) = self.lease(r#"{"batch":1,"no_wait":true}"#)? else {
                return Ok(taken);
            };
            std::hint::black_box(&message.body);
            self.ack(&message)?;
        }
        Ok(count)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        let Some(message) = self.lease(r#"{"batch":1,"expires":100000000}"#)? else {
            return Ok(false);
        };
        got();
        self.ack(&message)?;
        Ok(true)
    }
}

impl Replay for Connection {
    fn rewind(&mut self) -> Result<()> {
        // There is none the first time.
        let _ = self.ask("$JS.API.CONSUMER.DELETE.S.R", b"");
        self.consume("R", "none")
    }

    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let pull = format!(r#"{{"batch":{PULL},"no_wait":true}}"#);
        loop {
            let frame = self.frame("$JS.API.CONSUMER.MSG.NEXT.S.R", pull.as_bytes(), true);
            self.write(&frame)?;
            for _ in 0..PULL {
                match self.next()?.body {
                    Some(body) => seen.see(&body),
                    None => return Ok(seen),
                }
            }
        }
    }
}
