//! WATCH: a stream of events out of a queue that the cache fills.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::Method;
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::metrics::{self, Lasting, Target};
use crate::registry::cache::{Delivery, EventKind, LateFilter, WatchError};
use crate::registry::call::Call;
use crate::registry::kinds;
use crate::registry::options::{ListOptions, VersionMatch};
use crate::registry::render::{error_event, partial, plain_metadata, put_event};
use crate::response::{self, ApiError, ApiResponse, Body, BoxError, Media, Shape};

/// A bookmark about this often, and one shortly before the watch ends.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events are gathered into pieces of at most about this size.
const PIECE: usize = 64 << 10;
/// Watches without a timeout last between this and twice as long.
const DEFAULT_TIMEOUT: u64 = 1800;

impl Call {
    /// WATCH. The answer has begun when this returns; what goes wrong later is an ERROR event.
    pub async fn watch(self: Arc<Self>) -> Result<ApiResponse, ApiError> {
        let filter = Arc::new(self.filter()?);
        let filter_late = filter.late.clone();
        let options = ListOptions::parse(&self.query, true)?;
        if self.accepted.media == Media::Yaml {
            return Err(ApiError::not_acceptable(&[
                "application/json",
                "application/vnd.kubernetes.protobuf",
            ]));
        }
        let cacher = self.registry.cacher.clone();
        let streams_list = options.send_initial_events == Some(true)
            && options.version_match == Some(VersionMatch::NotOlderThan);
        let cache = self.resource.cache.clone();
        let watching = match options.resource_version {
            None | Some(0) => {
                if options.resource_version.is_none() {
                    cacher.consistent().await?;
                }
                let initial = options.send_initial_events != Some(false);
                Ok(cache.watch_from_now(filter, initial, cacher.applied()))
            }
            Some(revision) if streams_list => {
                cacher.at_least(revision).await?;
                Ok(cache.watch_from_now(filter, true, cacher.applied()))
            }
            Some(revision) => cache.watch_after(filter, revision, cacher.applied()),
        };
        let watching = match watching {
            Ok(watching) => watching,
            Err(WatchError::TooOld { requested, oldest }) => {
                let error =
                    ApiError::gone(format!("too old resource version: {requested} ({oldest})"));
                let bytes = error_event(&error, self.accepted);
                return Ok(self.stream_response(Body::from(bytes)));
            }
        };
        let lasts = options
            .timeout_seconds
            .filter(|s| *s > 0)
            .unwrap_or_else(|| rand::rng().random_range(DEFAULT_TIMEOUT..DEFAULT_TIMEOUT * 2));
        let mut bookmarks =
            tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stream = Stream {
            late: filter_late,
            end_of_initial: (streams_list && options.bookmarks).then_some(watching.revision),
            initial: watching.initial.into_iter(),
            queue: watching.queue,
            deadline: Instant::now() + Duration::from_secs(lasts),
            bookmarks: options.bookmarks.then_some(bookmarks),
            columns_sent: false,
            ended: false,
            _open: Lasting::begin(Target::of(&self.info, &Method::GET, true)),
            call: self.clone(),
        };
        let body = Body::stream(stream::unfold(stream, |mut stream| async move {
            stream
                .next()
                .await
                .map(|piece| (Ok::<Bytes, BoxError>(piece), stream))
        }));
        Ok(self.stream_response(body))
    }

    fn stream_response(&self, body: Body) -> ApiResponse {
        response::with_type(200, self.accepted.media.stream_name(), body)
    }
}

struct Stream {
    call: Arc<Call>,
    initial: std::vec::IntoIter<Delivery>,
    /// The revision of the bookmark that ends the initial events.
    end_of_initial: Option<u64>,
    queue: mpsc::Receiver<Delivery>,
    deadline: Instant,
    bookmarks: Option<Interval>,
    /// A Table describes its columns in the first event only.
    columns_sent: bool,
    ended: bool,
    /// Selects once more, after conversion.
    late: Option<LateFilter>,
    /// Counts the watch for as long as it is open.
    _open: Lasting,
}

enum Wake {
    Event(Delivery),
    Bookmark,
    End,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while piece.len() < PIECE
            && let Some(delivery) = self.initial.next()
        {
            self.put(&mut piece, &delivery).await;
        }
        if self.initial.as_slice().is_empty()
            && let Some(revision) = self.end_of_initial.take()
        {
            self.put_bookmark(&mut piece, revision, true);
        }
        while piece.is_empty() {
            if self.ended {
                return None;
            }
            match self.wait().await {
                Wake::Event(delivery) => {
                    self.put(&mut piece, &delivery).await;
                    while piece.len() < PIECE
                        && let Ok(more) = self.queue.try_recv()
                    {
                        self.put(&mut piece, &more).await;
                    }
                }
                Wake::Bookmark => self.bookmark(&mut piece).await,
                Wake::End => self.ended = true,
            }
        }
        Some(piece.freeze())
    }

    async fn wait(&mut self) -> Wake {
        let tick = async {
            match &mut self.bookmarks {
                Some(bookmarks) => {
                    bookmarks.tick().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.queue.recv() => event.map_or(Wake::End, Wake::Event),
            () = tick => Wake::Bookmark,
            () = tokio::time::sleep_until(self.deadline) => Wake::End,
            () = self.call.registry.shutdown.cancelled() => Wake::End,
        }
    }

    /// A bookmark names a revision only after everything up to it was sent.
    async fn bookmark(&mut self, piece: &mut BytesMut) {
        let revision = self.call.registry.cacher.applied();
        while let Ok(delivery) = self.queue.try_recv() {
            self.put(piece, &delivery).await;
        }
        self.put_bookmark(piece, revision, false);
    }

    async fn put(&mut self, piece: &mut BytesMut, delivery: &Delivery) {
        metrics::watch_event();
        if self.call.is_plain() && self.late.is_none() {
            put_event(piece, delivery.kind.name(), &delivery.object.bytes);
            return;
        }
        if self.call.is_plain_metadata() && self.late.is_none() {
            let metadata = plain_metadata(&delivery.object);
            put_event(piece, delivery.kind.name(), &metadata);
            return;
        }
        match self.presented(delivery).await {
            Ok(Some((kind, value))) => self.put_value(piece, kind.name(), value),
            Ok(None) => {}
            Err(error) => {
                piece.put_slice(&error_event(&error, self.call.accepted));
                self.ended = true;
            }
        }
    }

    /// The event in the request's version; `None` when the late filter keeps it back.
    async fn presented(&self, delivery: &Delivery) -> Result<Option<(EventKind, Value)>, ApiError> {
        let value = self.call.present(&delivery.object).await?;
        let Some(late) = &self.late else {
            return Ok(Some((delivery.kind, value)));
        };
        let was = match &delivery.before {
            Some(before) => late.matches(&self.call.present(before).await?),
            None => false,
        };
        let is = delivery.kind != EventKind::Deleted && late.matches(&value);
        let kind = match (was, is) {
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
            (false, false) => return Ok(None),
        };
        if kind == EventKind::Deleted
            && delivery.kind != EventKind::Deleted
            && let Some(before) = &delivery.before
        {
            // What leaves the selection is shown as it was, at the moment it left.
            let gone = before.at_revision(delivery.object.revision);
            return Ok(Some((kind, self.call.present(&gone).await?)));
        }
        Ok(Some((kind, value)))
    }

    fn put_value(&mut self, piece: &mut BytesMut, kind: &str, value: Value) {
        let accepted = self.call.accepted;
        let shaped = match accepted.shape {
            Shape::Object => value,
            Shape::PartialMetadata | Shape::PartialMetadataList => partial(&value),
            Shape::Table => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                // The options were checked when the watch began.
                self.call.table(&[value], None, columns).unwrap_or_default()
            }
        };
        match accepted.media {
            Media::Protobuf => {
                if let Some(bytes) = kinds::watch_event_protobuf(kind, &shaped) {
                    piece.put_slice(&bytes);
                }
            }
            Media::Cbor => piece.put_slice(&schema::cbor::encode_watch_event(kind, &shaped)),
            _ => put_event(piece, kind, shaped.to_string().as_bytes()),
        }
    }

    fn put_bookmark(&mut self, piece: &mut BytesMut, revision: u64, ends_initial: bool) {
        let mut object = kinds::bookmark_object(&self.call.resource);
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        if ends_initial {
            let annotations = &mut object["metadata"]["annotations"];
            if annotations.is_null() {
                *annotations = json!({});
            }
            annotations["k8s.io/initial-events-end"] = "true".into();
        }
        self.put_value(piece, "BOOKMARK", object);
    }
}
