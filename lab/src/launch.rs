//! Starts a place: from its part in the topology to a running process 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cgroup;
use crate::error::LabError;
use crate::place::{Program, Specification};
use crate::process::Process;
use crate::registry;
use crate::runtime::{self, Programs};
use crate::state::{Directories, write_private};
use crate::topology::{Place, PlaceKind, SERVER, Topology};

/// Where a node finds the arguments of `fairlead join`, inside its place and on disk.
const JOIN_INSIDE: &str = "/var/lib/fairlead-lab/join";
const JOIN_ON_DISK: &str = "var-lib/fairlead-lab/join";

/// The same for the archives that the lab's registry serves.
const REGISTRY_INSIDE: &str = "/var/lib/fairlead-lab/images";
const REGISTRY_ON_DISK: &str = "var-lib/fairlead-lab/images";

/// What a lab is made with, besides its topology.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program that this process runs.
    pub fairlead: PathBuf,
    pub runtime: Programs,
    /// `vxlan`, `bgp` or `none`.
    pub network: String,
    /// `ipvs`, `iptables` or `nftables`.
    pub proxy: String,
    /// More arguments for `fairlead server`.
    pub server_arguments: Vec<String>,
}

/// Writes down what the place is made of.
pub(crate) fn prepare(
    topology: &Topology,
    place: &Place,
    settings: &Settings,
) -> Result<(), LabError> {
    let directories = Directories::of(&topology.lab);
    let directory = directories.place(&place.name);
    for part in ["etc", "opt", "var-lib", "var-log"] {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(LabError::file(path))?;
    }
    let programs = match place.kind {
        PlaceKind::Server => vec![server(topology, settings), registry(settings)],
        PlaceKind::Node => {
            let config = directory.join("etc/containerd/config.toml");
            let opt = Path::new("/var/lib/containerd-opt");
            write_private(&config, runtime::config(opt).as_bytes())?;
            for (name, hosts) in runtime::registry_hosts(topology.server().address()) {
                let path = directory
                    .join("etc/containerd/certs.d")
                    .join(name)
                    .join("hosts.toml");
                write_private(&path, hosts.as_bytes())?;
            }
            vec![containerd(settings), node(place, settings)]
        }
    };
    let specification = Specification {
        hostname: place.name.clone(),
        network_namespace: Path::new("/run/netns").join(topology.namespace(&place.name)),
        directory,
        cgroup: cgroup::path(&topology.lab, Some(&place.name)),
        hosts: hosts(topology),
        fairlead: settings.fairlead.clone(),
        programs,
    };
    let text = serde_json::to_vec_pretty(&specification).expect("a specification is plain data");
    write_private(&directories.specification(&place.name), &text)?;
    Ok(())
}

fn server(topology: &Topology, settings: &Settings) -> Program {
    let (pods, services) = topology.cluster_ranges();
    let mut arguments: Vec<String> = [
        "server",
        "--data-dir=/var/lib/fairlead",
        &format!("--advertise-address={}", topology.server().address()),
        &format!("--cluster-cidr={}", pods.join(",")),
        &format!("--service-cidr={}", services.join(",")),
        &format!("--network={}", settings.network),
        &format!("--proxy={}", settings.proxy),
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend(settings.server_arguments.iter().cloned());
    Program {
        role: "server".to_owned(),
        program: settings.fairlead.clone(),
        arguments,
        environment: environment(settings),
        arguments_file: None,
        after_socket: None,
    }
}

fn registry(settings: &Settings) -> Program {
    Program {
        role: "registry".to_owned(),
        program: settings.fairlead.clone(),
        arguments: ["lab-registry", REGISTRY_INSIDE]
            .map(str::to_owned)
            .to_vec(),
        environment: environment(settings),
        arguments_file: None,
        after_socket: Some(REGISTRY_INSIDE.into()),
    }
}

/// Puts an archive where the lab's registry serves it from.
pub(crate) fn publish(lab: &str, archive: &Path) -> Result<(), LabError> {
    let directory = Directories::of(lab).place(SERVER).join(REGISTRY_ON_DISK);
    fs::create_dir_all(&directory).map_err(LabError::file(&directory))?;
    let name = archive.file_name().unwrap_or(archive.as_os_str());
    let target = directory.join(name);
    let unfinished = target.with_extension("unfinished");
    fs::copy(archive, &unfinished).map_err(LabError::file(archive))?;
    fs::rename(&unfinished, &target).map_err(LabError::file(target))
}

fn containerd(settings: &Settings) -> Program {
    Program {
        role: "containerd".to_owned(),
        program: settings.runtime.path("containerd"),
        arguments: ["-c", "/etc/containerd/config.toml"]
            .map(str::to_owned)
            .to_vec(),
        environment: environment(settings),
        arguments_file: None,
        after_socket: None,
    }
}

fn node(place: &Place, settings: &Settings) -> Program {
    let addresses: Vec<String> = place
        .addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    let arguments = [
        "join".to_owned(),
        format!("--node-name={}", place.name),
        format!("--node-ip={}", addresses.join(",")),
        // The disk is the machine's: how full it is says nothing about the lab, and an image
        // that was removed is in no registry.
        "--eviction-hard=memory.available<50Mi".to_owned(),
        "--image-gc-high-threshold=100".to_owned(),
    ];
    Program {
        role: "node".to_owned(),
        program: settings.fairlead.clone(),
        arguments: arguments.to_vec(),
        environment: environment(settings),
        arguments_file: Some(JOIN_INSIDE.into()),
        after_socket: Some(runtime::SOCKET.into()),
    }
}

fn environment(settings: &Settings) -> Vec<(String, String)> {
    vec![("PATH".to_owned(), settings.runtime.search_path())]
}

fn hosts(topology: &Topology) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for place in &topology.places {
        for address in &place.addresses {
            text.push_str(&format!("{} {}\n", address.ip(), place.name));
        }
    }
    if let Some(server) = topology.place(SERVER) {
        text.push_str(&format!(
            "{} {}\n",
            server.address(),
            registry::PRIVATE_HOST
        ));
    }
    text
}

/// Gives a node what it joins with: the arguments of the command that the server printed.
pub(crate) fn admit(lab: &str, place: &str, join: &[String]) -> Result<(), LabError> {
    let path = Directories::of(lab).place(place).join(JOIN_ON_DISK);
    write_private(&path, join.join("\n").as_bytes())?;
    Ok(())
}

/// Starts process 1 of a prepared place.
#[expect(
    clippy::disallowed_methods,
    reason = "a place starts as a process of its own"
)]
pub(crate) fn start(lab: &str, place: &str, fairlead: &Path) -> Result<Process, LabError> {
    let failed = |detail: String| LabError::Launch {
        place: place.to_owned(),
        detail,
    };
    let output = Command::new(fairlead)
        .arg("lab-place")
        .arg(Directories::of(lab).specification(place))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{}: {error}", fairlead.display())))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(failed(
            message.lines().last().unwrap_or("no message").to_owned(),
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{IpFamily, LabNumber};

    fn settings() -> Settings {
        Settings {
            fairlead: "/usr/bin/fairlead".into(),
            runtime: Programs::default(),
            network: "vxlan".to_owned(),
            proxy: "iptables".to_owned(),
            server_arguments: vec!["--no-scheduler".to_owned()],
        }
    }

    #[test]
    fn the_server_is_told_its_address_and_the_ranges_of_both_families() {
        let topology = Topology::new("demo", LabNumber(1), IpFamily::Dual, 1);
        let arguments = server(&topology, &settings()).arguments.join(" ");
        assert!(
            arguments.contains("--advertise-address=10.199.1.2"),
            "{arguments}"
        );
        assert!(
            arguments.contains("--cluster-cidr=10.244.0.0/16,fd00:10:244::/56"),
            "{arguments}"
        );
        assert!(arguments.ends_with("--no-scheduler"), "{arguments}");
    }

    #[test]
    fn a_node_waits_for_its_runtime_and_for_what_it_joins_with() {
        let topology = Topology::new("demo", LabNumber(1), IpFamily::Ipv4, 1);
        let node = node(topology.place("node1").unwrap(), &settings());
        assert_eq!(node.after_socket, Some(runtime::SOCKET.into()));
        assert_eq!(node.arguments_file, Some(JOIN_INSIDE.into()));
        assert!(node.arguments.contains(&"--node-ip=10.199.1.11".to_owned()));
    }

    #[test]
    fn every_place_is_in_the_hosts_file() {
        let topology = Topology::new("demo", LabNumber(1), IpFamily::Dual, 2);
        let text = hosts(&topology);
        assert!(
            text.contains("10.199.1.12 node2\nfd00:fa1e:1::c node2\n"),
            "{text}"
        );
    }
}
