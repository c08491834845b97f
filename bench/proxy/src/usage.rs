//! What this process needs, and how times are told.

use std::time::Duration;

/// Memory and processor time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory of this process in MiB.
    pub(crate) memory: u64,
    /// Processor time of this process, in seconds.
    pub(crate) own: f64,
    /// Processor time of the programs that it started and that have ended, in seconds.
    pub(crate) programs: f64,
}

impl Usage {
    /// As it is now.
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = resident.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The fields after the name, which may have anything in it.
        let fields: Vec<f64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        // Clock ticks are hundredths of a second.
        let ticks = |index: usize| fields.get(index).copied().unwrap_or_default() / 100.0;
        Self {
            memory: kib.unwrap_or_default() / 1024,
            own: ticks(11) + ticks(12),
            programs: ticks(13) + ticks(14),
        }
    }
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

/// Median, p99 and worst in milliseconds, as cells of a table.
pub(crate) fn cells(mut times: Vec<Duration>) -> String {
    times.sort();
    format!(
        "{:.2} | {:.2} | {:.2}",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 1.0)
    )
}
