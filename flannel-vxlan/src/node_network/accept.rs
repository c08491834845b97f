//! Forwarding where the machine's firewall lets nothing through, as Docker leaves it.
//!
//! A drop is final in every table, an accept only in its own: the pods' packets have to be
//! accepted in the table that would drop them.

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::iptables::{Error, Iptables};

const CHAIN: &str = "FAIRLEAD-FORWARD";
/// Looking starts a program: not with every change of a node.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// Accepts what comes from and goes to the pods, where the policy of `FORWARD` is to drop.
#[derive(Debug, Default)]
pub struct Accept {
    looked: Option<Instant>,
    /// Missing programs were told about.
    told: bool,
}

impl Accept {
    /// Looks, from time to time, and makes the rules where they are needed and not there.
    pub fn keep(&mut self, networks: &[IpNetwork]) {
        let recent = |looked: Instant| looked.elapsed() < BETWEEN_LOOKS;
        if self.looked.is_some_and(recent) {
            return;
        }
        self.looked = Some(Instant::now());
        for v6 in [false, true] {
            let of_family = networks.iter().filter(|own| own.is_ipv6() == v6);
            let of_family: Vec<IpNetwork> = of_family.copied().collect();
            if of_family.is_empty() {
                continue;
            }
            match accept(v6, &of_family) {
                Ok(false) => {}
                Ok(true) => tracing::info!(v6, "the firewall's FORWARD drops: pods are accepted"),
                // Without iptables nobody has set its policy.
                Err(Error::Missing { .. }) => {}
                Err(error) if !self.told => {
                    self.told = true;
                    tracing::warn!(%error, "the firewall may drop what pods send");
                }
                Err(_) => {}
            }
        }
    }
}

/// Whether something had to be done.
fn accept(v6: bool, networks: &[IpNetwork]) -> Result<bool, Error> {
    let iptables = Iptables::detect(v6)?;
    match changes(&iptables.save(Some("filter"))?, networks) {
        Some(input) => iptables.restore(&input).map(|()| true),
        None => Ok(false),
    }
}

/// The input of iptables-restore, from what iptables-save says; `None` where nothing is to be
/// done.
fn changes(saved: &str, networks: &[IpNetwork]) -> Option<String> {
    if !saved.lines().any(|line| line.starts_with(":FORWARD DROP")) {
        return None;
    }
    let rules: Vec<String> = networks
        .iter()
        .flat_map(|network| ["-s", "-d"].map(|end| format!("-A {CHAIN} {end} {network} -j ACCEPT")))
        .collect();
    let jump = format!("-A FORWARD -j {CHAIN}");
    let there = saved
        .lines()
        .filter(|line| line.starts_with(&format!("-A {CHAIN} ")));
    let complete = there.eq(rules.iter().map(String::as_str));
    let jumps = saved.lines().any(|line| line == jump);
    if complete && jumps {
        return None;
    }
    let mut input = format!("*filter\n:{CHAIN} - [0:0]\n");
    for line in rules.iter().chain((!jumps).then_some(&jump)) {
        input += line;
        input.push('\n');
    }
    input += "COMMIT\n";
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_made_where_forward_drops_and_only_once() {
        let networks = ["10.244.0.0/16".parse().unwrap()];
        assert_eq!(changes(":FORWARD ACCEPT [0:0]\n", &networks), None);
        let input = changes("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", &networks).unwrap();
        assert!(input.contains("-A FORWARD -j FAIRLEAD-FORWARD\n"));
        let saved = input.replace("*filter\n", "*filter\n:FORWARD DROP [5:300]\n");
        assert_eq!(changes(&saved, &networks), None);
        let other = ["10.0.0.0/8".parse().unwrap()];
        let input = changes(&saved, &other).unwrap();
        assert!(!input.contains("-A FORWARD"), "the jump is there");
        assert!(input.contains("-A FAIRLEAD-FORWARD -d 10.0.0.0/8 -j ACCEPT\n"));
    }
}
