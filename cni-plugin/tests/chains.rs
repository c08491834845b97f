//! Together with Debian's plugins: before them, behind them, with their addresses.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod harness;

use harness::{Container, Host, addresses};
use serde_json::{Value, json};

fn plugin(config: &Value, kind: &str, previous: &Value) -> Value {
    let mut config = config.clone();
    config["type"] = json!(kind);
    config["prevResult"] = previous.clone();
    config
}

#[test]
fn addresses_come_from_host_local() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("1.0.0");
    let data = host.dir.path().join("host-local");
    config["ipam"] = json!({
        "type": "host-local",
        "dataDir": data,
        "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let result = host.add(&container, &config).unwrap();
    assert_eq!(addresses(&result), ["10.7.0.2/32", "fd00:7::2/128"]);
    assert!(data.join("net/10.7.0.2").exists());
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
    std::fs::remove_file(data.join("net/10.7.0.2")).unwrap();
    std::fs::remove_file(data.join("net/fd00:7::2")).unwrap();
    assert!(host.check(&container, &config, &result).is_err());
    host.del(&container, &config).unwrap();
    host.del(&container, &config).unwrap();
    assert!(host.links().is_empty());
}

#[test]
fn a_failed_add_gives_the_addresses_of_host_local_back() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("1.0.0");
    let data = host.dir.path().join("host-local");
    config["ipam"] = json!({"type": "host-local", "dataDir": data, "subnet": "10.7.0.0/24"});
    config["sysctl"] = json!({"net.nothing": "1"});
    assert_eq!(host.add(&container, &config).unwrap_err()["code"], 103);
    assert!(!data.join("net/10.7.0.2").exists());
    assert!(host.links().is_empty() && host.used().is_empty());
}

#[test]
fn addresses_come_from_static() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("0.4.0");
    config["ipam"] = json!({
        "type": "static",
        "addresses": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}],
        "dns": {"nameservers": ["10.7.0.1"]},
    });
    let result = host.add(&container, &config).unwrap();
    assert_eq!(addresses(&result), ["10.7.0.9/32"]);
    assert_eq!(result["dns"]["nameservers"], json!(["10.7.0.1"]));
    host.del(&container, &config).unwrap();
}

#[test]
fn an_error_of_the_ipam_plugin_is_passed_on() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let mut config = host.config("1.0.0");
    config["ipam"] = json!({"type": "host-local", "subnet": "10.7.0.0/33"});
    let error = host.add(&container, &config).unwrap_err();
    assert!(
        error["msg"].as_str().unwrap().starts_with("host-local: "),
        "{error}"
    );
    assert!(host.links().is_empty() && host.used().is_empty());
}

#[test]
fn debians_plugins_work_behind_ours() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let config = host.config("1.0.0");
    let result = host.add(&container, &config).unwrap();
    let mut tuning = plugin(&config, "tuning", &result);
    tuning["sysctl"] = json!({"net.ipv4.conf.eth0.log_martians": "1"});
    let tuned = host
        .run_debian("tuning", &container.call("ADD", &tuning))
        .unwrap();
    assert_eq!(tuned["ips"], result["ips"]);
    let mut portmap = plugin(&config, "portmap", &tuned);
    portmap["capabilities"] = json!({"portMappings": true});
    portmap["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 9090, "containerPort": 80, "protocol": "tcp"}]});
    let mapped = host
        .run_debian("portmap", &container.call("ADD", &portmap))
        .unwrap();
    assert_eq!(mapped["interfaces"], result["interfaces"]);
    assert_eq!(host.check(&container, &config, &mapped), Ok(Value::Null));
    host.run_debian("portmap", &container.call("DEL", &portmap))
        .unwrap();
    host.run_debian("tuning", &container.call("DEL", &tuning))
        .unwrap();
    host.del(&container, &config).unwrap();
    assert!(host.links().is_empty());
}

#[test]
fn ours_adds_its_services_to_the_interface_of_another_plugin() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let base = host.config("1.0.0");
    let mut ptp = base.clone();
    ptp["type"] = json!("ptp");
    ptp["ipam"] = json!({
        "type": "host-local", "dataDir": host.dir.path().join("hl"), "subnet": "10.7.0.0/24",
    });
    let first = host
        .run_debian("ptp", &container.call("ADD", &ptp))
        .unwrap();
    let mut ours = plugin(&base, "fairlead-cni", &first);
    ours["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80}],
        "bandwidth": {"egressRate": 8_000_000, "egressBurst": 800_000},
    });
    let result = host.add(&container, &ours).unwrap();
    assert_eq!(result["interfaces"], first["interfaces"]);
    assert_eq!(result["ips"], first["ips"]);
    assert!(host.elements().contains("10.7.0.2"), "{}", host.elements());
    assert_eq!(host.run(&container.call("CHECK", &ours)), Ok(Value::Null));
    let links = host.links().len();
    host.del(&container, &ours).unwrap();
    host.del(&container, &ours).unwrap();
    assert_eq!(
        host.links().len(),
        links - 1,
        "the limit's device goes, their interface stays"
    );
    assert_eq!(host.elements(), "");
    host.run_debian("ptp", &container.call("DEL", &ptp))
        .unwrap();
}

#[test]
fn ours_appends_its_interface_to_those_of_others() {
    let host = Host::new("host");
    let container = Container::new("c1");
    let config = host.config("1.0.0");
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "sandbox": container.ns.path()}],
        "ips": [{"address": "10.9.0.2/24", "interface": 0}],
        "dns": {"nameservers": ["10.9.0.1"]},
    });
    let result = host
        .add(&container, &plugin(&config, "fairlead-cni", &previous))
        .unwrap();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(addresses(&result)[..2], ["10.9.0.2/24", "10.244.1.2/32"]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["nameservers"], json!(["10.9.0.1"]));
    assert_eq!(host.check(&container, &config, &result), Ok(Value::Null));
}
