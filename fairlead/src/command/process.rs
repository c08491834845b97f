//! What Prometheus' clients tell of every process.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// CPU time, memory and age of this process, read when somebody asks.
#[derive(Debug)]
pub(crate) struct Process {
    /// Seconds since 1970.
    started: f64,
}

impl Process {
    /// Of a process that starts now.
    pub(crate) fn started() -> Self {
        let age = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: age.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time of this process, user and system",
                None,
                MetricType::Counter,
            )?;
            let used = seconds(usage.user_time()) + seconds(usage.system_time());
            ConstCounter::new(used).encode(metric)?;
        }
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        if let Some(bytes) = resident() {
            gauge("process_resident_memory_bytes", "Resident memory", bytes)?;
        }
        gauge(
            "process_start_time_seconds",
            "When this process started, since 1970",
            self.started,
        )
    }
}

/// Bytes, from `/proc/self/statm` (proc_pid_statm(5)).
fn resident() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = text.split(' ').nth(1)?.parse().ok()?;
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * size as f64)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_standard_names_are_there() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::started()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(name), "{text}");
        }
    }
}
