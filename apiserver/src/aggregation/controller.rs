//! Follows the `APIService` objects: which servers answer, what they publish, and the objects
//! that announce custom resources.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::model::{self, AUTOMANAGED, Fault};
use super::{Announced, Entry, Published, fetch};
use crate::ApiServer;
use crate::bootstrap::{BootstrapError, Writer};
use crate::outbound::Place;
use crate::registry::{Registry, meta};

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
/// How often every server is asked, changes or not.
const EVERY: Duration = Duration::from_secs(5);
/// How often what a server publishes is read anew.
const PUBLISHED_EVERY: Duration = Duration::from_secs(60);
/// Changes are gathered for this long.
const PAUSE: Duration = Duration::from_millis(100);

/// Follows until shutdown, which ends it wherever it is.
pub(crate) fn start(api: &ApiServer) {
    let (registry, writer) = (api.registry().clone(), Writer::new(api));
    tokio::spawn(async move {
        let shutdown = registry.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(registry, writer) => {}
        }
    });
}

async fn follow(registry: Arc<Registry>, writer: Writer) {
    let mut controller = Controller {
        registry: registry.clone(),
        writer,
        read_at: Instant::now(),
    };
    let mut seen = Vec::new();
    let mut next = Instant::now();
    loop {
        let applied = registry.cacher.applied();
        let now = touched(&registry);
        if now != seen || Instant::now() >= next {
            seen = now;
            controller.reconcile().await;
            next = Instant::now() + EVERY;
        }
        tokio::select! {
            () = registry.cacher.beyond(applied) => tokio::time::sleep(PAUSE).await,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Revisions of everything that decides.
fn touched(registry: &Registry) -> Vec<u64> {
    let caches = [
        (GROUP, RESOURCE),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("", "services"),
        ("discovery.k8s.io", "endpointslices"),
    ];
    let revision =
        |(group, resource): (&str, &str)| registry.cacher.resource(group, resource).touched();
    caches.into_iter().map(revision).collect()
}

struct Controller {
    registry: Arc<Registry>,
    writer: Writer,
    /// When the published documents were last read.
    read_at: Instant,
}

impl Controller {
    async fn reconcile(&mut self) {
        let objects: Vec<Value> = self
            .registry
            .list(GROUP, RESOURCE, "")
            .iter()
            .map(|o| o.value())
            .collect();
        if let Err(error) = self.announce_custom(&objects).await {
            tracing::warn!(%error, "an APIService of custom resources is written again later");
        }
        let again = self.read_at.elapsed() >= PUBLISHED_EVERY;
        if again {
            self.read_at = Instant::now();
        }
        let before = self.registry.aggregation.entries();
        let mut entries = Vec::new();
        for object in &objects {
            let Some(announced) = Announced::of(object) else {
                continue;
            };
            let known = before.iter().find(|e| e.announced == announced);
            let entry = self.examine(announced, object, known, again).await;
            entries.push(entry);
        }
        self.registry.aggregation.set(entries);
    }

    /// Asks one server and writes down how it is.
    async fn examine(
        &self,
        announced: Announced,
        object: &Value,
        known: Option<&Entry>,
        again: bool,
    ) -> Entry {
        let mut published = known.map(|k| k.published.clone()).unwrap_or_default();
        let asked = match self.service_fault(&announced) {
            Some(fault) => Err(fault),
            None => self.ask(&announced).await,
        };
        if let Ok(resources) = &asked {
            if known.is_none_or(|k| !k.available) || again {
                published = self.documents(&announced).await;
            }
            published.resources = resources.clone();
        }
        let fault = asked.err();
        self.write_condition(object, fault.as_ref()).await;
        Entry {
            announced,
            available: fault.is_none(),
            published,
        }
    }

    fn service_fault(&self, announced: &Announced) -> Option<Fault> {
        let Place::Service {
            namespace, name, ..
        } = &announced.place
        else {
            return None;
        };
        let service = self.registry.lookup("", "services", namespace, name);
        let slices: Vec<Value> = self
            .registry
            .list("discovery.k8s.io", "endpointslices", namespace)
            .iter()
            .filter(|s| s.label("kubernetes.io/service-name") == Some(name))
            .map(|s| s.value())
            .collect();
        model::service_fault(announced, service.map(|s| s.value()).as_ref(), &slices)
    }

    /// Its resource list, which it has to have.
    async fn ask(&self, announced: &Announced) -> Result<Value, Fault> {
        let path = format!("/apis/{}/{}", announced.group, announced.version);
        let url = format!("https://{}{path}", announced.place.host());
        let failed = |why: String| Fault {
            reason: "FailedDiscoveryCheck",
            message: format!("failing or missing response from {url}: {why}"),
        };
        let (code, bytes) = fetch(&self.registry, announced, &path)
            .await
            .map_err(failed)?;
        if code != 200 {
            return Err(failed(format!("bad status from {url}: {code}")));
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
    }

    /// OpenAPI, where it has some.
    async fn documents(&self, announced: &Announced) -> Published {
        let get = async |path: &str| match fetch(&self.registry, announced, path).await {
            Ok((200, bytes)) => Some(bytes),
            _ => None,
        };
        let v3 = format!("/openapi/v3/apis/{}/{}", announced.group, announced.version);
        let v2 = get("/openapi/v2").await;
        Published {
            resources: Value::Null,
            v3: get(&v3).await.map(Arc::new),
            v2: v2.and_then(|bytes| serde_json::from_slice(&bytes).ok().map(Arc::new)),
        }
    }

    async fn write_condition(&self, object: &Value, fault: Option<&Fault>) {
        let condition = model::condition(fault, object, &meta::now());
        let current = object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        if current.into_iter().any(|c| *c == condition) {
            return;
        }
        let patch = json!({"status": {"conditions": [condition]}});
        let name = meta::name(object).to_owned();
        let written = self
            .writer
            .clone()
            .patch_status(GROUP, "v1", RESOURCE, name, patch)
            .await;
        if let Err(error) = written {
            tracing::debug!(%error, "the condition of an APIService is written again later");
        }
    }

    /// Keeps one object for each group version of custom resources.
    async fn announce_custom(&self, objects: &[Value]) -> Result<(), BootstrapError> {
        let resources = self.registry.catalog.all();
        let wanted: BTreeSet<(String, String)> = resources
            .iter()
            .filter(|r| r.is_custom())
            .map(|r| (r.group.to_string(), r.version.to_string()))
            .collect();
        for (group, version) in &wanted {
            let object = model::for_custom(group, version);
            if objects.iter().any(|o| meta::name(o) == meta::name(&object)) {
                continue;
            }
            self.writer
                .clone()
                .ensure(GROUP, "v1", RESOURCE, object.clone())
                .await?;
            let patch = json!({"status": {"conditions": [{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": meta::now(),
            }]}});
            let name = meta::name(&object).to_owned();
            self.writer
                .clone()
                .patch_status(GROUP, "v1", RESOURCE, name, patch)
                .await?;
        }
        for object in objects {
            let text = |key: &str| object["spec"][key].as_str().unwrap_or_default().to_owned();
            let own = object["metadata"]["labels"][AUTOMANAGED] == "true";
            if own && !wanted.contains(&(text("group"), text("version"))) {
                self.writer
                    .remove(GROUP, "v1", RESOURCE, meta::name(object))
                    .await?;
            }
        }
        Ok(())
    }
}
