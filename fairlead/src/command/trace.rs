//! `fairlead trace`: the Service proxy's answer, the policies' and the route, one after the other.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use policy::model::Protocol;
use policy::probe::Outcome;
use policy::snapshot::{Origin, Snapshot, Target, Way};
use proxy::picture::Index;
use proxy::trace::{Packet, Served, Source, Step};
use serde::Serialize;

use super::client::from_kubeconfig;
use super::node::served::PROBE;
use super::node::settings::{self, Settings};
use super::policy::{kubeconfig, parse_protocol, print_json};
use super::running::block_on;
use crate::cli::{self, Output};

/// What becomes of a connection.
#[derive(Debug, Serialize)]
struct Trace {
    source: String,
    source_address: IpAddr,
    destination: SocketAddr,
    /// What the Service proxy does, step by step.
    service: Vec<String>,
    ways: Vec<Traced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Outcome>,
}

#[derive(Debug, Serialize)]
struct Traced {
    #[serde(flatten)]
    way: Way,
    route: Vec<String>,
}

/// What is known of the cluster.
struct Known {
    client: Client,
    snapshot: Snapshot,
    nodes: Vec<Node>,
    /// Of a cluster of ours.
    settings: Option<Settings>,
}

pub(crate) fn trace(options: &cli::Trace) -> anyhow::Result<ExitCode> {
    let protocol = parse_protocol(&options.protocol)?;
    let path = kubeconfig(options.asking.kubeconfig.as_deref())?;
    let trace = block_on(async {
        let client = from_kubeconfig(&path).await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let mut known = Known {
            snapshot: Snapshot::load(&client).await?,
            nodes: nodes.list(&ListParams::default()).await?.items,
            settings: settings::get(client.clone()).await?,
            client,
        };
        known.follow(options, protocol).await
    })?;
    match options.asking.output {
        Output::Json => print_json(&trace)?,
        Output::Text => print(&trace, protocol),
    }
    Ok(ExitCode::SUCCESS)
}

impl Known {
    async fn follow(&mut self, options: &cli::Trace, protocol: Protocol) -> anyhow::Result<Trace> {
        let (from, to) = (&options.source, &options.destination);
        let destination = self.snapshot.destination(to, from)?;
        let origin = self.snapshot.origin(from, destination.is_ipv6())?;
        let (service, targets) = self.translate(&origin, destination, protocol)?;
        let ways = self.snapshot.ways(origin.address, &targets, protocol);
        let ways = ways.into_iter().map(|way| Traced {
            route: self.route(&origin, way.address.ip()),
            way,
        });
        let ways = ways.collect();
        let probe = match options.probe {
            true => Some(self.probe(&origin, destination, protocol).await?),
            false => None,
        };
        Ok(Trace {
            source: origin.name,
            source_address: origin.address,
            destination,
            service: service.iter().map(ToString::to_string).collect(),
            ways,
            probe,
        })
    }

    /// What the Service proxy of the source's node makes of the packet; what it leaves alone may
    /// be translated by the node that it is sent to.
    fn translate(
        &self,
        origin: &Origin,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> anyhow::Result<(Vec<Step>, Vec<Target>)> {
        let first = origin.node.clone().unwrap_or_default();
        let mut steps = self.proxied(&first, origin.address, destination, protocol)?;
        let mut through = first;
        if let Some(other) = self.snapshot.node_at(destination.ip())
            && steps.last() == Some(&Step::Unchanged)
            && other != through
        {
            let there = self.proxied(&other, origin.address, destination, protocol)?;
            if there.last() != Some(&Step::Unchanged) {
                (steps, through) = (there, other);
            }
        }
        let targets = match steps.last() {
            Some(Step::Served(served)) => served
                .iter()
                .map(|own| self.target(origin, own, &through))
                .collect(),
            Some(Step::Unchanged) => vec![Target {
                address: destination,
                seen: origin.address,
            }],
            _ => Vec::new(),
        };
        Ok((steps, targets))
    }

    fn proxied(
        &self,
        node: &str,
        source: IpAddr,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> anyhow::Result<Vec<Step>> {
        let mut config = proxy::Config {
            node_name: node.to_owned(),
            ..proxy::Config::default()
        };
        if let Some(settings) = &self.settings {
            config.mode = settings.proxy.parse().context("the Service proxy")?;
            config.cluster_cidrs.clone_from(&settings.cluster_cidrs);
            config.service_cidrs.clone_from(&settings.service_cidrs);
        }
        let mut index = Index::new(node, None);
        index.set_zone(self.label(node, "topology.kubernetes.io/zone"));
        index.set_service_cidrs(&config.service_cidrs);
        for service in self.snapshot.services() {
            index.service_applied(service);
        }
        for slice in self.snapshot.slices() {
            index.slice_applied(slice);
        }
        index.take_changes();
        let here = proxy::trace::Node {
            addresses: self.snapshot.node_addresses(node),
            config: &config,
        };
        let packet = Packet {
            source,
            destination: destination.ip(),
            protocol: match protocol {
                Protocol::Tcp => proxy::model::Protocol::Tcp,
                Protocol::Udp => proxy::model::Protocol::Udp,
                Protocol::Sctp => proxy::model::Protocol::Sctp,
            },
            port: destination.port(),
        };
        Ok(proxy::trace::trace(index.pictures(), &here, &packet))
    }

    /// Policies of the translating node's own pods see the packet before its source is changed.
    fn target(&self, origin: &Origin, served: &Served, through: &str) -> Target {
        let address = served.by;
        let here = self.snapshot.node_of_pod(address.ip());
        let elsewhere = here.is_some_and(|node| node != through);
        let addresses = self.snapshot.node_addresses(through);
        let mut same_family = addresses
            .into_iter()
            .filter(|own| own.is_ipv6() == address.is_ipv6());
        let seen = match served.source {
            Source::Masqueraded if elsewhere => same_family.next(),
            _ => None,
        };
        Target {
            address,
            seen: seen.unwrap_or(origin.address),
        }
    }

    fn label(&self, node: &str, key: &str) -> Option<&str> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|own| own.metadata.name.as_deref() == Some(node))?;
        found.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn route(&self, origin: &Origin, to: IpAddr) -> Vec<String> {
        let mut route = Vec::new();
        let target = match self.snapshot.node_of_pod(to) {
            Some(node) => Some((node, true)),
            None => self.snapshot.node_at(to).map(|node| (node, false)),
        };
        let from = origin.node.as_deref();
        match (&target, from) {
            (Some((node, _)), Some(from)) if node == from => {}
            (Some((node, is_pod)), from) => {
                let address = self.snapshot.node_addresses(node).into_iter();
                let mut address = address.filter(|own| own.is_ipv6() == to.is_ipv6());
                let address = address
                    .next()
                    .map_or_else(String::new, |own| format!(" ({own})"));
                let network = self.settings.as_ref().map(|own| own.network.as_str());
                let how = match (is_pod, network) {
                    (true, Some("vxlan")) => " through the overlay",
                    (true, Some("bgp")) => " by the route that BGP learnt",
                    _ => "",
                };
                let from = from.unwrap_or("a router outside of the cluster");
                route.push(format!("{from} sends it to {node}{address}{how}"));
            }
            (None, Some(from)) => {
                let masqueraded = match origin.is_pod {
                    true => ", with an address of the node as its source",
                    false => "",
                };
                route.push(format!("{from} sends it out of the cluster{masqueraded}"));
            }
            (None, None) => route.push("neither end belongs to the cluster".to_owned()),
        }
        match target {
            Some((node, true)) => route.push(format!("{node} delivers it to the pod's interface")),
            Some((node, false)) => route.push(format!("{node} takes it itself")),
            None => {}
        }
        route
    }

    /// Asks the pod's node to connect from the pod.
    async fn probe(
        &self,
        origin: &Origin,
        to: SocketAddr,
        protocol: Protocol,
    ) -> anyhow::Result<Outcome> {
        let (true, Some(node)) = (origin.is_pod, &origin.node) else {
            bail!(
                "only a pod can be asked to connect: {} is none",
                origin.name
            );
        };
        let from = origin.address;
        let protocol = protocol.name();
        let path =
            format!("/api/v1/nodes/{node}/proxy{PROBE}?from={from}&to={to}&protocol={protocol}");
        let request = http::Request::get(path).body(Vec::new())?;
        let answer = self.client.request(request).await;
        answer.with_context(|| format!("the node {node} made no probe; is it one of Fairlead's?"))
    }
}

fn print(trace: &Trace, protocol: Protocol) {
    println!(
        "from {} ({}) to {}, {}",
        trace.source,
        trace.source_address,
        trace.destination,
        protocol.name()
    );
    for step in &trace.service {
        println!("  {step}");
    }
    for Traced { way, route } in &trace.ways {
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
        for step in route {
            println!("  route: {step}");
        }
    }
    if let Some(probe) = trace.probe {
        let told = match probe {
            Outcome::Connected => "connected",
            Outcome::Refused => "came through and was refused",
            Outcome::Unreachable => "there is no way there",
            Outcome::NoAnswer => "no answer",
        };
        println!("a real connection: {told}");
    }
}
