//! From requests and limits to the kernel's numbers.

use cri::v1::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::containers::{self, Kind};
use super::qos::{self, Qos};
use crate::quantity::{ResourceList, amount, nanos, value};

/// The kernel's smallest weight.
pub const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// 100 ms, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;

/// What a pod asks for, summed over its containers, by resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Requests,
    Limits,
}

/// The weight of so many thousandths of a cpu.
pub fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        MIN_SHARES
    } else {
        (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
    }
}

/// Microseconds in each period for a limit of so many thousandths of a cpu; 0 for none.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        0
    } else {
        (milli_cpu * CPU_PERIOD / 1000).max(MIN_QUOTA)
    }
}

/// The reverse of [`shares`], for what the runtime reports.
pub fn milli_of_shares(shares: i64) -> i64 {
    (shares * 1000 + 1023) / 1024
}

/// The kernel's v2 weight for a v1 weight, by the formula that runc uses.
pub fn weight_of_shares(shares: i64) -> i64 {
    1 + ((shares.clamp(MIN_SHARES, MAX_SHARES) - 2) * 9_999) / 262_142
}

fn side(container: &Container, side: Side) -> Option<&ResourceList> {
    let resources = container.resources.as_ref()?;
    match side {
        Side::Requests => resources.requests.as_ref(),
        Side::Limits => resources.limits.as_ref(),
    }
}

/// The amount of one resource that one container asks for or is held to. A request that is
/// not given is the limit.
pub fn of_container(container: &Container, which: Side, resource: &str) -> Option<i64> {
    let read = |which| {
        side(container, which)?
            .get(resource)
            .map(|quantity| amount(resource, quantity))
    };
    match which {
        Side::Requests => read(Side::Requests).or_else(|| read(Side::Limits)),
        Side::Limits => read(Side::Limits),
    }
}

/// The amount of one resource of the whole pod: the larger of what runs together at the end
/// and of each step of the initialization, with sidecars counted from their start, and the
/// overhead of the runtime. `None` for limits when a container has none.
pub fn of_pod(pod: &Pod, which: Side, resource: &str) -> Option<i64> {
    let spec = containers::spec(pod);
    let overhead = spec
        .overhead
        .as_ref()
        .and_then(|o| o.get(resource))
        .map_or(0, |q| amount(resource, q));
    let pod_level = spec.resources.as_ref().and_then(|resources| match which {
        Side::Requests => resources
            .requests
            .as_ref()
            .and_then(|l| l.get(resource))
            .or_else(|| resources.limits.as_ref().and_then(|l| l.get(resource))),
        Side::Limits => resources.limits.as_ref().and_then(|l| l.get(resource)),
    });
    if let Some(quantity) = pod_level {
        return Some(amount(resource, quantity) + overhead);
    }
    let get = |container: &Container| of_container(container, which, resource);
    let missing = |amount: Option<i64>| match which {
        Side::Requests => Some(amount.unwrap_or(0)),
        Side::Limits => amount,
    };
    let mut sidecars = 0;
    let mut peak = 0;
    for spec in containers::init(pod) {
        match spec.kind {
            Kind::Sidecar => {
                sidecars += missing(get(&spec.container))?;
                peak = peak.max(sidecars);
            }
            _ => peak = peak.max(sidecars + missing(get(&spec.container))?),
        }
    }
    let mut running = sidecars;
    for spec in containers::main(pod) {
        running += missing(get(&spec.container))?;
    }
    Some(peak.max(running) + overhead)
}

/// Every resource name that the pod's requests mention.
pub fn names(pod: &Pod) -> Vec<String> {
    let mut names: Vec<String> = containers::all(pod)
        .iter()
        .filter(|spec| spec.kind != Kind::Ephemeral)
        .flat_map(|spec| {
            let requests = side(&spec.container, Side::Requests);
            let limits = side(&spec.container, Side::Limits);
            requests
                .into_iter()
                .chain(limits)
                .flat_map(|list| list.keys().cloned())
                .collect::<Vec<_>>()
        })
        .collect();
    names.extend(
        containers::spec(pod)
            .overhead
            .iter()
            .flat_map(|list| list.keys().cloned()),
    );
    let pod_level = containers::spec(pod).resources.as_ref();
    names.extend(
        pod_level
            .and_then(|r| r.requests.as_ref())
            .into_iter()
            .flat_map(|l| l.keys().cloned()),
    );
    names.sort();
    names.dedup();
    names
}

/// How readily the kernel kills a container's processes when memory runs out.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    // Pods that the system cannot do without, as upstream's priority classes say.
    if containers::spec(pod).priority.unwrap_or(0) >= 2_000_000_000 {
        return -997;
    }
    match qos::class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = of_container(container, Side::Requests, "memory").unwrap_or(0);
            let score = 1000 - i128::from(request) * 1000 / i128::from(memory_capacity.max(1));
            // Guaranteed pods go last and best effort pods first.
            i64::try_from(score).unwrap_or(0).clamp(3, 999)
        }
    }
}

/// A container's limits for the runtime. `memory_capacity` is the node's.
pub fn linux(pod: &Pod, container: &Container, memory_capacity: i64) -> LinuxContainerResources {
    let cpu_limit = of_container(container, Side::Limits, "cpu").unwrap_or(0);
    let cpu_request = of_container(container, Side::Requests, "cpu").unwrap_or(0);
    LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: of_container(container, Side::Limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        hugepage_limits: hugepages(side(container, Side::Limits)),
        ..LinuxContainerResources::default()
    }
}

/// The huge page limits of a list, in the kernel's names: `hugepages-2Mi` is `2MB` there.
pub fn hugepages(list: Option<&ResourceList>) -> Vec<HugepageLimit> {
    list.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            let size = nanos(name.strip_prefix("hugepages-")?)? / 1_000_000_000;
            let limit = u64::try_from(value(quantity)).ok()?;
            Some(HugepageLimit {
                page_size: page_size_name(size),
                limit,
            })
        })
        .collect()
}

/// `2MB` for 2 MiB, as the kernel's file names have it.
pub fn page_size_name(bytes: i128) -> String {
    const UNITS: [(&str, u32); 3] = [("GB", 30), ("MB", 20), ("KB", 10)];
    for (unit, shift) in UNITS {
        if bytes >= 1 << shift && bytes % (1 << shift) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn cpu_becomes_shares_and_quota() {
        for (milli, expected_shares, expected_quota) in [
            (0, 2, 0),
            (1, 2, 1000),
            (100, 102, 10_000),
            (1000, 1024, 100_000),
            (2500, 2560, 250_000),
        ] {
            assert_eq!(
                (shares(milli), quota(milli)),
                (expected_shares, expected_quota),
                "{milli}m"
            );
        }
        assert_eq!(weight_of_shares(1024), 39);
    }

    #[test]
    fn the_pod_asks_for_the_larger_of_init_steps_and_containers() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let pod = pod(json!({"spec": {
            "initContainers": [
                {"name": "i1", "resources": cpu("3")},
                {"name": "s", "restartPolicy": "Always", "resources": cpu("1")},
                {"name": "i2", "resources": cpu("2500m")},
            ],
            "containers": [{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("1")}],
            "overhead": {"cpu": "10m"},
        }}));
        assert_eq!(
            of_pod(&pod, Side::Requests, "cpu"),
            Some(3510),
            "sidecar and second init container"
        );
        assert_eq!(
            of_pod(&pod, Side::Limits, "cpu"),
            None,
            "one without a limit has none"
        );
    }

    #[test]
    fn huge_pages_have_the_kernels_names() {
        for (bytes, name) in [(2 << 20, "2MB"), (1 << 30, "1GB"), (64 << 10, "64KB")] {
            assert_eq!(page_size_name(bytes), name);
        }
    }

    #[test]
    fn burstable_scores_fall_with_the_request() {
        let pod = pod(json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"memory": "1Gi"}}}]}}));
        let container = &containers::spec(&pod).containers[0];
        assert_eq!(oom_score_adj(&pod, container, 4 << 30), 750);
    }
}
