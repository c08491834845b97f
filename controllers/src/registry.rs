//! The table of controllers: upstream's names, and what starts each.

use crate::framework::Context;

/// One controller of the table.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// The name that older releases of kube-controller-manager used.
    pub(crate) alias: &'static str,
    pub(crate) on_by_default: bool,
    pub(crate) start: fn(&Context),
}

const fn on(name: &'static str, alias: &'static str, start: fn(&Context)) -> Entry {
    Entry {
        name,
        alias,
        on_by_default: true,
        start,
    }
}

#[rustfmt::skip]
pub(crate) const CONTROLLERS: &[Entry] = &[
    on("disruption-controller", "disruption", crate::disruption::start),
    on("resourcequota-controller", "resourcequota", crate::quota::start),
    on("clusterrole-aggregation-controller", "clusterrole-aggregation", crate::clusterrole::start),
    on("token-cleaner-controller", "tokencleaner", crate::bootstraptokens::start),
    on("ttl-controller", "ttl", crate::nodettl::start),
    on("service-cidr-controller", "service-cidr", crate::servicecidr::start),
    on("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status", crate::admissionpolicy::start),
    on("persistentvolume-binder-controller", "persistentvolume-binder", crate::volumes::binder::start),
    on("persistentvolume-attach-detach-controller", "attachdetach", crate::volumes::attach::start),
    on("persistentvolume-expander-controller", "persistentvolume-expander", crate::volumes::expand::start),
    on("persistentvolumeclaim-protection-controller", "pvc-protection", crate::volumes::protection::start_claims),
    on("persistentvolume-protection-controller", "pv-protection", crate::volumes::protection::start_volumes),
    on("volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", crate::volumes::protection::start_classes),
    on("ephemeral-volume-controller", "ephemeral-volume", crate::volumes::ephemeral::start),
    on("resourceclaim-controller", "resource-claim-controller", crate::resourceclaim::start),
    on("cronjob-controller", "cronjob", crate::cronjob::start),
    on("statefulset-controller", "statefulset", crate::statefulset::start),
    on("job-controller", "job", crate::job::start),
    on("ttl-after-finished-controller", "ttl-after-finished", crate::job::ttl::start),
    on("daemonset-controller", "daemonset", crate::daemonset::start),
    on("node-lifecycle-controller", "nodelifecycle", crate::nodelifecycle::start),
    on("taint-eviction-controller", "taint-eviction", crate::tainteviction::start),
    on("garbage-collector-controller", "garbagecollector", crate::garbage::start),
    on("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", crate::podautoscaler::start),
    on("pod-garbage-collector-controller", "podgc", crate::podgc::start),
    on("endpointslice-controller", "endpointslice", crate::endpointslice::start),
    on("endpointslice-mirroring-controller", "endpointslicemirroring", crate::endpointslice::mirror::start),
    on("endpoints-controller", "endpoint", crate::endpoints::start),
    on("serviceaccount-controller", "serviceaccount", crate::serviceaccount::start_accounts),
    on("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", crate::serviceaccount::start_root_ca),
    on("serviceaccount-token-controller", "serviceaccount-token", crate::serviceaccount::legacy_tokens::start),
    on("namespace-controller", "namespace", crate::namespace::start),
    on("node-ipam-controller", "nodeipam", crate::nodeipam::start),
    on("certificatesigningrequest-approving-controller", "csrapproving", crate::certificates::start_approver),
    on("certificatesigningrequest-signing-controller", "csrsigning", crate::certificates::start_signer),
    on("certificatesigningrequest-cleaner-controller", "csrcleaner", crate::certificates::start_cleaner),
    on("deployment-controller", "deployment", crate::deployment::start),
    on("replicaset-controller", "replicaset", crate::replicaset::start_replicasets),
    on("replicationcontroller-controller", "replicationcontroller", crate::replicaset::start_replicationcontrollers),
];

/// Names of upstream that a list may contain although nothing of that name runs here.
const ACCEPTED: &[(&str, &str)] = &[
    ("bootstrap-signer-controller", "bootstrapsigner"),
    ("cloud-node-lifecycle-controller", "cloud-node-lifecycle"),
    // Nothing makes the Secrets that it would clean: tokens are made on request, for pods.
    (
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
    ),
    ("node-route-controller", "route"),
    (
        "device-taint-eviction-controller",
        "device-taint-eviction-controller",
    ),
    ("selinux-warning-controller", "selinux-warning-controller"),
    (
        "podcertificaterequest-cleaner-controller",
        "podcertificaterequest-cleaner-controller",
    ),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        "kube-apiserver-serving-clustertrustbundle-publisher",
    ),
    ("service-lb-controller", "service"),
    (
        "storage-version-migrator-controller",
        "storage-version-migrator",
    ),
    (
        "storageversion-garbage-collector-controller",
        "storage-version-gc",
    ),
];

/// The full name of a controller given by its name or alias.
pub(crate) fn canonical(name: &str) -> Option<&'static str> {
    let ours = CONTROLLERS.iter().map(|entry| (entry.name, entry.alias));
    ours.chain(ACCEPTED.iter().copied())
        .find(|(full, alias)| *full == name || *alias == name)
        .map(|(full, _)| full)
}

/// Every controller that runs here.
pub(crate) fn names() -> Vec<&'static str> {
    CONTROLLERS.iter().map(|entry| entry.name).collect()
}
