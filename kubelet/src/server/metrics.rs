//! Usage in the text format that metric collectors read.

use super::kernel::Interface;
use super::stats::{ContainerUsage, PodUsage, Usage};

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: i64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        self.0
            .push_str(&format!("{name}{{{}}} {value} {at}\n", labels.join(",")));
    }
}

/// What a metric takes from a container's usage.
type Reading = fn(&ContainerUsage) -> f64;

/// The node's, pods' and containers' processor time and memory, as metrics-server reads it.
pub(super) fn resource(usage: &Usage) -> String {
    let mut text = Text(String::new());
    let at = usage.at.as_millisecond();
    let working = usage.memory_total.saturating_sub(usage.memory_available);
    let container = |pod: &PodUsage,
                     own: &ContainerUsage,
                     of: fn(&ContainerUsage) -> f64,
                     name: &str,
                     text: &mut Text| {
        let labels = [
            ("container", own.name.as_str()),
            ("namespace", pod.identity.namespace.as_str()),
            ("pod", pod.identity.name.as_str()),
        ];
        text.sample(name, &labels, of(own), at);
    };
    let families: [(&str, &str, &str, Reading); 3] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            |c| seconds(c.cpu_nanoseconds),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            |c| c.working_set as f64,
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
            |c| {
                c.started_at
                    .map_or(0.0, |at| at.as_millisecond() as f64 / 1e3)
            },
        ),
    ];
    for (name, kind, help, of) in families {
        text.family(name, kind, help);
        for pod in &usage.pods {
            for own in &pod.containers {
                container(pod, own, of, name, &mut text);
            }
        }
    }
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    text.0.push_str(&format!(
        "node_cpu_usage_seconds_total {} {at}\n",
        seconds(usage.cpu_nanoseconds)
    ));
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    text.0
        .push_str(&format!("node_memory_working_set_bytes {working} {at}\n"));
    for (name, kind, of) in [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            (|c| seconds(c.cpu_nanoseconds)) as fn(&ContainerUsage) -> f64,
        ),
        ("pod_memory_working_set_bytes", "gauge", |c| {
            c.working_set as f64
        }),
    ] {
        text.family(name, kind, "The sum over the pod's containers");
        for pod in &usage.pods {
            let labels = [
                ("namespace", pod.identity.namespace.as_str()),
                ("pod", pod.identity.name.as_str()),
            ];
            text.sample(name, &labels, pod.containers.iter().map(of).sum(), at);
        }
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.0.push_str("resource_scrape_error 0\n");
    text.0
}

/// The same under the names that cAdvisor gives them.
pub(super) fn cadvisor(usage: &Usage) -> String {
    let mut text = Text(String::new());
    let at = usage.at.as_millisecond();
    let families: [(&str, &str, Reading); 11] = [
        ("container_cpu_usage_seconds_total", "counter", |c| {
            seconds(c.cpu_nanoseconds)
        }),
        ("container_memory_usage_bytes", "gauge", |c| c.usage as f64),
        ("container_memory_working_set_bytes", "gauge", |c| {
            c.working_set as f64
        }),
        ("container_memory_rss", "gauge", |c| c.rss as f64),
        ("container_fs_usage_bytes", "gauge", |c| {
            c.layer_bytes as f64
        }),
        ("container_start_time_seconds", "gauge", |c| {
            c.started_at.map_or(0.0, |at| at.as_second() as f64)
        }),
        ("container_cpu_cfs_periods_total", "counter", |c| {
            c.throttling.periods as f64
        }),
        (
            "container_cpu_cfs_throttled_periods_total",
            "counter",
            |c| c.throttling.throttled_periods as f64,
        ),
        (
            "container_cpu_cfs_throttled_seconds_total",
            "counter",
            |c| seconds(c.throttling.throttled_nanoseconds),
        ),
        ("container_spec_memory_limit_bytes", "gauge", |c| {
            c.memory_limit as f64
        }),
        ("container_spec_cpu_quota", "gauge", |c| {
            crate::pod::resources::quota(c.cpu_limit) as f64
        }),
    ];
    for (name, kind, of) in families {
        text.family(name, kind, "Of one container");
        for pod in &usage.pods {
            for own in &pod.containers {
                let labels = [
                    ("container", own.name.as_str()),
                    ("id", own.id.as_str()),
                    ("image", own.image.as_str()),
                    ("name", own.id.as_str()),
                    ("namespace", pod.identity.namespace.as_str()),
                    ("pod", pod.identity.name.as_str()),
                ];
                text.sample(name, &labels, of(own), at);
            }
        }
    }
    network(&mut text, usage, at);
    text.family("machine_cpu_cores", "gauge", "Processors of the machine");
    text.0
        .push_str(&format!("machine_cpu_cores {}\n", usage.processors));
    text.family("machine_memory_bytes", "gauge", "Memory of the machine");
    text.0
        .push_str(&format!("machine_memory_bytes {}\n", usage.memory_total));
    text.0
}

/// The interfaces of pods, which belong to no container.
fn network(text: &mut Text, usage: &Usage, at: i64) {
    type Counter = fn(&Interface) -> u64;
    let families: [(&str, Counter); 8] = [
        ("receive_bytes", |i| i.receive.bytes),
        ("receive_packets", |i| i.receive.packets),
        ("receive_errors", |i| i.receive.errors),
        ("receive_packets_dropped", |i| i.receive.dropped),
        ("transmit_bytes", |i| i.transmit.bytes),
        ("transmit_packets", |i| i.transmit.packets),
        ("transmit_errors", |i| i.transmit.errors),
        ("transmit_packets_dropped", |i| i.transmit.dropped),
    ];
    for (name, of) in families {
        let name = format!("container_network_{name}_total");
        text.family(&name, "counter", "Of one interface of a pod");
        for pod in &usage.pods {
            for interface in &pod.interfaces {
                let labels = [
                    ("container", ""),
                    ("interface", interface.name.as_str()),
                    ("namespace", pod.identity.namespace.as_str()),
                    ("pod", pod.identity.name.as_str()),
                ];
                text.sample(&name, &labels, of(interface) as f64, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PodIdentity;
    use crate::server::stats::Filesystem;

    #[test]
    fn usage_is_written_with_its_labels() {
        let usage = Usage {
            node: "n".into(),
            at: crate::testing::at(0),
            cpu_nanoseconds: 2_500_000_000,
            memory_total: 10,
            memory_available: 4,
            filesystem: Filesystem::default(),
            processors: 1,
            interfaces: Vec::new(),
            pods: vec![PodUsage {
                identity: PodIdentity {
                    namespace: "ns".into(),
                    name: "p".into(),
                    uid: "u".into(),
                },
                started_at: None,
                interfaces: vec![Interface {
                    name: "eth0".into(),
                    ..Interface::default()
                }],
                processes: None,
                volumes: Vec::new(),
                containers: vec![ContainerUsage {
                    name: "c".into(),
                    cpu_nanoseconds: 1_500_000_000,
                    ..ContainerUsage::default()
                }],
            }],
        };
        let text = resource(&usage);
        assert!(text.contains("container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 1700000000000\n"), "{text}");
        assert!(text.contains("node_cpu_usage_seconds_total 2.5 "), "{text}");
        let text = cadvisor(&usage);
        assert!(text.contains("container_memory_usage_bytes{container=\"c\""));
        assert!(text.contains("container_network_receive_bytes_total{container=\"\",interface=\"eth0\",namespace=\"ns\",pod=\"p\"} 0 "), "{text}");
    }
}
