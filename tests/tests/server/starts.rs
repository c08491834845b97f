//! Starting and joining: what can be wrong, told in one line that says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::wait_for;
use cluster_tests::command::{Outcome, command, fairlead, outcome, run};
use cluster_tests::server::{Server, free_port};

use crate::Suite;

pub(crate) fn a_first_start_makes_a_private_kubeconfig_and_tells_how_to_join(
    suite: &Suite,
) -> anyhow::Result<()> {
    let mode = fs::metadata(suite.server.kubeconfig())?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let join = join_command(suite)?;
    ensure!(join[0] == "fairlead" && join[1] == "join", "{join:?}");
    ensure!(
        join.iter().any(|word| word.starts_with("sha256:")),
        "{join:?}"
    );
    Ok(())
}

fn join_command(suite: &Suite) -> anyhow::Result<Vec<String>> {
    let line = fs::read_to_string(suite.server.data.join("join-command"))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// Starts a server that has to fail soon, and returns what it said.
fn failing_server(arguments: &[&str]) -> anyhow::Result<String> {
    let mut server = command("timeout");
    server
        .arg("20")
        .arg(fairlead())
        .args(["--log=error", "server", "--bind-address=127.0.0.1"]);
    one_line(outcome(server.args(arguments), None)?)
}

fn one_line(outcome: Outcome) -> anyhow::Result<String> {
    ensure!(outcome.code != Some(124), "it did not end: {outcome:?}");
    let failure = outcome.failure()?;
    ensure!(
        failure.trim().lines().count() == 1,
        "more than a line: {failure}"
    );
    Ok(failure)
}

pub(crate) fn a_port_in_use_is_told_in_one_line(suite: &Suite) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let data = format!("--data-dir={}", directory.path().display());
    let port = format!("--secure-port={}", suite.server.port);
    let failure = failing_server(&[&data, &port])?;
    ensure!(
        failure.contains(&suite.server.port.to_string()),
        "{failure}"
    );
    ensure!(failure.contains("in use"), "{failure}");
    Ok(())
}

pub(crate) fn a_data_directory_in_use_is_told_in_one_line(suite: &Suite) -> anyhow::Result<()> {
    let data = format!("--data-dir={}", suite.server.data.display());
    let failure = failing_server(&[&data, &format!("--secure-port={}", free_port()?)])?;
    ensure!(failure.contains("in use"), "{failure}");
    Ok(())
}

pub(crate) fn one_who_is_not_root_is_told_what_to_do(_: &Suite) -> anyhow::Result<()> {
    // A copy that everybody may run.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let program = directory.path().join("fairlead");
    fs::copy(fairlead(), &program)?;
    let mut lab = command(&program);
    lab.args(["lab", "down", "any"]).uid(65534).gid(65534);
    let failure = one_line(outcome(&mut lab, None)?)?;
    ensure!(failure.contains("root"), "{failure}");
    let mut join = command(&program);
    join.args([
        "join",
        "https://127.0.0.1:1",
        "--token=a.b",
        "--ca-cert-hash=sha256:00",
    ])
    .uid(65534)
    .gid(65534);
    let failure = one_line(outcome(&mut join, None)?)?;
    ensure!(failure.contains("root"), "{failure}");
    Ok(())
}

/// Joins from a directory of its own, with a runtime that is not there: what is wrong with the
/// token and the server is found before.
fn join(suite: &Suite, token: &str, hash: &str) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    join_from(suite, directory.path(), token, hash)
}

fn join_from(
    suite: &Suite,
    directory: &std::path::Path,
    token: &str,
    hash: &str,
) -> anyhow::Result<String> {
    let mut join = command("timeout");
    join.arg("30").arg(fairlead()).args(["--log=error", "join"]);
    join.arg(format!("https://127.0.0.1:{}", suite.server.port));
    join.args([
        "--node-name=stranger",
        "--token",
        token,
        "--ca-cert-hash",
        hash,
    ]);
    join.arg(format!("--node-dir={}", directory.display()));
    join.arg("--container-runtime=/nowhere/containerd.sock");
    one_line(outcome(&mut join, None)?)
}

fn good_hash(suite: &Suite) -> anyhow::Result<String> {
    let join = join_command(suite)?;
    join.into_iter()
        .find(|word| word.starts_with("sha256:"))
        .context("no hash")
}

pub(crate) fn a_wrong_ca_hash_is_told_before_anything_is_sent(suite: &Suite) -> anyhow::Result<()> {
    let wrong = format!("sha256:{}", "0".repeat(64));
    let failure = join(suite, "abcdef.0123456789abcdef", &wrong)?;
    ensure!(failure.contains("hash"), "{failure}");
    Ok(())
}

pub(crate) fn a_token_that_is_unknown_or_expired_is_told(suite: &Suite) -> anyhow::Result<()> {
    let hash = good_hash(suite)?;
    let failure = join(suite, "abcdef.0123456789abcdef", &hash)?;
    ensure!(failure.contains("token"), "{failure}");
    let line = token(suite, &["create", "--ttl=1s"])?.success()?;
    let expired = line
        .split_whitespace()
        .skip_while(|word| *word != "--token")
        .nth(1);
    std::thread::sleep(Duration::from_secs(2));
    let failure = join(suite, expired.context("no token")?, &hash)?;
    ensure!(failure.contains("token"), "{failure}");
    Ok(())
}

pub(crate) fn a_machine_without_containerd_is_told(suite: &Suite) -> anyhow::Result<()> {
    let line = token(suite, &["create", "--ttl=5m"])?.success()?;
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "--token");
    let token = words.nth(1).context("no token")?;
    let failure = join(suite, token, &good_hash(suite)?)?;
    ensure!(
        failure.contains("/nowhere/containerd.sock") && failure.contains("install"),
        "{failure}"
    );
    Ok(())
}

pub(crate) fn a_node_of_another_cluster_is_told(suite: &Suite) -> anyhow::Result<()> {
    let other = tempfile::tempdir()?;
    let server = Server::start(&other.path().join("data"), &[])?;
    let kubeconfig = fs::read_to_string(server.kubeconfig())?;
    let node = tempfile::tempdir()?;
    fs::write(node.path().join("kubelet.kubeconfig"), kubeconfig)?;
    let failure = join_from(
        suite,
        node.path(),
        "abcdef.0123456789abcdef",
        &good_hash(suite)?,
    )?;
    ensure!(failure.contains("another cluster"), "{failure}");
    Ok(())
}

fn token(suite: &Suite, arguments: &[&str]) -> anyhow::Result<Outcome> {
    let mut all = vec!["token"];
    all.extend(arguments);
    let kubeconfig = format!("--kubeconfig={}", suite.server.kubeconfig().display());
    all.push(&kubeconfig);
    run(fairlead(), &all)
}

pub(crate) fn tokens_are_made_listed_and_deleted(suite: &Suite) -> anyhow::Result<()> {
    let line = token(suite, &["create", "--description=for a test"])?.success()?;
    ensure!(line.starts_with("fairlead join https://"), "{line}");
    ensure!(line.trim().ends_with(&good_hash(suite)?), "{line}");
    let made = line
        .split_whitespace()
        .skip_while(|word| *word != "--token")
        .nth(1);
    let made = made.context("no token")?;
    let id = made.split('.').next().context("no dot")?;
    let listed = || token(suite, &["list"])?.success();
    ensure!(
        listed()?.contains(id) && listed()?.contains("for a test"),
        "{}",
        listed()?
    );
    token(suite, &["delete", made])?.success()?;
    wait_for("the token to be gone", Duration::from_secs(5), || {
        Ok(!listed()?.contains(id))
    })?;
    let failure = one_line(token(suite, &["delete", made])?)?;
    ensure!(failure.contains("fairlead token list"), "{failure}");
    Ok(())
}
