//! Requests to others, over every protocol that the server answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use crate::options::Protocol;

/// SCTP by its protocol number.
pub(crate) fn sctp() -> SocketProtocol {
    SocketProtocol::from(132)
}

/// Sends one request and returns the answer. For HTTP the request is the path.
pub(crate) fn request(
    protocol: Protocol,
    target: &str,
    request: &str,
    timeout: Duration,
) -> io::Result<String> {
    let address = resolve(target)?;
    match protocol {
        Protocol::Http => {
            let path = format!("/{}", request.trim_start_matches('/'));
            let stream = TcpStream::connect_timeout(&address, timeout)?;
            let answer = get(stream, target, &path, timeout)?;
            match answer.status {
                200..400 => Ok(answer.body),
                status => Err(io::Error::other(format!(
                    "status {status}: {}",
                    answer.body
                ))),
            }
        }
        Protocol::Tcp => lines(
            TcpStream::connect_timeout(&address, timeout)?,
            request,
            timeout,
        ),
        Protocol::Sctp => {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(sctp()))?;
            socket.connect_timeout(&address.into(), timeout)?;
            socket.set_read_timeout(Some(timeout))?;
            (&socket).write_all(format!("{request}\n").as_bytes())?;
            read_line(&socket)
        }
        Protocol::Udp => datagram(address, request, timeout),
    }
}

/// The first address of `HOST:PORT`.
pub(crate) fn resolve(target: &str) -> io::Result<SocketAddr> {
    target
        .to_socket_addrs()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot resolve {target}: {error}")))?
        .next()
        .ok_or_else(|| io::Error::other(format!("{target} has no address")))
}

fn lines(mut stream: TcpStream, request: &str, timeout: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    read_line(stream)
}

fn read_line(stream: impl Read) -> io::Result<String> {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// A datagram may be lost: it is sent again until the time is over.
fn datagram(address: SocketAddr, request: &str, timeout: Duration) -> io::Result<String> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(timeout / 3))?;
    let mut buffer = [0; 65536];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.send(request.as_bytes())?;
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What an HTTP server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// GET over an open connection, which is closed afterwards.
pub(crate) fn get(
    mut stream: TcpStream,
    host: &str,
    path: &str,
    timeout: Duration,
) -> io::Result<Answer> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: testserver\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse_answer(&bytes)
}

fn parse_answer(bytes: &[u8]) -> io::Result<Answer> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer");
    let split = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_owned())
        })
    };
    let body = &bytes[split + 4..];
    let body = match header("transfer-encoding") {
        Some(encoding) if encoding.eq_ignore_ascii_case("chunked") => {
            unchunk(body).ok_or_else(malformed)?
        }
        _ => body.to_vec(),
    };
    let expected = header("content-length").and_then(|length| length.parse::<usize>().ok());
    if expected.is_some_and(|length| body.len() < length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer {
        status: status.ok_or_else(malformed)?,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end])
            .ok()?
            .split(';')
            .next()?
            .trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

/// `http://HOST[:PORT]/PATH` as (HOST:PORT, PATH).
pub(crate) fn split_url(url: &str) -> Result<(String, String), String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or(format!("{url}: only http:// is understood"))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    let target = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    Ok((target, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_means_port_80() {
        let cases = [
            ("http://nginx", "nginx:80", "/"),
            ("http://nginx/a?b=c", "nginx:80", "/a?b=c"),
            ("http://10.0.0.1:8080/x", "10.0.0.1:8080", "/x"),
            ("http://[fd00::1]/x", "[fd00::1]:80", "/x"),
            ("http://[fd00::1]:81", "[fd00::1]:81", "/"),
        ];
        for (url, target, path) in cases {
            assert_eq!(
                split_url(url),
                Ok((target.to_owned(), path.to_owned())),
                "{url}"
            );
        }
        assert!(split_url("https://a/").is_err());
    }

    #[test]
    fn answers_are_read_with_a_length_and_in_chunks() {
        let plain = parse_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "hi"));
        let chunked =
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        let chunked = parse_answer(chunked).unwrap();
        assert_eq!((chunked.status, chunked.body.as_str()), (503, "abcd"));
    }

    #[test]
    fn a_cut_off_answer_is_an_error() {
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
