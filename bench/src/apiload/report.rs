//! What was measured, and the server's use of the machine.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Phase;

/// CPU and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessUse {
    pub cpu: Duration,
    pub resident: u64,
}

impl ProcessUse {
    /// From `/proc`.
    pub fn read(pid: u32) -> Result<ProcessUse> {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&path).context(path)?;
        // The name stands in parentheses and may contain anything.
        let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let field = |index: usize| -> u64 {
            rest.split(' ')
                .nth(index)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0)
        };
        // utime and stime in clock ticks of 10 ms; resident pages of 4 KiB.
        let cpu = Duration::from_millis((field(11) + field(12)) * 10);
        Ok(ProcessUse {
            cpu,
            resident: field(21) * 4096,
        })
    }
}

/// One phase's result.
#[derive(Debug, Clone)]
pub struct Measured {
    pub phase: Phase,
    pub clients: usize,
    pub requests: usize,
    pub per_second: f64,
    pub p50: Duration,
    pub p90: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub cpu_per_request: Option<Duration>,
    pub resident: Option<u64>,
}

impl Measured {
    pub(super) fn new(
        phase: Phase,
        clients: usize,
        mut times: Vec<Duration>,
        elapsed: Duration,
        before: Option<ProcessUse>,
        after: Option<ProcessUse>,
    ) -> Measured {
        times.sort_unstable();
        let at = |part: f64| {
            let index = (times.len() as f64 * part) as usize;
            times
                .get(index.min(times.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default()
        };
        let cpu = before
            .zip(after)
            .map(|(before, after)| after.cpu.saturating_sub(before.cpu));
        Measured {
            phase,
            clients: if phase == Phase::List { 1 } else { clients },
            requests: times.len(),
            per_second: times.len() as f64 / elapsed.as_secs_f64(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
            cpu_per_request: cpu.map(|cpu| cpu / times.len().max(1) as u32),
            resident: after.map(|after| after.resident),
        }
    }

    pub fn to_json(&self) -> Value {
        let micros = |time: Duration| time.as_micros() as u64;
        json!({
            "phase": self.name(),
            "clients": self.clients,
            "requests": self.requests,
            "perSecond": self.per_second.round(),
            "p50Micros": micros(self.p50),
            "p90Micros": micros(self.p90),
            "p99Micros": micros(self.p99),
            "maxMicros": micros(self.max),
            "serverCpuMicrosPerRequest": self.cpu_per_request.map(micros),
            "serverResidentBytes": self.resident,
        })
    }

    pub fn header() -> &'static str {
        "phase   clients requests      per s    p50 us    p90 us    p99 us    max us  cpu us/req  rss MiB"
    }

    pub fn to_text(&self) -> String {
        let micros = |time: Duration| time.as_micros();
        let cpu = self
            .cpu_per_request
            .map_or("-".to_owned(), |cpu| micros(cpu).to_string());
        let resident = self
            .resident
            .map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
        format!(
            "{:<7} {:>7} {:>8} {:>10.0} {:>9} {:>9} {:>9} {:>9} {:>11} {:>8}",
            self.name(),
            self.clients,
            self.requests,
            self.per_second,
            micros(self.p50),
            micros(self.p90),
            micros(self.p99),
            micros(self.max),
            cpu,
            resident
        )
    }

    /// The phase as the command line calls it.
    pub fn name(&self) -> &'static str {
        match self.phase {
            Phase::Create => "create",
            Phase::Get => "get",
            Phase::Update => "update",
            Phase::Apply => "apply",
            Phase::List => "list",
        }
    }
}
