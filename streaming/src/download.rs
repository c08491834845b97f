//! A body that is read through a WebSocket: logs, for clients that cannot do otherwise.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::websocket::{self, Socket};

/// How the bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    Base64,
}

impl Encoding {
    fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(bytes),
            Self::Base64 => Message::text(STANDARD.encode(bytes)),
        }
    }
}

/// The first offered subprotocol that is known; a client may offer none.
fn choose<'a>(mut offered: impl Iterator<Item = &'a str>) -> Option<(&'a str, Encoding)> {
    let known = |name: &'a str| match name {
        "binary.k8s.io" | "" => Some((name, Encoding::Binary)),
        "base64.binary.k8s.io" => Some((name, Encoding::Base64)),
        _ => None,
    };
    match offered.next() {
        None => known(""),
        Some(first) => known(first).or_else(|| offered.find_map(known)),
    }
}

/// The client's side of the connection, before it is one.
#[derive(Debug)]
pub struct Reader {
    upgrade: OnUpgrade,
    encoding: Encoding,
}

/// The answer to a handshake, and the reader; `None` when the handshake is not sound or
/// offers only what nobody knows.
pub fn accept<B>(request: &mut Request<B>) -> Option<(Response<()>, Reader)> {
    let headers = request.headers().clone();
    let (protocol, encoding) = choose(websocket::offered_protocols(&headers))?;
    let (response, upgrade) = websocket::accept(request, protocol)?;
    Some((response, Reader { upgrade, encoding }))
}

impl Reader {
    /// Sends the body, then closes the connection.
    pub async fn serve<E>(self, body: impl Stream<Item = Result<Bytes, E>>) {
        let Ok(socket) = websocket::open(self.upgrade).await else {
            return;
        };
        if let Err(error) = send(socket, self.encoding, body).await {
            tracing::debug!(%error, "a download through a WebSocket ended early");
        }
    }
}

async fn send<E>(
    socket: Socket,
    encoding: Encoding,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(), Error> {
    let (mut to_client, mut from_client) = socket.split();
    let mut body = std::pin::pin!(body);
    loop {
        tokio::select! {
            piece = body.next() => match piece {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => to_client.send(encoding.message(bytes)).await?,
                _ => break,
            },
            message = from_client.next() => match message.transpose()? {
                Some(Message::Ping(_)) => to_client.flush().await?,
                Some(Message::Close(_)) | None => return Ok(()),
                Some(_) => {}
            },
        }
    }
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    to_client.send(Message::Close(Some(frame))).await?;
    if let Ok(client) = from_client.reunite(to_client) {
        websocket::leave(client).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subprotocol_decides_how_bytes_are_sent() {
        let check = |offered: &[&str], expected: Option<(&str, Encoding)>| {
            assert_eq!(choose(offered.iter().copied()), expected, "{offered:?}");
        };
        check(&[], Some(("", Encoding::Binary)));
        check(
            &["binary.k8s.io"],
            Some(("binary.k8s.io", Encoding::Binary)),
        );
        check(
            &["x", "base64.binary.k8s.io"],
            Some(("base64.binary.k8s.io", Encoding::Base64)),
        );
        check(&["v5.channel.k8s.io"], None);
        assert_eq!(
            Encoding::Base64.message(Bytes::from_static(b"log\n")),
            Message::text("bG9nCg==")
        );
    }
}
