//! Labs themselves: side by side, and nothing left behind, whatever was killed.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cases;
use cluster_tests::cluster::{Cluster, wait_for};
use cluster_tests::command::{command, fairlead, run, testserver};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn main() -> ExitCode {
    let cases = cases![
        labs::two_labs_run_side_by_side_and_leave_nothing,
        labs::nothing_is_left_after_everything_was_killed,
        labs::a_half_finished_lab_is_removed_and_can_be_made_again,
        labs::mistakes_are_told_in_one_line,
    ];
    // One at a time: each looks at what is on this machine.
    cluster_tests::harness::run("labs", 1, cases, || Ok(()))
}

/// What labs leave on a machine, as far as it can be listed.
fn traces(lab: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for directory in [
        "/run/netns",
        "/run/fairlead-labs",
        "/var/lib/fairlead-labs",
        "/run",
    ] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let ours = |name: &String| {
            let of_lab = name
                .split('-')
                .collect::<Vec<_>>()
                .windows(lab.split('-').count())
                .any(|part| part.join("-") == lab);
            of_lab && (directory != "/run" || name.starts_with("fairlead-lab-"))
        };
        traces.extend(names.filter(ours).map(|name| format!("{directory}/{name}")));
    }
    let cgroups = run(
        "find",
        &["/sys/fs/cgroup", "-path", &format!("*/fairlead-labs/{lab}")],
    )?;
    traces.extend(cgroups.stdout.lines().map(str::to_owned));
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    traces.extend(
        mounts
            .lines()
            .filter(|line| line.contains(lab))
            .map(str::to_owned),
    );
    let processes = run("pgrep", &["-af", &format!("fairlead-labs/{lab}/")])?;
    traces.extend(processes.stdout.lines().map(str::to_owned));
    Ok(traces)
}

/// The machine's interfaces, rules and routes, as a person would compare them.
fn network() -> anyhow::Result<String> {
    let mut text = String::new();
    let listings: [&[&str]; 3] = [
        &["ip", "-o", "link"],
        &["ip", "route", "show", "table", "all"],
        &["nft", "list", "tables"],
    ];
    for listing in listings {
        text.push_str(&run(listing[0], &listing[1..])?.success()?);
    }
    Ok(text)
}

fn processes(lab: &str) -> anyhow::Result<Vec<i32>> {
    let text = run(fairlead(), &["lab", "list", "-o", "json"])?.success()?;
    let labs: Value = serde_json::from_str(&text)?;
    let lab = labs
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == lab);
    let processes = lab
        .and_then(|lab| lab["processes"].as_array())
        .context("no such lab")?;
    Ok(processes
        .iter()
        .filter_map(|process| process["pid"].as_i64())
        .map(|pid| pid as i32)
        .collect())
}

mod labs {
    use super::*;

    pub(super) fn two_labs_run_side_by_side_and_leave_nothing(_: &()) -> anyhow::Result<()> {
        let before = network()?;
        let first = Cluster::start("one", &["--nodes=1"])?;
        let second = Cluster::start("two", &["--nodes=1"])?;
        for lab in [&first, &second] {
            ensure!(lab.nodes()? == ["node1"]);
            // The machine reaches the node, and the node the machine.
            let address = lab.node_address("node1")?;
            let kubelet = format!("{address}:10250");
            let dial = run(
                testserver(),
                &["dial", "tcp", &kubelet, "x", "--timeout", "2"],
            )?;
            ensure!(
                !dial.stderr.contains("refused") && !dial.stderr.contains("unreachable"),
                "{dial:?}"
            );
        }
        ensure!(first.node_address("node1")? != second.node_address("node1")?);
        let names = [first.lab.clone(), second.lab.clone()];
        drop(first);
        ensure!(
            second.nodes()? == ["node1"],
            "the second lab suffers from the end of the first"
        );
        drop(second);
        for name in names {
            ensure!(traces(&name)?.is_empty(), "{:#?}", traces(&name)?);
        }
        let after = network()?;
        ensure!(before == after, "before:\n{before}\nafter:\n{after}");
        Ok(())
    }

    pub(super) fn nothing_is_left_after_everything_was_killed(_: &()) -> anyhow::Result<()> {
        let lab = Cluster::start("killed", &["--nodes=2"])?;
        lab.kubectl("create deployment web --image=nginx --replicas=2")?
            .success()?;
        lab.kubectl("rollout status deployment web --timeout=60s")?
            .success()?;
        for pid in processes(&lab.lab)? {
            // Some end with those that were killed before them.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        lab.lab("down", &[])?.success()?;
        ensure!(traces(&lab.lab)?.is_empty(), "{:#?}", traces(&lab.lab)?);
        lab.lab("down", &[])?.success()?;
        Ok(())
    }

    pub(super) fn a_half_finished_lab_is_removed_and_can_be_made_again(
        _: &(),
    ) -> anyhow::Result<()> {
        let name = format!("half-{}", std::process::id());
        let mut up = command(fairlead())
            .args(["lab", "up", &name, "--nodes=1"])
            .spawn()?;
        let data = format!("/var/lib/fairlead-labs/{name}/server");
        wait_for("the beginning", Duration::from_secs(20), || {
            Ok(fs::exists(&data)?)
        })?;
        up.kill()?;
        up.wait()?;
        let again = run(fairlead(), &["lab", "up", &name, "--nodes=1"])?.success();
        run(fairlead(), &["lab", "down", &name])?.success()?;
        ensure!(again?.contains("KUBECONFIG="));
        ensure!(traces(&name)?.is_empty(), "{:#?}", traces(&name)?);
        Ok(())
    }

    pub(super) fn mistakes_are_told_in_one_line(_: &()) -> anyhow::Result<()> {
        let cases: [(&[&str], &str); 5] = [
            (&["lab", "up", "Not/A/Name"], "cannot name a lab"),
            (
                &["lab", "up", "imageless", "--images", "/nowhere"],
                "fairlead image build",
            ),
            (
                &["lab", "exec", "no-such-lab", "node1", "--", "true"],
                "fairlead lab list",
            ),
            (
                &["lab", "load", "no-such-lab", "x.tar"],
                "fairlead lab list",
            ),
            (&["image", "load", "/nowhere.tar"], "/nowhere.tar"),
        ];
        for (arguments, advice) in cases {
            let failure = run(fairlead(), arguments)?.failure()?;
            ensure!(failure.contains(advice), "{arguments:?}: {failure}");
            ensure!(failure.lines().count() == 1, "{arguments:?}: {failure}");
        }
        Ok(())
    }
}
