//! `fairlead policy`, `fairlead flows` and `fairlead trace`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use kube::Client;
use policy::flows::{End, Flow};
use policy::model::Protocol;
use policy::snapshot::{Snapshot, Trace};
use serde::Serialize;
use serde_json::Value;

use super::client::from_kubeconfig;
use super::part::alone;
use super::running::block_on;
use crate::cli::{self, Output, PolicyAsking, PolicyCheck, PolicyMatrix, PolicyQuestion};

pub(crate) fn run(options: cli::Policy) -> anyhow::Result<ExitCode> {
    match options.question {
        None => enforce(&kubeconfig(options.kubeconfig.as_deref())?),
        Some(PolicyQuestion::Check(options)) => check(&options),
        Some(PolicyQuestion::Matrix(options)) => matrix(&options),
    }
}

fn enforce(kubeconfig: &Path) -> anyhow::Result<ExitCode> {
    alone("policy", kubeconfig, |_, caches, shutdown| {
        policy::run(policy::Config::default(), policy::Deps { caches }, shutdown)
    })
}

fn kubeconfig(given: Option<&Path>) -> anyhow::Result<PathBuf> {
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

fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
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
    if options.asking.output == Output::Json {
        print_json(&differences)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = differences.iter().map(|own| {
        let change = if own.allowed { "gains" } else { "loses" };
        format!(
            "{} {change} {} on {}: {}\n",
            own.source, own.destination, own.port, own.because
        )
    });
    match differences.len() {
        0 => show("No pair of pods gains or loses a connection.\n")?,
        _ => show(&lines.collect::<String>())?,
    }
    Ok(ExitCode::SUCCESS)
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

fn parse_protocol(text: &str) -> anyhow::Result<Protocol> {
    let upper = text.to_ascii_uppercase();
    Protocol::parse(Some(&upper)).with_context(|| format!("{text:?} is none of tcp, udp, sctp"))
}

pub(crate) fn trace(options: &cli::Trace) -> anyhow::Result<ExitCode> {
    let protocol = parse_protocol(&options.protocol)?;
    let trace = live(&options.asking)?.trace(&options.source, &options.destination, protocol)?;
    if options.asking.output == Output::Json {
        print_json(&trace)?;
    } else {
        print_trace(&trace, protocol);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_trace(trace: &Trace, protocol: Protocol) {
    println!(
        "from {} ({}), {}",
        trace.source,
        trace.source_address,
        protocol.name()
    );
    if let Some(service) = &trace.service {
        match trace.ways.len() {
            0 => println!("Service {service} has no ready endpoint: the connection is refused"),
            count => println!("Service {service}: one of {count} endpoints is chosen"),
        }
    }
    for way in &trace.ways {
        let result = if way.allowed { "allowed" } else { "DROPPED" };
        println!("to {} ({}): {result}", way.destination, way.address);
        if way.steps.is_empty() {
            println!("  no pod's policies are asked");
        }
        for step in &way.steps {
            let result = if step.allowed { "allows" } else { "drops" };
            println!(
                "  {} of {} {result}: {}",
                step.direction, step.pod, step.decision
            );
            for policy in &step.asked {
                println!("    asked: {policy}");
            }
        }
    }
}

pub(crate) fn flows(options: &cli::Flows) -> anyhow::Result<ExitCode> {
    let socket = &options.socket;
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no policy agent answers at {}: run this on a node (in a lab: fairlead lab exec LAB NODE -- fairlead flows)",
            socket.display()
        )
    })?;
    let question = if options.follow { "follow\n" } else { "\n" };
    stream.write_all(question.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let flow: Flow = serde_json::from_str(&line).context("the agent's answer")?;
        if options.pod.as_ref().is_some_and(|pod| !flow.concerns(pod)) {
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
