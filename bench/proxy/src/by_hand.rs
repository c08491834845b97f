//! Rules for Services as people write them: a rule, or two, for each Service, in a row. They are
//! what the backends are compared with.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use kernel::testing::TestNetns;

use crate::objects::{TARGET, cluster_ip, endpoint};
use crate::traffic::ip;

/// Which rules are written by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByHand {
    Nftables,
    Iptables(&'static str),
    Ipvs,
}

impl ByHand {
    /// `by-hand-nftables`, `by-hand-iptables-nft`, `by-hand-iptables-legacy`, `by-hand-ipvs`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("by-hand-")? {
            "nftables" => Self::Nftables,
            "iptables-nft" => Self::Iptables("iptables-nft-restore"),
            "iptables-legacy" => Self::Iptables("iptables-legacy-restore"),
            "ipvs" => Self::Ipvs,
            _ => return None,
        })
    }

    /// Writes the rules of so many Services into the node.
    pub(crate) fn write(
        self,
        node: &TestNetns,
        services: u32,
        endpoints: u32,
    ) -> anyhow::Result<()> {
        match self {
            Self::Nftables => feed(node, "nft", &["-f", "-"], &nftables(services, endpoints)),
            Self::Iptables(program) => feed(node, program, &[], &iptables(services, endpoints)),
            Self::Ipvs => {
                ip(node, "route add local 10.96.0.0/16 dev lo")?;
                feed(node, "ipvsadm", &["-R"], &ipvs(services, endpoints))
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark starts its peers")]
fn feed(node: &TestNetns, program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let output = node.run(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes())?;
        }
        child.wait_with_output()
    });
    let output = output.with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {said}");
    Ok(())
}

fn nftables(services: u32, endpoints: u32) -> String {
    let mut text = "table ip by-hand {\n chain services {\n".to_owned();
    for number in 0..services {
        let all: Vec<String> = (0..endpoints)
            .map(|i| format!("{i} : {}", endpoint(number * endpoints + i)))
            .collect();
        let _ = writeln!(
            text,
            "  ip daddr {} tcp dport 80 dnat to numgen random mod {endpoints} map {{ {} }} : {TARGET}",
            cluster_ip(number),
            all.join(", ")
        );
    }
    text.push_str(" }\n");
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            text,
            " chain {hook} {{ type nat hook {hook} priority -100; jump services; }}"
        );
    }
    text.push_str("}\n");
    text
}

fn iptables(services: u32, endpoints: u32) -> String {
    let mut text = "*nat\n:SERVICES - [0:0]\n".to_owned();
    for number in 0..services {
        let to = format!("-A SERVICES -d {}/32 -p tcp --dport 80", cluster_ip(number));
        for i in 0..endpoints {
            let left = endpoints - i;
            let choice = match left {
                1 => String::new(),
                _ => format!(
                    " -m statistic --mode random --probability {:.6}",
                    1.0 / f64::from(left)
                ),
            };
            let by = endpoint(number * endpoints + i);
            let _ = writeln!(text, "{to}{choice} -j DNAT --to-destination {by}:{TARGET}");
        }
    }
    text.push_str("-A PREROUTING -j SERVICES\n-A OUTPUT -j SERVICES\nCOMMIT\n");
    text
}

fn ipvs(services: u32, endpoints: u32) -> String {
    let mut text = String::new();
    for number in 0..services {
        let service = format!("{}:80", cluster_ip(number));
        let _ = writeln!(text, "-A -t {service} -s rr");
        for i in 0..endpoints {
            let by = endpoint(number * endpoints + i);
            let _ = writeln!(text, "-a -t {service} -r {by}:{TARGET} -m");
        }
    }
    text
}
