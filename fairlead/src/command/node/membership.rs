//! From a machine to a member of the cluster.

use anyhow::{Context, bail};
use kubelet::bootstrap::{self, Join, Member, NodeNames};

use super::{Identity, machine};
use crate::cli::NodeSettings;
use crate::command::token::ca_hash;

/// What the command that the server printed says.
pub(super) struct Invitation {
    pub(super) server: String,
    pub(super) token: Option<String>,
    pub(super) ca_cert_hash: Option<String>,
}

/// Takes up an earlier membership, or joins.
pub(super) async fn obtain(
    invitation: Invitation,
    options: &NodeSettings,
    identity: &Identity,
) -> anyhow::Result<Member> {
    let node = NodeNames {
        name: identity.name.clone(),
        ips: identity.addresses.clone(),
        state_dir: options.node_dir.clone(),
    };
    if let Some(member) = bootstrap::resume(&node).await? {
        check_cluster(invitation.ca_cert_hash.as_deref(), options, &member)?;
        return Ok(member);
    }
    let (Some(token), Some(ca_cert_hash)) = (invitation.token, invitation.ca_cert_hash) else {
        bail!(
            "a first join needs --token and --ca-cert-hash; `fairlead token create` on the \
             server prints the whole command"
        );
    };
    let join = Join {
        server: invitation.server,
        token,
        ca_cert_hash,
        node,
    };
    let member = bootstrap::join(&join).await?;
    machine::require_runtime(&options.container_runtime)?;
    Ok(member)
}

/// Credentials of another cluster are not overwritten: somebody may still need them.
fn check_cluster(
    wanted: Option<&str>,
    options: &NodeSettings,
    member: &Member,
) -> anyhow::Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let found = ca_hash(member.ca.as_bytes()).context("the node's CA is damaged")?;
    if found != wanted {
        bail!(
            "{} belongs to another cluster (its CA is {found}); remove it, or name another \
             directory with --node-dir",
            options.node_dir.display()
        );
    }
    Ok(())
}
