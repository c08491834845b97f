//! The truth tables of `catalogue.txt`, written by hand.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use crate::Suite;
use crate::pods::Places;
use crate::probes::{At, PortProtocol, Probe};
use crate::steps::Step;

const CATALOGUE: &str = include_str!("catalogue.txt");

pub(crate) fn the_catalogue_holds(suite: &Suite) -> anyhow::Result<()> {
    walk(suite, At::Pods)
}

/// What is sent to a Service is judged by the pod that gets it.
pub(crate) fn the_catalogue_holds_through_services(suite: &Suite) -> anyhow::Result<()> {
    walk(suite, At::Services)
}

fn walk(suite: &Suite, at: At) -> anyhow::Result<()> {
    let steps = cases().into_iter().flat_map(|(name, lines)| {
        let steps: Vec<_> = lines
            .split(|line| *line == "then")
            .map(|lines| {
                let (step, expected) =
                    parse(lines, &suite.places).with_context(|| name.to_owned())?;
                // Two ways to read the API: a table written by hand and the oracle.
                let judged = step.judged(&suite.places)?;
                let differs = expected.iter().find(|(probe, own)| judged[*probe] != **own);
                ensure!(differs.is_none(), "{name}: the oracle differs: {differs:?}");
                Ok((name.to_owned(), step, expected))
            })
            .collect();
        steps
    });
    suite.walk(at, steps)
}

/// The names of the cases with their lines.
fn cases() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in CATALOGUE.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push((name, Vec::new()));
        } else if let Some((_, lines)) = cases.last_mut()
            && !line.is_empty()
            && !line.starts_with('#')
        {
            lines.push(line);
        }
    }
    cases
}

fn port(text: &'static str) -> anyhow::Result<PortProtocol> {
    let (port, protocol) = text.split_once('/').context("PORT/PROTOCOL")?;
    Ok((port.parse()?, protocol))
}

/// Whether a connection is allowed, between whom, on which ports.
type Line<'a> = (bool, &'a str, &'a str, Vec<PortProtocol>);

fn parse(lines: &[&'static str], places: &Places) -> anyhow::Result<(Step, BTreeMap<Probe, bool>)> {
    let mut step = Step::default();
    let mut specs = Vec::new();
    let mut table: Vec<Line<'_>> = Vec::new();
    for line in lines {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        let ports = |own: &[&'static str]| {
            own.iter()
                .map(|own| port(own))
                .collect::<Result<Vec<_>, _>>()
        };
        match words[..] {
            ["ports", ref own @ ..] => step.ports = ports(own)?,
            ["label", object, label] => {
                let (key, value) = label.split_once('=').context("KEY=VALUE")?;
                step.labels
                    .insert((object.to_owned(), key.to_owned(), value.to_owned()));
            }
            [
                verb @ ("allow" | "deny"),
                clients,
                ">",
                servers,
                ref own @ ..,
            ] => {
                table.push((verb == "allow", clients, servers, ports(own)?));
            }
            _ => {
                let (namespace, spec) =
                    line.split_once(": ").context("a line without a meaning")?;
                let spec = serde_json::from_str(spec).with_context(|| spec.to_owned())?;
                specs.push((namespace.to_owned(), spec));
            }
        }
    }
    if step.ports.is_empty() {
        step.ports.push((80, "TCP"));
    }
    step.add_policies(specs, places);
    let expected = step.probes(places).into_iter().map(|probe| {
        let concerns = |(_, clients, servers, own): &&Line<'_>| {
            matches(clients, &probe.client)
                && matches(servers, &probe.server)
                && (own.is_empty() || own.contains(&probe.port))
        };
        let allowed = table.iter().rfind(concerns).is_none_or(|line| line.0);
        (probe, allowed)
    });
    let expected = expected.collect();
    Ok((step, expected))
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('/').zip(name.split('/'));
    pattern == "*" || parts.all(|(pattern, part)| pattern == "*" || pattern == part)
}
