//! An API server in memory: lists, watches, and takes Events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NODES: &str = "/api/v1/nodes";

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

type Watcher = mpsc::UnboundedSender<Result<http_body::Frame<Bytes>, Infallible>>;

#[derive(Default)]
struct State {
    revision: u64,
    /// Objects by their collection's path and their name.
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, Watcher)>,
    events: Vec<Value>,
}

#[derive(Clone, Default)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
}

impl Api {
    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// The object is there, or has changed.
    pub(crate) fn apply(&self, collection: &str, object: &impl serde::Serialize) {
        let mut object = serde_json::to_value(object).expect("JSON");
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let mut state = self.state.lock().expect("no panic while it is held");
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let key = (collection.to_owned(), name);
        let known = state.objects.insert(key, object.clone()).is_some();
        let kind = if known { "MODIFIED" } else { "ADDED" };
        state.tell(collection, &json!({"type": kind, "object": object}));
    }

    /// The reasons and objects of the Events that were written.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let state = self.state.lock().expect("no panic while it is held");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        state
            .events
            .iter()
            .map(|event| (text(&event["reason"]), text(&event["regarding"]["name"])))
            .collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let path = request.uri().path().to_owned();
        if request.method() == Method::POST || request.method() == Method::PATCH {
            let body = request.into_body().collect().await;
            let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
            let event: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let mut state = self.state.lock().expect("no panic while it is held");
            state.events.push(event);
            return Response::new(Full::new(bytes).boxed_unsync());
        }
        let query = request.uri().query().unwrap_or_default();
        let mut state = self.state.lock().expect("no panic while it is held");
        if query.contains("watch=") {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.watchers.push((path, sender));
            let stream = futures::stream::unfold(receiver, |mut receiver| async {
                Some((receiver.recv().await?, receiver))
            });
            return Response::new(StreamBody::new(stream).boxed_unsync());
        }
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((collection, _), _)| *collection == path)
            .map(|(_, object)| object)
            .collect();
        let list = json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": state.revision.to_string()},
            "items": items,
        });
        Response::new(Full::new(Bytes::from(list.to_string())).boxed_unsync())
    }
}

impl tower_service::Service<Request<Body>> for Api {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

impl State {
    fn tell(&mut self, collection: &str, event: &Value) {
        let line = Bytes::from(format!("{event}\n"));
        self.watchers.retain(|(path, watcher)| {
            path != collection
                || watcher
                    .send(Ok(http_body::Frame::data(line.clone())))
                    .is_ok()
        });
    }
}
