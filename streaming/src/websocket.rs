//! The server's side of a WebSocket handshake (RFC 6455, section 4.2) on a hyper request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Appended to the client's key before it is hashed (RFC 6455, section 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest message that is taken from a client, in bytes.
const LONGEST_MESSAGE: usize = 1 << 20;
/// How long a client may take to read what it was sent before the end. A connection that is
/// closed over what its peer still sends is reset, and takes with it what was not delivered:
/// so the client closes it.
pub(crate) const CLIENT_LEAVES: Duration = Duration::from_secs(30);

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks to become a WebSocket.
pub fn is_requested(headers: &HeaderMap) -> bool {
    has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket")
}

/// Whether a header's comma-separated list has a token, in any case.
pub fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|own| own.eq_ignore_ascii_case(token))
}

/// The subprotocols that the client offers, in its order.
pub fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    tokens(headers, header::SEC_WEBSOCKET_PROTOCOL)
}

fn tokens(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The answer that accepts the handshake with one of the offered protocols (empty where none
/// was offered), and the future connection; `None` if the request lacks a key or version 13.
pub fn accept<B>(request: &mut Request<B>, protocol: &str) -> Option<(Response<()>, OnUpgrade)> {
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION)?.as_bytes() != b"13" {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(KEY_SUFFIX.as_bytes());
    let answer = HeaderValue::from_str(&STANDARD.encode(hash.finalize())).ok()?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
    if !protocol.is_empty() {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_str(protocol).ok()?,
        );
    }
    Some((response, hyper::upgrade::on(request)))
}

/// The connection after the answer went out.
pub async fn open(upgrade: OnUpgrade) -> Result<Socket, hyper::Error> {
    let io = TokioIo::new(upgrade.await?);
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
}

/// Ends a connection after its close frame: the client is told at once that nothing more comes,
/// and then has its time to read and to leave. A client that waits for its socket to become
/// readable, with the close frame already in a buffer above it, would wait in vain otherwise.
pub(crate) async fn leave<C>(mut client: WebSocketStream<C>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    // One that has left already is told nothing.
    let _ = client.get_mut().shutdown().await;
    let gone = async {
        while let Some(Ok(message)) = client.next().await {
            if message.is_close() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(CLIENT_LEAVES, gone).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc_is_answered() {
        let mut request = Request::builder()
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header(
                "sec-websocket-protocol",
                "v5.channel.k8s.io, v4.channel.k8s.io",
            )
            .body(())
            .unwrap();
        assert!(is_requested(request.headers()));
        let offered: Vec<_> = offered_protocols(request.headers()).collect();
        assert_eq!(offered, ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        let (response, _) = accept(&mut request, "v5.channel.k8s.io").unwrap();
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_request_without_a_key_is_not_accepted() {
        let mut request = Request::builder().body(()).unwrap();
        assert!(accept(&mut request, "v5.channel.k8s.io").is_none());
    }
}
