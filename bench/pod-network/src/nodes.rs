//! From the last node's event to the kernel: deciding, reading and writing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use flannel_vxlan::annotations::Endpoint;
use flannel_vxlan::desired::{Local, LocalEndpoint, Remote, Settings, desired};
use flannel_vxlan::kernel::Kernel;
use flannel_vxlan::model::Outer;
use flannel_vxlan::plan::{Deletions, plan};
use ipnetwork::IpNetwork;
use kernel::testing::TestNetns;
use kernel::{Ifindex, MacAddress};

use crate::milliseconds;

pub(crate) const SETTINGS: Settings = Settings {
    vni: 1,
    port: 8472,
    direct_routing: false,
    carries: flannel_vxlan::config::Carries::Everything,
    no_tx_checksum: false,
    mtu: None,
};

/// The pod ranges of a node: both families.
fn networks(number: u16) -> Vec<IpNetwork> {
    let [high, low] = number.to_be_bytes();
    [
        format!("10.{}.{low}.0/24", 100 + high),
        format!("fd00:10:{number:x}::/64"),
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

fn addresses(number: u16) -> [(Outer, IpAddr); 2] {
    let v4 = IpAddr::from((0xc612_0000 + u32::from(number)).to_be_bytes());
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
    [(Outer::V4, v4), (Outer::V6, v6)]
}

fn mac(number: u16) -> MacAddress {
    let [high, low] = number.to_be_bytes();
    MacAddress([2, 0, 0, 0, high, low])
}

pub(crate) fn local(number: u16, interface: Ifindex) -> Local {
    let endpoint = |(outer, address)| {
        let endpoint = LocalEndpoint {
            address,
            interface,
            underlay_mtu: 1500,
            mac: mac(number),
        };
        (outer, endpoint)
    };
    Local {
        name: format!("node{number}"),
        pod_networks: networks(number),
        endpoints: addresses(number).into_iter().map(endpoint).collect(),
        on_link: Vec::new(),
    }
}

pub(crate) fn remote(number: u16) -> Remote {
    let endpoint = |(outer, public_ip)| {
        (
            outer,
            Endpoint {
                public_ip,
                mac: mac(number),
                vni: 1,
            },
        )
    };
    Remote {
        name: format!("node{number}"),
        pod_networks: networks(number),
        endpoints: addresses(number)
            .into_iter()
            .map(endpoint)
            .collect::<BTreeMap<_, _>>(),
    }
}

/// One round of the driver; how many steps it took.
pub(crate) fn bring(
    kernel: &mut Kernel,
    local: &Local,
    remotes: &[Remote],
) -> anyhow::Result<usize> {
    let actual = kernel.observe()?;
    let (wanted, problems) = desired(&SETTINGS, local, remotes);
    ensure!(problems.is_empty(), "{problems:?}");
    let ops = plan(&wanted, &actual, Deletions::Allowed);
    if let Some((op, error)) = kernel.apply(&ops).into_iter().next() {
        bail!("{op:?}: {error}");
    }
    Ok(ops.len())
}

pub(crate) fn run(count: u16) -> anyhow::Result<()> {
    let (ns, other) = (TestNetns::new("node"), TestNetns::new("other"));
    ns.join("eth0", &other, "eth0");
    for (_, address) in addresses(0) {
        ns.add_address(
            "eth0",
            &format!("{address}/{}", if address.is_ipv4() { 16 } else { 64 }),
        );
    }
    let local = local(0, ns.index("eth0"));
    let remotes: Vec<Remote> = (1..=count).map(remote).collect();
    ns.run(|| {
        let mut kernel = Kernel::open(1)?;
        let start = Instant::now();
        let steps = bring(&mut kernel, &local, &remotes)?;
        let all = start.elapsed();
        println!(
            "{count} nodes, both families: {steps} steps in {:.1} ms",
            milliseconds(all)
        );
        let start = Instant::now();
        bring(&mut kernel, &local, &remotes)?;
        println!("nothing to do: {:.1} ms", milliseconds(start.elapsed()));
        let start = Instant::now();
        let steps = bring(&mut kernel, &local, &remotes[..remotes.len() - 1])?;
        println!(
            "one node goes: {steps} steps in {:.1} ms",
            milliseconds(start.elapsed())
        );
        let start = Instant::now();
        let steps = bring(&mut kernel, &local, &remotes)?;
        println!(
            "one node comes: {steps} steps in {:.1} ms",
            milliseconds(start.elapsed())
        );
        anyhow::Ok(())
    })?;
    println!("peak memory: {} MiB", peak_kib()? / 1024);
    Ok(())
}

/// Of this process, from `/proc` (proc_pid_status(5)).
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    peak.context("no VmHWM")
}
