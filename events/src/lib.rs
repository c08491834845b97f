//! Events for people, aggregated so that a loop does not flood the API.
//!
//! [`Correlator`] decides, [`Recorder`] hands over, one task writes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

/// Different messages of one kind about one object before they are told as one.
const SIMILAR: usize = 10;
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// Events about one object: this many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 4096;
const WAITING: usize = 1024;

/// `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Something that happened to an object.
#[derive(Debug, Clone)]
pub struct Occurrence {
    pub component: &'static str,
    /// The node that the component is part of.
    pub host: Option<String>,
    pub object: ObjectReference,
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
}

/// A reference to the object for its events.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: object.meta().namespace.clone(),
        name: object.meta().name.clone(),
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone(),
        field_path: None,
    }
}

type Source = (&'static str, Option<String>, Option<String>);
type Series = (Source, EventType, &'static str);
/// What is told again by a count: the series, the part of the object, and the message.
type Same = (Series, Option<String>, String);

struct Told {
    namespace: String,
    name: String,
    count: i32,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// What to do about an occurrence.
#[derive(Debug, PartialEq)]
pub enum Decision {
    Drop,
    Create(Box<Event>),
    /// The event is there: it happened again.
    Repeat {
        namespace: String,
        name: String,
        count: i32,
        at: Timestamp,
        message: String,
    },
}

/// Remembers what was told, to tell repetitions as counts.
#[derive(Default)]
pub struct Correlator {
    told: HashMap<Same, Told>,
    similar: HashMap<Series, (Vec<String>, Timestamp)>,
    buckets: HashMap<Source, Bucket>,
}

impl Correlator {
    /// What is to be written, if anything: an event of its own, or a count of an earlier one.
    pub fn decide(&mut self, happened: Occurrence) -> Decision {
        self.trim(happened.at);
        let source = (
            happened.component,
            happened.object.uid.clone(),
            happened.object.name.clone(),
        );
        if !self.admit(&source, happened.at) {
            return Decision::Drop;
        }
        let series = (source, happened.kind, happened.reason);
        let combined = self.is_one_of_many(&series, &happened);
        let message = if combined {
            format!("(combined from similar events): {}", happened.message)
        } else {
            happened.message.clone()
        };
        let told_as = if combined {
            String::new()
        } else {
            message.clone()
        };
        let same = (series, happened.object.field_path.clone(), told_as);
        if let Some(told) = self.told.get_mut(&same) {
            told.count = told.count.saturating_add(1);
            told.last = happened.at;
            return Decision::Repeat {
                namespace: told.namespace.clone(),
                name: told.name.clone(),
                count: told.count,
                at: happened.at,
                message,
            };
        }
        let event = new_event(&happened, message);
        let told = Told {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 1,
            last: happened.at,
        };
        self.told.insert(same, told);
        Decision::Create(Box::new(event))
    }

    fn admit(&mut self, source: &Source, now: Timestamp) -> bool {
        let full = Bucket {
            tokens: BURST,
            at: now,
        };
        let bucket = self.buckets.entry(source.clone()).or_insert(full);
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL.as_secs_f64()).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn is_one_of_many(&mut self, series: &Series, happened: &Occurrence) -> bool {
        let (messages, last) = self
            .similar
            .entry(series.clone())
            .or_insert_with(|| (Vec::new(), happened.at));
        if happened.at.duration_since(*last).unsigned_abs() > SIMILAR_FOR {
            messages.clear();
        }
        *last = happened.at;
        if !messages.contains(&happened.message) {
            messages.push(happened.message.clone());
            messages.truncate(SIMILAR + 1);
        }
        messages.len() >= SIMILAR
    }

    /// Forgets what is older than the window once there is much to remember.
    fn trim(&mut self, now: Timestamp) {
        let recent = |at: &Timestamp| now.duration_since(*at).unsigned_abs() < SIMILAR_FOR;
        if self.told.len() > REMEMBERED {
            self.told.retain(|_, told| recent(&told.last));
        }
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (_, last)| recent(last));
        }
        if self.buckets.len() > REMEMBERED {
            self.buckets.retain(|_, bucket| recent(&bucket.at));
        }
    }
}

fn new_event(happened: &Occurrence, message: String) -> Event {
    let object = &happened.object;
    let namespace = object
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    let name = object.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", happened.at.as_nanosecond())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: object.clone(),
        type_: Some(happened.kind.as_str().to_owned()),
        reason: Some(happened.reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(happened.at)),
        last_timestamp: Some(Time(happened.at)),
        source: Some(EventSource {
            component: Some(happened.component.to_owned()),
            host: happened.host.clone(),
        }),
        reporting_component: Some(happened.component.to_owned()),
        reporting_instance: happened.host.clone(),
        ..Event::default()
    }
}

/// Takes occurrences from controllers. Cheap to clone; a full queue drops events.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// The recorder and the task that writes, which ends with the last recorder.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender }, write(client, receiver))
    }

    /// Something happened to the object.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        component: &'static str,
        object: &K,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record(Occurrence {
            component,
            host: None,
            object: reference(object),
            kind,
            reason,
            message: message.into(),
            at: Timestamp::now(),
        });
    }

    /// Hands over what happened, which is written later.
    pub fn record(&self, occurrence: Occurrence) {
        if let Err(error) = self.sender.try_send(occurrence) {
            tracing::warn!(%error, "an event is dropped");
        }
    }
}

async fn write(client: Client, mut receiver: mpsc::Receiver<Occurrence>) {
    let mut correlator = Correlator::default();
    while let Some(occurrence) = receiver.recv().await {
        let fresh = new_event(&occurrence, occurrence.message.clone());
        let result = match correlator.decide(occurrence) {
            Decision::Drop => continue,
            Decision::Create(event) => create(&client, &event).await,
            Decision::Repeat {
                namespace,
                name,
                count,
                at,
                message,
            } => {
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                let change = json!({"count": count, "lastTimestamp": Time(at), "message": message});
                let patched = api
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&change))
                    .await;
                match patched {
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        create(&client, &fresh).await
                    }
                    other => other.map(drop),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an event was not recorded");
        }
    }
}

async fn create(client: &Client, event: &Event) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str, second: i64) -> Occurrence {
        Occurrence {
            component: "test",
            host: None,
            object: ObjectReference {
                name: Some("o".into()),
                ..ObjectReference::default()
            },
            kind: EventType::Normal,
            reason: "Tested",
            message: message.to_owned(),
            at: Timestamp::from_second(1_000_000 + second).expect("in range"),
        }
    }

    #[test]
    fn the_same_event_again_is_a_count() {
        let mut correlator = Correlator::default();
        assert!(matches!(
            correlator.decide(occurrence("m", 0)),
            Decision::Create(_)
        ));
        let second = correlator.decide(occurrence("m", 1));
        assert!(
            matches!(second, Decision::Repeat { count: 2, .. }),
            "{second:?}"
        );
    }

    #[test]
    fn many_similar_events_become_one() {
        let mut correlator = Correlator::default();
        let mut created = 0;
        for n in 0..20 {
            let decision = correlator.decide(occurrence(&format!("m{n}"), n));
            created += usize::from(matches!(decision, Decision::Create(_)));
        }
        assert_eq!(created, SIMILAR);
    }

    #[test]
    fn parts_of_an_object_are_told_by_themselves() {
        let mut correlator = Correlator::default();
        for part in ["spec.containers{a}", "spec.containers{b}"] {
            let mut happened = occurrence("m", 0);
            happened.object.field_path = Some(part.to_owned());
            let Decision::Create(event) = correlator.decide(happened) else {
                panic!("{part} is not told");
            };
            assert_eq!(event.involved_object.field_path.as_deref(), Some(part));
        }
    }

    #[test]
    fn one_object_may_not_flood() {
        let mut correlator = Correlator::default();
        let told = (0..100).filter(|_| correlator.decide(occurrence("m", 0)) != Decision::Drop);
        assert_eq!(told.count(), 25);
        assert_ne!(correlator.decide(occurrence("m", 301)), Decision::Drop);
        assert_eq!(correlator.decide(occurrence("m", 302)), Decision::Drop);
    }
}
