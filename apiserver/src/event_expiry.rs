//! Events go an hour after they were last written.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use storage::{Expect, Mutation, StoreError, Transaction};
use tokio_util::sync::CancellationToken;

use crate::registry::Cacher;
use crate::registry::cache::Filter;
use crate::registry::object::Object;

/// How often old ones are looked for.
const ROUND: Duration = Duration::from_secs(60);
/// Shorter rounds would only keep the server busy.
const LEAST: Duration = Duration::from_secs(1);
/// How many go in one transaction.
const BATCH: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    metadata: Metadata,
    last_timestamp: Option<String>,
    event_time: Option<String>,
    series: Option<Series>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    creation_timestamp: Option<String>,
    #[serde(default)]
    managed_fields: Vec<Managed>,
}

#[derive(Deserialize)]
struct Managed {
    time: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    last_observed_time: Option<String>,
}

/// When the event was last written, as far as it tells.
fn written(object: &Object) -> Option<Timestamp> {
    let times: Times = object.read()?;
    let managed = times.metadata.managed_fields.into_iter().map(|m| m.time);
    let told = [
        times.metadata.creation_timestamp,
        times.last_timestamp,
        times.event_time,
        times.series.and_then(|s| s.last_observed_time),
    ];
    let all = told.into_iter().chain(managed).flatten();
    all.filter_map(|text| text.parse().ok()).max()
}

/// Removes what is older than `age`, again and again until shutdown.
pub(crate) async fn run(cacher: Arc<Cacher>, age: Duration, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ROUND.min(age).max(LEAST)) => {}
        }
        if let Err(error) = expire(&cacher, age, Timestamp::now()).await {
            tracing::warn!(%error, "old events could not be removed, it is tried again");
        }
    }
}

/// Removes the events that are older than `age` at this moment.
async fn expire(cacher: &Cacher, age: Duration, now: Timestamp) -> Result<(), StoreError> {
    let Ok(age) = SignedDuration::try_from(age) else {
        return Ok(());
    };
    let events = cacher.resource("", "events");
    let all = events.list(&Filter::default(), None, 0, 0);
    let old: Vec<_> = all
        .objects
        .iter()
        .filter(|event| written(event).is_some_and(|at| at + age < now))
        .collect();
    for batch in old.chunks(BATCH) {
        let whole = Transaction {
            expect: batch
                .iter()
                .map(|e| (e.key.clone(), Expect::ModRevision(e.revision)))
                .collect(),
            mutations: batch
                .iter()
                .map(|e| Mutation::Delete { key: e.key.clone() })
                .collect(),
        };
        match cacher.store().commit(whole).await {
            // One of them was written meanwhile; the next round sees.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storage::{EmbeddedOptions, EmbeddedStore, Store};

    use super::*;
    use crate::registry::object;

    #[tokio::test]
    async fn old_events_go_and_repeated_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions::new(directory.path().join("db"));
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
        let event = |name: &str, last: &str| {
            object::encode(
                &json!({"kind": "Event", "apiVersion": "v1", "lastTimestamp": last,
                "metadata": {"name": name, "namespace": "d", "creationTimestamp": "2024-01-01T00:00:00Z"}}),
            )
        };
        for (name, last) in [
            ("old", "2024-01-01T00:10:00Z"),
            ("repeated", "2024-01-01T01:50:00Z"),
        ] {
            let key: Arc<str> = format!("/registry/core/events/d/{name}").into();
            let value = event(name, last).into();
            let put = Transaction {
                expect: vec![],
                mutations: vec![Mutation::Put { key, value }],
            };
            store.commit(put).await.unwrap();
        }
        let cacher = Cacher::start(store, CancellationToken::new())
            .await
            .unwrap();
        let now = "2024-01-01T02:00:00Z".parse().unwrap();
        expire(&cacher, Duration::from_secs(3600), now)
            .await
            .unwrap();
        cacher.consistent().await.unwrap();
        let left = cacher
            .resource("", "events")
            .list(&Filter::default(), None, 0, 0);
        let names: Vec<_> = left.objects.iter().map(|o| o.name()).collect();
        assert_eq!(names, ["repeated"]);
    }
}
