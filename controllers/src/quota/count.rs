//! Counts objects of any kind by namespace, from a watch of their metadata. A watch starts
//! with the first quota that counts the kind: without quotas nothing is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::TryStreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::framework::discovery::{self, Kind};
use crate::framework::{Context, Error};

type Meta = PartialObjectMeta<DynamicObject>;
type Names = BTreeMap<String, BTreeSet<String>>;

/// The objects of one kind.
#[derive(Clone)]
struct Counter {
    names: Arc<Mutex<Names>>,
    synced: watch::Receiver<bool>,
}

/// The counters that quotas have asked for.
pub(crate) struct Counters {
    context: Context,
    counters: Mutex<BTreeMap<String, Counter>>,
    changed: Arc<dyn Fn(&str) + Send + Sync>,
}

/// The resource and group that a quota's name counts; None for what is not a count.
fn counted(name: &str) -> Option<(String, String)> {
    let plain = [
        "configmaps",
        "secrets",
        "replicationcontrollers",
        "resourcequotas",
    ];
    if plain.contains(&name) {
        return Some((name.to_owned(), String::new()));
    }
    let rest = name.strip_prefix("count/")?;
    let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
    let typed =
        group.is_empty() && ["pods", "services", "persistentvolumeclaims"].contains(&resource);
    (!typed).then(|| (resource.to_owned(), group.to_owned()))
}

impl Counters {
    /// `changed` is told the namespace in which a counted object went.
    pub(crate) fn new(context: &Context, changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            context: context.clone(),
            counters: Mutex::default(),
            changed: Arc::new(changed),
        }
    }

    /// How many objects there are, for each of the names that is a count.
    pub(crate) async fn count<'a>(
        &self,
        namespace: &str,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<BTreeMap<String, usize>, Error> {
        let mut counts = BTreeMap::new();
        for name in names {
            let Some((resource, group)) = counted(name) else {
                continue;
            };
            let Some(mut counter) = self.counter(&resource, &group).await? else {
                continue;
            };
            let _ = counter.synced.wait_for(|synced| *synced).await;
            let count = counter.names.lock().get(namespace).map_or(0, BTreeSet::len);
            counts.insert(name.clone(), count);
        }
        Ok(counts)
    }

    async fn counter(&self, resource: &str, group: &str) -> Result<Option<Counter>, Error> {
        let key = format!("{resource}.{group}");
        if let Some(counter) = self.counters.lock().get(&key) {
            return Ok(Some(counter.clone()));
        }
        let kinds = discovery::kinds(&self.context.client).await?;
        let kind = kinds
            .into_iter()
            .find(|kind| kind.resource.plural == resource && kind.resource.group == group);
        let Some(kind) = kind.filter(|kind| kind.namespaced && kind.supports("watch")) else {
            return Ok(None);
        };
        let mut counters = self.counters.lock();
        let counter = counters.entry(key).or_insert_with(|| self.start(kind));
        Ok(Some(counter.clone()))
    }

    fn start(&self, kind: Kind) -> Counter {
        let (sender, synced) = watch::channel(false);
        let names = Arc::new(Mutex::new(Names::new()));
        let (client, own, changed) = (
            self.context.client.clone(),
            names.clone(),
            self.changed.clone(),
        );
        self.context.spawn(async move {
            let api: Api<Meta> = Api::all_with(client, &kind.resource);
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            let mut events = pin!(events);
            let mut listing = Names::new();
            loop {
                match events.try_next().await {
                    Ok(Some(event)) => handle(event, &own, &mut listing, &sender, changed.as_ref()),
                    Ok(None) => return,
                    Err(error) => tracing::debug!(%error, "watch for a quota"),
                }
            }
        });
        Counter { names, synced }
    }
}

fn handle(
    event: Event<Meta>,
    names: &Mutex<Names>,
    listing: &mut Names,
    synced: &watch::Sender<bool>,
    changed: &(dyn Fn(&str) + Send + Sync),
) {
    let key = |meta: &Meta| {
        let meta = &meta.metadata;
        (
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    };
    match event {
        Event::Apply(object) => {
            let (namespace, name) = key(&object);
            names.lock().entry(namespace).or_default().insert(name);
        }
        Event::Delete(object) => {
            let (namespace, name) = key(&object);
            names
                .lock()
                .entry(namespace.clone())
                .or_default()
                .remove(&name);
            changed(&namespace);
        }
        Event::Init => listing.clear(),
        Event::InitApply(object) => {
            let (namespace, name) = key(&object);
            listing.entry(namespace).or_default().insert(name);
        }
        Event::InitDone => {
            let old = std::mem::replace(&mut *names.lock(), std::mem::take(listing));
            synced.send_replace(true);
            for namespace in old.keys() {
                changed(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_counts_are_told_from_amounts() {
        let own = |resource: &str, group: &str| Some((resource.to_owned(), group.to_owned()));
        assert_eq!(counted("configmaps"), own("configmaps", ""));
        assert_eq!(counted("count/secrets"), own("secrets", ""));
        assert_eq!(
            counted("count/deployments.apps"),
            own("deployments", "apps")
        );
        assert_eq!(
            counted("count/widgets.example.com"),
            own("widgets", "example.com")
        );
        for amount in [
            "pods",
            "cpu",
            "requests.memory",
            "count/pods",
            "services.nodeports",
        ] {
            assert_eq!(counted(amount), None, "{amount}");
        }
    }
}
