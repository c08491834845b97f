//! SCTP, where the kernel has it: associations in the style of TCP.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use kernel::testing::TestNetns;
use socket2::{Domain, Protocol, Socket, Type};

use super::TARGET;

fn socket(to: SocketAddr) -> std::io::Result<Socket> {
    Socket::new(
        Domain::for_address(to),
        Type::STREAM,
        Some(Protocol::from(132)),
    )
}

/// Answers every association with the names of both ends.
pub(crate) fn serve_sctp(pod: &TestNetns, address: IpAddr) {
    let listener: TcpListener = pod.run(|| {
        let at = SocketAddr::new(address, TARGET);
        let socket = socket(at).expect("a kernel with SCTP");
        socket.bind(&at.into()).expect("free");
        socket.listen(16).expect("a socket");
        socket.into()
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(format!("{address} {}", peer.ip()).as_bytes());
            // The answer arrives before the end does.
            let _ = stream.read(&mut [0; 16]);
        }
    });
}

pub(super) fn exchange(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let socket = socket(to)?;
    socket.connect_timeout(&to.into(), patience)?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(patience))?;
    let mut buffer = [0; 128];
    let length = stream.read(&mut buffer)?;
    let _ = stream.write_all(b"thanks");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
