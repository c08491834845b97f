//! The volumes that have to stay attached to this node, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::CsiError;
use crate::context::Context;

/// How long a mount waits for the node's status to be written.
const REPORTING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// Uids of pods by the name that a volume has in the node's status. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    by_volume: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    changed: Arc<Notify>,
}

impl Held {
    /// What was found on the disk: pairs of volume and pod.
    pub(super) fn of(found: impl IntoIterator<Item = (String, String)>) -> Self {
        let held = Self::default();
        for (volume, uid) in found {
            held.hold(&volume, &uid);
        }
        held
    }

    fn hold(&self, volume: &str, uid: &str) {
        let mut all = self.by_volume.lock();
        let pods = all.entry(volume.to_owned()).or_default();
        if pods.insert(uid.to_owned()) {
            self.changed.notify_one();
        }
    }

    /// A pod has nothing mounted any more.
    pub(super) fn release(&self, uid: &str) {
        let mut all = self.by_volume.lock();
        let before = all.len();
        all.retain(|_, pods| {
            pods.remove(uid);
            !pods.is_empty()
        });
        if all.len() != before {
            self.changed.notify_one();
        }
    }

    /// For `volumesInUse`, in order.
    pub(crate) fn volumes(&self) -> Vec<String> {
        self.by_volume.lock().keys().cloned().collect()
    }

    /// Waits for a change that nobody has waited for yet.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The volume's name in the node's status.
pub(super) fn name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Keeps a volume attached for a pod; returns when the API says so.
pub(super) async fn keep(context: &Context, volume: &str, uid: &str) -> Result<(), CsiError> {
    context.csi.held.hold(volume, uid);
    let told = async {
        loop {
            let node = context.node_object();
            let status = node.as_ref().and_then(|node| node.status.as_ref());
            let in_use = status.and_then(|status| status.volumes_in_use.as_ref());
            if in_use.is_some_and(|names| names.iter().any(|name| name == volume)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(REPORTING, told).await;
    waited.map_err(|_| CsiError::NotReported(volume.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_held_until_its_last_pod_lets_go() {
        let pair = |volume: &str, uid: &str| (volume.to_owned(), uid.to_owned());
        let held = Held::of([pair("a", "1"), pair("a", "2"), pair("b", "2")]);
        assert_eq!(held.volumes(), ["a", "b"]);
        held.release("2");
        assert_eq!(held.volumes(), ["a"]);
        held.release("1");
        assert!(held.volumes().is_empty());
    }
}
