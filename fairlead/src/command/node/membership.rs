//! From a machine to a member of the cluster.

use anyhow::{Context, bail};
use kubelet::bootstrap::{self, Join as Invitation, Member, NodeNames};

use super::{Identity, machine};
use crate::cli::Join;
use crate::command::token::ca_hash;

/// Takes up an earlier membership, or joins.
pub(super) async fn obtain(options: &Join, identity: &Identity) -> anyhow::Result<Member> {
    let node = NodeNames {
        name: identity.name.clone(),
        ips: identity.addresses.clone(),
        state_dir: options.node.node_dir.clone(),
    };
    if let Some(member) = bootstrap::resume(&node).await? {
        check_cluster(options, &member)?;
        return Ok(member);
    }
    let (Some(token), Some(hash)) = (&options.token, &options.ca_cert_hash) else {
        bail!(
            "a first join needs --token and --ca-cert-hash; `fairlead token create` on the \
             server prints the whole command"
        );
    };
    let invitation = Invitation {
        server: options.server.clone(),
        token: token.clone(),
        ca_cert_hash: hash.clone(),
        node,
    };
    let member = bootstrap::join(&invitation).await?;
    machine::require_runtime(&options.node.container_runtime)?;
    Ok(member)
}

/// Credentials of another cluster are not overwritten: somebody may still need them.
fn check_cluster(options: &Join, member: &Member) -> anyhow::Result<()> {
    let Some(wanted) = &options.ca_cert_hash else {
        return Ok(());
    };
    let found = ca_hash(member.ca.as_bytes()).context("the node's CA is damaged")?;
    if found != *wanted {
        bail!(
            "{} belongs to another cluster (its CA is {found}); remove it, or name another \
             directory with --node-dir",
            options.node.node_dir.display()
        );
    }
    Ok(())
}
