//! ADD and DEL with a host port: our plugin alone, and Debian's chain doing the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kernel::testing::TestNetns;
use serde_json::{Value, json};

use crate::{milliseconds, percentile};

const DEBIAN: &str = "/usr/lib/cni";

/// A host and the plugins that a runtime would run on it, in order.
struct Host<'a> {
    ns: TestNetns,
    directory: tempfile::TempDir,
    plugins: Vec<(PathBuf, Value)>,
    label: &'a str,
}

struct Times {
    add: Vec<Duration>,
    del: Vec<Duration>,
}

pub(crate) fn run(plugin: &Path, rounds: usize, pods: usize) -> anyhow::Result<()> {
    let ours = Host::ours(plugin)?;
    let debian = Host::debian()?;
    println!("| | ADD p50 | ADD p99 | DEL p50 | DEL p99 |");
    println!("|---|---|---|---|---|");
    compare(&ours, &debian, rounds, "on an empty node")?;
    let _kept: Vec<TestNetns> = (0..pods)
        .map(|number| ours.keep(number))
        .collect::<anyhow::Result<_>>()?;
    compare(&ours, &debian, rounds, &format!("ours with {pods} pods"))
}

fn compare(ours: &Host<'_>, debian: &Host<'_>, rounds: usize, label: &str) -> anyhow::Result<()> {
    let (mut a, mut b) = (Times::new(), Times::new());
    // They go when all is measured: while the kernel takes a namespace apart, everybody else's
    // change of the network waits, and that would be the other's.
    let mut containers = Vec::new();
    // In turns: what else the machine does falls upon both.
    for round in 0..rounds {
        containers.push(ours.round(round, &mut a)?);
        containers.push(debian.round(round, &mut b)?);
    }
    let figures: Vec<[f64; 4]> = [(&mut a, ours), (&mut b, debian)]
        .into_iter()
        .map(|(times, host)| {
            let figures = times.figures();
            let [add, add99, del, del99] = figures;
            println!(
                "| {}, {label} | {add:.2} ms | {add99:.2} ms | {del:.2} ms | {del99:.2} ms |",
                host.label
            );
            figures
        })
        .collect();
    let ratio: Vec<String> = (0..4)
        .map(|n| format!("{:.1}", figures[1][n] / figures[0][n]))
        .collect();
    println!("| times faster | {} |", ratio.join(" | "));
    Ok(())
}

impl Times {
    fn new() -> Self {
        Self {
            add: Vec::new(),
            del: Vec::new(),
        }
    }

    fn figures(&mut self) -> [f64; 4] {
        [
            milliseconds(percentile(&mut self.add, 0.5)),
            milliseconds(percentile(&mut self.add, 0.99)),
            milliseconds(percentile(&mut self.del, 0.5)),
            milliseconds(percentile(&mut self.del, 0.99)),
        ]
    }
}

impl Host<'_> {
    fn ours(plugin: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "fairlead-cni",
            "dataDir": directory.path(), "mtu": 1450,
            "ipam": {"ranges": [[{"subnet": "10.244.0.0/22"}]]},
        });
        let plugins = vec![(plugin.canonicalize()?, config)];
        Ok(Self {
            ns: TestNetns::new("ours"),
            directory,
            plugins,
            label: "fairlead-cni",
        })
    }

    fn debian() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
            "isDefaultGateway": true, "hairpinMode": true, "mtu": 1450,
            "ipam": {
                "type": "host-local", "dataDir": directory.path(),
                "ranges": [[{"subnet": "10.245.0.0/22"}]],
            },
        });
        let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap"});
        let plugins = vec![
            (Path::new(DEBIAN).join("bridge"), bridge),
            (Path::new(DEBIAN).join("portmap"), portmap),
        ];
        let label = "bridge + host-local + portmap";
        Ok(Self {
            ns: TestNetns::new("debian"),
            directory,
            plugins,
            label,
        })
    }

    fn round(&self, round: usize, times: &mut Times) -> anyhow::Result<TestNetns> {
        let container = TestNetns::new("c");
        let id = format!("measured-{round}");
        let start = Instant::now();
        let result = self.add(&id, &container, 8080)?;
        times.add.push(start.elapsed());
        let start = Instant::now();
        self.del(&id, &container, 8080, &result)?;
        times.del.push(start.elapsed());
        Ok(container)
    }

    /// A pod that stays.
    fn keep(&self, number: usize) -> anyhow::Result<TestNetns> {
        let container = TestNetns::new("k");
        let port = 10_000 + i64::try_from(number)?;
        self.add(&format!("kept-{number}"), &container, port)?;
        Ok(container)
    }

    fn add(&self, id: &str, container: &TestNetns, port: i64) -> anyhow::Result<Value> {
        let mut result = Value::Null;
        for (program, config) in &self.plugins {
            result = self.call(program, "ADD", id, container, config, port, &result)?;
        }
        Ok(result)
    }

    fn del(&self, id: &str, container: &TestNetns, port: i64, last: &Value) -> anyhow::Result<()> {
        for (program, config) in self.plugins.iter().rev() {
            self.call(program, "DEL", id, container, config, port, last)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the protocol has that many")]
    fn call(
        &self,
        program: &Path,
        command: &str,
        id: &str,
        container: &TestNetns,
        config: &Value,
        port: i64,
        previous: &Value,
    ) -> anyhow::Result<Value> {
        let mut config = config.clone();
        config["runtimeConfig"] = json!({
            "portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}],
        });
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        #[expect(clippy::disallowed_methods, reason = "a runtime starts plugins")]
        let mut process = std::process::Command::new(program);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", DEBIAN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = self
            .ns
            .run(move || process.spawn())
            .with_context(|| format!("cannot start {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(&config)?)?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            bail!(
                "{} {command} in {}: {text}",
                program.display(),
                self.directory.path().display()
            );
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }
}
