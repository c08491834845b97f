//! `fairlead doctor` on a node.

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, SOON, wait_for};
use serde_json::Value;

/// What the self-test finds on a node, and whether something is at fault.
fn findings(cluster: &Cluster, node: &str) -> anyhow::Result<(Vec<Value>, bool)> {
    let program = cluster_tests::command::fairlead();
    let program = program.to_str().context("a path that is no text")?;
    let outcome = cluster.exec(
        node,
        &[program, "doctor", "-o", "json", "--node-name", node],
    )?;
    let at_fault = match outcome.code {
        Some(0) => false,
        Some(1) if !outcome.stdout.is_empty() => true,
        _ => anyhow::bail!("{outcome:?}"),
    };
    Ok((serde_json::from_str(&outcome.stdout)?, at_fault))
}

pub(crate) fn the_self_test_finds_nothing_and_then_a_cut_link(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let nodes = cluster.nodes()?;
    let (fine, at_fault) = findings(cluster, &nodes[0])?;
    ensure!(!at_fault, "{fine:?}");
    let about = |all: &[Value], node: &str| -> String {
        let of_node = all.iter().filter(|own| own["about"] == *node);
        let texts = of_node.filter_map(|own| own["text"].as_str());
        texts.collect::<Vec<_>>().join("; ")
    };
    let told = about(&fine, &nodes[1]);
    ensure!(told.contains("by tunnel"), "{told}");
    cluster.lab("cut", &[&nodes[0], &nodes[1]])?.success()?;
    let cut = wait_for("the self-test to find the cut link", SOON, || {
        let (found, at_fault) = findings(cluster, &nodes[0])?;
        Ok(at_fault && about(&found, &nodes[1]).contains("does not answer"))
    });
    cluster.lab("heal", &[&nodes[0], &nodes[1]])?.success()?;
    cut?;
    wait_for("the self-test to be content again", SOON, || {
        Ok(!findings(cluster, &nodes[0])?.1)
    })
}
