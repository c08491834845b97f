//! What nodes say about themselves, in Flannel's own annotations, so that a Flannel node and
//! a Fairlead node understand each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::MacAddress;
use serde::{Deserialize, Serialize};

use crate::model::Outer;

const PREFIX: &str = "flannel.alpha.coreos.com";
const BACKEND_TYPE: &str = "vxlan";

/// A node's end of the tunnels of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where tunnel packets are sent to.
    pub public_ip: IpAddr,
    /// The Ethernet address of the node's device.
    pub mac: MacAddress,
    pub vni: u32,
}

/// An annotation that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("annotation {key} is {value:?}: {reason}")]
    Value {
        key: String,
        value: String,
        reason: String,
    },
    #[error("the node uses Flannel's backend {0:?}, not vxlan")]
    Backend(String),
}

#[derive(Serialize, Deserialize)]
struct BackendData {
    #[serde(rename = "VNI", default)]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: String,
}

fn key(name: &str) -> String {
    format!("{PREFIX}/{name}")
}

fn data_key(outer: Outer) -> String {
    key(match outer {
        Outer::V4 => "backend-data",
        Outer::V6 => "backend-v6-data",
    })
}

fn ip_key(outer: Outer) -> String {
    key(match outer {
        Outer::V4 => "public-ip",
        Outer::V6 => "public-ipv6",
    })
}

/// The address that an operator wants a node to be reached by, in place of its own.
pub fn overwrite(
    annotations: &BTreeMap<String, String>,
    outer: Outer,
) -> Result<Option<IpAddr>, Invalid> {
    let key = format!("{}-overwrite", ip_key(outer));
    annotations
        .get(&key)
        .map(|value| parse_ip(&key, value, outer))
        .transpose()
}

/// The annotations of a node with these endpoints; `None` takes one away.
pub fn encode(endpoints: &BTreeMap<Outer, Endpoint>) -> BTreeMap<String, Option<String>> {
    let mut annotations = BTreeMap::from([
        (key("backend-type"), Some(BACKEND_TYPE.to_owned())),
        (key("kube-subnet-manager"), Some("true".to_owned())),
    ]);
    for outer in Outer::ALL {
        let endpoint = endpoints.get(&outer);
        let data = endpoint.map(|endpoint| {
            // By hand, in Flannel's order of the fields.
            format!(
                "{{\"VNI\":{},\"VtepMAC\":\"{}\"}}",
                endpoint.vni, endpoint.mac
            )
        });
        annotations.insert(data_key(outer), data);
        annotations.insert(
            ip_key(outer),
            endpoint.map(|endpoint| endpoint.public_ip.to_string()),
        );
    }
    annotations
}

/// The annotations of a node that is in the overlay no more.
pub fn nothing() -> BTreeMap<String, Option<String>> {
    encode(&BTreeMap::new())
        .into_keys()
        .map(|key| (key, None))
        .collect()
}

/// A node's endpoints; none for a node that has not said anything yet.
pub fn decode(
    annotations: &BTreeMap<String, String>,
) -> Result<BTreeMap<Outer, Endpoint>, Invalid> {
    let mut endpoints = BTreeMap::new();
    if let Some(kind) = annotations.get(&key("backend-type"))
        && kind != BACKEND_TYPE
    {
        return Err(Invalid::Backend(kind.clone()));
    }
    for outer in Outer::ALL {
        let (data_key, ip_key) = (data_key(outer), ip_key(outer));
        let (Some(data), Some(ip)) = (annotations.get(&data_key), annotations.get(&ip_key)) else {
            continue;
        };
        // Flannel leaves "null" where it has no device of the family.
        if data == "null" || ip.is_empty() {
            continue;
        }
        let invalid = |reason: String| Invalid::Value {
            key: data_key.clone(),
            value: data.clone(),
            reason,
        };
        let parsed: BackendData =
            serde_json::from_str(data).map_err(|error| invalid(error.to_string()))?;
        let mac: MacAddress = parsed.mac.parse().map_err(|e| invalid(format!("{e}")))?;
        if mac.is_multicast() || mac.0 == [0; 6] {
            return Err(invalid(format!("{mac} is no interface's address")));
        }
        let public_ip = parse_ip(&ip_key, ip, outer)?;
        endpoints.insert(
            outer,
            Endpoint {
                public_ip,
                mac,
                vni: parsed.vni,
            },
        );
    }
    Ok(endpoints)
}

fn parse_ip(key: &str, value: &str, outer: Outer) -> Result<IpAddr, Invalid> {
    let invalid = |reason: &str| Invalid::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    let ip: IpAddr = value.parse().map_err(|_| invalid("no address"))?;
    if Outer::of(&ip) != outer {
        return Err(invalid("an address of the other family"));
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(invalid("not an address that a node can be reached by"));
    }
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (key(name), (*value).to_owned()))
            .collect()
    }

    fn endpoint(ip: &str, last: u8) -> Endpoint {
        let mac = MacAddress([2, 0, 0, 0, 0, last]);
        Endpoint {
            public_ip: ip.parse().unwrap(),
            mac,
            vni: 1,
        }
    }

    #[test]
    fn what_flannel_writes_is_read() {
        let read = decode(&map(&[
            ("backend-type", "vxlan"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#),
            ("backend-v6-data", "null"),
            ("public-ip", "192.0.2.1"),
            ("kube-subnet-manager", "true"),
        ]));
        assert_eq!(read, Ok([(Outer::V4, endpoint("192.0.2.1", 1))].into()));
        assert_eq!(decode(&BTreeMap::new()), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_is_written_reads_back() {
        let endpoints: BTreeMap<_, _> = [
            (Outer::V4, endpoint("192.0.2.1", 1)),
            (Outer::V6, endpoint("2001:db8::1", 2)),
        ]
        .into();
        let written = encode(&endpoints)
            .into_iter()
            .filter_map(|(k, v)| Some((k, v?)))
            .collect();
        assert_eq!(decode(&written), Ok(endpoints));
        let data = &written["flannel.alpha.coreos.com/backend-data"];
        assert_eq!(data, r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#);
    }

    #[test]
    fn nonsense_is_refused_with_its_key() {
        for (data, ip) in [
            ("{", "192.0.2.1"),
            (r#"{"VNI":1,"VtepMAC":"zz"}"#, "192.0.2.1"),
            (r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#, "192.0.2.1"),
            (r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}"#, "192.0.2.1"),
            (r#"{"VNI":-1,"VtepMAC":"02:00:00:00:00:01"}"#, "192.0.2.1"),
            (r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#, "2001:db8::1"),
            (r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#, "127.0.0.1"),
            (r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#, "somewhere"),
        ] {
            let error = decode(&map(&[("backend-data", data), ("public-ip", ip)])).unwrap_err();
            assert!(error.to_string().contains(PREFIX), "{error}");
        }
        let other = decode(&map(&[("backend-type", "host-gw")])).unwrap_err();
        assert_eq!(other, Invalid::Backend("host-gw".into()));
    }

    #[test]
    fn an_overwritten_address_is_read() {
        let annotations = map(&[("public-ip-overwrite", "203.0.113.1")]);
        assert_eq!(
            overwrite(&annotations, Outer::V4),
            Ok(Some("203.0.113.1".parse().unwrap()))
        );
        assert_eq!(overwrite(&annotations, Outer::V6), Ok(None));
        assert!(overwrite(&map(&[("public-ip-overwrite", "x")]), Outer::V4).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(data in ".{0,60}", ip in ".{0,30}") {
            let _ = decode(&map(&[("backend-data", &data), ("public-ip", &ip)]));
        }
    }
}
