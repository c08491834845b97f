//! What a runtime can ask for beside an interface.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use harness::{Call, Container, Host, address, addresses};
use kernel::testing::TestNetns;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(2);

fn with(config: &Value, capability: &str, value: Value) -> Value {
    let mut config = config.clone();
    config["runtimeConfig"] = json!({ capability: value });
    config
}

/// A host on a network with one other machine.
fn on_a_network(host: &Host) -> TestNetns {
    let outside = TestNetns::new("outside");
    host.ns.join("eth0", &outside, "eth0");
    for (ns, number) in [(&host.ns, 1), (&outside, 2)] {
        ns.add_address("eth0", &format!("192.0.2.{number}/24"));
        ns.add_address("eth0", &format!("2001:db8::{number}/64"));
    }
    outside
}

/// Serves one line, the peer's address, to everybody who connects.
fn serve(container: &Container, address: IpAddr, port: u16) {
    let listener = container
        .ns
        .run(|| TcpListener::bind((address, port)))
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream
                .peer_addr()
                .map(|peer| peer.ip().to_string())
                .unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// Connects from a namespace; gives what the server says.
fn dial(from: &TestNetns, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn host_ports_lead_to_the_container_from_everywhere() {
    let host = Host::new("host");
    let outside = on_a_network(&host);
    let (container, neighbour) = (Container::new("c1"), Container::new("c2"));
    let config = with(
        &host.config("1.1.0"),
        "portMappings",
        json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8081, "containerPort": 81, "protocol": "TCP", "hostIP": "192.0.2.1"},
            {"hostPort": 0, "containerPort": 82},
        ]),
    );
    let result = host.add(&container, &config).unwrap();
    host.add(&neighbour, &host.config("1.1.0")).unwrap();
    for family in 0..2 {
        serve(&container, address(&result, family), 80);
    }
    serve(&container, address(&result, 0), 81);
    // From outside, with the client's own address kept.
    assert_eq!(
        dial(&outside, "192.0.2.1:8080").as_deref(),
        Some("192.0.2.2")
    );
    assert_eq!(
        dial(&outside, "[2001:db8::1]:8080").as_deref(),
        Some("2001:db8::2")
    );
    assert_eq!(
        dial(&outside, "192.0.2.1:8081").as_deref(),
        Some("192.0.2.2")
    );
    // From another container and from the host, through loopback as well.
    assert!(dial(&neighbour.ns, "192.0.2.1:8080").is_some());
    assert!(dial(&host.ns, "192.0.2.1:8080").is_some());
    assert!(dial(&host.ns, "127.0.0.1:8080").is_some());
    assert!(dial(&host.ns, "[2001:db8::1]:8080").is_some());
    // From the container to itself.
    assert!(dial(&container.ns, "192.0.2.1:8080").is_some());
    assert!(dial(&container.ns, "[2001:db8::1]:8080").is_some());
    // A host address that the mapping does not name.
    assert_eq!(dial(&host.ns, "127.0.0.1:8081"), None);
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
    host.del(&container, &config).unwrap();
    assert_eq!(dial(&outside, "192.0.2.1:8080"), None);
    assert!(!host.elements().contains("8080"));
}

#[test]
fn a_udp_host_port_leads_to_the_container() {
    let host = Host::new("host");
    let outside = on_a_network(&host);
    let container = Container::new("c1");
    let config = with(
        &host.config("1.1.0"),
        "portMappings",
        json!([
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp"},
        ]),
    );
    let result = host.add(&container, &config).unwrap();
    let at = (address(&result, 0), 5353);
    let server = container.ns.run(|| UdpSocket::bind(at)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    outside.run(|| {
        let client = UdpSocket::bind("192.0.2.2:0").unwrap();
        client.send_to(b"hello", "192.0.2.1:53").unwrap();
    });
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from.ip().to_string()),
        (&b"hello"[..], "192.0.2.2".into())
    );
}

/// A client that never pauses keeps one flow alive: it has to follow the port all the same.
#[test]
fn a_udp_client_that_goes_on_sending_follows_the_host_port() {
    let host = Host::new("host");
    let outside = on_a_network(&host);
    let config = with(
        &host.config("1.1.0"),
        "portMappings",
        json!([{"hostPort": 53, "containerPort": 5353, "protocol": "udp"}]),
    );
    // Connections are tracked from the first container on.
    host.add(&Container::new("other"), &host.config("1.1.0"))
        .unwrap();
    let client = outside.run(|| UdpSocket::bind("192.0.2.2:4000")).unwrap();
    let reaches = |server: &UdpSocket| {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"hello", "192.0.2.1:53").unwrap();
        server.recv_from(&mut [0; 16]).is_ok()
    };
    let on_host = host.ns.run(|| UdpSocket::bind("192.0.2.1:53")).unwrap();
    assert!(reaches(&on_host), "nobody else has the port");
    for id in ["one", "two"] {
        let container = Container::new(id);
        let result = host.add(&container, &config).unwrap();
        let at = (address(&result, 0), 5353);
        let server = container.ns.run(|| UdpSocket::bind(at)).unwrap();
        assert!(reaches(&server), "container {id} has it");
        host.del(&container, &config).unwrap();
        assert!(reaches(&on_host), "container {id} had it");
    }
}

#[test]
fn a_host_port_that_is_taken_is_refused_and_its_owner_keeps_it() {
    let host = Host::new("host");
    let (a, b) = (Container::new("a"), Container::new("b"));
    let config = with(
        &host.config("1.1.0"),
        "portMappings",
        json!([
            {"hostPort": 8080, "containerPort": 80},
        ]),
    );
    let result = host.add(&a, &config).unwrap();
    let error = host.add(&b, &config).unwrap_err();
    assert_eq!(error["code"], 106, "{error}");
    assert_eq!(host.used().len(), 2, "the second has nothing");
    assert_eq!(host.check(&a, &config, &result), Ok(Value::Null));
    host.del(&b, &config).unwrap();
    assert_eq!(host.check(&a, &config, &result), Ok(Value::Null));
}

#[test]
fn a_late_del_does_not_take_the_port_from_its_next_owner() {
    let host = Host::new("host");
    let (a, b) = (Container::new("a"), Container::new("b"));
    let config = with(
        &host.config("1.1.0"),
        "portMappings",
        json!([
            {"hostPort": 8080, "containerPort": 80},
        ]),
    );
    host.add(&a, &config).unwrap();
    // Somebody emptied the map; the port went to another container.
    host.ns
        .command("nft", &["flush", "map", "inet", "fairlead-cni", "ports4"]);
    host.ns
        .command("nft", &["flush", "map", "inet", "fairlead-cni", "ports6"]);
    let result = host.add(&b, &config).unwrap();
    host.del(&a, &config).unwrap();
    assert_eq!(host.check(&b, &config, &result), Ok(Value::Null));
    assert!(
        !host.elements().contains("10.244.1.2"),
        "{}",
        host.elements()
    );
}

#[test]
fn addresses_and_the_ethernet_address_can_be_chosen() {
    let host = Host::new("host");
    let base = host.config("1.1.0");
    let (a, b, c) = (
        Container::new("a"),
        Container::new("b"),
        Container::new("c"),
    );
    let mut config = with(&base, "ips", json!(["10.244.1.50/24"]));
    config["runtimeConfig"]["mac"] = json!("02:11:22:33:44:55");
    let result = host.add(&a, &config).unwrap();
    assert_eq!(
        addresses(&result),
        ["10.244.1.50/32", "fd00:10:244:1::2/128"]
    );
    assert_eq!(result["interfaces"][1]["mac"], "02:11:22:33:44:55");
    assert_eq!(
        a.ns.link("eth0").unwrap().mac.unwrap().to_string(),
        "02:11:22:33:44:55"
    );
    let error = host
        .add(&b, &with(&base, "ips", json!(["10.244.1.50"])))
        .unwrap_err();
    assert_eq!(error["code"], 101);
    assert!(
        error["details"].as_str().unwrap().contains("container a"),
        "{error}"
    );
    let by_arguments = Call {
        args: "IgnoreUnknown=true;IP=10.244.1.60,fd00:10:244:1::60;MAC=02:00:00:00:00:07;X=y",
        ..c.call("ADD", &base)
    };
    let result = host.run(&by_arguments).unwrap();
    assert_eq!(
        addresses(&result),
        ["10.244.1.60/32", "fd00:10:244:1::60/128"]
    );
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:07");
    host.del(&a, &config).unwrap();
    host.add(&b, &with(&base, "ips", json!(["10.244.1.50"])))
        .unwrap();
}

#[test]
fn ranges_given_at_run_time_come_first() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = with(
        &host.config("1.1.0"),
        "ipRanges",
        json!([
            [{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.77", "rangeEnd": "10.9.0.78"}],
        ]),
    );
    config["ipam"] = json!({});
    let result = host.add(&container, &config).unwrap();
    assert_eq!(addresses(&result), ["10.9.0.77/32"]);
}

#[test]
fn dns_is_passed_on_and_aliases_are_remembered() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("1.1.0");
    config["dns"] = json!({"nameservers": ["10.0.0.1"], "domain": "a.example"});
    config["runtimeConfig"] = json!({
        "dns": {"servers": ["10.96.0.10"], "searches": ["b.example"], "options": ["ndots:5"]},
        "aliases": ["web", "www"],
    });
    let result = host.add(&container, &config).unwrap();
    assert_eq!(
        result["dns"],
        json!({
            "nameservers": ["10.96.0.10"], "domain": "a.example",
            "search": ["b.example"], "options": ["ndots:5"],
        })
    );
    let store = cni_plugin::store::Store::new(host.dir.path(), "net");
    let state = store.peek().unwrap();
    let record = state.records().next().unwrap();
    assert_eq!(record.aliases, ["web", "www"]);
}

#[test]
fn settings_of_the_container_are_made_in_its_namespace() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("1.1.0");
    config["sysctl"] = json!({
        "net.ipv4.ip_unprivileged_port_start": "7",
        "net/ipv4/conf/IFNAME/log_martians": "1",
    });
    host.add(&container, &config).unwrap();
    let read = |name: &str| container.ns.run(|| kernel::sysctl::read(name)).unwrap();
    assert_eq!(read("net/ipv4/ip_unprivileged_port_start"), "7");
    assert_eq!(read("net/ipv4/conf/eth0/log_martians"), "1");
    let here = host
        .ns
        .run(|| kernel::sysctl::read("net/ipv4/ip_unprivileged_port_start"));
    assert_ne!(here.unwrap(), "7");
}

/// The time that it takes to send this many bytes.
fn transfer(from: &TestNetns, to: &TestNetns, address: IpAddr, bytes: usize) -> Duration {
    let listener = to.run(|| TcpListener::bind((address, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let start = Instant::now();
    from.run(|| {
        TcpStream::connect(to)
            .unwrap()
            .write_all(&vec![0; bytes])
            .unwrap()
    });
    receiver.join().unwrap();
    start.elapsed()
}

#[test]
fn bandwidth_is_limited_in_both_directions() {
    let host = Host::new("host");
    let (container, free) = (Container::new("c1"), Container::new("c2"));
    let limits = json!({
        "ingressRate": 16_000_000, "ingressBurst": 800_000,
        "egressRate": 8_000_000, "egressBurst": 800_000,
    });
    let config = with(&host.config("1.1.0"), "bandwidth", limits);
    let result = host.add(&container, &config).unwrap();
    let other = host.add(&free, &host.config("1.1.0")).unwrap();
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
    // 600 kB beyond the burst: 0.25 s in, 0.5 s out.
    let inward = transfer(&free.ns, &container.ns, address(&result, 0), 600_000);
    let outward = transfer(&container.ns, &free.ns, address(&other, 0), 600_000);
    assert!(inward > Duration::from_millis(200), "{inward:?}");
    assert!(outward > Duration::from_millis(400), "{outward:?}");
    assert!(outward < Duration::from_secs(5), "{outward:?}");
    host.ns.command(
        "tc",
        &[
            "qdisc",
            "del",
            "dev",
            &cni_plugin::host_interface_name("c1", "eth0"),
            "root",
        ],
    );
    assert_eq!(
        host.check(&container, &config, &result).unwrap_err()["code"],
        102
    );
    host.del(&container, &config).unwrap();
    assert_eq!(
        host.links(),
        [cni_plugin::host_interface_name("c2", "eth0")]
    );
}

#[test]
fn what_leaves_the_network_is_masqueraded_and_nothing_else() {
    let host = Host::new("host");
    let outside = on_a_network(&host);
    let (a, b) = (Container::new("a"), Container::new("b"));
    let mut config = host.config("1.1.0");
    config["ipMasq"] = json!(true);
    config["ipMasqExceptions"] = json!(["198.51.100.0/24"]);
    host.add(&a, &config).unwrap();
    let result = host.add(&b, &config).unwrap();
    let server = Container {
        id: "outside".into(),
        ns: outside,
    };
    server.ns.add_address("lo", "198.51.100.1/32");
    // The way back to containers, for what is not masqueraded.
    server
        .ns
        .command("ip", &["route", "add", "10.244.1.0/24", "via", "192.0.2.1"]);
    host.ns.command(
        "ip",
        &["route", "add", "198.51.100.0/24", "via", "192.0.2.2"],
    );
    for text in ["192.0.2.2", "2001:db8::2", "198.51.100.1"] {
        serve(&server, text.parse().unwrap(), 80);
    }
    serve(&b, address(&result, 0), 80);
    assert_eq!(dial(&a.ns, "192.0.2.2:80").as_deref(), Some("192.0.2.1"));
    assert_eq!(
        dial(&a.ns, "[2001:db8::2]:80").as_deref(),
        Some("2001:db8::1")
    );
    assert_eq!(
        dial(&a.ns, "198.51.100.1:80").as_deref(),
        Some("10.244.1.2")
    );
    let inside = format!("{}:80", address(&result, 0));
    assert_eq!(dial(&a.ns, &inside).as_deref(), Some("10.244.1.2"));
}

/// Answers the plugin as the node's policy agent does.
fn agent(
    path: std::path::PathBuf,
    answers: Vec<&'static str>,
) -> std::thread::JoinHandle<Vec<Value>> {
    use std::io::BufRead;
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            std::io::BufReader::new(&stream)
                .read_line(&mut line)
                .unwrap();
            requests.push(serde_json::from_str(&line).unwrap());
            writeln!(stream, "{answer}").unwrap();
        }
        requests
    })
}

#[test]
fn add_waits_for_the_policy_agent() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let socket = host.dir.path().join("policy.sock");
    let mut config = host.config("1.1.0");
    config["policySocket"] = json!(socket);
    let agent = agent(
        socket,
        vec![r#"{"ok":false,"error":"not yet"}"#, r#"{"ok":true}"#],
    );
    let call = Call {
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0",
        ..container.call("ADD", &config)
    };
    host.run(&call).unwrap();
    let requests = agent.join().unwrap();
    assert_eq!(
        requests[1],
        json!({
            "containerID": "c1", "ifname": "eth0",
            "hostInterface": cni_plugin::host_interface_name("c1", "eth0"),
            "addresses": ["10.244.1.2", "fd00:10:244:1::2"],
            "podNamespace": "prod", "podName": "web-0",
        })
    );
}

#[test]
fn add_fails_and_leaves_nothing_when_the_policy_agent_never_agrees() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let socket = host.dir.path().join("policy.sock");
    let mut config = host.config("1.1.0");
    config["policySocket"] = json!(socket);
    config["policyTimeoutSeconds"] = json!(0);
    let _agent = agent(socket, vec![r#"{"ok":false,"error":"no such pod"}"#]);
    let error = host.add(&container, &config).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    assert!(
        error["details"].as_str().unwrap().contains("no such pod"),
        "{error}"
    );
    assert!(host.links().is_empty() && host.used().is_empty());
}
