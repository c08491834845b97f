//! A host and containers in namespaces of their own, and the plugin as a runtime runs it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use kernel::netns::Netns;
use kernel::testing::TestNetns;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where Debian keeps the plugins that stand before and after ours.
pub const DEBIAN: &str = "/usr/lib/cni";

/// The machine that the plugin runs on.
pub struct Host {
    pub ns: TestNetns,
    pub dir: TempDir,
}

/// One invocation's parameters.
#[derive(Clone)]
pub struct Call<'a> {
    pub command: &'a str,
    pub container: &'a str,
    pub netns: Option<PathBuf>,
    pub ifname: &'a str,
    pub args: &'a str,
    pub config: Value,
}

impl Host {
    pub fn new(label: &str) -> Self {
        Self {
            ns: TestNetns::new(label),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A configuration with one IPv4 and one IPv6 range.
    pub fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "net",
            "type": "fairlead-cni",
            "dataDir": self.dir.path(),
            "mtu": 1450,
            "ipam": {"ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]},
        })
    }

    /// Starts a plugin inside the host's namespace.
    pub fn start(&self, program: &Path, call: &Call<'_>) -> Child {
        #[expect(clippy::disallowed_methods, reason = "a runtime starts the plugin")]
        let mut command = std::process::Command::new(program);
        command
            .env_clear()
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_IFNAME", call.ifname)
            .env("CNI_ARGS", call.args)
            .env("CNI_PATH", DEBIAN)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if let Some(netns) = &call.netns {
            command.env("CNI_NETNS", netns);
        }
        let mut child = self.ns.run(move || command.spawn().unwrap());
        let config = serde_json::to_vec(&call.config).unwrap();
        let _ = child.stdin.take().unwrap().write_all(&config);
        child
    }

    pub fn output(&self, program: &Path, call: &Call<'_>) -> Output {
        self.start(program, call).wait_with_output().unwrap()
    }

    /// Runs our plugin: its result, or its error object.
    pub fn run(&self, call: &Call<'_>) -> Result<Value, Value> {
        self.run_program(Path::new(env!("CARGO_BIN_EXE_fairlead-cni")), call)
    }

    /// Runs another plugin of Debian's.
    pub fn run_debian(&self, plugin: &str, call: &Call<'_>) -> Result<Value, Value> {
        self.run_program(&Path::new(DEBIAN).join(plugin), call)
    }

    pub fn run_program(&self, program: &Path, call: &Call<'_>) -> Result<Value, Value> {
        let output = self.output(program, call);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = || serde_json::from_str(&text).unwrap_or(Value::String(text.clone()));
        if output.status.success() {
            Ok(if text.is_empty() {
                Value::Null
            } else {
                value()
            })
        } else {
            Err(value())
        }
    }

    pub fn add(&self, container: &Container, config: &Value) -> Result<Value, Value> {
        self.run(&container.call("ADD", config))
    }

    pub fn del(&self, container: &Container, config: &Value) -> Result<Value, Value> {
        self.run(&container.call("DEL", config))
    }

    /// CHECK with the result of ADD.
    pub fn check(
        &self,
        container: &Container,
        config: &Value,
        result: &Value,
    ) -> Result<Value, Value> {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        self.run(&container.call("CHECK", &config))
    }

    /// The interfaces of the host, but the loopback one, once those that were taken down are
    /// deleted: the plugin does not wait for that.
    pub fn links(&self) -> Vec<String> {
        let mut socket = self.ns.socket();
        for _ in 0..300 {
            let mut links = kernel::link::list(&mut socket).unwrap();
            links.retain(|link| link.name != "lo");
            if links.iter().all(|link| link.up) {
                return links.into_iter().map(|link| link.name).collect();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("an interface that was taken down is still there")
    }

    /// The addresses that the plugin's state calls used.
    pub fn used(&self) -> Vec<String> {
        let store = cni_plugin::store::Store::new(self.dir.path(), "net");
        store
            .peek()
            .unwrap()
            .used()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Everything in the plugin's sets and maps, as `nft` shows it.
    pub fn elements(&self) -> String {
        let output = self
            .ns
            .command("nft", &["list", "table", "inet", "fairlead-cni"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| line.contains("elements = "));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// A container: an id and a namespace.
pub struct Container {
    pub id: String,
    pub ns: TestNetns,
}

impl Container {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ns: TestNetns::new(id),
        }
    }

    pub fn call(&self, command: &'static str, config: &Value) -> Call<'_> {
        Call {
            command,
            container: &self.id,
            netns: Some(self.ns.path().to_owned()),
            ifname: "eth0",
            args: "",
            config: config.clone(),
        }
    }

    /// Takes the namespace's name away, as a runtime that forgot the container.
    pub fn vanish(self) -> String {
        Netns::delete(self.ns.name()).unwrap();
        self.id
    }
}

/// The addresses of a result.
pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter()
        .map(|ip| ip["address"].as_str().unwrap().to_owned())
        .collect()
}

/// The address of that number, without its prefix.
pub fn address(result: &Value, index: usize) -> std::net::IpAddr {
    addresses(result)[index]
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}
