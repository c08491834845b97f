//! Measurements that programs of their own make; what they print is Markdown.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// A section of `RESULTS.md` and the commands that fill it, by the programs' names.
pub struct Program {
    pub section: &'static str,
    pub commands: &'static [&'static [&'static str]],
}

/// In the order of the file.
pub const PROGRAMS: [Program; 4] = [
    Program {
        section: "cni",
        commands: &[&["bench-pod-network", "cni", "fairlead-cni"]],
    },
    Program {
        section: "overlay",
        commands: &[
            &["bench-pod-network", "overlay"],
            &["bench-pod-network", "nodes", "500"],
        ],
    },
    Program {
        section: "bgp",
        commands: &[
            &["bench-bgp", "all", "--fairlead", "fairlead"],
            &[
                "bench-bgp",
                "all",
                "--fairlead",
                "fairlead",
                "--peers",
                "2",
                "--prefixes",
                "500000",
            ],
        ],
    },
    Program {
        section: "proxy",
        commands: &[
            &["bench-proxy", "nftables", "1000"],
            &["bench-proxy", "nftables", "5000"],
            &["bench-proxy", "nftables", "10000"],
            &["bench-proxy", "nftables", "40000"],
            &["bench-proxy", "iptables-nft", "1000"],
            &["bench-proxy", "iptables-nft", "5000"],
            &["bench-proxy", "iptables-legacy", "1000"],
            &["bench-proxy", "iptables-legacy", "5000"],
            &["bench-proxy", "iptables-legacy", "10000"],
            &["bench-proxy", "ipvs", "1000"],
            &["bench-proxy", "ipvs", "5000"],
            &["bench-proxy", "ipvs", "10000"],
            &["bench-proxy", "nftables", "10000", "--endpoints", "10"],
            &[
                "bench-proxy",
                "--connect",
                "nftables",
                "1",
                "1000",
                "10000",
                "30000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "by-hand-nftables",
                "1",
                "1000",
                "10000",
                "30000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "iptables-nft",
                "1",
                "1000",
                "10000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "iptables-legacy",
                "1",
                "1000",
                "10000",
                "30000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "by-hand-iptables-legacy",
                "1",
                "1000",
                "10000",
                "30000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "ipvs",
                "1",
                "1000",
                "10000",
                "30000",
            ],
            &[
                "bench-proxy",
                "--connect",
                "by-hand-ipvs",
                "1",
                "1000",
                "10000",
                "30000",
            ],
        ],
    },
];

impl Program {
    /// Runs the commands one after the other. Programs lie in `directory`, beside this one.
    pub fn measure(&self, directory: &Path) -> anyhow::Result<String> {
        let mut text = String::new();
        for command in self.commands {
            text.push_str(&run(directory, command)?);
        }
        Ok(text)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]
fn run(directory: &Path, command: &[&str]) -> anyhow::Result<String> {
    let [program, arguments @ ..] = command else {
        return Ok(String::new());
    };
    let by_ipvs = arguments.iter().any(|argument| argument.ends_with("ipvs"));
    if by_ipvs && !Path::new("/proc/net/ip_vs").exists() {
        return Ok(format!(
            "\n`{}` was not measured: this kernel has no IPVS.\n",
            command.join(" ")
        ));
    }
    // An argument that is one of our programs stands for its path.
    let arguments = arguments.iter().map(|argument| {
        let path = directory.join(argument);
        if path.is_file() {
            path.into()
        } else {
            argument.into()
        }
    });
    let arguments: Vec<std::ffi::OsString> = arguments.collect();
    let output = Command::new(directory.join(program))
        .args(&arguments)
        .output()
        .with_context(|| program.to_string())?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
