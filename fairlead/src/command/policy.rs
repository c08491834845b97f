//! `fairlead policy` and `fairlead flows`.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use policy::connections::Seen;
use policy::flows::{End, Flow};
use policy::model::Protocol;
use policy::snapshot::{Cut, Difference, Snapshot};
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::Value;

use super::client::from_kubeconfig;
use super::node::served::CONNECTIONS;
use super::observed::Observed;
use super::part::alone;
use super::running::block_on;
use crate::cli::{self, Output, PolicyAsking, PolicyCheck, PolicyMatrix, PolicyQuestion};

pub(crate) fn run(options: cli::Policy) -> anyhow::Result<ExitCode> {
    match options.question {
        None => enforce(
            &kubeconfig(options.kubeconfig.as_deref())?,
            &options.run_dir,
            options.metrics,
        ),
        Some(PolicyQuestion::Check(options)) => check(&options),
        Some(PolicyQuestion::Matrix(options)) => matrix(&options),
    }
}

fn enforce(
    kubeconfig: &Path,
    run_dir: &Path,
    metrics: Option<SocketAddr>,
) -> anyhow::Result<ExitCode> {
    let config = policy::Config::below(run_dir);
    let mut registry = Registry::default();
    policy::register(&mut registry);
    let observed = Observed::bind(metrics, registry)?;
    alone("policy", kubeconfig, |_, caches, shutdown| {
        tokio::spawn(observed.serve(shutdown.clone()));
        let deps = policy::Deps {
            caches,
            answers: None,
        };
        policy::run(config, deps, shutdown)
    })
}

pub(crate) fn kubeconfig(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = given.context("name the cluster with --kubeconfig, or set KUBECONFIG")?;
    Ok(path.to_owned())
}

fn live(asking: &PolicyAsking) -> anyhow::Result<Snapshot> {
    let path = kubeconfig(asking.kubeconfig.as_deref())?;
    block_on(async {
        let client: Client = from_kubeconfig(&path).await?;
        Ok(Snapshot::load(&client).await?)
    })
}

pub(crate) fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
    show(&(serde_json::to_string_pretty(answer)? + "\n"))
}

/// Prints; who reads may have enough before the end.
fn show(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn check(options: &PolicyCheck) -> anyhow::Result<ExitCode> {
    let snapshot = || match options.against.as_slice() {
        [] => live(&options.asking),
        files => {
            let mut own = Snapshot::default();
            apply(&mut own, files, &options.namespace)?;
            Ok(own)
        }
    };
    let (mut before, mut after) = (snapshot()?, snapshot()?);
    let faults = apply(&mut after, &options.filename, &options.namespace)?;
    for fault in faults {
        eprintln!("cannot be enforced: {fault}");
    }
    let differences = before.differences(&mut after);
    let seen = seen(options)?;
    let cut = before.cut(&mut after, &seen);
    if options.asking.output == Output::Json {
        print_json(&serde_json::json!({ "pairs": differences, "cut": cut }))?;
        return Ok(ExitCode::SUCCESS);
    }
    show(&text_of_check(&differences, &cut, seen.len()))?;
    Ok(ExitCode::SUCCESS)
}

fn text_of_check(differences: &[Difference], cut: &[Cut], seen: usize) -> String {
    let lines = differences.iter().map(|own| {
        let change = if own.allowed { "gains" } else { "loses" };
        format!(
            "{} {change} {} on {}: {}\n",
            own.source, own.destination, own.port, own.because
        )
    });
    let mut text: String = lines.collect();
    if differences.is_empty() {
        text += "No pair of pods gains or loses a connection.\n";
    }
    for own in cut {
        let connection = &own.seen.connection;
        let name = |pod: &Option<String>, address: IpAddr| {
            pod.clone().unwrap_or_else(|| address.to_string())
        };
        text += &format!(
            "cut: {} to {} {}/{}, seen in the last hour: {}\n",
            name(&connection.source_pod, connection.source),
            name(&connection.destination_pod, connection.destination),
            connection.port,
            connection.protocol,
            own.because
        );
    }
    if cut.is_empty() && seen > 0 {
        text += &format!("None of {seen} connections of the last hour would be cut.\n");
    }
    text
}

/// The connections of the last hour: from files, or from the nodes of a live cluster.
fn seen(options: &PolicyCheck) -> anyhow::Result<Vec<Seen>> {
    let mut text = String::new();
    for path in &options.seen {
        text += &std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    if options.seen.is_empty() && options.against.is_empty() {
        let path = kubeconfig(options.asking.kubeconfig.as_deref())?;
        text = block_on(async { Ok(from_nodes(&from_kubeconfig(&path).await?).await?) })?;
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let seen = lines.map(|line| serde_json::from_str(line).context("a connection that was seen"));
    seen.collect()
}

/// A node that does not answer is told and left out.
async fn from_nodes(client: &Client) -> Result<String, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut text = String::new();
    for node in nodes.list(&ListParams::default()).await? {
        let name = node.metadata.name.unwrap_or_default();
        let path = format!("/api/v1/nodes/{name}/proxy{CONNECTIONS}");
        let request = http::Request::get(path).body(Vec::new());
        match client
            .request_text(request.map_err(kube::Error::HttpError)?)
            .await
        {
            Ok(lines) => text += &lines,
            Err(error) => eprintln!("the connections of {name} are not known: {error}"),
        }
    }
    Ok(text)
}

/// Applies the manifests of files and folders.
fn apply(
    snapshot: &mut Snapshot,
    paths: &[PathBuf],
    namespace: &str,
) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            let mut files = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()?;
            files.retain(|file| {
                let extension = file.extension().and_then(|own| own.to_str());
                matches!(extension, Some("yaml" | "yml" | "json"))
            });
            files.sort();
            faults.extend(apply(snapshot, &files, namespace)?);
            continue;
        }
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{} is no manifest", path.display()))?;
        for object in objects {
            faults.extend(snapshot.apply(&object, namespace)?);
        }
    }
    Ok(faults)
}

fn matrix(options: &PolicyMatrix) -> anyhow::Result<ExitCode> {
    let port = parse_port(&options.port)?;
    let rows = live(&options.asking)?.matrix(options.namespace.as_deref(), port);
    if options.asking.output == Output::Json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(source, destination, allowed)| {
                serde_json::json!({ "source": source, "destination": destination, "allowed": allowed })
            })
            .collect();
        print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut names: Vec<&String> = rows.iter().map(|(source, _, _)| source).collect();
    names.dedup();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    println!(
        "From the pod of a row to the pod of a column, port {}:",
        options.port
    );
    for (number, name) in names.iter().enumerate() {
        let of_row = rows.chunks(names.len()).nth(number).unwrap_or_default();
        let cells: String = of_row
            .iter()
            .map(|(_, _, allowed)| if *allowed { "  . " } else { "  X " })
            .collect();
        println!("{:>3} {name:width$} {cells}", number + 1);
    }
    let numbers: String = (1..=names.len())
        .map(|number| format!("{number:>3} "))
        .collect();
    println!("    {:width$} {numbers}", "");
    println!(". connects, X does not");
    Ok(ExitCode::SUCCESS)
}

fn parse_port(text: &str) -> anyhow::Result<(Protocol, u16)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    Ok((
        parse_protocol(protocol)?,
        port.parse()
            .with_context(|| format!("--port {text}: write PORT/PROTOCOL"))?,
    ))
}

pub(crate) fn parse_protocol(text: &str) -> anyhow::Result<Protocol> {
    let upper = text.to_ascii_uppercase();
    Protocol::parse(Some(&upper)).with_context(|| format!("{text:?} is none of tcp, udp, sctp"))
}

pub(crate) fn flows(options: &cli::Flows) -> anyhow::Result<ExitCode> {
    let socket = &options.socket;
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no policy agent answers at {}: run this on a node (in a lab: fairlead lab exec LAB NODE -- fairlead flows)",
            socket.display()
        )
    })?;
    let words = [
        (options.follow, "follow"),
        (options.accepted, "accepted"),
        (options.connections, "connections"),
    ];
    let words: Vec<&str> = words.iter().filter(|own| own.0).map(|own| own.1).collect();
    stream.write_all((words.join(" ") + "\n").as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if options.connections {
            show(&text_of_connection(&line, options)?)?;
            continue;
        }
        let flow: Flow = serde_json::from_str(&line).context("the agent's answer")?;
        let other_pod = options.pod.as_ref().is_some_and(|pod| !flow.concerns(pod));
        if other_pod || (options.drop && flow.verdict != "drop") {
            continue;
        }
        let printed = match options.output {
            Output::Json => writeln!(std::io::stdout(), "{line}"),
            Output::Text => writeln!(std::io::stdout(), "{}", text_of(&flow)?),
        };
        if let Err(error) = printed {
            // Who reads has enough.
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                break;
            }
            bail!(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of the answer, or nothing of one that is about other pods.
fn text_of_connection(line: &str, options: &cli::Flows) -> anyhow::Result<String> {
    let seen: Seen = serde_json::from_str(line).context("the agent's answer")?;
    let own = &seen.connection;
    let concerns = |pod: &String| {
        let ends = [&own.source_pod, &own.destination_pod]
            .into_iter()
            .flatten();
        let mut ends = ends.map(String::as_str);
        ends.any(|end| end == pod || end.split('/').nth(1) == Some(pod))
    };
    if !options.pod.as_ref().is_none_or(concerns) {
        return Ok(String::new());
    }
    if options.output == Output::Json {
        return Ok(format!("{line}\n"));
    }
    let name =
        |pod: &Option<String>, address: IpAddr| pod.clone().unwrap_or_else(|| address.to_string());
    let time = jiff::Timestamp::from_second(i64::try_from(seen.seen)?)?;
    let source = name(&own.source_pod, own.source);
    let destination = name(&own.destination_pod, own.destination);
    let (protocol, port) = (&own.protocol, own.port);
    Ok(format!(
        "{time} {protocol} {source} -> {destination}:{port}\n"
    ))
}

fn text_of(flow: &Flow) -> anyhow::Result<String> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(flow.time)?)?;
    let end = |end: &End| {
        let name = end.pod.clone().unwrap_or_else(|| end.address.to_string());
        match end.port {
            Some(port) => format!("{name}:{port}"),
            None => name,
        }
    };
    let untold = match flow.untold {
        0 => String::new(),
        more => format!(" ({more} more before it)"),
    };
    Ok(format!(
        "{time:.3} {} {} {} {} -> {}: {}{untold}",
        flow.verdict,
        flow.direction,
        flow.protocol,
        end(&flow.source),
        end(&flow.destination),
        flow.reason
    ))
}
