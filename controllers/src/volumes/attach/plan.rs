//! Which nodes a volume is to be attached to, and which it may leave. Pure.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

/// A volume of a storage plugin, as far as attaching goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Whether the plugin wants volumes attached at all.
    pub(super) attaches: bool,
    /// Whether several nodes may have it at once.
    pub(super) shared: bool,
}

impl Volume {
    /// The name of the VolumeAttachment, which kubelets compute as well.
    pub(super) fn attachment(&self, node: &str) -> String {
        let mut digest = Sha256::new();
        for part in [&self.handle, &self.driver, node] {
            digest.update(part);
        }
        let mut name = "csi-".to_owned();
        for byte in digest.finalize() {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }

    /// The volume's name in the status of nodes.
    pub(super) fn on_nodes(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }
}

/// An attachment that the API has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) name: String,
    pub(super) node: String,
    /// It is being deleted: the plugin still has to let go.
    pub(super) going: bool,
}

/// Whether a node can do without a volume that none of its pods wants any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Free,
    /// Its kubelet says that it is mounted.
    Mounted,
}

/// What is to be done about a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    Attach {
        node: String,
    },
    Detach {
        name: String,
        node: String,
    },
    /// Only when the kubelet has let go, or cannot be asked any more.
    Await {
        node: String,
    },
    /// The pods of this node wait until the volume has left another one.
    Refuse {
        node: String,
    },
}

/// `wanted` are the nodes with pods that use the volume.
pub(super) fn plan(
    volume: &Volume,
    wanted: &BTreeSet<String>,
    attachments: &[Attachment],
    hold: impl Fn(&str) -> Hold,
) -> Vec<Op> {
    let mut ops = Vec::new();
    let none = BTreeSet::new();
    let wanted = if volume.attaches { wanted } else { &none };
    // Attachments with other names are somebody else's.
    let ours = attachments
        .iter()
        .filter(|attachment| attachment.name == volume.attachment(&attachment.node));
    for attachment in ours.filter(|a| !a.going && !wanted.contains(&a.node)) {
        let node = attachment.node.clone();
        ops.push(match hold(&node) {
            Hold::Free => Op::Detach {
                name: attachment.name.clone(),
                node,
            },
            Hold::Mounted => Op::Await { node },
        });
    }
    let mut taken: BTreeSet<&str> = attachments.iter().map(|a| a.node.as_str()).collect();
    for node in wanted {
        if taken.contains(node.as_str()) {
            continue;
        }
        if volume.shared || taken.is_empty() {
            taken.insert(node);
            ops.push(Op::Attach { node: node.clone() });
        } else {
            ops.push(Op::Refuse { node: node.clone() });
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(shared: bool) -> Volume {
        Volume {
            driver: "d".into(),
            handle: "h".into(),
            attaches: true,
            shared,
        }
    }

    fn attached(node: &str, going: bool) -> Attachment {
        Attachment {
            name: volume(false).attachment(node),
            node: node.to_owned(),
            going,
        }
    }

    /// `+n` attach, `-n` detach, `?n` await, `!n` refuse.
    fn planned(volume: &Volume, wanted: &[&str], has: &[Attachment], mounted: &[&str]) -> String {
        let wanted = wanted.iter().map(|node| (*node).to_owned()).collect();
        let hold = |node: &str| match mounted.contains(&node) {
            true => Hold::Mounted,
            false => Hold::Free,
        };
        let short = |op: Op| match op {
            Op::Attach { node } => format!("+{node}"),
            Op::Detach { node, .. } => format!("-{node}"),
            Op::Await { node } => format!("?{node}"),
            Op::Refuse { node } => format!("!{node}"),
        };
        let ops = plan(volume, &wanted, has, hold).into_iter().map(short);
        ops.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_volume_follows_the_pods_that_use_it() {
        let (one, many) = (volume(false), volume(true));
        let a = || attached("a", false);
        assert_eq!(planned(&one, &["a"], &[], &[]), "+a");
        assert_eq!(planned(&one, &["a"], &[a()], &["a"]), "");
        assert_eq!(planned(&one, &[], &[a()], &["a"]), "?a");
        assert_eq!(planned(&one, &[], &[a()], &[]), "-a");
        // One node at a time, until the other has really let go.
        assert_eq!(planned(&one, &["a", "b"], &[], &[]), "+a !b");
        assert_eq!(planned(&one, &["b"], &[a()], &[]), "-a !b");
        let going = attached("a", true);
        assert_eq!(
            planned(&one, &["b"], std::slice::from_ref(&going), &[]),
            "!b"
        );
        assert_eq!(planned(&one, &["a"], &[going], &[]), "");
        assert_eq!(planned(&many, &["a", "b"], &[a()], &[]), "+b");
    }

    #[test]
    fn what_others_attached_and_plugins_that_do_not_attach_are_left_alone() {
        let foreign = Attachment {
            name: "of-a-test".into(),
            ..attached("a", false)
        };
        assert_eq!(planned(&volume(false), &[], &[foreign], &[]), "");
        let direct = Volume {
            attaches: false,
            ..volume(false)
        };
        assert_eq!(planned(&direct, &["a"], &[], &[]), "");
        assert_eq!(planned(&direct, &["a"], &[attached("a", false)], &[]), "-a");
    }
}
