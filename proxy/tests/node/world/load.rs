//! Clients that do not stop: while something changes, no request of theirs may fail.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::testing::TestNetns;

use super::{patience, wait_for};

/// Where back ends keep connections open.
pub(crate) const LIVE: u16 = 8082;

/// A server that answers each line with its own name, for as long as its client wants.
pub(crate) fn serve_lines(pod: &TestNetns, address: IpAddr) -> TcpListener {
    let listener = pod.run(|| TcpListener::bind((address, LIVE)).expect("free"));
    let waker = listener.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let Ok(mut answers) = stream.try_clone() else {
                    return;
                };
                for line in BufReader::new(stream).lines() {
                    if line.is_err()
                        || answers
                            .write_all(format!("{address}\n").as_bytes())
                            .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    waker
}

/// One request over a connection; who answered.
fn ask(stream: &mut BufReader<TcpStream>) -> std::io::Result<IpAddr> {
    stream.get_mut().write_all(b"who\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    line.trim().parse().map_err(std::io::Error::other)
}

fn open(to: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, patience())?;
    stream.set_read_timeout(Some(patience()))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// A connection that stays open.
pub(crate) struct Held {
    stream: BufReader<TcpStream>,
    pub(crate) server: IpAddr,
}

impl Held {
    pub(crate) fn open(from: &TestNetns, to: IpAddr, port: u16) -> Self {
        from.run(|| {
            let mut stream = open(SocketAddr::new(to, port)).expect("a connection");
            let server = ask(&mut stream).expect("an answer");
            Self { stream, server }
        })
    }

    /// One more request over it; who answered.
    pub(crate) fn ask(&mut self) -> std::io::Result<IpAddr> {
        ask(&mut self.stream)
    }

    /// The client's own port.
    pub(crate) fn port(&self) -> u16 {
        let own = self.stream.get_ref().local_addr();
        own.expect("a connected socket").port()
    }
}

type Client = fn(SocketAddr, &dyn Fn() -> bool) -> Result<(), String>;

/// Two clients in a namespace: one opens a connection for each request, one keeps its own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    pub(crate) fn start(from: &TestNetns, to: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(to, port);
        let (stop, requests) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let client = |work: Client| {
            let (stop, requests) = (stop.clone(), requests.clone());
            // A thread that is started in the namespace stays there.
            from.run(move || {
                std::thread::spawn(move || {
                    let go_on = || {
                        requests.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(2));
                        !stop.load(Ordering::Relaxed)
                    };
                    work(to, &go_on)
                })
            })
        };
        let clients = vec![client(short_connections), client(one_connection)];
        Self {
            stop,
            requests,
            clients,
        }
    }

    /// Waits until so many more requests were answered.
    pub(crate) fn run_for(&self, requests: usize) {
        let until = self.requests.load(Ordering::Relaxed) + requests;
        wait_for("requests to be answered", || {
            !self.goes_on() || self.requests.load(Ordering::Relaxed) >= until
        });
    }

    /// Whether no client has given up.
    pub(crate) fn goes_on(&self) -> bool {
        !self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Ends the clients; panics where a request failed.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let result = client.join().expect("the client does not panic");
            result.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn short_connections(to: SocketAddr, go_on: &dyn Fn() -> bool) -> Result<(), String> {
    while go_on() {
        open(to)
            .and_then(|mut stream| ask(&mut stream))
            .map_err(|error| format!("a new connection to {to}: {error}"))?;
    }
    Ok(())
}

fn one_connection(to: SocketAddr, go_on: &dyn Fn() -> bool) -> Result<(), String> {
    let mut stream = open(to).map_err(|error| format!("the connection to {to}: {error}"))?;
    let first = ask(&mut stream).map_err(|error| format!("the connection to {to}: {error}"))?;
    while go_on() {
        let by = ask(&mut stream)
            .map_err(|error| format!("the established connection to {to}: {error}"))?;
        if by != first {
            return Err(format!("the connection went from {first} to {by}"));
        }
    }
    Ok(())
}
