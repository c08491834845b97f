//! Real runtimes run the plugin: Podman with its CNI backend, and containerd without a kubelet.
//! Each has a host of its own: network, mounts, directories.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::path::Path;

use harness::Host;
use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_fairlead-cni");

/// Answers each connection with the address that it comes from.
const SERVE: &str = "$s=IO::Socket::INET->new(LocalPort=>80,Listen=>5,ReuseAddr=>1) or die;\
     while($c=$s->accept){print $c $c->peerhost;close $c}";

/// What both scripts begin with: private places for what runtimes share otherwise, and a function
/// that asks a server until it answers.
const PREPARE: &str = r#"
set -eu
mount -t tmpfs tmpfs /run/netns || { mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; }
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
ask() {
    for try in $(seq 50); do
        timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2 && cat <&3" 2>/dev/null && return
        sleep 0.2
    done
    echo "nobody answers at $1 $2"; exit 1
}
"#;

/// A host with an address, a network's configuration, and a root file system for containers that
/// have this machine's programs.
fn host(label: &str, plugins: impl Fn(&Path) -> Value) -> Host {
    let host = Host::new(label);
    let dir = host.dir.path();
    for command in [
        "link add eth0 type bridge",
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(host.ns.command("ip", &words).status.success(), "{command}");
    }
    for name in [
        "bin",
        "net.d",
        "root/usr",
        "root/etc",
        "root/proc",
        "root/sys",
        "root/dev",
        "root/tmp",
        "root/run",
        "root/var",
    ] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), dir.join("root").join(name)).unwrap();
    }
    std::fs::copy(PLUGIN, dir.join("bin/fairlead-cni")).unwrap();
    for plugin in [
        "loopback",
        "bridge",
        "portmap",
        "tuning",
        "host-local",
        "bandwidth",
    ] {
        let from = Path::new(harness::DEBIAN).join(plugin);
        std::os::unix::fs::symlink(from, dir.join("bin").join(plugin)).unwrap();
    }
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins(dir)});
    std::fs::write(dir.join("net.d/10-net.conflist"), list.to_string()).unwrap();
    host
}

/// Our plugin by itself.
fn alone(dir: &Path) -> Value {
    json!([{
        "type": "fairlead-cni", "ipMasq": true, "dataDir": dir.join("state"),
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]},
        "capabilities": {"portMappings": true, "ips": true, "mac": true},
    }])
}

/// Debian's plugins make the interface before, and change it after ours.
fn between(dir: &Path) -> Value {
    json!([
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": false,
         "ipam": {"type": "host-local", "dataDir": dir.join("host-local"),
                  "ranges": [[{"subnet": "10.89.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "fairlead-cni", "dataDir": dir.join("state"), "capabilities": {"portMappings": true}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}},
    ])
}

/// Runs a script on the host, in mounts of its own; what it prints.
fn run(host: &Host, script: &str) -> String {
    let script = format!("{PREPARE}\ncd {}\n{script}", host.dir.path().display());
    let output = host
        .ns
        .command("timeout", &["240", "unshare", "-m", "bash", "-c", &script]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    text
}

/// The value that a script printed behind a name.
fn told<'a>(output: &'a str, name: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {output}"))
}

/// The plugin's state of the host's network, and its interfaces, are empty.
fn assert_nothing_left(host: &Host) {
    let store = cni_plugin::store::Store::new(&host.dir.path().join("state"), "net");
    assert!(store.peek().unwrap().is_empty());
    let links = host.links();
    assert!(
        links
            .iter()
            .all(|name| !cni_plugin::is_host_interface(name)),
        "{links:?}"
    );
}

fn podman(host: &Host, script: &str) -> String {
    let dir = host.dir.path().display();
    let config = format!(
        "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"runc\"\n\
         [network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{dir}/bin\"]\n\
         network_config_dir=\"{dir}/net.d\"\ndefault_network=\"net\"\n"
    );
    let storage = format!(
        "[storage]\ndriver=\"vfs\"\nrunroot=\"{dir}/podman-run\"\ngraphroot=\"{dir}/podman\"\n"
    );
    std::fs::write(host.dir.path().join("containers.conf"), config).unwrap();
    std::fs::write(host.dir.path().join("storage.conf"), storage).unwrap();
    let start = format!(
        r#"
export CONTAINERS_CONF={dir}/containers.conf CONTAINERS_STORAGE_CONF={dir}/storage.conf
P="podman --tmpdir {dir}/podman-tmp"
serve() {{
    name=$1; shift
    $P run -d --name $name --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 -v /usr:/usr:ro "$@" \
        --rootfs {dir}/root /usr/bin/perl -MIO::Socket::INET -e '{SERVE}' >&2
}}
address() {{ $P inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}' $1; }}
trap '$P rm -f -t 0 -a >&2' EXIT
"#
    );
    run(host, &(start + script))
}

#[test]
fn podman_starts_containers_with_addresses_and_host_ports() {
    let host = host("podman", alone);
    let output = podman(
        &host,
        r#"
serve one -p 8080:80
serve two --ip 10.88.0.77
echo "one=$(address one)"
echo "two=$(address two)"
echo "port=$(ask 192.0.2.1 8080)"
echo "loopback=$(ask 127.0.0.1 8080)"
echo "direct=$(ask 10.88.0.77 80)"
echo "among=$($P exec one bash -c 'exec 3<>/dev/tcp/10.88.0.77/80 && cat <&3')"
$P restart -t 0 one >&2
echo "again=$(ask 192.0.2.1 8080)"
$P rm -f -t 0 one two >&2
"#,
    );
    assert!(told(&output, "one").starts_with("10.88.0."), "{output}");
    assert_eq!(told(&output, "two"), "10.88.0.77");
    assert_eq!(told(&output, "port"), "192.0.2.1");
    assert!(!told(&output, "loopback").is_empty());
    assert_eq!(told(&output, "direct"), "192.0.2.1");
    // Between containers nothing is translated.
    assert_eq!(told(&output, "among"), told(&output, "one"));
    assert_eq!(told(&output, "again"), "192.0.2.1");
    assert_nothing_left(&host);
}

#[test]
fn podman_runs_it_between_debians_plugins() {
    let host = host("chained", between);
    let output = podman(
        &host,
        r#"
serve one -p 8080:80
echo "one=$(address one)"
echo "port=$(ask 192.0.2.1 8080)"
echo "tuned=$($P exec one cat /proc/sys/net/ipv4/conf/all/log_martians)"
$P rm -f -t 0 one >&2
if timeout 2 bash -c 'exec 3<>/dev/tcp/192.0.2.1/8080' 2>/dev/null; then echo "port is still there"; exit 1; fi
"#,
    );
    assert!(told(&output, "one").starts_with("10.89.0."), "{output}");
    assert!(!told(&output, "port").is_empty());
    assert_eq!(told(&output, "tuned"), "1");
    assert_nothing_left(&host);
}

#[test]
fn containerd_alone_starts_and_ends_containers() {
    let host = host("containerd", alone);
    let dir = host.dir.path().display();
    let config = format!(
        "version = 2\nroot = \"{dir}/containerd\"\nstate = \"/run/containerd/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"/run/containerd/c.sock\"\n"
    );
    std::fs::write(host.dir.path().join("containerd.toml"), config).unwrap();
    let script = format!(
        r#"
mkdir -p /run/containerd /etc/cni/net.d
mount -t tmpfs tmpfs /run/containerd
mount --bind {dir}/net.d /etc/cni/net.d
mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni && ln -s {dir}/bin /opt/cni/bin
containerd -c containerd.toml >containerd.log 2>&1 &
trap "kill $!; wait $! || true" EXIT
C="timeout 60 ctr -a /run/containerd/c.sock"
for try in $(seq 100); do $C version >/dev/null 2>&1 && break; sleep 0.1; done
$C run -d --cni --rootfs --mount type=bind,src=/usr,dst=/usr,options=rbind:ro {dir}/root one \
    /usr/bin/perl -MIO::Socket::INET -e '{SERVE}'
one=$(ip -4 route show proto 204 | cut -d' ' -f1)
echo "one=$one"
echo "direct=$(ask $one 80)"
$C task kill -s KILL one
for try in $(seq 100); do $C task rm one >/dev/null 2>&1 && break; sleep 0.1; done
$C container rm one
"#
    );
    let output = run(&host, &script);
    assert!(told(&output, "one").starts_with("10.88.0."), "{output}");
    assert_eq!(told(&output, "direct"), "192.0.2.1");
    // This containerd's `ctr` leaves DEL to whoever cleans up: what is there, GC takes away.
    let config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "fairlead-cni",
        "dataDir": host.dir.path().join("state"), "cni.dev/valid-attachments": [],
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/24"}]]},
    });
    let gc = harness::Call {
        command: "GC",
        container: "",
        netns: None,
        ifname: "",
        args: "",
        config,
    };
    host.run(&gc).unwrap();
    assert_nothing_left(&host);
}
