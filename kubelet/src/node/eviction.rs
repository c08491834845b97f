//! Pods are evicted before the node runs out of what it cannot share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::EventType;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::statvfs;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::disk_usage;
use super::machine::meminfo;
use crate::config::EvictionThresholds;
use crate::context::Context;
use crate::images;
use crate::pod::memory::Ending;
use crate::pod::resources::{self, Side};
use crate::pod::{cgroup, containers};
use crate::quantity::value;

const INTERVAL: Duration = Duration::from_secs(10);
/// A pressure is called over only after this long without it.
const CALM_AFTER: Duration = Duration::from_secs(60);
/// Directories are measured more rarely: it costs.
const STORAGE_EVERY: u32 = 6;

/// What is left of the node's resources.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Signals {
    pub(super) memory_available: u64,
    pub(super) nodefs_percent: f64,
    pub(super) inodes_percent: f64,
    pub(super) imagefs_percent: f64,
    pub(super) pids_percent: f64,
}

/// The pressures that the signals mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

pub(super) fn pressure(signals: &Signals, limits: &EvictionThresholds) -> Pressure {
    Pressure {
        memory: signals.memory_available < limits.memory_available_bytes,
        disk: signals.nodefs_percent < limits.nodefs_available_percent
            || signals.inodes_percent < limits.nodefs_inodes_percent
            || signals.imagefs_percent < limits.imagefs_available_percent,
        pids: signals.pids_percent < limits.pid_available_percent,
    }
}

/// How a pod stands in the order of eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) uid: String,
    pub(super) usage: i64,
    pub(super) request: i64,
    pub(super) priority: i32,
}

/// The pod to evict: one that uses more than it asked for, of the lowest priority, with the
/// most on top of its request. Those that the system cannot do without are not in the list.
pub(super) fn choose(mut candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.sort_by_key(|pod| {
        let over = pod.usage - pod.request;
        (
            over <= 0,
            pod.priority,
            std::cmp::Reverse(over),
            pod.uid.clone(),
        )
    });
    candidates.into_iter().next()
}

pub(crate) async fn run(
    context: Arc<Context>,
    evictions: mpsc::UnboundedSender<(String, Ending)>,
    shutdown: CancellationToken,
) {
    let mut last = [None::<Instant>; 3];
    let mut round = 0_u32;
    let mut evicted_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        round = round.wrapping_add(1);
        if round.is_multiple_of(STORAGE_EVERY) {
            enforce_storage_limits(&context, &evictions).await;
        }
        let signals = observe(&context).await;
        let now = pressure(&signals, &context.config.eviction);
        let mut shown = [false; 3];
        for (index, under) in [now.memory, now.disk, now.pids].into_iter().enumerate() {
            if under {
                last[index] = Some(Instant::now());
            }
            shown[index] = last[index].is_some_and(|at| at.elapsed() < CALM_AFTER);
        }
        {
            let mut facts = context.facts.write();
            [
                facts.memory_pressure,
                facts.disk_pressure,
                facts.pid_pressure,
            ] = shown;
        }
        let settled = evicted_at.is_none_or(|at| at.elapsed() > Duration::from_secs(15));
        if (now.memory || now.disk || now.pids)
            && settled
            && relieve(&context, now, &evictions).await
        {
            evicted_at = Some(Instant::now());
        }
    }
}

fn percent(path: &Path) -> Option<(f64, f64)> {
    let stat = statvfs(path).ok()?;
    let share = |left: u64, all: u64| {
        if all == 0 {
            100.0
        } else {
            left as f64 * 100.0 / all as f64
        }
    };
    let blocks = share(stat.blocks_available(), stat.blocks());
    Some((blocks, share(stat.files_available(), stat.files())))
}

async fn observe(context: &Context) -> Signals {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (nodefs_percent, inodes_percent) = percent(&context.config.root).unwrap_or((100.0, 100.0));
    let filesystems = context
        .runtime
        .image_filesystems()
        .await
        .unwrap_or_default();
    let imagefs = filesystems.image_filesystems.iter().filter_map(|usage| {
        percent(Path::new(usage.fs_id.as_ref()?.mountpoint.as_str())).map(|(blocks, _)| blocks)
    });
    let loadavg = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let used: f64 = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/')?.1.parse().ok())
        .unwrap_or(0.0);
    let pids = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let max: f64 = pids.trim().parse().unwrap_or(f64::MAX);
    Signals {
        memory_available: meminfo(&memory, "MemAvailable").unwrap_or(u64::MAX),
        nodefs_percent,
        inodes_percent,
        imagefs_percent: imagefs.fold(100.0, f64::min),
        pids_percent: (max - used) * 100.0 / max,
    }
}

/// Gets back what is short: unused images first, then a pod.
async fn relieve(
    context: &Arc<Context>,
    now: Pressure,
    evictions: &mpsc::UnboundedSender<(String, Ending)>,
) -> bool {
    if now.disk {
        let config = &context.config.images;
        let freed = images::collect(&context.runtime, &context.images, config, true).await;
        if freed.is_ok_and(|freed| freed > 0) {
            return false;
        }
    }
    let resource = if now.memory {
        "memory"
    } else if now.disk {
        "ephemeral-storage"
    } else {
        "pids"
    };
    let Some(chosen) = choose(candidates(context, resource).await) else {
        return false;
    };
    let message = format!(
        "The node was low on resource: {resource}. Usage of the pod was {}, request is {}.",
        chosen.usage, chosen.request
    );
    evict(context, &chosen.uid, message, evictions);
    true
}

fn evict(
    context: &Context,
    uid: &str,
    message: String,
    evictions: &mpsc::UnboundedSender<(String, Ending)>,
) {
    let listed = context.pods.lock().get(uid).cloned();
    if let Some(listed) = listed {
        context.events.pod(
            &listed.pod,
            None,
            EventType::Warning,
            "Evicted",
            message.clone(),
        );
    }
    context.metrics.evictions.inc();
    let ending = Ending {
        reason: "Evicted".to_owned(),
        message,
        grace: Some(0),
        disrupted: true,
    };
    let _ = evictions.send((uid.to_owned(), ending));
}

async fn candidates(context: &Arc<Context>, resource: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    for listed in context.list().into_iter().filter(|listed| listed.holds) {
        let pod = listed.pod.clone();
        let priority = containers::spec(&pod).priority.unwrap_or(0);
        if priority >= 2_000_000_000 || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let usage = match resource {
            "memory" => memory_usage(context, &pod),
            "ephemeral-storage" => storage_usage(context, &pod).await,
            _ => pid_usage(context, &pod),
        };
        found.push(Candidate {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            usage,
            request: resources::of_pod(&pod, Side::Requests, resource).unwrap_or(0),
            priority,
        });
    }
    found
}

fn read(context: &Context, pod: &Pod, controller: &str, v1: &str, v2: &str) -> i64 {
    let path = cgroup::pod_path(&context.config.cgroup_root, pod);
    let file = match context.cgroups.version() {
        crate::cgroups::Version::One => v1,
        crate::cgroups::Version::Two => v2,
    };
    let value = context.cgroups.read(controller, &path, file).unwrap_or(0);
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn memory_usage(context: &Context, pod: &Pod) -> i64 {
    read(
        context,
        pod,
        "memory",
        "memory.usage_in_bytes",
        "memory.current",
    )
}

fn pid_usage(context: &Context, pod: &Pod) -> i64 {
    read(context, pod, "pids", "pids.current", "pids.current")
}

/// What a pod has written: its emptyDirs, its containers' own layers, and its logs.
async fn storage_usage(context: &Arc<Context>, pod: &Pod) -> i64 {
    let identity = crate::runtime::PodIdentity::of(pod);
    let selector = identity.labels();
    let layers: u64 = context
        .runtime
        .stats(selector)
        .await
        .unwrap_or_default()
        .iter()
        .filter_map(|stats| Some(stats.writable_layer.as_ref()?.used_bytes.as_ref()?.value))
        .sum();
    let directories = [
        context.paths.volume(&identity.uid, "empty-dir", ""),
        context
            .config
            .pod_logs
            .join(crate::pod::config::log_directory(&identity)),
    ];
    let files = tokio::task::spawn_blocking(move || -> u64 {
        directories
            .iter()
            .map(|directory| disk_usage(directory).0)
            .sum()
    });
    i64::try_from(layers + files.await.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// Pods that have written more than they may.
async fn enforce_storage_limits(
    context: &Arc<Context>,
    evictions: &mpsc::UnboundedSender<(String, Ending)>,
) {
    for listed in context.list().into_iter().filter(|listed| listed.holds) {
        let pod = &listed.pod;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let volumes = containers::spec(pod).volumes.iter().flatten();
        for volume in volumes {
            let Some(source) = &volume.empty_dir else {
                continue;
            };
            let Some(limit) = source
                .size_limit
                .as_ref()
                .map(value)
                .filter(|limit| *limit > 0)
            else {
                continue;
            };
            let path = context.paths.volume(&uid, "empty-dir", &volume.name);
            let used = tokio::task::spawn_blocking(move || disk_usage(&path).0)
                .await
                .unwrap_or(0);
            if i64::try_from(used).unwrap_or(i64::MAX) > limit {
                let message = format!(
                    "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
                    volume.name,
                    source
                        .size_limit
                        .as_ref()
                        .map(|limit| limit.0.clone())
                        .unwrap_or_default()
                );
                evict(context, &uid, message, evictions);
            }
        }
        let limit =
            resources::of_pod(pod, Side::Limits, "ephemeral-storage").filter(|limit| *limit > 0);
        if let Some(limit) = limit
            && storage_usage(context, pod).await > limit
        {
            let message = format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            );
            evict(context, &uid, message, evictions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_below_their_thresholds_are_pressures() {
        let limits = EvictionThresholds::default();
        let calm = Signals {
            memory_available: 1 << 30,
            nodefs_percent: 50.0,
            inodes_percent: 50.0,
            imagefs_percent: 50.0,
            pids_percent: 90.0,
        };
        assert_eq!(pressure(&calm, &limits), Pressure::default());
        assert!(
            pressure(
                &Signals {
                    memory_available: 1 << 20,
                    ..calm
                },
                &limits
            )
            .memory
        );
        assert!(
            pressure(
                &Signals {
                    imagefs_percent: 14.0,
                    ..calm
                },
                &limits
            )
            .disk
        );
        assert!(
            pressure(
                &Signals {
                    inodes_percent: 1.0,
                    ..calm
                },
                &limits
            )
            .disk
        );
        assert!(
            pressure(
                &Signals {
                    pids_percent: 1.0,
                    ..calm
                },
                &limits
            )
            .pids
        );
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let pod = |uid: &str, usage, request, priority| Candidate {
            uid: uid.into(),
            usage,
            request,
            priority,
        };
        let chosen = choose(vec![
            pod("modest", 10, 100, -5),
            pod("greedy", 300, 100, 0),
            pod("greedier", 500, 100, 0),
            pod("important", 900, 100, 10),
        ]);
        assert_eq!(chosen.map(|pod| pod.uid).as_deref(), Some("greedier"));
        assert_eq!(choose(vec![]), None);
    }
}
