//! The watch caches of the agent, and their changes as one stream.

use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use watch_cache::{Cacheable, Change, WatchCache, WatchCaches};

use crate::api::{ClusterNetworkPolicy, NodeView, PodView};
use crate::definition::DEFINITION;

pub(crate) enum Update {
    Pod(Change<PodView>),
    Namespace(Change<Namespace>),
    Policy(Change<NetworkPolicy>),
    Slice(Change<EndpointSlice>),
    Node(Change<NodeView>),
    ClusterPolicy(Change<ClusterNetworkPolicy>),
    /// ClusterNetworkPolicies may be there from now on.
    Definition,
    /// Changes were lost.
    Rebuild,
}

pub(crate) struct Caches {
    pub(crate) pods: WatchCache<PodView>,
    pub(crate) namespaces: WatchCache<Namespace>,
    pub(crate) policies: WatchCache<NetworkPolicy>,
    pub(crate) slices: WatchCache<EndpointSlice>,
    pub(crate) nodes: WatchCache<NodeView>,
    definitions: WatchCache<CustomResourceDefinition>,
    /// Watched as soon as the cluster knows the kind.
    pub(crate) cluster_policies: Option<WatchCache<ClusterNetworkPolicy>>,
    all: WatchCaches,
}

impl Caches {
    pub(crate) fn new(caches: &WatchCaches) -> Self {
        Self {
            pods: caches.of(),
            namespaces: caches.of(),
            policies: caches.of(),
            slices: caches.of(),
            nodes: caches.of(),
            definitions: caches.selected(&format!("metadata.name={DEFINITION}")),
            cluster_policies: None,
            all: caches.clone(),
        }
    }

    pub(crate) fn updates(&self) -> SelectAll<BoxStream<'static, Update>> {
        futures::stream::select_all([
            changes(&self.pods, Update::Pod),
            changes(&self.namespaces, Update::Namespace),
            changes(&self.policies, Update::Policy),
            changes(&self.slices, Update::Slice),
            changes(&self.nodes, Update::Node),
            changes(&self.definitions, |_| Update::Definition),
        ])
    }

    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.policies.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        self.definitions.synced().await;
    }

    /// The stream of ClusterNetworkPolicies, once, when the cluster knows them.
    pub(crate) fn take_cluster_policies(&mut self) -> Option<BoxStream<'static, Update>> {
        let served = |own: &CustomResourceDefinition| {
            let conditions = own.status.iter().filter_map(|own| own.conditions.as_ref());
            let mut conditions = conditions.flatten();
            conditions.any(|own| own.type_ == "Established" && own.status == "True")
        };
        if self.cluster_policies.is_some() || !self.definitions.list().iter().any(|own| served(own))
        {
            return None;
        }
        let cache = self.all.of();
        let stream = changes(&cache, Update::ClusterPolicy);
        self.cluster_policies = Some(cache);
        Some(stream)
    }

    pub(crate) async fn cluster_policies_synced(&self) {
        if let Some(cache) = &self.cluster_policies {
            cache.synced().await;
        }
    }
}

fn changes<K: Cacheable>(
    cache: &WatchCache<K>,
    wrap: fn(Change<K>) -> Update,
) -> BoxStream<'static, Update> {
    cache.updates(wrap, || Update::Rebuild)
}
