//! A server that is started for a store and stopped with it, on a free port of the loopback.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::side::Result;

/// How long a server may take to answer.
const START_MAX: Duration = Duration::from_secs(10);

/// The full path of a program on `PATH`, if it is installed. Debian has servers in `/usr/sbin`.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|it| it.is_file())
}

/// A running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server with a command that is made for its port.
    pub fn start(command: impl FnOnce(u16) -> Command) -> Result<Server> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = command(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        // From here on it is stopped whatever happens.
        let mut server = Server { child, address: (Ipv4Addr::LOCALHOST, port).into() };
        let began = Instant::now();
        while TcpStream::connect(server.address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended at once: {status}").into());
            }
            if began.elapsed() > START_MAX {
                return Err("the server does not answer".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// A new connection.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; its files are thrown away in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
