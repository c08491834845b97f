//! HTTP/1.1 requests, as far as tests need them: a request line, headers, a body of known length.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// Bodies that are longer are cut off.
const MAX_BODY: u64 = 8 << 20;

/// A parsed request.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(crate) fn keep_alive(&self) -> bool {
        !self
            .headers
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// Reads the next request; `None` when the peer closed the connection.
pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_else(|| "/".to_owned());
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse::<u64>().ok());
    let length = length.unwrap_or(0);
    let mut body = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(&mut *reader, length.min(MAX_BODY)),
        &mut body,
    )?;
    let rest = length.saturating_sub(MAX_BODY);
    io::copy(&mut io::Read::take(&mut *reader, rest), &mut io::sink())?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Ok(Some(Request {
        method,
        path: decode(path),
        query: parse_query(query),
        headers,
        body,
    }))
}

/// Writes an answer of plain text, JSON or HTML; to HEAD without its body.
pub(crate) fn write(
    out: &mut impl Write,
    method: &str,
    (status, body): (u16, &str),
    alive: bool,
) -> io::Result<()> {
    let reason = if status < 400 { "OK" } else { "Error" };
    let connection = if alive { "keep-alive" } else { "close" };
    let kind = match body.as_bytes().first() {
        Some(b'{') => "application/json",
        Some(b'<') => "text/html; charset=utf-8",
        _ => "text/plain",
    };
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n{}",
        body.len(),
        if method == "HEAD" { "" } else { body }
    );
    out.write_all(answer.as_bytes())?;
    out.flush()
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Percent-decoding, with `+` for a space.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| {
                text.get(at + 1..at + 3)
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            })
            .flatten();
        match (escaped, bytes[at]) {
            (Some(byte), _) => {
                decoded.push(byte);
                at += 2;
            }
            (None, b'+') => decoded.push(b' '),
            (None, byte) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_query_and_headers() {
        let text = "GET /echo?msg=a%20b+c&x HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n";
        let request = read(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/echo")
        );
        assert_eq!(request.parameter("msg"), "a b c");
        assert_eq!(request.parameter("x"), "");
        assert!(!request.keep_alive());
    }

    #[test]
    fn a_body_is_read_to_its_length_and_no_further() {
        let text = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\n\r\n";
        let mut reader = text.as_bytes();
        let request = read(&mut reader).unwrap().unwrap();
        assert_eq!(request.body, b"abc");
        assert_eq!(read(&mut reader).unwrap().unwrap().path, "/next");
    }

    #[test]
    fn a_closed_connection_has_no_request() {
        assert!(read(&mut "".as_bytes()).unwrap().is_none());
    }
}
