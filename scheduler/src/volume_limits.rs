//! How many volumes of a storage plugin a node can have (`CSINode`), and how many its pods use.

use std::collections::{BTreeMap, BTreeSet};

use watch_cache::ObjectKey;

use crate::filter::{Plugin, Rejection};
use crate::pod::PodInfo;
use crate::state::NodeInfo;
use crate::volumes::{Volumes, claim_names};

/// The volumes of each plugin, by what tells them apart.
type Used = BTreeMap<String, BTreeSet<String>>;

/// The plugin of a claim's volume and what tells the volume apart: its handle, or the claim while
/// the volume is still to be made.
fn volume_of(volumes: &Volumes, key: &ObjectKey) -> Option<(String, String)> {
    let claim = volumes.claims.get(key)?;
    let spec = claim.spec.as_ref()?;
    let bound = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = bound {
        let volume = volumes.volumes.get(name)?.spec.as_ref()?;
        let source = volume.csi.as_ref()?;
        return Some((source.driver.clone(), source.volume_handle.clone()));
    }
    let class = volumes.classes.get(spec.storage_class_name.as_deref()?)?;
    Some((class.provisioner.clone(), key.to_string()))
}

fn add(volumes: &Volumes, pod: &PodInfo, used: &mut Used) {
    for name in claim_names(pod) {
        let key = ObjectKey::new(&pod.key.namespace, name);
        if let Some((driver, volume)) = volume_of(volumes, &key) {
            used.entry(driver).or_default().insert(volume);
        }
    }
}

/// Refuses a node that would have more volumes of a plugin than the plugin can attach there.
pub(crate) fn filter(volumes: &Volumes, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut wanted = Used::new();
    add(volumes, pod, &mut wanted);
    let drivers = volumes.nodes.get(&node.name).map(|node| &node.spec.drivers);
    let limits = drivers.into_iter().flatten().filter_map(|driver| {
        let limit = driver.allocatable.as_ref()?.count?;
        Some((&driver.name, usize::try_from(limit).unwrap_or(0)))
    });
    let limits: Vec<_> = limits
        .filter(|(driver, _)| wanted.contains_key(*driver))
        .collect();
    if limits.is_empty() {
        return Ok(());
    }
    let mut used = Used::new();
    for other in node.pods.values() {
        add(volumes, other, &mut used);
    }
    let none = BTreeSet::new();
    for (driver, limit) in limits {
        let present = used.get(driver).unwrap_or(&none);
        let new = wanted[driver].difference(present).count();
        if new > 0 && present.len() + new > limit {
            let reason = "node(s) exceed max volume count";
            return Err(Rejection::new(Plugin::NodeVolumeLimits, reason, true));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    /// A pod with these claims.
    fn pod(name: &str, claims: &[&str]) -> Arc<PodInfo> {
        let volumes: Vec<Value> = claims
            .iter()
            .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        Arc::new(PodInfo::new(object(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"containers": [], "volumes": volumes}}))))
    }

    #[test]
    fn a_volume_counts_once_and_no_more_than_the_plugin_can_have() {
        let mut volumes = Volumes::default();
        for (claim, volume) in [("a", "va"), ("b", "vb"), ("c", "vc"), ("new", "")] {
            let claim = json!({"metadata": {"name": claim, "namespace": "ns"},
                "spec": {"volumeName": volume, "storageClassName": "s"}});
            let claim = object::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(claim);
            volumes.claims.insert(ObjectKey::of(claim.as_ref()), claim);
            let of_plugin = json!({"spec": {"csi": {"driver": "d", "volumeHandle": volume}}});
            volumes.volumes.insert(volume.to_owned(), object(of_plugin));
        }
        let class = json!({"metadata": {"name": "s"}, "provisioner": "d"});
        volumes.classes.insert("s".to_owned(), object(class));
        let limit = json!({"spec": {"drivers": [
            {"name": "d", "nodeID": "n", "allocatable": {"count": 2}}]}});
        volumes.nodes.insert("n".to_owned(), object(limit));
        let node = json!({"metadata": {"name": "n"}});
        let mut node = NodeInfo::new(object(node));
        let fits =
            |node: &NodeInfo, claims: &[&str]| filter(&volumes, &pod("p", claims), node).is_ok();
        assert!(fits(&node, &["a", "b"]));
        assert!(!fits(&node, &["a", "b", "c"]));
        node.add_pod(pod("one", &["a", "b"]));
        assert!(fits(&node, &["a"]), "it is there already");
        assert!(!fits(&node, &["c"]));
        assert!(
            !fits(&node, &["new"]),
            "what is yet to be made counts as well"
        );
        assert!(fits(&node, &[]));
    }
}
