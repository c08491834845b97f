//! How fast pods may be evicted: by zone, and slower or not at all when many nodes fail
//! together, since then it is more likely the network than the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::health::readiness;
use crate::config::NodeHealth;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZoneState {
    Normal,
    Partial,
    Full,
}

pub(crate) fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.labels().get(name).cloned().unwrap_or_default();
    format!(
        "{}:{}",
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone")
    )
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    ready: usize,
    unready: usize,
}

impl Count {
    fn state(self, config: &NodeHealth) -> ZoneState {
        #[expect(clippy::cast_precision_loss, reason = "no cluster has 2^52 nodes")]
        let share = self.unready as f64 / (self.ready + self.unready).max(1) as f64;
        match self {
            Count { ready: 0, unready } if unready > 0 => ZoneState::Full,
            Count { unready, .. } if unready > 2 && share >= config.unhealthy_zone_threshold => {
                ZoneState::Partial
            }
            _ => ZoneState::Normal,
        }
    }
}

/// The zones with their rates of eviction.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    counts: BTreeMap<String, Count>,
    next: BTreeMap<String, Instant>,
}

impl Zones {
    pub(crate) fn count(&mut self, nodes: &[Arc<Node>]) {
        self.counts.clear();
        for node in nodes {
            let count = self.counts.entry(zone_of(node)).or_default();
            match readiness(node) {
                "True" => count.ready += 1,
                _ => count.unready += 1,
            }
        }
    }

    /// Whether every zone is fully down, so that it is rather this process that sees nothing.
    pub(crate) fn all_down(&self, config: &NodeHealth) -> bool {
        !self.counts.is_empty()
            && self
                .counts
                .values()
                .all(|count| count.state(config) == ZoneState::Full)
    }

    fn rate(&self, zone: &str, config: &NodeHealth) -> f64 {
        let count = self.counts.get(zone).copied().unwrap_or_default();
        match count.state(config) {
            ZoneState::Normal | ZoneState::Full => config.eviction_rate,
            ZoneState::Partial if count.ready + count.unready > config.large_cluster => {
                config.secondary_eviction_rate
            }
            ZoneState::Partial => 0.0,
        }
    }

    /// Takes one eviction of the zone's share. Err: how long to wait, None for until the
    /// zone's state changes.
    pub(crate) fn admit(
        &mut self,
        zone: &str,
        config: &NodeHealth,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        let rate = self.rate(zone, config);
        if rate <= 0.0 {
            return Err(None);
        }
        if let Some(next) = self.next.get(zone).filter(|next| **next > now) {
            return Err(Some(*next - now));
        }
        self.next
            .insert(zone.to_owned(), now + Duration::from_secs_f64(1.0 / rate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes(zone: &str, ready: usize, unready: usize) -> Vec<Arc<Node>> {
        let node = |status: &str| {
            let node = json!({
                "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(node).expect("a Node"))
        };
        let up = (0..ready).map(|_| node("True"));
        up.chain((0..unready).map(|_| node("Unknown"))).collect()
    }

    #[test]
    fn a_zone_is_judged_by_its_share_of_failed_nodes() {
        let config = NodeHealth::default();
        let cases = [
            (3, 0, ZoneState::Normal),
            (1, 1, ZoneState::Normal),
            (0, 1, ZoneState::Full),
            (2, 3, ZoneState::Partial),
            (5, 3, ZoneState::Normal),
            (1, 2, ZoneState::Normal),
        ];
        for (ready, unready, expect) in cases {
            assert_eq!(
                Count { ready, unready }.state(&config),
                expect,
                "{ready} {unready}"
            );
        }
    }

    #[test]
    fn evictions_of_a_zone_come_one_after_another() {
        let config = NodeHealth::default();
        let mut zones = Zones::default();
        zones.count(&nodes("a", 5, 2));
        let now = Instant::now();
        assert_eq!(zones.admit(":a", &config, now), Ok(()));
        let wait = zones
            .admit(":a", &config, now)
            .expect_err("too soon")
            .expect("a time");
        assert_eq!(wait, Duration::from_secs(10));
        assert_eq!(zones.admit(":b", &config, now), Ok(()));
        assert_eq!(zones.admit(":a", &config, now + wait), Ok(()));
    }

    #[test]
    fn a_small_zone_that_is_mostly_down_evicts_nobody() {
        let config = NodeHealth::default();
        let mut zones = Zones::default();
        zones.count(&nodes("a", 2, 8));
        assert_eq!(zones.admit(":a", &config, Instant::now()), Err(None));
        zones.count(&nodes("a", 20, 80));
        let now = Instant::now();
        assert_eq!(zones.admit(":a", &config, now), Ok(()));
        assert_eq!(
            zones.admit(":a", &config, now),
            Err(Some(Duration::from_secs(100)))
        );
    }

    #[test]
    fn when_everything_is_down_it_is_rather_us() {
        let config = NodeHealth::default();
        let mut zones = Zones::default();
        assert!(!zones.all_down(&config));
        zones.count(&[nodes("a", 0, 1), nodes("b", 0, 2)].concat());
        assert!(zones.all_down(&config));
        zones.count(&[nodes("a", 1, 1), nodes("b", 0, 2)].concat());
        assert!(!zones.all_down(&config));
    }
}
