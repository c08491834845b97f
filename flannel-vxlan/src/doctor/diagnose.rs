//! From measurements to words: what is wrong, and what to do.

use super::{Carried, Finding, Level, Machine, Path, Peer, Way};

/// Everything that was found, the worst first.
pub fn diagnose(machine: &Machine, peers: &[Peer]) -> Vec<Finding> {
    let mut findings = of_machine(machine);
    for peer in peers {
        findings.extend(of_peer(machine, peer));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

fn of_machine(machine: &Machine) -> Vec<Finding> {
    let mut faults: Vec<String> = Vec::new();
    if machine.ranges.is_empty() {
        faults.push(format!(
            "the Node {} has no range of pod addresses: run a controller manager with --cluster-cidr, or make an IPPool",
            machine.node
        ));
    }
    for family in &machine.not_forwarding {
        faults.push(format!(
            "packets of {family} are not forwarded: something has switched it off after the network started (see /etc/sysctl.d)"
        ));
    }
    if !machine.conflist_found {
        faults.push(format!(
            "{} is missing: the network has not started here, and no pod can",
            machine.conflist.display()
        ));
    }
    if let Some(why) = &machine.plugin {
        faults.push(format!("the CNI plugin cannot be run: {why}"));
    }
    for socket in &machine.silent_sockets {
        faults.push(format!(
            "nobody answers at {}: the node's process is not running, and no pod can start",
            socket.display()
        ));
    }
    for device in &machine.bad_offload {
        faults.push(format!(
            "{device} leaves checksums to the hardware, which this kernel does wrong in tunnels: connections to Services take a minute; run `ethtool -K {device} tx off`"
        ));
    }
    let finding = |level, text| Finding {
        level,
        about: "this node".to_owned(),
        text,
    };
    if faults.is_empty() {
        let text = "addresses, forwarding, plugin and checksums are as they should be";
        return vec![finding(Level::Fine, text.to_owned())];
    }
    let faults = faults.into_iter();
    faults.map(|text| finding(Level::Fault, text)).collect()
}

fn of_peer(machine: &Machine, peer: &Peer) -> Vec<Finding> {
    let finding = |level, text| Finding {
        level,
        about: peer.node.clone(),
        text,
    };
    if peer.paths.is_empty() {
        return vec![finding(
            Level::Warning,
            "it has no range of pod addresses".to_owned(),
        )];
    }
    let mut found: Vec<Finding> = peer
        .paths
        .iter()
        .map(|path| {
            let (level, text) = of_path(machine, path);
            finding(level, text)
        })
        .collect();
    found.dedup();
    found
}

fn of_path(machine: &Machine, path: &Path) -> (Level, String) {
    let range = path.range;
    match &path.way {
        Way::None => {
            return (
                Level::Fault,
                format!(
                    "there is no route to its pods {range}: the network does not run on it, or (BGP) no session is up"
                ),
            );
        }
        Way::Stray { device } => {
            return (
                Level::Fault,
                format!(
                    "packets to its pods {range} leave by {device} without a route of their own: the network does not run on it, or (BGP) no session is up"
                ),
            );
        }
        Way::Tunnel { .. } | Way::Plain { .. } => {}
    }
    let Some(outer) = path.outer else {
        return (
            Level::Warning,
            format!("its address for {range} is not known"),
        );
    };
    let Some(carries) = outer.largest else {
        return (
            Level::Fault,
            format!(
                "its address {} does not answer: the machine or the network to it is down, or a firewall drops ICMP",
                outer.address
            ),
        );
    };
    match &path.way {
        Way::Tunnel { overhead, .. } => of_tunnel(machine, path, &outer, carries, *overhead),
        _ => of_plain(machine, path, &outer, carries),
    }
}

fn of_tunnel(
    machine: &Machine,
    path: &Path,
    outer: &Carried,
    carries: u32,
    overhead: u32,
) -> (Level, String) {
    let range = path.range;
    let Some(inner) = path.inner else {
        return (
            Level::Warning,
            format!("the tunnel to {range} was not tried"),
        );
    };
    let pods = machine.pod_mtu.unwrap_or(inner.mtu);
    match inner.largest {
        None => (
            Level::Fault,
            format!(
                "its address {} answers, but nothing comes through the tunnel to {range}: a firewall drops the overlay's UDP port, or the overlay does not run there",
                outer.address
            ),
        ),
        Some(through) if through < pods => {
            let fits = carries.saturating_sub(overhead);
            let cause = if fits < pods {
                format!(
                    "the path to {} carries packets of {carries} bytes, not {}",
                    outer.address, outer.mtu
                )
            } else {
                "something on the way drops large packets of the overlay alone".to_owned()
            };
            (
                Level::Fault,
                format!(
                    "through the tunnel to {range} packets of {through} bytes arrive, but pods send {pods}: {cause}; mend the path or give the network --mtu {}",
                    through.min(fits)
                ),
            )
        }
        Some(_) => (Level::Fine, format!("pods {range} by tunnel, {pods} bytes")),
    }
}

fn of_plain(machine: &Machine, path: &Path, outer: &Carried, carries: u32) -> (Level, String) {
    let range = path.range;
    let pods = machine.pod_mtu.unwrap_or(outer.mtu);
    if carries < pods {
        return (
            Level::Fault,
            format!(
                "the path to {} carries packets of {carries} bytes, but pods send {pods}: mend the path or lower the MTU of the interface",
                outer.address
            ),
        );
    }
    (
        Level::Fine,
        format!("pods {range} by plain route, {pods} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            node: "a".into(),
            ranges: vec!["10.244.1.0/24".parse().unwrap()],
            conflist: "/etc/cni/net.d/10-fairlead.conflist".into(),
            conflist_found: true,
            pod_mtu: Some(1450),
            ..Machine::default()
        }
    }

    fn carried(address: &str, mtu: u32, largest: Option<u32>) -> Option<Carried> {
        Some(Carried {
            address: address.parse().unwrap(),
            mtu,
            largest,
        })
    }

    fn tunnel(outer: Option<u32>, inner: Option<u32>) -> Path {
        Path {
            range: "10.244.2.0/24".parse().unwrap(),
            way: Way::Tunnel {
                device: "flannel.1".into(),
                overhead: 50,
            },
            outer: carried("192.0.2.2", 1500, outer),
            inner: carried("10.244.2.0", 1450, inner),
        }
    }

    fn check(path: Path, level: Level, words: &str) {
        let peer = Peer {
            node: "b".into(),
            paths: vec![path],
        };
        let found = diagnose(&machine(), &[peer]);
        let of_b: Vec<&Finding> = found.iter().filter(|own| own.about == "b").collect();
        assert_eq!(of_b.len(), 1, "{found:?}");
        assert_eq!(of_b[0].level, level, "{found:?}");
        assert!(of_b[0].text.contains(words), "{found:?}");
    }

    #[test]
    fn paths_are_judged_by_what_they_carry() {
        check(
            tunnel(Some(1500), Some(1450)),
            Level::Fine,
            "by tunnel, 1450 bytes",
        );
        check(
            tunnel(Some(1400), Some(1350)),
            Level::Fault,
            "carries packets of 1400 bytes, not 1500; mend the path or give the network --mtu 1350",
        );
        check(
            tunnel(Some(1500), Some(1300)),
            Level::Fault,
            "drops large packets of the overlay alone",
        );
        check(tunnel(Some(1500), None), Level::Fault, "UDP port");
        check(
            tunnel(None, None),
            Level::Fault,
            "192.0.2.2 does not answer",
        );
        let plain = Way::Plain {
            device: "eth0".into(),
        };
        let path = Path {
            way: plain.clone(),
            inner: None,
            ..tunnel(Some(1500), None)
        };
        check(path, Level::Fine, "by plain route");
        let path = Path {
            way: plain,
            inner: None,
            ..tunnel(Some(1400), None)
        };
        check(
            path,
            Level::Fault,
            "carries packets of 1400 bytes, but pods send 1450",
        );
        check(
            Path {
                way: Way::None,
                ..tunnel(None, None)
            },
            Level::Fault,
            "no route to its pods 10.244.2.0/24",
        );
        let stray = Way::Stray {
            device: "eth0".into(),
        };
        check(
            Path {
                way: stray,
                ..tunnel(None, None)
            },
            Level::Fault,
            "leave by eth0",
        );
    }

    #[test]
    fn what_is_wrong_with_the_machine_comes_first_and_says_what_to_do() {
        let broken = Machine {
            ranges: Vec::new(),
            not_forwarding: vec!["IPv4"],
            conflist_found: false,
            bad_offload: vec!["flannel.1".into()],
            silent_sockets: vec!["/run/fairlead/policy.sock".into()],
            plugin: Some("/opt/cni/bin/fairlead-cni is missing".into()),
            ..machine()
        };
        let peer = Peer {
            node: "b".into(),
            paths: vec![tunnel(Some(1500), Some(1450))],
        };
        let found = diagnose(&broken, &[peer]);
        assert_eq!(found.last().unwrap().level, Level::Fine);
        let texts: Vec<&str> = found.iter().map(|own| own.text.as_str()).collect();
        for words in [
            "--cluster-cidr",
            "sysctl.d",
            "conflist is missing",
            "ethtool -K flannel.1 tx off",
            "policy.sock",
            "fairlead-cni is missing",
        ] {
            assert!(
                texts.iter().any(|text| text.contains(words)),
                "{words}: {texts:?}"
            );
        }
        let fine = diagnose(&machine(), &[]);
        assert_eq!(fine.len(), 1);
        assert_eq!(fine[0].level, Level::Fine);
    }
}
