//! What cannot be enforced is told to the author, with an API server in memory.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

type Frame = Result<http_body::Frame<bytes::Bytes>, Infallible>;
/// The path that is watched, and where to tell what happens there.
type Watcher = (String, mpsc::UnboundedSender<Frame>);

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

/// Has no objects at first, tells what it is given, and keeps what is posted.
#[derive(Clone, Default)]
struct Api {
    watchers: Arc<Mutex<Vec<Watcher>>>,
    posted: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(
        &self,
        request: Request<Body>,
    ) -> Response<UnsyncBoxBody<bytes::Bytes, Infallible>> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query());
        if query.is_some_and(|query| query.contains("watch=")) {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.watchers.lock().unwrap().push((path, sender));
            let next = |mut receiver: mpsc::UnboundedReceiver<Frame>| async {
                Some((receiver.recv().await?, receiver))
            };
            let stream = futures::stream::unfold(receiver, next).boxed();
            return Response::new(StreamBody::new(stream).boxed_unsync());
        }
        let answer = if request.method() == Method::POST {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let posted: Value = serde_json::from_slice(&body).unwrap();
            self.posted.lock().unwrap().push(posted.clone());
            posted
        } else {
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
                "items": []})
        };
        let body = http_body_util::Full::new(bytes::Bytes::from(answer.to_string()));
        Response::new(body.boxed_unsync())
    }

    /// A policy that lets in what is sent by this protocol is there, or was changed.
    fn tell(&self, name: &str, revision: u32, protocol: &str) {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "ns", "uid": name,
                "resourceVersion": revision.to_string()},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"protocol": protocol}]}]}});
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
        for (path, watcher) in self.watchers.lock().unwrap().iter() {
            if path == POLICIES {
                let frame = http_body::Frame::data(bytes::Bytes::from(line.clone()));
                watcher.send(Ok(frame)).unwrap();
            }
        }
    }

    /// The policies that were told about, with what was told.
    async fn events(&self, number: usize) -> Vec<(String, String)> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let posted = self.posted.lock().unwrap().clone();
            if posted.len() >= number {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let told = posted.iter().map(|event| {
                    assert_eq!(event["reason"], "NotEnforced", "{event}");
                    assert_eq!(event["involvedObject"]["kind"], "NetworkPolicy", "{event}");
                    (
                        text(&event["involvedObject"]["name"]),
                        text(&event["message"]),
                    )
                });
                return told.collect();
            }
            assert!(Instant::now() < deadline, "{posted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_network_policy_that_cannot_be_enforced_gets_an_event_for_each_fault_once() {
    let api = Api::default();
    let shutdown = CancellationToken::new();
    let client = api.client();
    let caches = WatchCaches::new(client.clone());
    let reporting = tokio::spawn(policy::report(client, caches, shutdown.clone()));
    let watched = || {
        api.watchers
            .lock()
            .unwrap()
            .iter()
            .any(|own| own.0 == POLICIES)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !watched() {
        assert!(Instant::now() < deadline, "nobody watches policies");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    api.tell("good", 2, "TCP");
    api.tell("bad", 3, "ICMP");
    let first = api.events(1).await;
    assert_eq!(first[0].0, "bad");
    assert!(first[0].1.contains("ICMP"), "{first:?}");
    // The same fault again is no news; another one is.
    api.tell("bad", 4, "ICMP");
    api.tell("bad", 5, "IGMP");
    let second = api.events(2).await;
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(second[1].1.contains("IGMP"), "{second:?}");
    shutdown.cancel();
    reporting.await.unwrap();
}
