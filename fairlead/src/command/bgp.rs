//! `fairlead bgp`: the speaker alone, and questions to a running one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bgp_agent::report::{Neighbor, Route, Status};
use comfy_table::{Table, presets};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use watch_cache::WatchCaches;

use super::client::from_kubeconfig;
use super::part::node_name;
use super::running::{Components, block_on};
use crate::cli::{Asking, Bgp, BgpQuestion, BgpRoutes, Output};

pub(crate) fn run(options: Bgp) -> anyhow::Result<ExitCode> {
    match &options.question {
        Some(BgpQuestion::Definitions) => {
            for definition in bgp_agent::resources::definitions() {
                println!("---\n{}", serde_saphyr::to_string(&definition)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(question) => block_on(async { ask(question).await }),
        None => block_on(async { speak(&options).await }),
    }
}

async fn speak(options: &Bgp) -> anyhow::Result<ExitCode> {
    let mut components = Components::new()?;
    let shutdown = components.shutdown();
    match (&options.config, &options.kubeconfig) {
        (Some(path), _) => {
            let config = bgp_agent::FileConfig {
                port: options.port,
                control: Some(options.control.clone()),
                metrics: options.metrics,
                ..bgp_agent::FileConfig::new(path)
            };
            components.spawn("bgp", bgp_agent::run_file(config, shutdown));
        }
        (None, Some(kubeconfig)) => {
            let client = from_kubeconfig(kubeconfig).await?;
            let config = bgp_agent::NodeConfig {
                node_name: node_name(options.node_name.as_deref())?,
                port: options.port,
                control: Some(options.control.clone()),
                metrics: options.metrics,
                ..bgp_agent::NodeConfig::default()
            };
            let deps = bgp_agent::Deps {
                caches: WatchCaches::new(client),
            };
            components.spawn("bgp", bgp_agent::run(config, deps, shutdown));
        }
        (None, None) => bail!("name a --kubeconfig, or a --config to run without an API server"),
    }
    components.finish().await
}

async fn ask(question: &BgpQuestion) -> anyhow::Result<ExitCode> {
    match question {
        BgpQuestion::Status(asking) => show(asking, "/v1/status", status).await?,
        BgpQuestion::Neighbors(asking) => show(asking, "/v1/neighbors", neighbors).await?,
        BgpQuestion::Routes(options) => {
            show(&options.asking, &routes_path(options), routes).await?
        }
        BgpQuestion::Definitions => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn routes_path(options: &BgpRoutes) -> String {
    let parts = [
        options.prefix.map(|own| format!("prefix={own}")),
        options.from.map(|own| format!("from={own}")),
        options.to.map(|own| format!("to={own}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("/v1/routes?{}", parts.join("&"))
}

async fn show<T: DeserializeOwned>(
    asking: &Asking,
    path: &str,
    text: fn(&T) -> String,
) -> anyhow::Result<()> {
    let body = get(&asking.control, path).await?;
    match asking.output {
        Output::Json => println!("{body}"),
        Output::Text => {
            let answer: T =
                serde_json::from_str(&body).context("the speaker is of another version")?;
            println!("{}", text(&answer));
        }
    }
    Ok(())
}

/// One request without a connection that is kept: the answer ends with it.
async fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    let what = || {
        format!(
            "no speaker answers at {}; is `fairlead bgp` running?",
            socket.display()
        )
    };
    let mut stream = UnixStream::connect(socket).await.with_context(what)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: bgp\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .with_context(what)?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .with_context(what)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(what)?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    match status {
        "200" => Ok(body.to_owned()),
        _ => bail!("the speaker answers {status}: {}", body.trim()),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn status(own: &Status) -> String {
    let mut lines = vec![
        format!("AS {}, router id {}", own.local_as, own.router_id),
        format!("sessions   {} of {} up", own.established, own.neighbors),
        format!(
            "prefixes   {}, {} routes in the kernel",
            own.prefixes, own.kernel_routes
        ),
        format!("advertises {}", own.originated.join(", ")),
        format!("running    {}", duration(own.uptime_seconds)),
    ];
    if own.restarting {
        lines
            .push("restarting: routes of before are kept until every peer has told all".to_owned());
    }
    if own.graceful_shutdown {
        lines.push("graceful shutdown: peers are asked to prefer other ways".to_owned());
    }
    lines.extend(
        own.problems
            .iter()
            .map(|problem| format!("problem: {problem}")),
    );
    lines.join("\n")
}

fn neighbors(all: &Vec<Neighbor>) -> String {
    let mut table = table(&[
        "PEER", "AS", "NAME", "STATE", "SINCE", "RECEIVED", "TOLD", "BFD", "LAST END",
    ]);
    for own in all {
        table.add_row([
            own.address.to_string(),
            own.asn.to_string(),
            own.name.clone(),
            own.state.clone(),
            own.seconds_in_state.map(duration).unwrap_or_default(),
            own.received.to_string(),
            own.advertised.to_string(),
            own.bfd.clone().unwrap_or_default(),
            own.last_end.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn routes(all: &Vec<Route>) -> String {
    let mut table = table(&["PREFIX", "", "NEXT HOP", "PEER", "AS PATH", "PREF", "WHY"]);
    for route in all {
        for (index, path) in route.paths.iter().enumerate() {
            let mark = match (path.best, path.used, path.reachable) {
                (true, ..) => "best",
                (_, true, _) => "used",
                (_, _, false) => "unreachable",
                _ => "",
            };
            let stale = if path.stale { " stale" } else { "" };
            let why = path.why.clone().unwrap_or_default();
            let why = match (index, why.is_empty()) {
                (_, true) => String::new(),
                (0, _) => why,
                _ => format!("the best: {why}"),
            };
            table.add_row([
                if index == 0 {
                    route.prefix.clone()
                } else {
                    String::new()
                },
                format!("{mark}{stale}"),
                path.next_hop.to_string(),
                path.peer.map_or("own".to_owned(), |peer| peer.to_string()),
                path.as_path.clone(),
                path.local_preference
                    .map(|own| own.to_string())
                    .unwrap_or_default(),
                why,
            ]);
        }
    }
    table.to_string()
}

fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let texts = [5, 65, 3700, 90_000].map(duration);
        assert_eq!(texts, ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
