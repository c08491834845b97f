//! From changes to the kernel.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kernel::nftables::Connection;
use policy::index::Index;
use policy::model::{Namespaces, Peer, PodSelector, Policy, Requirement, Rule, Selector};
use policy::plan::{Compiled, Log, Names, compile, plan};

use crate::cluster::Size;
use crate::report::cells;

/// As the agent holds it.
struct Agent {
    index: Index,
    names: Names,
    committed: Option<Compiled>,
    connection: Connection,
}

impl Agent {
    fn write(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let compiled = compile(&self.index.desired(), &mut self.names, Log::DROPS);
        let transaction = plan(self.committed.as_ref(), &compiled);
        self.connection.apply(&transaction)?;
        self.committed = Some(compiled);
        Ok(start.elapsed())
    }
}

/// Resident memory in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    number.unwrap_or_default() / 1024
}

pub(crate) fn measure(size: &Size) -> anyhow::Result<()> {
    let namespace = kernel::netns::Netns::anonymous()?;
    namespace.enter_this_thread()?;
    println!(
        "\n{} pods ({} on the node), {} namespaces, {} policies\n",
        size.pods, size.local, size.namespaces, size.policies
    );
    let start = Instant::now();
    let mut agent = Agent {
        index: size.index(),
        names: Names::default(),
        committed: None,
        connection: Connection::open()?,
    };
    let gathered = start.elapsed();
    let written = agent.write()?;
    println!("| | |\n|---|---|");
    println!(
        "| complete, from nothing | {:.3} s |",
        (gathered + written).as_secs_f64()
    );
    println!(
        "| of this, to gather the objects | {:.3} s |",
        gathered.as_secs_f64()
    );
    println!("| memory | {} MiB |", memory());
    let mut changed = Vec::new();
    for number in 0..size.changes {
        // A pod somewhere: it moves from one team's sets to another's.
        let pod = (number * 97) % size.pods.max(1);
        let mut new = size.pod(pod);
        new.labels
            .insert("team".to_owned(), ((pod + 1) % 7).to_string());
        agent.index.set_pod(size.name(pod), new);
        changed.push(agent.write()?);
    }
    // Every other pod of the cluster, so 5,000 of 10,000.
    let half: BTreeSet<String> = [0, 2, 4, 6, 8].map(|n| n.to_string()).into();
    let mut added = Vec::new();
    for number in 0..size.changes.min(20) {
        // Each selector is another one: a set that is there already costs nothing.
        let pods = [
            Requirement::In("app".to_owned(), half.clone()),
            Requirement::DoesNotExist(format!("none{number}")),
        ];
        let pods = Selector(pods.into());
        let peers = Peer::Pods(PodSelector {
            namespaces: Namespaces::Selected(Selector::default()),
            pods,
        });
        agent.index.set_policy(Policy {
            name: ("ns0".to_owned(), format!("many{number}")),
            pods: Selector::default(),
            ingress: Some(vec![Rule {
                peers: Some(vec![peers]),
                ..Rule::default()
            }]),
            egress: None,
        });
        added.push(agent.write()?);
    }
    println!("| memory after all changes | {} MiB |", memory());
    println!("\n| ms | p50 | p99 | worst | times |\n|---|---|---|---|---|");
    println!("| a pod's label changed | {} |", cells(&changed));
    let half = size.pods / 2;
    println!(
        "| a policy added that selects {half} pods | {} |",
        cells(&added)
    );
    Ok(())
}
