//! A server with its controllers for each test.

use std::fmt::Debug;
use std::time::Duration;

use apiserver::authn::UserInfo;
use apiserver::{RunningServer, start};
use controllers::{Config, Deps, Selection};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

/// Long enough for a slow machine; nothing waits so long where all is well.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "work";

pub(crate) trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + 'static
{
}
impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + 'static
{
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    _running: RunningServer,
    _directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    /// A server with these controllers and a namespace to work in.
    pub(crate) async fn start(controllers: &str) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let config = apiserver::Config {
            data_dir: directory.path().to_path_buf(),
            bind_address: [127, 0, 0, 1].into(),
            secure_port: 0,
            ..apiserver::Config::default()
        };
        let running = start(config, shutdown.clone()).await.unwrap();
        let client = running.client_for(UserInfo::new("admin", ["system:masters"]));
        let config = Config {
            controllers: Selection::parse([controllers, "serviceaccount"]).unwrap(),
            leader_elect: false,
            ..Config::default()
        };
        let deps = Deps {
            client: client.clone(),
            caches: WatchCaches::new(client.clone()),
        };
        tokio::spawn(controllers::run(config, deps, shutdown.clone()));
        let cluster = Cluster {
            client,
            shutdown,
            _running: running,
            _directory: directory,
        };
        cluster.make_namespace().await;
        cluster
    }

    async fn make_namespace(&self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        let namespace = serde_json::from_value(namespace).unwrap();
        api.create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        // Pods are admitted once the namespace has its account.
        self.until::<k8s_openapi::api::core::v1::ServiceAccount>("", "has an account", |all| {
            all.iter().any(|account| account.name_any() == "default")
        })
        .await;
    }

    pub(crate) fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) async fn create<K: Object>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).unwrap();
        self.api()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    pub(crate) async fn merge<K: Object>(&self, name: &str, change: Value) -> K {
        let params = PatchParams::default();
        self.api()
            .patch(name, &params, &Patch::Merge(change))
            .await
            .unwrap()
    }

    pub(crate) async fn delete<K: Object>(&self, name: &str, params: &DeleteParams) {
        self.api::<K>().delete(name, params).await.unwrap();
    }

    /// The objects that a label selector picks, once the condition holds.
    pub(crate) async fn until<K: Object>(
        &self,
        selector: &str,
        what: &str,
        holds: impl Fn(&[K]) -> bool,
    ) -> Vec<K> {
        let api = self.api::<K>();
        let params = ListParams::default().labels(selector);
        let mut seen = Vec::new();
        let wait = async {
            loop {
                seen = api.list(&params).await.unwrap().items;
                if holds(&seen) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{} {selector} never {what}: {seen:#?}", K::kind(&()));
        }
        seen
    }

    /// Once so many pods are there that are not on their way out.
    pub(crate) async fn pods(&self, selector: &str, count: usize) -> Vec<Pod> {
        let staying = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
        let what = format!("are {count}");
        let all = self
            .until::<Pod>(selector, &what, |all| {
                all.iter().filter(staying).count() == count
            })
            .await;
        all.into_iter().filter(|pod| staying(&pod)).collect()
    }

    /// What a kubelet would tell of a pod.
    pub(crate) async fn report(&self, pod: &str, phase: &str) {
        let ready = if phase == "Running" { "True" } else { "False" };
        let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready",
            "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let params = PatchParams::default();
        let api = self.api::<Pod>();
        api.patch_status(pod, &params, &Patch::Strategic(status))
            .await
            .unwrap();
    }

    /// Reports every pod that is picked as running, also those that come later, until the
    /// condition holds for the objects of another kind.
    pub(crate) async fn run_until<K: Object>(
        &self,
        pods: &str,
        what: &str,
        holds: impl Fn(&[K]) -> bool,
    ) {
        let kubelet = async {
            loop {
                let listed = self
                    .api::<Pod>()
                    .list(&ListParams::default().labels(pods))
                    .await;
                for pod in listed.unwrap() {
                    let phase = pod
                        .status
                        .as_ref()
                        .and_then(|status| status.phase.as_deref());
                    if phase == Some("Pending") && pod.metadata.deletion_timestamp.is_none() {
                        self.report(&pod.name_any(), "Running").await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = self.until::<K>("", what, holds) => {}
            () = kubelet => {}
        }
    }
}

/// A pod template with a label.
pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": image}]}})
}

pub(crate) fn owners(object: &impl ResourceExt) -> Vec<String> {
    let owners = object.owner_references().iter();
    owners
        .map(|owner| format!("{} {}", owner.kind, owner.name))
        .collect()
}
