//! Port-forward: SPDY's bytes as they are, inside the binary messages of a WebSocket.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The WebSocket subprotocol, and what the runtime is asked for.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";

const PIECE: usize = 32 * 1024;

/// Carries bytes both ways until either side ends.
pub async fn pump<C, R>(client: WebSocketStream<C>, mut runtime: R) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = client.split();
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.reserve(PIECE);
        tokio::select! {
            read = runtime.read_buf(&mut piece) => {
                if read? == 0 {
                    // The client may be gone already.
                    let _ = to_client.send(Message::Close(None)).await;
                    return Ok(());
                }
                let bytes: Bytes = piece.split().freeze();
                to_client.send(Message::Binary(bytes)).await?;
            }
            message = from_client.next() => match message.transpose()? {
                Some(Message::Binary(bytes)) => runtime.write_all(&bytes).await?,
                Some(Message::Ping(_)) => to_client.flush().await?,
                Some(Message::Close(_)) | None => return Ok(()),
                Some(_) => {}
            },
        }
    }
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
        pumping.await.unwrap().unwrap();
    }
}
