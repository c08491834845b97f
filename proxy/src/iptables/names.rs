//! Names of chains, as a user of kube-proxy knows them.

use sha2::{Digest, Sha256};

use crate::model::{Backend, PortId, Protocol};

/// The chains that every table of ours has, in the order in which they are written.
pub(crate) const SERVICES: &str = "KUBE-SERVICES";
pub(crate) const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub(crate) const NODEPORTS: &str = "KUBE-NODEPORTS";
pub(crate) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(crate) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(crate) const FORWARD: &str = "KUBE-FORWARD";
pub(crate) const FIREWALL: &str = "KUBE-FIREWALL";
pub(crate) const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// Nothing jumps here: where it is gone, somebody flushed the table.
pub(crate) const CANARY: &str = "KUBE-PROXY-CANARY";

/// What the chains of a Service's port start with.
pub(crate) const PER_SERVICE: [&str; 5] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-FW-",
    "KUBE-SEP-",
];

/// Sixteen letters that stand for a text: names of chains are short.
fn digest(parts: &[&str]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part.as_bytes()));
    let hash = hasher.finalize();
    // Ten bytes are sixteen groups of five bits.
    let number = hash[..10]
        .iter()
        .fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    (0..16)
        .rev()
        .map(|i| char::from(LETTERS[(number >> (5 * i)) as usize & 31]))
        .collect()
}

/// The names of one Service port's chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    port: String,
    protocol: Protocol,
    digest: String,
}

impl Names {
    pub(crate) fn of(id: &PortId, protocol: Protocol) -> Self {
        let port = id.to_string();
        let digest = digest(&[&port, protocol.name()]);
        Self {
            port,
            protocol,
            digest,
        }
    }

    /// Back ends under the cluster policy.
    pub(crate) fn cluster(&self) -> String {
        format!("KUBE-SVC-{}", self.digest)
    }

    /// Back ends under the local policy.
    pub(crate) fn local(&self) -> String {
        format!("KUBE-SVL-{}", self.digest)
    }

    /// Where traffic from outside enters.
    pub(crate) fn external(&self) -> String {
        format!("KUBE-EXT-{}", self.digest)
    }

    /// The source ranges of a load balancer.
    pub(crate) fn firewall(&self) -> String {
        format!("KUBE-FW-{}", self.digest)
    }

    /// One back end.
    pub(crate) fn endpoint(&self, backend: &Backend) -> String {
        let target = socket_text(backend);
        format!(
            "KUBE-SEP-{}",
            digest(&[&self.port, self.protocol.name(), &target])
        )
    }
}

/// `ADDRESS:PORT`, with brackets for IPv6.
pub(crate) fn socket_text(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.address, backend.port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceKey;

    #[test]
    fn chain_names_are_those_of_kube_proxy() {
        // As documented for `default/kubernetes:https`, whose chain is the same everywhere.
        let id = PortId {
            service: ServiceKey::new("default", "kubernetes"),
            port: "https".into(),
        };
        let names = Names::of(&id, Protocol::Tcp);
        assert_eq!(names.cluster(), "KUBE-SVC-NPX46M4PTMTKRN6Y");
    }
}
