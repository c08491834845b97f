//! A map by prefix.

use std::collections::BTreeMap;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// In order, IPv4 first. A key is as long as its family needs: tables of IPv4 are the long ones.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    v4: BTreeMap<Ipv4Network, T>,
    v6: BTreeMap<Ipv6Network, T>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
        }
    }
}

impl<T> Prefixes<T> {
    pub(super) fn get(&self, prefix: &IpNetwork) -> Option<&T> {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.get(prefix),
            IpNetwork::V6(prefix) => self.v6.get(prefix),
        }
    }

    pub(super) fn get_mut(&mut self, prefix: &IpNetwork) -> Option<&mut T> {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.get_mut(prefix),
            IpNetwork::V6(prefix) => self.v6.get_mut(prefix),
        }
    }

    pub(super) fn or_default(&mut self, prefix: IpNetwork) -> &mut T
    where
        T: Default,
    {
        match prefix {
            IpNetwork::V4(prefix) => self.v4.entry(prefix).or_default(),
            IpNetwork::V6(prefix) => self.v6.entry(prefix).or_default(),
        }
    }

    pub(super) fn remove(&mut self, prefix: &IpNetwork) {
        match prefix {
            IpNetwork::V4(prefix) => drop(self.v4.remove(prefix)),
            IpNetwork::V6(prefix) => drop(self.v6.remove(prefix)),
        }
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&T) -> bool) {
        self.v4.retain(|_, value| keeps(value));
        self.v6.retain(|_, value| keeps(value));
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNetwork, &T)> {
        let v4 = self
            .v4
            .iter()
            .map(|(key, value)| (IpNetwork::V4(*key), value));
        v4.chain(
            self.v6
                .iter()
                .map(|(key, value)| (IpNetwork::V6(*key), value)),
        )
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (IpNetwork, &mut T)> {
        let v4 = self
            .v4
            .iter_mut()
            .map(|(key, value)| (IpNetwork::V4(*key), value));
        v4.chain(
            self.v6
                .iter_mut()
                .map(|(key, value)| (IpNetwork::V6(*key), value)),
        )
    }
}
