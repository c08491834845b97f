//! Exec and attach: WebSocket channels of a client to SPDY streams of a runtime.
//!
//! WebSocket messages begin with the channel's number; `v5.channel.k8s.io` adds a message that
//! closes one channel, which is how the end of standard input is told. Source: KEP-4006.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::spdy::{Decoder, Encoder, Frame, FrameError, StreamId};
use crate::websocket;

/// The WebSocket subprotocol that is translated.
pub const V5: &str = "v5.channel.k8s.io";
/// What the runtime is asked for in `X-Stream-Protocol-Version`.
pub const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// A message of this channel names another channel, which ends.
const CLOSE: u8 = 255;

/// Which streams the command has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    /// From the query of an exec or attach request: to an API server (`stdin`, `stdout`,
    /// `stderr`) or to a kubelet (`input`, `output`, `error`).
    pub fn from_query(query: &str) -> Self {
        let has = |names: &[&str]| {
            query.split('&').any(|pair| {
                pair.split_once('=')
                    .is_some_and(|(k, v)| names.contains(&k) && matches!(v, "true" | "1"))
            })
        };
        let tty = has(&["tty"]);
        Self {
            stdin: has(&["stdin", "input"]),
            stdout: has(&["stdout", "output"]),
            stderr: has(&["stderr", "error"]) && !tty,
            tty,
        }
    }

    /// The channels in the order in which their streams are opened.
    fn channels(self) -> impl Iterator<Item = (u8, &'static str)> {
        [
            (true, ERROR, "error"),
            (self.stdin, STDIN, "stdin"),
            (self.stdout, STDOUT, "stdout"),
            (self.stderr, STDERR, "stderr"),
            (self.tty, RESIZE, "resize"),
        ]
        .into_iter()
        .filter(|(wanted, _, _)| *wanted)
        .map(|(_, channel, name)| (channel, name))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    #[error(transparent)]
    Spdy(#[from] FrameError),
    #[error("WebSocket: the client's connection broke: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
}

/// Which stream carries which channel, and what is still open. Pure.
#[derive(Clone)]
struct Channels {
    streams: Vec<(u8, StreamId)>,
    /// Channels of the runtime that have not ended: error, stdout, stderr.
    open: Vec<u8>,
}

/// What to do about a frame of the runtime.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Nothing,
    Reply(Frame),
    Tell(Message),
    /// Everything that the runtime had to say was said.
    End(Option<Message>),
}

impl Channels {
    fn new(streams: Streams) -> Self {
        // A client's stream numbers are odd (draft 3, section 2.3.2).
        let numbered: Vec<_> = streams
            .channels()
            .zip((1..).step_by(2))
            .map(|((channel, _), id)| (channel, id))
            .collect();
        let outgoing = |channel: &u8| matches!(*channel, ERROR | STDOUT | STDERR);
        let open = numbered
            .iter()
            .map(|(channel, _)| *channel)
            .filter(outgoing)
            .collect();
        Self {
            streams: numbered,
            open,
        }
    }

    fn stream(&self, channel: u8) -> Option<StreamId> {
        self.streams
            .iter()
            .find(|(own, _)| *own == channel)
            .map(|(_, id)| *id)
    }

    fn channel(&self, stream: StreamId) -> Option<u8> {
        self.streams
            .iter()
            .find(|(_, id)| *id == stream)
            .map(|(channel, _)| *channel)
    }

    fn hear_runtime(&mut self, frame: Frame) -> Reaction {
        match frame {
            Frame::Data { stream, data, fin } => {
                let Some(channel) = self.channel(stream) else {
                    return Reaction::Nothing;
                };
                let message = (!data.is_empty()).then(|| message(channel, &data));
                if fin {
                    return self.end(channel, message);
                }
                message.map_or(Reaction::Nothing, Reaction::Tell)
            }
            Frame::SynReply {
                stream, fin: true, ..
            }
            | Frame::RstStream { stream, .. } => self
                .channel(stream)
                .map_or(Reaction::Nothing, |channel| self.end(channel, None)),
            // Only the peer's pings have even numbers; the others answer ours, of which are none.
            Frame::Ping { id } if id % 2 == 0 => Reaction::Reply(Frame::Ping { id }),
            Frame::GoAway { .. } => Reaction::End(None),
            _ => Reaction::Nothing,
        }
    }

    fn end(&mut self, channel: u8, message: Option<Message>) -> Reaction {
        self.open.retain(|own| *own != channel);
        if self.open.is_empty() {
            return Reaction::End(message);
        }
        message.map_or(Reaction::Nothing, Reaction::Tell)
    }

    /// A client's binary message as a frame; `None` for channels that it has not.
    fn hear_client(&self, mut message: Bytes) -> Option<Frame> {
        if message.is_empty() {
            return None;
        }
        let channel = message.split_to(1)[0];
        if channel == CLOSE {
            let stream = self.stream(*message.first()?)?;
            return Some(Frame::Data {
                stream,
                data: Bytes::new(),
                fin: true,
            });
        }
        if !matches!(channel, STDIN | RESIZE) || message.is_empty() {
            return None;
        }
        Some(Frame::Data {
            stream: self.stream(channel)?,
            data: message,
            fin: false,
        })
    }
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

/// Carries one command between a client's WebSocket and a runtime's SPDY connection (upgraded,
/// nothing sent yet) until either ends.
pub async fn translate<C, R>(
    client: WebSocketStream<C>,
    runtime: R,
    streams: Streams,
) -> Result<(), TranslateError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (to_client, mut from_client) = client.split();
    let (reader, writer) = tokio::io::split(runtime);
    let from_runtime = FramedRead::new(reader, Decoder::default());
    let mut to_runtime = FramedWrite::new(writer, Encoder::new()?);
    let channels = Channels::new(streams);
    for ((_, name), (_, stream)) in streams.channels().zip(&channels.streams) {
        let headers = vec![("streamtype".to_owned(), name.to_owned())];
        to_runtime
            .feed(Frame::SynStream {
                stream: *stream,
                headers,
                fin: false,
            })
            .await?;
    }
    to_runtime.flush().await?;
    let (to_client, to_runtime) = (Mutex::new(to_client), Mutex::new(to_runtime));
    // Each direction waits for its own receiver only: a command that reads as it writes
    // must not wait for itself.
    let ended = tokio::select! {
        ended = carry_output(channels.clone(), from_runtime, &to_client, &to_runtime) => ended,
        ended = carry_input(channels, &mut from_client, &to_client, &to_runtime) => return ended,
    };
    if let Ok(client) = from_client.reunite(to_client.into_inner()) {
        websocket::leave(client).await;
    }
    ended
}

/// What the runtime sends, to the client; ends with the command.
async fn carry_output<C, R>(
    mut channels: Channels,
    mut from_runtime: impl Stream<Item = Result<Frame, FrameError>> + Unpin,
    to_client: &Mutex<C>,
    to_runtime: &Mutex<R>,
) -> Result<(), TranslateError>
where
    C: Sink<Message, Error = tungstenite::Error> + Unpin,
    R: Sink<Frame, Error = FrameError> + Unpin,
{
    let mut broken = None;
    loop {
        let reaction = match from_runtime.next().await {
            Some(Ok(frame)) => channels.hear_runtime(frame),
            Some(Err(error)) => {
                broken = Some(error);
                Reaction::End(None)
            }
            None => Reaction::End(None),
        };
        match reaction {
            Reaction::Nothing => {}
            Reaction::Reply(frame) => to_runtime.lock().await.send(frame).await?,
            Reaction::Tell(message) => to_client.lock().await.send(message).await.map_err(lost)?,
            Reaction::End(last) => {
                let mut to_client = to_client.lock().await;
                if let Some(message) = last {
                    to_client.send(message).await.map_err(lost)?;
                }
                let frame = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                // The client may be gone already.
                let _ = to_client.send(Message::Close(Some(frame))).await;
                return broken.map_or(Ok(()), |error| Err(error.into()));
            }
        }
    }
}

/// What the client sends, to the runtime; ends when the client leaves.
async fn carry_input<C, R>(
    channels: Channels,
    mut from_client: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    to_client: &Mutex<C>,
    to_runtime: &Mutex<R>,
) -> Result<(), TranslateError>
where
    C: Sink<Message, Error = tungstenite::Error> + Unpin,
    R: Sink<Frame, Error = FrameError> + Unpin,
{
    while let Some(message) = from_client.next().await {
        match message.map_err(lost)? {
            Message::Binary(bytes) => {
                if let Some(frame) = channels.hear_client(bytes) {
                    to_runtime.lock().await.send(frame).await?;
                }
            }
            // The library answers pings when it is flushed.
            Message::Ping(_) => to_client.lock().await.flush().await.map_err(lost)?,
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(())
}

fn lost(error: tungstenite::Error) -> TranslateError {
    TranslateError::WebSocket(Box::new(error))
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const ALL: Streams = Streams {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };

    #[test]
    fn the_query_names_the_streams() {
        assert_eq!(
            Streams::from_query("command=ls&stdin=true&stdout=1&stderr=true"),
            ALL
        );
        assert_eq!(
            Streams::from_query("command=ls&input=1&output=1&error=1"),
            ALL
        );
        let tty = Streams::from_query("stdout=true&stderr=true&tty=true");
        assert_eq!(
            tty,
            Streams {
                stdout: true,
                tty: true,
                ..Streams::default()
            }
        );
    }

    #[test]
    fn the_end_comes_after_every_outgoing_stream_ended() {
        let mut channels = Channels::new(ALL);
        let data = |stream, text: &'static str, fin| Frame::Data {
            stream,
            data: Bytes::from_static(text.as_bytes()),
            fin,
        };
        assert_eq!(
            channels.hear_runtime(data(5, "out", false)),
            Reaction::Tell(message(1, b"out"))
        );
        assert_eq!(channels.hear_runtime(data(5, "", true)), Reaction::Nothing);
        assert_eq!(channels.hear_runtime(data(7, "", true)), Reaction::Nothing);
        assert_eq!(
            channels.hear_runtime(data(1, "ok", true)),
            Reaction::End(Some(message(3, b"ok")))
        );
    }

    #[test]
    fn a_client_writes_only_to_its_channels() {
        let channels = Channels::new(Streams {
            stdin: true,
            stdout: true,
            ..Streams::default()
        });
        let frame = |bytes: &'static [u8]| channels.hear_client(Bytes::from_static(bytes));
        let data = |text: &'static [u8], fin| Frame::Data {
            stream: 3,
            data: Bytes::from_static(text),
            fin,
        };
        assert_eq!(frame(b"\x00hi"), Some(data(b"hi", false)));
        assert_eq!(frame(b"\xff\x00"), Some(data(b"", true)));
        for refused in [
            &b""[..],
            b"\x00",
            b"\x01out",
            b"\x04{}",
            b"\xff",
            b"\xff\x09",
            b"\x63x",
        ] {
            assert_eq!(
                channels.hear_client(Bytes::copy_from_slice(refused)),
                None,
                "{refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_command_runs_through_both_protocols() {
        let (client_end, server_end) = tokio::io::duplex(4096);
        let (runtime_end, upstream) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client_end, Role::Client, None).await;
        let translation = tokio::spawn(translate(server, upstream, ALL));
        let (reader, writer) = tokio::io::split(runtime_end);
        let mut frames = FramedRead::new(reader, Decoder::default());
        let mut runtime = FramedWrite::new(writer, Encoder::new().unwrap());
        for expected in ["error", "stdin", "stdout", "stderr"] {
            match frames.next().await.unwrap().unwrap() {
                Frame::SynStream { headers, .. } => assert_eq!(headers[0].1, expected),
                other => panic!("{other:?}"),
            }
        }
        client.send(message(STDIN, b"in")).await.unwrap();
        client.send(message(CLOSE, &[STDIN])).await.unwrap();
        let stdin = frames.next().await.unwrap().unwrap();
        assert_eq!(
            stdin,
            Frame::Data {
                stream: 3,
                data: Bytes::from_static(b"in"),
                fin: false
            }
        );
        let end = frames.next().await.unwrap().unwrap();
        assert_eq!(
            end,
            Frame::Data {
                stream: 3,
                data: Bytes::new(),
                fin: true
            }
        );
        for (stream, text) in [(5, "out"), (7, "err"), (1, "done")] {
            let data = Bytes::from_static(text.as_bytes());
            runtime
                .send(Frame::Data {
                    stream,
                    data,
                    fin: true,
                })
                .await
                .unwrap();
        }
        for (channel, text) in [(STDOUT, "out"), (STDERR, "err"), (ERROR, "done")] {
            let told = client.next().await.unwrap().unwrap();
            assert_eq!(told, message(channel, text.as_bytes()));
        }
        assert!(matches!(
            client.next().await,
            Some(Ok(Message::Close(Some(_))))
        ));
        // The answer to the closing message lets the other side go.
        let _ = client.flush().await;
        translation.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_command_that_writes_before_it_reads_is_not_waited_for() {
        let (client_end, server_end) = tokio::io::duplex(64);
        let (runtime_end, upstream) = tokio::io::duplex(64);
        let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
        let client = WebSocketStream::from_raw_socket(client_end, Role::Client, None).await;
        let translation = tokio::spawn(translate(server, upstream, ALL));
        let (reader, writer) = tokio::io::split(runtime_end);
        let mut frames = FramedRead::new(reader, Decoder::default());
        let mut runtime = FramedWrite::new(writer, Encoder::new().unwrap());
        for _ in 0..4 {
            frames.next().await.unwrap().unwrap();
        }
        let (mut to_server, mut from_server) = client.split();
        // More than fits on the way, so that it waits for the runtime to read.
        let sending = tokio::spawn(async move {
            to_server.send(message(STDIN, &[7; 4096])).await.unwrap();
            to_server
        });
        tokio::task::yield_now().await;
        let output = Bytes::from(vec![9; 4096]);
        let frame = Frame::Data {
            stream: 5,
            data: output.clone(),
            fin: false,
        };
        let (sent, told) = tokio::join!(runtime.send(frame), from_server.next());
        sent.unwrap();
        assert_eq!(told.unwrap().unwrap(), message(STDOUT, &output));
        assert!(matches!(
            frames.next().await.unwrap().unwrap(),
            Frame::Data { stream: 3, .. }
        ));
        drop((sending.await.unwrap(), from_server));
        let _ = translation.await.unwrap();
    }

    #[tokio::test]
    async fn a_runtime_that_breaks_off_is_told_to_the_client() {
        let (client_end, server_end) = tokio::io::duplex(4096);
        let (runtime_end, upstream) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client_end, Role::Client, None).await;
        let translation = tokio::spawn(translate(server, upstream, ALL));
        let mut frames = FramedRead::new(runtime_end, Decoder::default());
        for _ in 0..4 {
            frames.next().await.unwrap().unwrap();
        }
        drop(frames);
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
        drop(client);
        let _ = translation.await.unwrap();
    }

    #[tokio::test]
    async fn the_connection_ends_for_a_client_that_answers_nothing() {
        use tokio::io::AsyncReadExt;

        let (mut client, server_end) = tokio::io::duplex(4096);
        let (runtime_end, upstream) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(server_end, Role::Server, None).await;
        let translation = tokio::spawn(translate(server, upstream, ALL));
        let mut frames = FramedRead::new(runtime_end, Decoder::default());
        for _ in 0..4 {
            frames.next().await.unwrap().unwrap();
        }
        drop(frames);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        // A close frame with a code (RFC 6455, section 5.5.1), and no more.
        assert_eq!(told[..2], [0x88, 2]);
        assert_eq!(told.len(), 4);
        drop(client);
        let _ = translation.await.unwrap();
    }
}
