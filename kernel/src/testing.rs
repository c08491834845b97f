//! Network namespaces for the tests of every crate: unique names, swept when the test ends,
//! also after it was killed.
//!
//! The names carry the process's number; the first namespace that a process makes sweeps
//! those of processes that are gone.

use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::address::{self, Address};
use crate::link::{self, NewLink, Peer, Settings};
use crate::netlink::{Protocol, Socket};
use crate::netns::{Netns, RUN_DIR};
use crate::{Ifindex, sysctl};

const PREFIX: &str = "fltest-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A named network namespace that goes away with this value. The loopback interface is up.
///
/// All methods panic on failure, since a test can do nothing else with it.
pub struct TestNetns {
    name: String,
    netns: Netns,
}

impl TestNetns {
    /// Makes a namespace; `label` makes its name recognisable.
    ///
    /// # Panics
    /// Without the right to make namespaces.
    pub fn new(label: &str) -> Self {
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        let netns = Netns::create(&name)
            .unwrap_or_else(|error| panic!("tests of the network need root: {error}"));
        let this = Self { name, netns };
        this.execute(&[link::set_by_name("lo", &Settings::up())]);
        // Asking whether somebody else has an IPv6 address costs every interface a second.
        this.sysctl("net/ipv6/conf/default/accept_dad", "0");
        this
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> &Path {
        self.netns.path()
    }

    /// Runs the closure inside, on a thread of its own.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.netns
            .run(inside)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a future inside, on a runtime whose only thread is in the namespace.
    pub fn block_on<T: Send>(&self, inside: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .unwrap_or_else(|error| panic!("{error}"))
                .block_on(inside)
        })
    }

    /// A route socket of the namespace.
    pub fn socket(&self) -> Socket {
        self.netns
            .socket(Protocol::Route)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends the requests; panics when one fails.
    pub fn execute(&self, requests: &[crate::netlink::Request]) {
        self.socket()
            .execute_all(requests)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    pub fn link(&self, name: &str) -> Option<link::Link> {
        link::get(&mut self.socket(), name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The number of an interface that has to be there.
    pub fn index(&self, name: &str) -> Ifindex {
        self.link(name)
            .unwrap_or_else(|| panic!("{} has no interface {name}", self.name))
            .index
    }

    pub fn add_address(&self, interface: &str, network: &str) {
        let network: IpNetwork = network.parse().unwrap_or_else(|e| panic!("{network}: {e}"));
        self.execute(&[address::add(&Address::new(self.index(interface), network))]);
    }

    /// Joins two namespaces by a veth pair; both ends are up.
    pub fn join(&self, interface: &str, other: &TestNetns, other_interface: &str) {
        use std::os::fd::AsRawFd;
        let netns = Some(other.netns.as_raw_fd());
        let peer = Peer {
            netns,
            ..Peer::named(other_interface)
        };
        self.execute(&[link::create(
            &NewLink::veth(interface, peer).with(Settings::up()),
        )]);
        other.execute(&[link::set_by_name(other_interface, &Settings::up())]);
    }

    /// Makes a bridge that forwards at once.
    pub fn add_bridge(&self, name: &str) {
        self.execute(&[link::create(&NewLink::bridge(name).with(Settings::up()))]);
    }

    /// Puts an interface into a bridge.
    pub fn enslave(&self, bridge: &str, port: &str) {
        let settings = Settings {
            master: Some(Some(self.index(bridge))),
            ..Settings::new()
        };
        self.execute(&[link::set(self.index(port), &settings)]);
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| sysctl::write(name, value))
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Lets the namespace forward packets of both families.
    pub fn forward(&self) {
        self.sysctl("net/ipv4/ip_forward", "1");
        self.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// Whether a TCP connection from here reaches an echo server at the address in `server`.
    pub fn reaches(&self, server: &TestNetns, address: IpAddr) -> bool {
        traffic::tcp_echo(self, server, address)
    }

    /// Runs a program inside; for assertions by people's tools such as `ip -j`.
    pub fn command(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        #[expect(
            clippy::disallowed_methods,
            reason = "tests assert with other people's tools"
        )]
        self.run(|| std::process::Command::new(program).args(arguments).output())
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}

/// Deletes the namespaces of test processes that are gone.
fn sweep() {
    let names = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let pid = rest.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            end_processes_in(&Path::new(RUN_DIR).join(&name));
            let _ = Netns::delete(&name);
        }
    }
}

/// Ends what a test that was killed left running in its namespace.
fn end_processes_in(namespace: &Path) {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let Some(wanted) = identity(namespace) else {
        return;
    };
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if identity(&process.path().join("ns/net")) == Some(wanted) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

mod traffic {
    use std::io::{Read, Write};
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::TestNetns;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Sends more than one segment of full size, so that a wrong MTU shows.
    pub(super) fn tcp_echo(client: &TestNetns, server: &TestNetns, address: IpAddr) -> bool {
        let any: SocketAddr = match address {
            IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            IpAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let listener = server
            .run(|| TcpListener::bind(any))
            .unwrap_or_else(|e| panic!("{e}"));
        let port = listener
            .local_addr()
            .unwrap_or_else(|e| panic!("{e}"))
            .port();
        let _echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut data = vec![0; LENGTH];
            stream.read_exact(&mut data)?;
            stream.write_all(&data)
        });
        let answered = client.run(|| exchange((address, port).into()));
        if !answered {
            // Ends the server's thread, which still waits for a connection.
            let local: SocketAddr = match address {
                IpAddr::V4(_) => ([127, 0, 0, 1], port).into(),
                IpAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST, port).into(),
            };
            let _ = server.run(|| TcpStream::connect_timeout(&local, PATIENCE));
        }
        answered
    }

    const LENGTH: usize = 20_000;

    fn exchange(to: SocketAddr) -> bool {
        let attempt = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let sent: Vec<u8> = (0..LENGTH).map(|n| (n % 251) as u8).collect();
            stream.write_all(&sent)?;
            let mut received = vec![0; LENGTH];
            stream.read_exact(&mut received)?;
            Ok(received == sent)
        };
        attempt().unwrap_or(false)
    }
}
