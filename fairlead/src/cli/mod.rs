//! The command line. What a command does stands in [`crate::command`].

mod access;
mod bgp;
mod cluster;
mod image;
mod lab;
mod network;
mod part;
mod policy;
mod service_proxy;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use access::*;
pub(crate) use bgp::*;
pub(crate) use cluster::*;
pub(crate) use image::*;
pub(crate) use lab::*;
pub(crate) use network::*;
pub(crate) use part::*;
pub(crate) use policy::*;
pub(crate) use service_proxy::*;

/// A Kubernetes stack built around the pod network.
#[derive(Debug, Parser)]
#[command(
    name = "fairlead",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Example:\n  fairlead up                  this machine as a cluster\n  \
                        fairlead lab up demo         two nodes on this machine, to try things"
)]
pub(crate) struct Cli {
    /// What to log, such as `debug` or `info,proxy=trace`
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Up),
    Server(Server),
    Join(Join),
    #[command(subcommand)]
    Token(Token),
    Apiserver(Server),
    Scheduler(Scheduler),
    Controllers(Controllers),
    Kubelet(Kubelet),
    Proxy(Proxy),
    Policy(Policy),
    Flows(Flows),
    Trace(Trace),
    Network(NodeNetwork),
    Vxlan(Vxlan),
    Bgp(Bgp),
    Dns(Dns),
    Doctor(Doctor),
    #[command(subcommand)]
    Lab(Lab),
    #[command(subcommand)]
    Image(Image),
    /// The first half of a lab place's start, in the parent's namespaces
    #[command(hide = true)]
    LabPlace(LabPlace),
    /// Process 1 of a lab place
    #[command(hide = true)]
    LabInit(LabPlace),
    /// The registry of a lab
    #[command(hide = true)]
    LabRegistry(LabRegistry),
}

/// How pods of different nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// An overlay that needs nothing of the network between the nodes
    Vxlan,
    /// Routes that the nodes tell each other, without encapsulation
    Bgp,
}

/// The pod network of a cluster's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClusterNetwork {
    /// An overlay that needs nothing of the network between the nodes
    Vxlan,
    /// Routes that the nodes tell each other, without encapsulation
    Bgp,
    /// Neither network nor policies: something else brings them, such as `fairlead network`
    None,
}

/// What programs Services into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyMode {
    Ipvs,
    Iptables,
    Nftables,
}

/// Programs read JSON, people read the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Output {
    #[default]
    Text,
    Json,
}

/// The name as the command line and the cluster's settings write it.
pub(crate) fn name<V: ValueEnum>(value: V) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_commands_help_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    check(sub, &path);
                } else if sub.get_name() != "help" {
                    let help = sub
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(
                        help.contains("Example") && help.contains("fairlead"),
                        "{path}"
                    );
                }
            }
        }
        check(&Cli::command(), "fairlead");
    }

    #[test]
    fn lines_of_the_documentation_are_understood() {
        for line in [
            "fairlead up --network bgp --proxy nftables --data-dir /tmp/x",
            "fairlead server --bind-address 10.0.0.1 --secure-port 7443 --service-cidr 10.1.0.0/16,fd00::/112",
            "fairlead server --storage etcd --etcd-endpoints http://127.0.0.1:2379 --controllers *,-node-lifecycle --no-scheduler",
            "fairlead join https://10.0.0.1:6443 --token a.b --ca-cert-hash sha256:00",
            "fairlead token create --ttl 1h",
            "fairlead token list -o json",
            "fairlead token delete abcdef",
            "fairlead proxy --kubeconfig k --mode ipvs --ipvs-scheduler mh --ipvs-udp-timeout 30",
            "fairlead proxy --cleanup",
            "fairlead vxlan --kubeconfig k --iface-regex ^eth --vni 7 --direct-routing",
            "fairlead network --kubeconfig k --mode bgp --no-policy --cluster-cidr 10.1.0.0/16,fd00::/56",
            "fairlead network manifest --image r/f:1 --mode bgp",
            "fairlead doctor -o json",
            "fairlead bgp --kubeconfig k --node-name n",
            "fairlead bgp --config /etc/fairlead/bgp.yaml",
            "fairlead bgp status -o json",
            "fairlead bgp routes 10.244.1.0/24 --from 10.0.0.2",
            "fairlead bgp neighbors",
            "fairlead bgp definitions",
            "fairlead policy --kubeconfig k",
            "fairlead policy check -f new.yaml --kubeconfig k",
            "fairlead policy matrix shop --port 80/TCP -o json",
            "fairlead flows --drop --pod shop/cart --follow -o json",
            "fairlead trace shop/cart shop/db:5432 --protocol tcp",
            "fairlead lab up demo --nodes 3 --network vxlan --proxy iptables --ip-family dual --containerd /opt/c",
            "fairlead lab exec demo node1 -- ip address",
            "fairlead lab list -o json",
            "fairlead lab load demo image.tar",
            "fairlead lab cut demo node1 node2",
            "fairlead lab heal demo node1 node2",
            "fairlead lab stop demo node1",
            "fairlead image load nginx.tar",
            "fairlead image build nginx pause --output /tmp/images",
        ] {
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
