//! Whether what the pod requests is left on the node.

use super::{Plugin, Rejection};
use crate::pod::PodInfo;
use crate::state::NodeInfo;

pub(super) fn filter(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    let (have, taken, want) = (&info.allocatable, &info.requested, &pod.requests);
    let mut reasons = Vec::new();
    let mut never = false;
    let mut demand = |wanted: i64, have: i64, taken: i64, reason: &dyn Fn() -> String| {
        if wanted > 0 && wanted > have.saturating_sub(taken) {
            reasons.push(reason());
            never |= wanted > have;
        }
    };
    demand(want.pods, have.pods, taken.pods, &|| {
        "Too many pods".to_owned()
    });
    let named = |name: &str| format!("Insufficient {name}");
    demand(want.milli_cpu, have.milli_cpu, taken.milli_cpu, &|| {
        named("cpu")
    });
    demand(want.memory, have.memory, taken.memory, &|| named("memory"));
    demand(
        want.ephemeral_storage,
        have.ephemeral_storage,
        taken.ephemeral_storage,
        &|| named("ephemeral-storage"),
    );
    for (name, wanted) in &want.others {
        let of = |amounts: &std::collections::BTreeMap<String, i64>| {
            amounts.get(name).copied().unwrap_or(0)
        };
        demand(*wanted, of(&have.others), of(&taken.others), &|| {
            named(name)
        });
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Rejection {
        plugin: Plugin::NodeResourcesFit,
        reasons,
        preemptible: !never,
    })
}
