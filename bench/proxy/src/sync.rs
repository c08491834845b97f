//! How long it takes to bring Services into the kernel: from API objects in memory, by planning
//! and encoding, to the end of the kernel's own work. The API server is not in it.

use std::time::{Duration, Instant};

use proxy::Config;
use proxy::backend::{Backend, Desired};
use proxy::picture::Index;

use crate::objects::{service, slice};
use crate::usage::{Usage, cells};

/// How often foreign changes are looked for, as the proxy does it.
const CHECK: Duration = Duration::from_millis(500);

/// Single changes are measured at least so often, and then for no longer than this.
const LEAST: usize = 20;
const LONGEST: Duration = Duration::from_secs(6);

/// A backend and what it is fed with.
pub(crate) struct Bench {
    backend: Box<dyn Backend>,
    index: Index,
    endpoints: u32,
}

impl Bench {
    pub(crate) fn new(config: &Config, endpoints: u32) -> anyhow::Result<Self> {
        let mut bench = Self {
            backend: proxy::backend_of(config.mode, config)?,
            index: Index::new("here", None),
            endpoints,
        };
        bench.resync()?;
        Ok(bench)
    }

    /// The Services of these numbers are there, with endpoints of their own.
    pub(crate) fn add(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.index.service_applied(&service(number));
            self.move_endpoints(number, 0);
        }
    }

    fn move_endpoints(&mut self, number: u32, by: u32) {
        let first = number * self.endpoints + by;
        self.index
            .slice_applied(&slice(number, first, self.endpoints));
    }

    pub(crate) fn resync(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.index.take_changes();
        let desired = Desired {
            services: self.index.pictures().clone(),
            service_cidrs: Vec::new(),
        };
        let outcome = self.backend.resync(&desired)?;
        anyhow::ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        Ok(start.elapsed())
    }

    fn apply(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let changes = self.index.take_changes();
        let outcome = self.backend.apply(&changes)?;
        anyhow::ensure!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        Ok(start.elapsed())
    }
}

/// What is measured.
pub(crate) struct Plan {
    pub(crate) endpoints: u32,
    /// How many single changes.
    pub(crate) changes: u32,
    /// For how long nothing happens.
    pub(crate) idle: Duration,
}

/// Measures a backend with so many Services and prints a table.
pub(crate) fn measure(
    name: &str,
    config: &Config,
    services: u32,
    plan: &Plan,
) -> anyhow::Result<()> {
    let mut bench = Bench::new(config, plan.endpoints)?;
    let before = Usage::now();
    bench.add(0..services);
    let objects = Usage::now();
    println!(
        "\n{name}, {services} Services of {} endpoints\n",
        plan.endpoints
    );
    println!("| | |\n|---|---|");
    println!(
        "| full sync, from nothing | {:.3} s |",
        seconds(bench.resync()?)
    );
    let after = Usage::now();
    println!(
        "| its processor time: this process, programs | {:.2} s, {:.2} s |",
        after.own - objects.own,
        after.programs - objects.programs
    );
    println!(
        "| full sync, over existing | {:.3} s |",
        seconds(bench.resync()?)
    );
    let added = one_by_one(services..services + plan.changes, |number| {
        bench.add(number..number + 1);
        bench.apply()
    })?;
    let changed = one_by_one(0..plan.changes.min(services), |number| {
        bench.move_endpoints(number, 7);
        bench.apply()
    })?;
    let many = services.min(1000);
    (0..many).for_each(|number| bench.move_endpoints(number, 77));
    let batch = bench.apply()?;
    println!(
        "| endpoints of {many} Services changed at once | {:.1} ms |",
        seconds(batch) * 1000.0
    );
    println!(
        "| idle for {} s: processor time | {:.2} s |",
        plan.idle.as_secs(),
        idle(&mut bench, plan.idle)?
    );
    println!(
        "| memory before, with everything | {} MiB, {} MiB |",
        before.memory,
        Usage::now().memory
    );
    println!("\n| ms | times | p50 | p99 | worst |\n|---|---|---|---|---|");
    println!("| one Service added | {} | {} |", added.len(), cells(added));
    println!(
        "| endpoints of one Service changed | {} | {} |",
        changed.len(),
        cells(changed)
    );
    bench.backend.cleanup()?;
    Ok(())
}

/// How long each of these took, until it is enough.
fn one_by_one(
    numbers: std::ops::Range<u32>,
    mut change: impl FnMut(u32) -> anyhow::Result<Duration>,
) -> anyhow::Result<Vec<Duration>> {
    let (start, mut times) = (Instant::now(), Vec::new());
    for number in numbers {
        if times.len() >= LEAST && start.elapsed() > LONGEST {
            break;
        }
        times.push(change(number)?);
    }
    Ok(times)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Only looks for foreign changes, as a proxy with nothing to do does; the processor time of it.
fn idle(bench: &mut Bench, time: Duration) -> anyhow::Result<f64> {
    // The look that follows a write, at rules that are at rest, is part of the write.
    for _ in 0..2 {
        std::thread::sleep(CHECK);
        anyhow::ensure!(bench.backend.intact()?, "somebody changes the rules");
    }
    let (start, before) = (Instant::now(), Usage::now());
    while start.elapsed() < time {
        anyhow::ensure!(bench.backend.intact()?, "somebody changes the rules");
        std::thread::sleep(CHECK);
    }
    let after = Usage::now();
    Ok(after.own + after.programs - before.own - before.programs)
}
