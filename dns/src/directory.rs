//! The watch caches as the zone reads them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use watch_cache::{Index, WatchCache, WatchCaches};

use crate::zone::{self, Directory};

/// Cheap to clone.
#[derive(Clone)]
pub struct CachedDirectory {
    services: WatchCache<Service>,
    slices: WatchCache<EndpointSlice>,
    namespaces: WatchCache<Namespace>,
    services_by_address: Index<Service>,
    slices_by_service: Index<EndpointSlice>,
    slices_by_address: Index<EndpointSlice>,
}

impl CachedDirectory {
    pub fn new(caches: &WatchCaches) -> Self {
        let services: WatchCache<Service> = caches.of();
        let slices: WatchCache<EndpointSlice> = caches.of();
        Self {
            services_by_address: services.index("cluster-address", |service: &Service| {
                let spec = service.spec.as_ref();
                spec.map(zone::addresses)
                    .into_iter()
                    .flatten()
                    .map(|a| a.to_string())
                    .collect()
            }),
            slices_by_service: slices.index("service", |slice: &EndpointSlice| {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                let service = zone::service_of(slice);
                service
                    .map(|service| format!("{namespace}/{service}"))
                    .into_iter()
                    .collect()
            }),
            slices_by_address: slices.index("endpoint-address", |slice: &EndpointSlice| {
                let endpoints = slice.endpoints.iter().flatten();
                endpoints
                    .flat_map(|endpoint| endpoint.addresses.iter().cloned())
                    .collect()
            }),
            services,
            slices,
            namespaces: caches.of(),
        }
    }

    /// Waits for the first complete lists.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
    }
}

impl Directory for CachedDirectory {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_service
            .get(&format!("{namespace}/{service}"))
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get("", namespace).is_some()
    }

    fn service_at(&self, address: IpAddr) -> Option<Arc<Service>> {
        self.services_by_address
            .get(&address.to_string())
            .into_iter()
            .next()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_address.get(&address.to_string())
    }
}
