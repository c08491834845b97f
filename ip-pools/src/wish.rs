//! What a pod asks for, by the annotations that Calico's users know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::selector::Labels;

/// Names or ranges of pools, as a JSON list; on the Pod, or on its Namespace for all of its pods.
pub const POOLS_V4: &str = "cni.projectcalico.org/ipv4pools";
pub const POOLS_V6: &str = "cni.projectcalico.org/ipv6pools";
/// Addresses, as a JSON list; on the Pod.
pub const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";

/// A pod's wish; nothing of it is nothing special.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// By name or range.
    pub pools_v4: Option<Vec<String>>,
    pub pools_v6: Option<Vec<String>>,
    /// One for each family at most.
    pub addresses: Vec<IpAddr>,
    pub namespace: Labels,
}

/// An annotation that cannot be read. The pod does not start before it is mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWish {
    #[error("the annotation {name}: {text:?} is no JSON list of strings such as [\"a\"]")]
    NoList { name: &'static str, text: String },
    #[error("the annotation {ADDRESSES}: {0:?} is no address")]
    NoAddress(String),
    #[error("the annotation {ADDRESSES}: a pod has one address of each family, {0} is a second")]
    Second(IpAddr),
}

type Annotations = BTreeMap<String, String>;

fn list(from: &Annotations, name: &'static str) -> Result<Option<Vec<String>>, InvalidWish> {
    let Some(text) = from.get(name) else {
        return Ok(None);
    };
    let parsed = serde_json::from_str(text);
    parsed.map(Some).map_err(|_| InvalidWish::NoList {
        name,
        text: text.clone(),
    })
}

impl Wish {
    /// What the annotations say; the Pod's own come before its Namespace's.
    pub fn read(
        pod: &Annotations,
        namespace: &Annotations,
        labels: Labels,
    ) -> Result<Self, InvalidWish> {
        let pools = |name| match list(pod, name)? {
            Some(own) => Ok(Some(own)),
            None => list(namespace, name),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in list(pod, ADDRESSES)?.unwrap_or_default() {
            let address: IpAddr = text.parse().map_err(|_| InvalidWish::NoAddress(text))?;
            if addresses
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                return Err(InvalidWish::Second(address));
            }
            addresses.push(address);
        }
        Ok(Self {
            pools_v4: pools(POOLS_V4)?,
            pools_v6: pools(POOLS_V6)?,
            addresses,
            namespace: labels,
        })
    }

    /// The pools that were asked for in a family.
    pub fn pools(&self, ipv4: bool) -> Option<&[String]> {
        let asked = if ipv4 { &self.pools_v4 } else { &self.pools_v6 };
        asked.as_deref()
    }

    /// The address that was asked for in a family.
    pub fn address(&self, ipv4: bool) -> Option<IpAddr> {
        let mut of_family = self.addresses.iter().filter(|own| own.is_ipv4() == ipv4);
        of_family.next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn a_pods_own_annotations_come_before_its_namespaces() {
        let namespace = annotations(&[(POOLS_V4, r#"["a","b"]"#), (POOLS_V6, r#"["c"]"#)]);
        let pod = annotations(&[
            (POOLS_V4, r#"["10.1.0.0/16"]"#),
            (ADDRESSES, r#"["10.1.0.7","fd00::7"]"#),
        ]);
        let wish = Wish::read(&pod, &namespace, Labels::new()).unwrap();
        assert_eq!(wish.pools(true).unwrap(), ["10.1.0.0/16"]);
        assert_eq!(wish.pools(false).unwrap(), ["c"]);
        assert_eq!(wish.address(false), Some("fd00::7".parse().unwrap()));
        let nothing = Wish::read(&annotations(&[]), &annotations(&[]), Labels::new());
        assert_eq!(nothing, Ok(Wish::default()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (name, text) in [
            (POOLS_V4, "a"),
            (POOLS_V6, r#"{"a":1}"#),
            (ADDRESSES, "[7]"),
            (ADDRESSES, r#"["10.0.0.300"]"#),
            (ADDRESSES, r#"["10.0.0.1","10.0.0.2"]"#),
        ] {
            let error = Wish::read(
                &annotations(&[(name, text)]),
                &annotations(&[]),
                Labels::new(),
            );
            assert!(error.unwrap_err().to_string().contains(name), "{text}");
        }
    }
}
