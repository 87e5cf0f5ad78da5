//! Redis streams, over loopback: context, since each operation is a round trip to a server.
//!
//! Buffered is `appendfsync everysec`, Sync is `always`. Appends are `XADD`; a queue is a consumer
//! group: `XREADGROUP`, then `XACK` and `XDEL` in one go. Batches are pipelined in a transaction.

use std::{
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

/// Redis.
pub struct Redis;

const PROGRAM: &str = "redis-server";

impl Side for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn kind(&self) -> Kind {
        Kind::Server
    }

    fn offer(&self, job: Job) -> Offer {
        if installed(PROGRAM).is_none() {
            return Err("redis-server is not installed");
        }
        match (job, job.durability()) {
            (Job::Transact(_), _) => Err("it is context for the plain rows"),
            (_, Durability::Buffered) => Ok("server; appendfsync everysec"),
            (_, Durability::Sync) => Ok("server; appendfsync always"),
        }
    }

    fn open(&self, dir: &Path, job: Job) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(dir)?;
        let program = installed(PROGRAM).ok_or("redis-server is not installed")?;
        let fsync = match job.durability() {
            Durability::Buffered => "everysec",
            Durability::Sync => "always",
        };
        let server = Server::start(|port| {
            let mut command = Command::new(program);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", fsync]);
            // Growth is not cut by a rewrite in the middle of a round.
            command.args(["--auto-aof-rewrite-percentage", "0"]).arg("--dir").arg(dir);
            command
        })?;
        let mut connection = Connection::open(&server)?;
        // It is there already if the store was opened before.
        let _ = connection.call(&[b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"]);
        Ok(Box::new(Opened(Arc::new(server))))
    }
}

struct Opened(Arc<Server>);

impl Store for Opened {
    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(Connection::open(&self.0)?))
    }

    fn taker(&self) -> Result<Box<dyn Taker>> {
        Ok(Box::new(Connection::open(&self.0)?))
    }

    fn replay(&self) -> Result<Box<dyn Replay>> {
        Ok(Box::new(Connection::open(&self.0)?))
    }
}

/// What the server answers.
#[derive(Debug)]
enum Reply {
    Nothing,
    Bytes(Vec<u8>),
    List(Vec<Reply>),
}

impl Reply {
    fn list(self) -> Vec<Reply> {
        match self {
            Reply::List(list) => list,
            _ => Vec::new(),
        }
    }

    fn bytes(self) -> Vec<u8> {
        match self {
            Reply::Bytes(bytes) => bytes,
            _ => Vec::new(),
        }
    }
}

struct Connection {
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Connection {
    fn open(server: &Server) -> Result<Connection> {
        Ok(Connection {
            reader: BufReader::with_capacity(1 << 16, server.connect()?),
            out: Vec::new(),
        })
    }

    fn write(&mut self, words: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.reader.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn call(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.write(words);
        self.flush()?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or("the server hung up")?;
        Ok(match kind {
            "-" => return Err(rest.to_owned().into()),
            "$" if rest == "-1" => Reply::Nothing,
            "*" if rest == "-1" => Reply::Nothing,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" => {
                let count: usize = rest.parse()?;
                Reply::List((0..count).map(|_| self.reply()).collect::<Result<_>>()?)
            }
            _ => Reply::Bytes(rest.as_bytes().to_vec()),
        })
    }

    /// Leases the next message: its id and payload.
    fn lease(&mut self, waiting: bool) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut words: Vec<&[u8]> = vec![b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1"];
        if waiting {
            words.extend([&b"BLOCK"[..], b"100"]);
        }
        words.extend([&b"STREAMS"[..], b"s", b">"]);
        // A list of streams, each a name and entries, each an id and fields.
        let streams = self.call(&words)?.list();
        let entries = streams.into_iter().next().and_then(|stream| stream.list().pop());
        let entry = entries.and_then(|entries| entries.list().into_iter().next());
        Ok(entry.map(entry_of))
    }

    fn ack(&mut self, id: &[u8]) -> Result<()> {
        self.write(&[b"XACK", b"s", b"g", id]);
        self.write(&[b"XDEL", b"s", id]);
        self.flush()?;
        self.reply()?;
        self.reply()?;
        Ok(())
    }
}

/// An entry's id, and the value of its one field.
fn entry_of(entry: Reply) -> (Vec<u8>, Vec<u8>) {
    let mut parts = entry.list().into_iter();
    let id = parts.next().map(Reply::bytes).unwrap_or_default();
    let fields = parts.next().map(Reply::list).unwrap_or_default();
    (id, fields.into_iter().nth(1).map(Reply::bytes).unwrap_or_default())
}

impl Writer for Connection {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            self.call(&[b"XADD", b"s", b"*", b"p", payloads.next()])?;
        }
        Ok(())
    }

    fn append_batches(&mut self, payloads: &mut Payloads, size: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            self.write(&[b"MULTI"]);
            for _ in 0..size {
                self.write(&[b"XADD", b"s", b"*", b"p", payloads.next()]);
            }
            self.write(&[b"EXEC"]);
            self.flush()?;
            for _ in 0..size + 2 {
                self.reply()?;
            }
        }
        Ok(())
    }
}

impl Taker for Connection {
    fn take(&mut self, count: u64) -> Result<u64> {
        for taken in 0..count {
            let Some((id, payload)) = self.lease(false)? else {
                return Ok(taken);
            };
            std::hint::black_box(payload);
            self.ack(&id)?;
        }
        Ok(count)
    }

    fn wait(&mut self, got: &mut dyn FnMut()) -> Result<bool> {
        let Some((id, _)) = self.lease(true)? else {
            return Ok(false);
        };
        got();
        self.ack(&id)?;
        Ok(true)
    }
}

impl Replay for Connection {
    fn replay(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut from = b"-".to_vec();
        loop {
            let words: [&[u8]; 6] = [b"XRANGE", b"s", &from, b"+", b"COUNT", b"1000"];
            let entries = self.call(&words)?.list();
            let count = entries.len();
            for (id, payload) in entries.into_iter().map(entry_of) {
                seen.see(&payload);
                from = [b"(".as_slice(), &id].concat();
            }
            if count < 1000 {
                return Ok(seen);
            }
        }
    }
}
