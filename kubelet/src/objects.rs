//! The objects that pods refer to, each watched by its name.
//!
//! A node sees only what its pods use: one watch per object, started by the first pod that
//! refers to it and ended with the last. A change wakes the pods that use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// The API did not say in time whether an object exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} \"{namespace}/{name}\": the API server does not answer")]
pub(crate) struct Unanswered {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// `None` until the API has answered; then the object, if it exists.
type Answer<K> = Option<Option<Arc<K>>>;

struct Entry<K> {
    answer: watch::Receiver<Answer<K>>,
    users: Arc<Mutex<BTreeSet<String>>>,
    _stop: DropGuard,
}

/// The watched objects of one kind.
struct Store<K> {
    client: Client,
    changed: mpsc::UnboundedSender<String>,
    entries: Mutex<BTreeMap<(String, String), Entry<K>>>,
}

impl<K> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn new(client: Client, changed: mpsc::UnboundedSender<String>) -> Self {
        Self {
            client,
            changed,
            entries: Mutex::default(),
        }
    }

    /// The object, once the API has said whether there is one. The pod with this uid is told
    /// of its changes from now on.
    async fn get(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<K>>, Unanswered> {
        let mut answer = self.follow(uid, namespace, name);
        let waited = tokio::time::timeout(FIRST_ANSWER, answer.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(answer)) => Ok(answer.clone().flatten()),
            _ => Err(Unanswered {
                kind: K::kind(&()).to_lowercase(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
        }
    }

    fn follow(&self, uid: &str, namespace: &str, name: &str) -> watch::Receiver<Answer<K>> {
        let mut entries = self.entries.lock();
        let entry = entries
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| self.start(namespace, name));
        entry.users.lock().insert(uid.to_owned());
        entry.answer.clone()
    }

    fn start(&self, namespace: &str, name: &str) -> Entry<K> {
        let stop = CancellationToken::new();
        let (sender, answer) = watch::channel(None);
        let users: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let task = follow(
            api,
            name.to_owned(),
            sender,
            users.clone(),
            self.changed.clone(),
        );
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = task => {}
            }
        });
        Entry {
            answer,
            users,
            _stop: stop.drop_guard(),
        }
    }

    fn release(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut users = entry.users.lock();
            users.remove(uid);
            !users.is_empty()
        });
    }
}

async fn follow<K>(
    api: Api<K>,
    name: String,
    sender: watch::Sender<Answer<K>>,
    users: Arc<Mutex<BTreeSet<String>>>,
    changed: mpsc::UnboundedSender<String>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut stream = std::pin::pin!(watch_object(api, &name).default_backoff());
    while let Some(item) = stream.next().await {
        // An error is tried again by the stream itself; what was known stays.
        let Ok(object) = item else { continue };
        let version = |object: &Option<Arc<K>>| {
            object
                .as_ref()
                .map(|object| object.meta().resource_version.clone())
        };
        let new = object.map(Arc::new);
        let news = sender.send_if_modified(|answer| {
            let news = answer
                .as_ref()
                .is_none_or(|old| version(old) != version(&new));
            *answer = Some(new);
            news
        });
        if news {
            for uid in users.lock().iter() {
                let _ = changed.send(uid.clone());
            }
        }
    }
}

/// ConfigMaps and Secrets.
pub(crate) struct ObjectStore {
    config_maps: Store<ConfigMap>,
    secrets: Store<Secret>,
}

impl ObjectStore {
    /// The uids of pods whose objects change are sent to `changed`.
    pub(crate) fn new(client: Client, changed: mpsc::UnboundedSender<String>) -> Self {
        Self {
            config_maps: Store::new(client.clone(), changed.clone()),
            secrets: Store::new(client, changed),
        }
    }

    pub(crate) async fn config_map(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, Unanswered> {
        self.config_maps.get(uid, namespace, name).await
    }

    pub(crate) async fn secret(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, Unanswered> {
        self.secrets.get(uid, namespace, name).await
    }

    /// The pod needs nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        self.config_maps.release(uid);
        self.secrets.release(uid);
    }
}
