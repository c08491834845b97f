//! What the kernel counts of a pod, beside what the runtime tells.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::statvfs;

use crate::cgroups::{Cgroups, Version};
use crate::context::{Context, Listed};
use crate::pod::{cgroup, containers};
use crate::volumes::Paths;

/// A network interface's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) receive: Counters,
    pub(super) transmit: Counters,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// How often a container was held back for its cpu limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Throttling {
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled_nanoseconds: u64,
}

/// What a volume holds, in bytes and inodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VolumeUsage {
    pub(super) name: String,
    pub(super) used: u64,
    pub(super) inodes_used: u64,
    pub(super) capacity: u64,
    pub(super) available: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

fn own_cgroup(context: &Context, pod: &Pod) -> String {
    cgroup::pod_path(&context.config.cgroup_root, pod)
}

/// The interfaces of a pod with a network of its own, without the loopback.
pub(super) fn interfaces(context: &Context, listed: &Listed) -> Vec<Interface> {
    let sandbox = listed.observed.sandbox().filter(|sandbox| sandbox.ready);
    let Some(sandbox) = sandbox.filter(|_| !containers::is_host_network(&listed.pod)) else {
        return Vec::new();
    };
    let path = format!("{}/{}", own_cgroup(context, &listed.pod), sandbox.id);
    let processes = context.cgroups.text("memory", &path, "cgroup.procs");
    let Some(process) = processes.as_deref().and_then(|text| text.lines().next()) else {
        return Vec::new();
    };
    let text = fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap_or_default();
    parse_interfaces(&text)
}

/// Reads `/proc/net/dev`: two lines of titles, then `NAME: RECEIVED... SENT...`.
pub(super) fn parse_interfaces(text: &str) -> Vec<Interface> {
    let read = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        let counters = |at: usize| {
            Some(Counters {
                bytes: *numbers.get(at)?,
                packets: *numbers.get(at + 1)?,
                errors: *numbers.get(at + 2)?,
                dropped: *numbers.get(at + 3)?,
            })
        };
        Some(Interface {
            name: name.trim().to_owned(),
            receive: counters(0)?,
            transmit: counters(8)?,
        })
    };
    let interfaces = text.lines().skip(2).filter_map(read);
    interfaces.filter(|found| found.name != "lo").collect()
}

/// Processes and threads in the pod's cgroup.
pub(super) fn processes(context: &Context, pod: &Pod) -> Option<u64> {
    let path = own_cgroup(context, pod);
    context.cgroups.read("pids", &path, "pids.current")
}

pub(super) fn throttling(context: &Context, pod: &Pod, container: &str) -> Throttling {
    let path = format!("{}/{container}", own_cgroup(context, pod));
    let text = context.cgroups.text("cpu", &path, "cpu.stat");
    parse_throttling(&context.cgroups, &text.unwrap_or_default())
}

fn parse_throttling(cgroups: &Cgroups, text: &str) -> Throttling {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok())
            .unwrap_or(0_u64)
    };
    Throttling {
        periods: field("nr_periods "),
        throttled_periods: field("nr_throttled "),
        throttled_nanoseconds: match cgroups.version() {
            Version::One => field("throttled_time "),
            Version::Two => field("throttled_usec ") * 1000,
        },
    }
}

/// The pod's volumes that have something of their own. Blocks.
pub(super) fn volumes(paths: &Paths, pod: &Pod) -> Vec<VolumeUsage> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let list = containers::spec(pod).volumes.iter().flatten();
    list.filter_map(|volume| {
        let kind = match crate::volumes::payload::kind(volume) {
            Some(kind) => kind.directory(),
            None if volume.empty_dir.is_some() => "empty-dir",
            None => return None,
        };
        let path = paths.volume(uid, kind, &volume.name);
        let mut usage = measure(&path)?;
        usage.name.clone_from(&volume.name);
        Some(usage)
    })
    .collect()
}

fn measure(path: &Path) -> Option<VolumeUsage> {
    let whole = statvfs(path).ok()?;
    let (used, inodes_used) = crate::node::disk_usage(path);
    Some(VolumeUsage {
        used,
        inodes_used,
        capacity: whole.blocks() * whole.fragment_size(),
        available: whole.blocks_available() * whole.fragment_size(),
        inodes: whole.files(),
        inodes_free: whole.files_free(),
        ..VolumeUsage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop\n\
            lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
            eth0:  1500 10 1 2 0 0 0 0 900 9 3 4 0 0 0 0\n";
        let found = parse_interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(
            (found[0].receive.bytes, found[0].receive.dropped),
            (1500, 2)
        );
        assert_eq!(
            (found[0].transmit.bytes, found[0].transmit.errors),
            (900, 3)
        );
        assert!(parse_interfaces("cut off\n\neth0: 1 2").is_empty());
    }

    #[test]
    fn throttling_is_told_in_nanoseconds_by_both_versions() {
        let directory = tempfile::tempdir().unwrap();
        let one = Cgroups::detect(directory.path());
        let text = "nr_periods 10\nnr_throttled 4\nthrottled_time 7000\n";
        let expected = Throttling {
            periods: 10,
            throttled_periods: 4,
            throttled_nanoseconds: 7000,
        };
        assert_eq!(parse_throttling(&one, text), expected);
        fs::write(directory.path().join("cgroup.controllers"), "").unwrap();
        let two = Cgroups::detect(directory.path());
        let text = "usage_usec 1\nnr_periods 10\nnr_throttled 4\nthrottled_usec 7\n";
        assert_eq!(parse_throttling(&two, text), expected);
    }
}
