//! Measurements that programs of their own make; what they print is Markdown.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// A section of `RESULTS.md` and the command lines that fill it, by the programs' names.
pub struct Program {
    pub section: &'static str,
    pub commands: &'static [&'static str],
}

/// In the order of the file.
pub const PROGRAMS: [Program; 5] = [
    Program {
        section: "cni",
        commands: &["bench-pod-network cni fairlead-cni"],
    },
    Program {
        section: "overlay",
        commands: &["bench-pod-network overlay", "bench-pod-network nodes 500"],
    },
    Program {
        section: "bgp",
        commands: &[
            "bench-bgp all --fairlead fairlead",
            "bench-bgp all --fairlead fairlead --peers 2 --prefixes 500000",
        ],
    },
    Program {
        section: "policy",
        commands: &[
            "bench-policy program --pods 10000 --local 250 --namespaces 1000 --policies 5000",
            "bench-policy traffic",
            "bench-policy drops",
        ],
    },
    Program {
        section: "proxy",
        commands: &[
            "bench-proxy nftables 1000",
            "bench-proxy nftables 5000",
            "bench-proxy nftables 10000",
            "bench-proxy nftables 40000",
            "bench-proxy iptables-nft 1000",
            "bench-proxy iptables-nft 5000",
            "bench-proxy iptables-legacy 1000",
            "bench-proxy iptables-legacy 5000",
            "bench-proxy iptables-legacy 10000",
            "bench-proxy ipvs 1000",
            "bench-proxy ipvs 5000",
            "bench-proxy ipvs 10000",
            "bench-proxy nftables 10000 --endpoints 10",
            "bench-proxy --connect nftables 1 1000 10000 30000",
            "bench-proxy --connect by-hand-nftables 1 1000 10000 30000",
            "bench-proxy --connect iptables-nft 1 1000 10000",
            "bench-proxy --connect iptables-legacy 1 1000 10000 30000",
            "bench-proxy --connect by-hand-iptables-legacy 1 1000 10000 30000",
            "bench-proxy --connect ipvs 1 1000 10000 30000",
            "bench-proxy --connect by-hand-ipvs 1 1000 10000 30000",
        ],
    },
];

impl Program {
    /// Runs the commands one after the other. Programs lie in `directory`, beside this one. What
    /// this machine cannot measure stands in the results as that, with the reason.
    pub fn measure(&self, directory: &Path) -> anyhow::Result<String> {
        let mut text = String::new();
        for command in self.commands {
            eprintln!("bench: {command}");
            text.push_str(&run(directory, command)?);
        }
        Ok(text)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]
fn run(directory: &Path, command: &str) -> anyhow::Result<String> {
    let mut words = command.split(' ');
    let program = words.next().context("an empty command")?;
    // An argument that is one of our programs stands for its path.
    let arguments = words.map(|word| {
        let path = directory.join(word);
        if path.is_file() {
            path.into()
        } else {
            OsString::from(word)
        }
    });
    let output = Command::new(directory.join(program))
        .args(arguments)
        .output()
        .with_context(|| program.to_owned())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let why = told.lines().next().unwrap_or("it did not say why");
    Ok(format!("\nNot measured, `{command}`: {why}\n\n"))
}
