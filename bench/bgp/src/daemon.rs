//! The speakers that are measured, each with the least configuration that passes everything on.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use kernel::testing::TestNetns;
use tempfile::TempDir;

/// Where the measured speaker is reached.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub(crate) const ASN: u32 = 64512;
/// All announced prefixes are in it.
pub(crate) const RANGE: &str = "16.0.0.0/4";

pub(crate) fn peer_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 1, number)
}

pub(crate) fn peer_asn(number: u8) -> u32 {
    65000 + u32::from(number)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fairlead,
    Bird,
    Frr,
    Gobgp,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Fairlead, Kind::Bird, Kind::Frr, Kind::Gobgp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Fairlead => "fairlead",
            Kind::Bird => "bird",
            Kind::Frr => "frr",
            Kind::Gobgp => "gobgp",
        }
    }

    fn configuration(self, peers: u8) -> String {
        match self {
            Kind::Fairlead => fairlead(peers),
            Kind::Bird => bird(peers),
            Kind::Frr => frr(peers),
            Kind::Gobgp => gobgp(peers),
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match Kind::ALL.into_iter().find(|kind| kind.name() == text) {
            Some(kind) => Ok(kind),
            None => bail!("{text:?} is none of fairlead, bird, frr, gobgp and all"),
        }
    }
}

fn each(peers: u8, mut line: impl FnMut(Ipv4Addr, u32, &mut String)) -> String {
    let mut text = String::new();
    for number in 1..=peers {
        line(peer_address(number), peer_asn(number), &mut text);
    }
    text
}

// Writing into a String does not fail.

fn fairlead(peers: u8) -> String {
    let head = format!(
        "apiVersion: fairlead.io/v1\nkind: BGPNode\nmetadata: {{name: router}}\n\
         spec: {{asNumber: {ASN}, addresses: [{ADDRESS}]}}\n---\n\
         apiVersion: fairlead.io/v1\nkind: BGPConfiguration\nmetadata: {{name: default}}\n\
         spec: {{asNumber: {ASN}, nodeToNodeMeshEnabled: false, serviceExternalIPs: [{{cidr: {RANGE}}}]}}\n"
    );
    let peers = each(peers, |address, asn, text| {
        let _ = write!(
            text,
            "---\napiVersion: fairlead.io/v1\nkind: BGPPeer\nmetadata: {{name: peer-{asn}}}\n\
             spec: {{peerIP: {address}, asNumber: {asn}, passive: true, defaultAction: Accept}}\n"
        );
    });
    head + &peers
}

fn bird(peers: u8) -> String {
    let head = format!("router id {ADDRESS};\nprotocol device {{}}\n");
    let peers = each(peers, |address, asn, text| {
        let _ = writeln!(
            text,
            "protocol bgp peer{asn} {{ local {ADDRESS} as {ASN}; neighbor {address} as {asn}; passive; \
             ipv4 {{ import all; export all; }}; }}"
        );
    });
    head + &peers
}

fn frr(peers: u8) -> String {
    let head = format!(
        "router bgp {ASN}\n bgp router-id {ADDRESS}\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n bgp suppress-duplicates\n"
    );
    let peers = each(peers, |address, asn, text| {
        let _ = write!(
            text,
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n \
             neighbor {address} advertisement-interval 0\n"
        );
    });
    head + &peers
}

fn gobgp(peers: u8) -> String {
    let head = format!("[global.config]\n  as = {ASN}\n  router-id = \"{ADDRESS}\"\n");
    let peers = each(peers, |address, asn, text| {
        let _ = write!(
            text,
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{address}\"\n    \
             peer-as = {asn}\n  [neighbors.transport.config]\n    passive-mode = true\n  \
             [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      \
             afi-safi-name = \"ipv4-unicast\"\n"
        );
    });
    head + &peers
}

/// A speaker that runs; it ends with this.
pub(crate) struct Running {
    child: Child,
    _directory: TempDir,
}

/// What the speaker has used so far.
pub(crate) struct Usage {
    pub(crate) peak_kib: u64,
    pub(crate) cpu: Duration,
}

impl Running {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark starts what it measures"
    )]
    pub(crate) fn start(
        kind: Kind,
        netns: &TestNetns,
        peers: u8,
        fairlead: &Path,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        // FRR gives up root.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777))?;
        let place = |name: &str| directory.path().join(name).display().to_string();
        let file = place("configuration");
        std::fs::write(&file, kind.configuration(peers))?;
        let words: Vec<String> = match kind {
            Kind::Fairlead => vec![
                fairlead.display().to_string(),
                "--log=error".into(),
                "bgp".into(),
                "--config".into(),
                file,
                "--control".into(),
                place("control"),
            ],
            Kind::Bird => ["bird", "-f", "-c", &file, "-s", &place("control")]
                .map(str::to_owned)
                .to_vec(),
            Kind::Frr => [
                "/usr/lib/frr/bgpd",
                "-n",
                "-Z",
                "-u",
                "frr",
                "-g",
                "frr",
                "-P",
                "0",
                "-f",
                &file,
                "-i",
                &place("pid"),
                "--vty_socket",
                &place(""),
            ]
            .map(str::to_owned)
            .to_vec(),
            Kind::Gobgp => [
                "gobgpd",
                "-f",
                &file,
                "--api-hosts",
                "127.0.0.1:50051",
                "-l",
                "error",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        let (program, arguments) = words.split_first().context("no program")?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let child = netns.run(|| command.spawn());
        Ok(Self {
            child: child.with_context(|| format!("start {program}"))?,
            _directory: directory,
        })
    }

    /// From `/proc` (proc_pid_status(5), proc_pid_stat(5)).
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .context("the speaker has ended")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .map_or("", |(_, rest)| rest)
            .split(' ')
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|&field| fields.get(field)?.parse::<u64>().ok())
            .sum();
        Ok(Usage {
            peak_kib: peak.context("no VmHWM")?,
            // Clock ticks of 10 ms.
            cpu: Duration::from_millis(ticks * 10),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
