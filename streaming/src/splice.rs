//! Two connections joined: what one sends, the other gets, to the last byte.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PIECE: usize = 32 * 1024;
/// How long one side may take to read after the other has broken off.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Carries bytes both ways until both sides have ended. When one breaks off, what it had
/// sent before still reaches the other, which is told that there is no more.
pub async fn splice<A, B>(one: A, other: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut one_read, mut one_write) = tokio::io::split(one);
    let (mut other_read, mut other_write) = tokio::io::split(other);
    let mut there = pin!(carry(&mut one_read, &mut other_write));
    let mut back = pin!(carry(&mut other_read, &mut one_write));
    tokio::select! {
        ended = &mut there => settle(ended, back).await,
        ended = &mut back => settle(ended, there).await,
    }
}

async fn settle(
    ended: io::Result<()>,
    rest: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    match ended {
        Ok(()) => rest.await,
        // Its other direction leads nowhere any more; but the side that still lives has to
        // read what is on its way to it before its connection is closed.
        Err(error) => {
            let _ = tokio::time::timeout(LAST_WORDS, rest).await;
            Err(error)
        }
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let ended = loop {
        match from.read(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(read) => {
                if let Err(error) = to.write_all(&piece[..read]).await {
                    break Err(error);
                }
                to.flush().await?;
            }
            Err(error) => break Err(error),
        }
    };
    let _ = to.shutdown().await;
    ended
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// Says one thing, then its connection is reset.
    struct Reset {
        words: &'static [u8],
    }

    impl AsyncRead for Reset {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.words.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let words = std::mem::take(&mut self.words);
            buffer.put_slice(words);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_was_sent_before_a_reset_arrives() {
        let (mut client, client_end) = tokio::io::duplex(4);
        let joined = tokio::spawn(splice(
            client_end,
            Reset {
                words: b"the last words",
            },
        ));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"the last words");
        drop(client);
        assert!(joined.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn each_side_ends_by_itself() {
        let (mut client, client_end) = tokio::io::duplex(64);
        let (mut server, server_end) = tokio::io::duplex(64);
        let joined = tokio::spawn(splice(client_end, server_end));
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = Vec::new();
        server.read_to_end(&mut asked).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        assert_eq!((&asked[..], &answered[..]), (&b"ask"[..], &b"answer"[..]));
        joined.await.unwrap().unwrap();
    }
}
