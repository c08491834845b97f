//! What objects claim of shared ranges: Services' addresses and ports.
//!
//! There is no record of what is taken besides the objects themselves. [`Claims`] is an index
//! over them, kept by this server; the claim of a Service that is being written is held from
//! its check to its commit, so two writers cannot get the same.

mod families;
mod ports;
mod service;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use parking_lot::Mutex;
use serde_json::Value;

use super::cache::{Filter, ResourceCache};
use super::options::WriteOptions;
use crate::response::ApiError;

/// See the module's documentation.
pub(super) struct Claims {
    ranges: Vec<IpNetwork>,
    services: Arc<ResourceCache>,
    taken: Mutex<Taken>,
}

/// Who has what, by the object's key.
#[derive(Default)]
struct Taken {
    addresses: BTreeMap<IpAddr, String>,
    ports: BTreeMap<(u16, &'static str), String>,
}

impl Claims {
    pub(super) fn new(ranges: Vec<IpNetwork>, services: Arc<ResourceCache>) -> Self {
        let claims = Claims {
            ranges,
            services,
            taken: Mutex::default(),
        };
        claims.load();
        claims
    }

    /// Takes what the stored Services have.
    fn load(&self) {
        let all = self.services.list(&Filter::default(), None, 0, 0);
        let mut taken = self.taken.lock();
        for object in &all.objects {
            taken.insert(&object.key, &object.value());
        }
    }

    /// Fills in the addresses and ports of a Service that is created or changed.
    pub(super) fn claim(
        &self,
        key: &str,
        new: &mut Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let mut taken = self.taken.lock();
        if let Some(old) = old {
            service::carry_over(new, old);
        }
        let before = taken.holdings(key);
        taken.release(key);
        let outcome = service::allocate(&taken, &self.ranges, new);
        // A dry run, and a refused write, holds what it held before.
        if outcome.is_err() || options.dry_run {
            taken.restore(key, before);
        } else {
            // What the old state has stays held until the next write or deletion.
            taken.insert(key, new);
        }
        outcome
    }

    /// A Service is gone.
    pub(super) fn release(&self, key: &str) {
        self.taken.lock().release(key);
    }
}

type Holdings = (Vec<IpAddr>, Vec<(u16, &'static str)>);

impl Taken {
    fn insert(&mut self, key: &str, service: &Value) {
        for address in service::addresses(service) {
            self.addresses.insert(address, key.into());
        }
        for port in service::node_ports(service) {
            self.ports.insert(port, key.into());
        }
    }

    fn holdings(&self, key: &str) -> Holdings {
        let addresses = self
            .addresses
            .iter()
            .filter(|(_, k)| *k == key)
            .map(|(a, _)| *a)
            .collect();
        let ports = self
            .ports
            .iter()
            .filter(|(_, k)| *k == key)
            .map(|(p, _)| *p)
            .collect();
        (addresses, ports)
    }

    fn release(&mut self, key: &str) {
        self.addresses.retain(|_, k| k != key);
        self.ports.retain(|_, k| k != key);
    }

    fn restore(&mut self, key: &str, holdings: Holdings) {
        self.release(key);
        for address in holdings.0 {
            self.addresses.insert(address, key.into());
        }
        for port in holdings.1 {
            self.ports.insert(port, key.into());
        }
    }
}
