//! Which strategy a resource has.

use super::{DEFAULT, Strategy, admission, certificates, core, definitions, pod, workload};
use crate::registry::names;

const GENERATION: Strategy = Strategy {
    generation: true,
    ..DEFAULT
};
/// With a generation, and PUT needs a resourceVersion.
const GUARDED: Strategy = Strategy {
    generation: true,
    unconditional_update: false,
    ..DEFAULT
};
const CONDITIONAL: Strategy = Strategy {
    unconditional_update: false,
    ..DEFAULT
};
const RETURNS: Strategy = Strategy {
    returns_deleted: true,
    ..DEFAULT
};

static PLAIN: Strategy = DEFAULT;
static COUNTED: Strategy = GENERATION;
static COUNTED_GUARDED: Strategy = GUARDED;
static CONDITIONAL_ONLY: Strategy = CONDITIONAL;
static RETURNS_DELETED: Strategy = RETURNS;
static POD: Strategy = Strategy {
    generation: true,
    graceful: true,
    returns_deleted: true,
    prepare_create: pod::prepare_create,
    prepare_update: pod::prepare_update,
    prepare_status: pod::prepare_status,
    ..DEFAULT
};
static POD_TEMPLATE: Strategy = Strategy {
    generation: true,
    returns_deleted: true,
    ..DEFAULT
};
static SERVICE: Strategy = Strategy {
    returns_deleted: true,
    name_faults: names::label_faults,
    create_on_update: false,
    ..DEFAULT
};
static NAMESPACE: Strategy = Strategy {
    name_faults: names::label_faults,
    prepare_create: core::create_namespace,
    prepare_update: core::update_namespace,
    ..DEFAULT
};
static NODE: Strategy = Strategy {
    keeps_status: true,
    prepare_create: core::create_node,
    ..DEFAULT
};
static VOLUME: Strategy = Strategy {
    returns_deleted: true,
    prepare_create: core::create_volume,
    prepare_status: core::volume_status,
    ..DEFAULT
};
static CLAIM: Strategy = Strategy {
    returns_deleted: true,
    prepare_create: core::create_claim,
    ..DEFAULT
};
static DEPLOYMENT: Strategy = Strategy {
    generation: true,
    counts_annotations: true,
    ..DEFAULT
};
static DAEMON_SET: Strategy = Strategy {
    generation: true,
    prepare_create: workload::create_daemon_set,
    prepare_update: workload::update_daemon_set,
    ..DEFAULT
};
static DEFINITION: Strategy = Strategy {
    generation: true,
    unconditional_update: false,
    prepare_create: definitions::create,
    prepare_update: definitions::update,
    validate: crate::registry::custom::definition::validate,
    ..DEFAULT
};
static VALIDATING_POLICY: Strategy = Strategy {
    validate: admission::validating_policy,
    ..GUARDED
};
static MUTATING_POLICY: Strategy = Strategy {
    validate: admission::mutating_policy,
    ..GUARDED
};
static WEBHOOKS: Strategy = Strategy {
    validate: admission::webhooks,
    ..GUARDED
};
static JOB: Strategy = Strategy {
    generation: true,
    prepare_create: workload::create_job,
    ..DEFAULT
};
static CERTIFICATE_REQUEST: Strategy = Strategy {
    untracked: true,
    name_faults: names::path_segment_faults,
    prepare_create: certificates::create,
    prepare_status: certificates::update_status,
    ..DEFAULT
};
static RBAC: Strategy = Strategy {
    name_faults: names::path_segment_faults,
    create_on_update: true,
    ..DEFAULT
};
/// Named `VERSION.GROUP`, where the core group's name is empty.
static API_SERVICE: Strategy = Strategy {
    name_faults: names::path_segment_faults,
    ..DEFAULT
};
/// Named by the address, as it is spelled canonically.
static ADDRESS: Strategy = Strategy {
    name_faults: names::canonical_ip_faults,
    ..DEFAULT
};
static LEASE: Strategy = Strategy {
    create_on_update: true,
    unconditional_update: false,
    ..DEFAULT
};
static CREATE_ON_UPDATE: Strategy = Strategy {
    create_on_update: true,
    ..DEFAULT
};
static REPLICATION_CONTROLLER: Strategy = Strategy {
    generation: true,
    orphans: true,
    ..DEFAULT
};
static STATEFUL_SET: Strategy = Strategy {
    name_faults: names::label_faults,
    ..GENERATION
};
static DISRUPTION_BUDGET: Strategy = Strategy {
    name_faults: names::path_segment_faults,
    ..GUARDED
};
static CUSTOM: Strategy = GUARDED;

/// The strategy of a built-in resource; of a custom one when `custom`.
pub fn strategy_for(group: &str, resource: &str, custom: bool) -> &'static Strategy {
    if custom {
        return &CUSTOM;
    }
    match (group, resource) {
        ("", "pods") => &POD,
        ("apiregistration.k8s.io", "apiservices") => &API_SERVICE,
        ("", "podtemplates") => &POD_TEMPLATE,
        ("", "services") => &SERVICE,
        ("", "namespaces") => &NAMESPACE,
        ("", "replicationcontrollers") => &REPLICATION_CONTROLLER,
        ("", "nodes") => &NODE,
        ("", "persistentvolumes") => &VOLUME,
        ("", "persistentvolumeclaims") => &CLAIM,
        ("", "serviceaccounts" | "resourcequotas") => &RETURNS_DELETED,
        ("", "endpoints" | "events" | "limitranges") | ("events.k8s.io", "events") => {
            &CREATE_ON_UPDATE
        }
        ("rbac.authorization.k8s.io", _) => &RBAC,
        ("coordination.k8s.io", "leases") => &LEASE,
        ("apps", "controllerrevisions") => &PLAIN,
        ("apps", "deployments") => &DEPLOYMENT,
        ("apps", "daemonsets") => &DAEMON_SET,
        ("apps", "statefulsets") => &STATEFUL_SET,
        ("batch", "jobs") => &JOB,
        ("certificates.k8s.io", "certificatesigningrequests") => &CERTIFICATE_REQUEST,
        ("apps" | "batch", _) => &COUNTED,
        ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses") => &COUNTED,
        ("networking.k8s.io", "ipaddresses") => &ADDRESS,
        ("discovery.k8s.io", "endpointslices") => &COUNTED,
        ("policy", "poddisruptionbudgets") => &DISRUPTION_BUDGET,
        ("resource.k8s.io", "resourceslices" | "deviceclasses") => &COUNTED,
        ("scheduling.k8s.io", "priorityclasses") => &COUNTED,
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => &WEBHOOKS,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &MUTATING_POLICY,
        ("admissionregistration.k8s.io", _) => &COUNTED_GUARDED,
        ("apiextensions.k8s.io", _) => &DEFINITION,
        ("flowcontrol.apiserver.k8s.io", _) => &COUNTED,
        ("storage.k8s.io", "csidrivers" | "csinodes" | "volumeattachments") => &CONDITIONAL_ONLY,
        (
            "storage.k8s.io",
            "storageclasses" | "volumeattributesclasses" | "csistoragecapacities",
        ) => &RETURNS_DELETED,
        ("apiregistration.k8s.io" | "node.k8s.io", _) => &CONDITIONAL_ONLY,
        _ => &PLAIN,
    }
}
