//! The self-test of a node's pod network: what is measured, and what it means in plain words.
//!
//! `probe` asks the kernel and sends packets; [`diagnose`] is pure.

mod diagnose;
mod probe;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use diagnose::diagnose;
pub use probe::{Probe, measure};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Fine,
    Warning,
    Fault,
}

/// One thing that was found out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub level: Level,
    /// A node's name, or `this node`.
    pub about: String,
    pub text: String,
}

/// What is known of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    pub node: String,
    /// The Node has ranges of pod addresses.
    pub ranges: Vec<IpNetwork>,
    /// The families that are not forwarded.
    pub not_forwarding: Vec<&'static str>,
    /// The network configuration of the container runtime, and the MTU of pods in it.
    pub conflist: PathBuf,
    pub conflist_found: bool,
    pub pod_mtu: Option<u32>,
    /// Tunnel devices that compute checksums in hardware on a kernel that does it wrong.
    pub bad_offload: Vec<String>,
    /// Sockets that the plugin needs and where nobody answers.
    pub silent_sockets: Vec<PathBuf>,
    /// Why the plugin cannot be run.
    pub plugin: Option<String>,
}

/// What was measured towards another node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub node: String,
    /// How its pods are reached; nothing of a node that has no range yet.
    pub paths: Vec<Path>,
}

/// The way to one of a node's ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub range: IpNetwork,
    pub way: Way,
    /// The node's own address: under the tunnel, or the next hop.
    pub outer: Option<Carried>,
    /// The end of the tunnel, addressed through it.
    pub inner: Option<Carried>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// There is no route, or a blackhole.
    None,
    /// Through the default route, or whatever else that is not for pods.
    Stray {
        device: String,
    },
    Tunnel {
        device: String,
        overhead: u32,
    },
    Plain {
        device: String,
    },
}

/// What a path to an address carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub address: IpAddr,
    /// What the interface takes.
    pub mtu: u32,
    /// The largest packet that was answered; none where even a small one was not.
    pub largest: Option<u32>,
}

/// The largest size for which `fits` says yes, between a small one and `most`; none when not
/// even the small one fits. As few questions as that takes.
pub fn largest<E>(
    most: u32,
    mut fits: impl FnMut(u32) -> Result<bool, E>,
) -> Result<Option<u32>, E> {
    const SMALL: u32 = 128;
    if !fits(SMALL)? {
        return Ok(None);
    }
    if most <= SMALL || fits(most)? {
        return Ok(Some(most.max(SMALL)));
    }
    let (mut low, mut high) = (SMALL, most);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_is_found_with_few_questions() {
        for (most, carries, expected) in [
            (1500, 1500, Some(1500)),
            (1500, 9000, Some(1500)),
            (1500, 1437, Some(1437)),
            (9000, 1500, Some(1500)),
            (1500, 128, Some(128)),
            (1500, 127, None),
            (100, 9000, Some(128)),
        ] {
            let mut questions = 0;
            let found = largest::<()>(most, |size| {
                questions += 1;
                Ok(size <= carries)
            });
            assert_eq!(found, Ok(expected), "{most} {carries}");
            assert!(questions < 18, "{questions}");
        }
    }
}
