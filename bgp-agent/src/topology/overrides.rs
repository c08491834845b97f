//! The BGPConfiguration of a single node, `node.NAME`, over the one for all.

use std::borrow::Cow;

use super::*;

use crate::resources::of_node;

impl Inputs {
    /// The inputs with the node's own settings in their place. Those that nodes have to agree on
    /// stay as they are, and are told of.
    pub(super) fn with_overrides(&self, problems: &mut Problems) -> Cow<'_, Self> {
        let Some(own) = &self.own_configuration else {
            return Cow::Borrowed(self);
        };
        let common = common_to_all(own);
        if !common.is_empty() {
            let what = format!(
                "{}: only the configuration named {:?} can say that, since nodes have to agree",
                common.join(", "),
                crate::resources::DEFAULT
            );
            problems.insert((Kind::Configuration, of_node(&self.own_name)), what);
        }
        let mut inputs = self.clone();
        overlay(&mut inputs.configuration, own.clone());
        Cow::Owned(inputs)
    }
}

/// What is given and cannot be of one node alone. As Calico has it; the password and the
/// reflectors are settings of the mesh.
fn common_to_all(own: &BgpConfigurationSpec) -> Vec<&'static str> {
    let given = [
        ("asNumber", own.as_number.is_some()),
        (
            "nodeToNodeMeshEnabled",
            own.node_to_node_mesh_enabled.is_some(),
        ),
        ("nodeMeshPassword", own.node_mesh_password.is_some()),
        ("routeReflectors", own.route_reflectors.is_some()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given);
    given.map(|(name, _)| name).collect()
}

/// What is given takes the place of what was there.
fn overlay(base: &mut BgpConfigurationSpec, own: BgpConfigurationSpec) {
    fn one<T>(base: &mut Option<T>, own: Option<T>) {
        if own.is_some() {
            *base = own;
        }
    }
    fn list<T>(base: &mut Vec<T>, own: Vec<T>) {
        if !own.is_empty() {
            *base = own;
        }
    }
    one(
        &mut base.node_mesh_max_restart_time,
        own.node_mesh_max_restart_time,
    );
    one(&mut base.bfd, own.bfd);
    one(&mut base.hold_time, own.hold_time);
    one(&mut base.max_paths, own.max_paths);
    one(
        &mut base.service_load_balancer_aggregation,
        own.service_load_balancer_aggregation,
    );
    list(&mut base.service_cluster_ips, own.service_cluster_ips);
    list(&mut base.service_external_ips, own.service_external_ips);
    list(
        &mut base.service_load_balancer_ips,
        own.service_load_balancer_ips,
    );
    // Names that a node defines stand beside those for all.
    base.communities
        .retain(|named| own.communities.iter().all(|other| other.name != named.name));
    base.communities.extend(own.communities);
    list(&mut base.prefix_advertisements, own.prefix_advertisements);
}
