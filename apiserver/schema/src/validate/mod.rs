//! The rules of the built-in kinds, with upstream's fields, reasons, texts and order.
//!
//! [`validate`] is pure: an object, what it replaces, and the faults. A rule is a function over
//! [`field::Node`]s, which know their place; there is a file for each subject. Where upstream
//! checks twice on an update, the faults are told twice, too: clients see every cause.
//!
//! Metadata is not judged here but where the server fills it in.

use serde_json::Value;

use crate::types::Gvk;

pub(crate) mod address;
mod apps;
mod autoscaling;
mod batch;
mod bundle;
mod certificates;
mod config;
mod cron;
mod devices;
mod diff;
mod discovery;
mod event;
pub mod field;
mod flow;
mod internal;
mod literal;
mod meta;
pub mod names;
mod networking;
mod node;
mod pod;
mod policies;
mod policy;
mod quota;
mod rbac;
mod resource;
mod service;
mod small;
mod storage;
mod volume;
mod webhook;

#[cfg(test)]
mod tests;

use field::{Errors, Node};

/// An object and what it replaces.
pub struct Change<'a> {
    /// As it is going to be.
    pub new: Node<'a>,
    /// As it is; absent on creation.
    pub old: Option<Node<'a>>,
    /// Empty for the object itself.
    pub subresource: &'a str,
}

impl Change<'_> {
    fn is_status(&self) -> bool {
        self.subresource == "status"
    }

    /// A field that an update may not change.
    fn immutable(&self, e: &mut Errors, field: &str) {
        if let Some(old) = &self.old {
            e.immutable(&self.new.get(field), &old.get(field));
        }
    }
}

type Rule = fn(&mut Errors, &Change<'_>);

fn rule(group: &str, kind: &str) -> Option<Rule> {
    let found: Rule = match (group, kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => pod::pod_template,
        ("", "Binding") => pod::binding,
        ("", "ReplicationController") => apps::replication_controller,
        ("", "Service") => service::service,
        ("", "ConfigMap") => config::config_map,
        ("", "Secret") => config::secret,
        ("", "Namespace") => node::namespace,
        ("", "Node") => node::node,
        ("", "LimitRange") => quota::limit_range,
        ("", "ResourceQuota") => quota::resource_quota,
        ("", "Endpoints") => discovery::endpoints,
        ("", "Event") => event::legacy,
        ("events.k8s.io", "Event") => event::event,
        ("", "PersistentVolume") => volume::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::claim,
        ("apps", "Deployment") => apps::deployment,
        ("apps", "ReplicaSet") => apps::replica_set,
        ("apps", "DaemonSet") => apps::daemon_set,
        ("apps", "StatefulSet") => apps::stateful_set,
        ("apps", "ControllerRevision") => apps::controller_revision,
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("rbac.authorization.k8s.io", _) => rbac::rule(kind)?,
        ("storage.k8s.io", _) => storage::rule(kind)?,
        ("discovery.k8s.io", "EndpointSlice") => discovery::endpoint_slice,
        ("networking.k8s.io", _) => networking::rule(kind)?,
        ("policy", "PodDisruptionBudget") => policy::disruption_budget,
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler,
        ("autoscaling", "Scale") => autoscaling::scale,
        ("scheduling.k8s.io", "PriorityClass") => small::priority_class,
        ("node.k8s.io", "RuntimeClass") => small::runtime_class,
        ("coordination.k8s.io", "Lease") => small::lease,
        ("apiregistration.k8s.io", "APIService") => small::api_service,
        ("certificates.k8s.io", "CertificateSigningRequest") => certificates::request,
        ("certificates.k8s.io", "ClusterTrustBundle") => bundle::cluster_trust_bundle,
        ("admissionregistration.k8s.io", _) if kind.ends_with("WebhookConfiguration") => {
            webhook::configuration
        }
        ("admissionregistration.k8s.io", _) => policies::rule(kind)?,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow::schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flow::priority_level,
        ("resource.k8s.io", _) => resource::rule(kind)?,
        _ => return None,
    };
    Some(found)
}

/// Whether a Service asks for addresses that make sense at all.
pub fn has_sound_addresses(service: &Value) -> bool {
    service::has_sound_addresses(service)
}

/// What is wrong with an object of a built-in kind beside its metadata.
pub fn validate(kind: &Gvk, subresource: &str, new: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Errors::default();
    if let Some(rule) = rule(&kind.group, &kind.kind) {
        let change = Change {
            new: Node::root(new),
            old: old.map(Node::root),
            subresource,
        };
        rule(&mut errors, &change);
    }
    errors
}
