//! The network configuration from standard input: raw JSON, then checked values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::MacAddress;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::environment::{Environment, is_identifier};
use crate::error::{Code, Error};
use crate::ipam::{Range, RangeSet};
use crate::result::{CniResult, Dns, Route};
use crate::version::Version;

pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/fairlead";
/// The plugin's own name as an IPAM type; no other program is started for it.
pub const OWN_IPAM: &str = "fairlead";
const DEFAULT_POLICY_TIMEOUT: u64 = 30;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    plugin: String,
    mtu: Option<u32>,
    ipam: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    dns: Dns,
    #[serde(default, deserialize_with = "or_default")]
    sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    ip_masq: bool,
    #[serde(default, deserialize_with = "or_default")]
    ip_masq_exceptions: Vec<IpNetwork>,
    policy_socket: Option<PathBuf>,
    policy_timeout_seconds: Option<u64>,
    pool_socket: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    prev_result: Option<Value>,
    #[serde(default, deserialize_with = "runtime_config")]
    runtime_config: RawRuntime,
    #[serde(default, deserialize_with = "or_default")]
    args: RawArgs,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// The name that older runtimes used for it.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIpam {
    #[serde(default, deserialize_with = "or_default")]
    ranges: Vec<Vec<RawRange>>,
    subnet: Option<IpNetwork>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Route>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRange {
    subnet: IpNetwork,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRuntime {
    port_mappings: Vec<RawPort>,
    bandwidth: Option<Bandwidth>,
    ips: Vec<String>,
    mac: Option<String>,
    ip_ranges: Vec<Vec<RawRange>>,
    dns: Option<RawDns>,
    aliases: Vec<String>,
}

/// containerd writes what it passes at run time with the names of its own program
/// (`HostPort`), which plugins in Go read without noticing; others write `hostPort`. A list that
/// is empty is `null` there.
fn runtime_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RawRuntime, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(RawRuntime::default()),
        given => serde_json::from_value(as_read_in_go(given)).map_err(D::Error::custom),
    }
}

/// Names with a small initial, members that are `null` left out.
fn as_read_in_go(value: Value) -> Value {
    let small = |key: String| match key.chars().next() {
        Some(first) => first.to_ascii_lowercase().to_string() + &key[first.len_utf8()..],
        None => key,
    };
    match value {
        Value::Object(map) => {
            let given = map.into_iter().filter(|(_, value)| !value.is_null());
            given
                .map(|(key, value)| (small(key), as_read_in_go(value)))
                .collect()
        }
        Value::Array(list) => list.into_iter().map(as_read_in_go).collect(),
        other => other,
    }
}

/// `null` is as good as nothing, as for plugins in Go.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The `dns` capability names its lists otherwise than the `dns` configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawDns {
    #[serde(alias = "nameservers")]
    servers: Vec<String>,
    #[serde(alias = "search")]
    searches: Vec<String>,
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    host_port: i64,
    container_port: i64,
    #[serde(default, deserialize_with = "or_default")]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    #[serde(deserialize_with = "or_default")]
    cni: RawArgsCni,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawArgsCni {
    #[serde(deserialize_with = "or_default")]
    ips: Vec<String>,
    mac: Option<String>,
}

/// A container and the interface that it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// Limits in bits (per second), as the capability gives them; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

/// A port of the host that leads to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub protocol: PortProtocol,
    pub host_port: u16,
    pub container_port: u16,
    /// Only where packets are sent to this address of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    Tcp,
    Udp,
    Sctp,
}

/// Who gives addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipam {
    /// The plugin itself: one address from each set of ranges.
    Own(Vec<RangeSet>),
    /// Another plugin.
    Delegate(String),
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub version: Version,
    pub name: String,
    pub mtu: Option<u32>,
    pub ipam: Ipam,
    /// Routes in the container beside the default ones; none means: default routes only.
    pub routes: Vec<Route>,
    pub dns: Dns,
    /// Settings of the container's namespace; `IFNAME` stands for the interface.
    pub sysctl: BTreeMap<String, String>,
    pub masquerade: bool,
    pub masquerade_exceptions: Vec<IpNetwork>,
    pub policy_socket: Option<PathBuf>,
    pub policy_timeout: Duration,
    /// The agent that says which ranges a pod's addresses are taken from.
    pub pool_socket: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub previous: Option<CniResult>,
    pub ports: Vec<PortMapping>,
    pub bandwidth: Bandwidth,
    pub requested_addresses: Vec<IpAddr>,
    pub mac: Option<MacAddress>,
    pub aliases: Vec<String>,
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The bytes as they came, for other plugins.
    pub raw: Vec<u8>,
}

/// The version that the configuration is written in, as far as it can be read: an error is
/// answered in it.
pub fn version_of(input: &[u8]) -> Version {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Only {
        cni_version: String,
    }
    serde_json::from_slice::<Only>(input)
        .ok()
        .and_then(|only| only.cni_version.parse().ok())
        .unwrap_or(Version::V1_1_0)
}

impl Config {
    /// Reads and checks the configuration.
    pub fn parse(input: &[u8], environment: &Environment) -> Result<Self, Error> {
        let raw: Raw = serde_json::from_slice(input).map_err(|error| {
            Error::new(Code::Decode, "the network configuration cannot be read").with_details(error)
        })?;
        let version = parse_version(raw.cni_version.as_deref())?;
        if raw.name.is_empty() || !is_identifier(&raw.name) {
            return Err(invalid(format!(
                "name: {:?} is no name of a network",
                raw.name
            )));
        }
        let runtime = raw.runtime_config;
        let (ipam, routes) = parse_ipam(raw.ipam, runtime.ip_ranges, &raw.plugin)?;
        let asked = first_given([
            runtime.ips,
            raw.args.cni.ips,
            environment.arguments.ips.clone(),
        ]);
        let mac = match runtime
            .mac
            .or(raw.args.cni.mac)
            .filter(|text| !text.is_empty())
        {
            Some(text) => Some(text.parse().map_err(|e| invalid(format!("mac: {e}")))?),
            None => environment.arguments.mac,
        };
        if mac.is_some_and(|mac: MacAddress| mac.is_multicast()) {
            return Err(invalid("mac: an interface cannot have a multicast address"));
        }
        Ok(Self {
            version,
            name: raw.name,
            mtu: check_mtu(raw.mtu)?,
            ipam,
            routes,
            dns: merge_dns(raw.dns, runtime.dns),
            sysctl: check_sysctl(raw.sysctl)?,
            masquerade: raw.ip_masq,
            masquerade_exceptions: raw.ip_masq_exceptions,
            policy_socket: raw
                .policy_socket
                .filter(|path| !path.as_os_str().is_empty()),
            policy_timeout: Duration::from_secs(
                raw.policy_timeout_seconds.unwrap_or(DEFAULT_POLICY_TIMEOUT),
            ),
            pool_socket: raw.pool_socket.filter(|path| !path.as_os_str().is_empty()),
            data_dir: raw
                .data_dir
                .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
            previous: parse_previous(raw.prev_result)?,
            ports: runtime
                .port_mappings
                .iter()
                .filter_map(parse_port)
                .collect::<Result<_, _>>()?,
            bandwidth: runtime.bandwidth.unwrap_or_default(),
            requested_addresses: parse_addresses(&asked)?,
            mac,
            aliases: runtime.aliases,
            valid_attachments: raw.valid_attachments.or(raw.attachments),
            raw: input.to_vec(),
        })
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, message)
}

/// A configuration without a version is one of the oldest that there was: not ours.
fn parse_version(text: Option<&str>) -> Result<Version, Error> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("0.1.0");
    text.parse().map_err(|_| {
        let known = Version::supported().join(", ");
        Error::new(Code::IncompatibleVersion, "incompatible CNI versions").with_details(format!(
            "the configuration is {text:?}, the plugin supports [{known}]"
        ))
    })
}

fn first_given<const N: usize>(lists: [Vec<String>; N]) -> Vec<String> {
    lists
        .into_iter()
        .find(|list| !list.is_empty())
        .unwrap_or_default()
}

/// What another plugin is to read, ours does not judge.
fn parse_ipam(
    value: Option<Value>,
    first: Vec<Vec<RawRange>>,
    own: &str,
) -> Result<(Ipam, Vec<Route>), Error> {
    let value = value
        .filter(|value| !value.is_null())
        .unwrap_or_else(|| Value::Object(Map::new()));
    let plugin = value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !plugin.is_empty() && plugin != OWN_IPAM && plugin != own {
        if plugin.contains('/') {
            return Err(invalid(format!(
                "ipam.type: {plugin:?} is no name of a plugin"
            )));
        }
        return Ok((Ipam::Delegate(plugin.to_owned()), Vec::new()));
    }
    let raw: RawIpam = serde_json::from_value(value).map_err(|error| {
        Error::new(
            Code::Decode,
            "ipam in the network configuration cannot be read",
        )
        .with_details(error)
    })?;
    let single = raw.subnet.map(|subnet| {
        vec![RawRange {
            subnet,
            range_start: raw.range_start,
            range_end: raw.range_end,
            gateway: raw.gateway,
        }]
    });
    let sets: Vec<RangeSet> = first
        .into_iter()
        .chain(raw.ranges)
        .chain(single)
        .map(parse_range_set)
        .collect::<Result<_, _>>()?;
    for (index, set) in sets.iter().enumerate() {
        if let Some(other) = sets[..index].iter().find(|other| other.overlaps(set)) {
            return Err(invalid(format!("ipam.ranges: {set} overlaps with {other}")));
        }
    }
    Ok((Ipam::Own(sets), raw.routes))
}

fn parse_range_set(raw: Vec<RawRange>) -> Result<RangeSet, Error> {
    let ranges = raw
        .into_iter()
        .map(|r| Range::new(r.subnet, r.range_start, r.range_end, r.gateway))
        .collect::<Result<Vec<_>, _>>();
    ranges
        .and_then(RangeSet::new)
        .map_err(|error| invalid(format!("ipam.ranges: {error}")))
}

fn check_mtu(mtu: Option<u32>) -> Result<Option<u32>, Error> {
    match mtu {
        None | Some(0) => Ok(None),
        Some(mtu) if (68..=65535).contains(&mtu) => Ok(Some(mtu)),
        Some(mtu) => Err(invalid(format!("mtu: {mtu} is not between 68 and 65535"))),
    }
}

fn check_sysctl(sysctl: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    for name in sysctl.keys() {
        let path = name.replace('/', ".");
        if !path.starts_with("net.") || path.contains("..") {
            return Err(invalid(format!(
                "sysctl: {name:?} is not below net, which is the container's own"
            )));
        }
    }
    Ok(sysctl)
}

fn merge_dns(mut dns: Dns, runtime: Option<RawDns>) -> Dns {
    if let Some(runtime) = runtime {
        let replace = |list: &mut Vec<String>, by: Vec<String>| {
            if !by.is_empty() {
                *list = by;
            }
        };
        replace(&mut dns.nameservers, runtime.servers);
        replace(&mut dns.search, runtime.searches);
        replace(&mut dns.options, runtime.options);
    }
    dns
}

fn parse_previous(value: Option<Value>) -> Result<Option<CniResult>, Error> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| Error::new(Code::Decode, "prevResult cannot be read").with_details(error))
}

/// A host port of 0 asks for nothing.
fn parse_port(raw: &RawPort) -> Option<Result<PortMapping, Error>> {
    let port = |name: &str, number: i64| match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid(format!(
            "portMappings: {name} {number} is not between 1 and 65535"
        ))),
    };
    if raw.host_port == 0 {
        return None;
    }
    let parse = || {
        let protocol = match raw.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => PortProtocol::Tcp,
            "udp" => PortProtocol::Udp,
            "sctp" => PortProtocol::Sctp,
            other => {
                return Err(invalid(format!(
                    "portMappings: protocol {other:?} is not known"
                )));
            }
        };
        let host_ip = match raw.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| invalid(format!("portMappings: hostIP {text:?} is no address")))?,
            ),
        };
        Ok(PortMapping {
            protocol,
            host_port: port("hostPort", raw.host_port)?,
            container_port: port("containerPort", raw.container_port)?,
            host_ip,
        })
    };
    Some(parse())
}

fn parse_addresses(texts: &[String]) -> Result<Vec<IpAddr>, Error> {
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| {
            let address = text.split('/').next().unwrap_or_default();
            address
                .parse()
                .map_err(|_| invalid(format!("ips: {text:?} is no address")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_runtime_passes_is_read_in_containerds_spelling_too() {
        let check = |given: Value| {
            let given = json!({"runtimeConfig": given}).to_string();
            let raw: Raw = serde_json::from_str(&given).unwrap();
            let runtime = raw.runtime_config;
            let port = parse_port(&runtime.port_mappings[0]).unwrap().unwrap();
            let expected = PortMapping {
                protocol: PortProtocol::Udp,
                host_port: 53,
                container_port: 5353,
                host_ip: Some("192.0.2.1".parse().unwrap()),
            };
            assert_eq!(port, expected, "{given}");
            assert_eq!(runtime.dns.unwrap().servers, ["192.0.2.53"], "{given}");
            assert!(runtime.bandwidth.is_some(), "{given}");
        };
        check(json!({
            "portMappings": [{"HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "192.0.2.1"}],
            "dns": {"Servers": ["192.0.2.53"], "Searches": [], "Options": []},
            "bandwidth": {"IngressRate": 1000, "IngressBurst": 1000, "EgressRate": 0, "EgressBurst": 0},
        }));
        check(json!({
            "portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"}],
            "dns": {"servers": ["192.0.2.53"]},
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 1000},
        }));
        let none: Raw = serde_json::from_str(r#"{"runtimeConfig": null}"#).unwrap();
        assert!(none.runtime_config.port_mappings.is_empty());
    }

    #[test]
    fn null_stands_for_an_empty_list() {
        // As containerd passes the names of a pod that has the node's resolver without options.
        let given = json!({
            "name": "n", "type": "fairlead", "sysctl": null, "dns": null, "ipMasqExceptions": null,
            "args": {"cni": {"ips": null}},
            "runtimeConfig": {
                "portMappings": null,
                "ips": null,
                "dns": {"Servers": ["192.0.2.53"], "Searches": null, "Options": null},
            },
        });
        let raw: Raw = serde_json::from_value(given).unwrap();
        let dns = raw.runtime_config.dns.unwrap();
        assert_eq!(dns.servers, ["192.0.2.53"]);
        assert!(dns.searches.is_empty() && dns.options.is_empty());
        let ipam: RawIpam =
            serde_json::from_value(json!({"ranges": null, "routes": null})).unwrap();
        assert!(ipam.ranges.is_empty() && ipam.routes.is_empty());
    }
}
