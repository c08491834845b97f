//! Port-forward: SPDY's bytes as they are, inside the binary messages of a WebSocket.

use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::websocket;

/// The WebSocket subprotocol, and what the runtime is asked for.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";

const PIECE: usize = 32 * 1024;

/// Carries bytes both ways until either side ends.
pub async fn pump<C, R>(client: WebSocketStream<C>, runtime: R) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (to_client, mut from_client) = client.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let to_client = Mutex::new(to_client);
    // Each direction waits for its own receiver only: many connections share the tunnel, and
    // one that is not read from must not stop the others for ever.
    let ended = tokio::select! {
        ended = carry_output(&mut from_runtime, &to_client) => ended,
        ended = carry_input(&mut from_client, &mut to_runtime, &to_client) => return ended,
    };
    if let Ok(client) = from_client.reunite(to_client.into_inner()) {
        websocket::leave(client).await;
    }
    ended
}

async fn carry_output<C>(
    from_runtime: &mut (impl AsyncRead + Unpin),
    to_client: &Mutex<C>,
) -> Result<(), Error>
where
    C: Sink<Message, Error = Error> + Unpin,
{
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.reserve(PIECE);
        let read = from_runtime.read_buf(&mut piece).await;
        if !matches!(read, Ok(1..)) {
            // The client may be gone already.
            let _ = to_client.lock().await.send(Message::Close(None)).await;
            return read.map(drop).map_err(Error::from);
        }
        let bytes: Bytes = piece.split().freeze();
        to_client.lock().await.send(Message::Binary(bytes)).await?;
    }
}

async fn carry_input<C>(
    mut from_client: impl Stream<Item = Result<Message, Error>> + Unpin,
    to_runtime: &mut (impl AsyncWrite + Unpin),
    to_client: &Mutex<C>,
) -> Result<(), Error>
where
    C: Sink<Message, Error = Error> + Unpin,
{
    while let Some(message) = from_client.next().await {
        match message? {
            Message::Binary(bytes) => to_runtime.write_all(&bytes).await?,
            Message::Ping(_) => to_client.lock().await.flush().await?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_is_told() {
        let (client_end, server_end) = tokio::io::duplex(4096);
        let (mut runtime_end, upstream) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client_end, Role::Client, None).await;
        let pumping = tokio::spawn(pump(server, upstream));
        client
            .send(Message::Binary(Bytes::from_static(b"ask")))
            .await
            .unwrap();
        let mut asked = [0; 3];
        runtime_end.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"ask");
        runtime_end.write_all(b"answer").await.unwrap();
        let answer = client.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::Binary(Bytes::from_static(b"answer")));
        drop(runtime_end);
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
        let _ = client.flush().await;
        pumping.await.unwrap().unwrap();
    }
}
