//! Pods and pod templates.

use std::collections::BTreeMap;

use serde_json::Value;

use super::address::check_ip;
use super::field::{Errors, Node, Path};
use super::{Change, meta, names};

mod annotations;
mod container;
mod environment;
mod mount;
mod probe;
mod projected;
pub(super) mod resources;
pub(super) mod scheduling;
mod security;
mod status;
mod update;
pub(super) mod volume;
mod windows;

const ONLY_LINUX: &str = "linux";
const WINDOWS: &str = "windows";

/// What the parts of a specification know of the whole.
pub(super) struct Scope<'a> {
    spec: Node<'a>,
    /// A pod itself, not a template.
    is_pod: bool,
    volumes: BTreeMap<&'a str, Node<'a>>,
    claims: Vec<&'a str>,
    grace: Option<i64>,
    host_users: bool,
}

impl<'a> Scope<'a> {
    fn restart_policy(&self) -> &'a str {
        self.spec.value["restartPolicy"]
            .as_str()
            .unwrap_or_default()
    }

    fn host_network(&self) -> bool {
        self.spec.value["hostNetwork"] == true
    }
}

/// Pods, on creation and update of whichever part.
pub(super) fn pod(e: &mut Errors, change: &Change<'_>) {
    match (&change.old, change.subresource) {
        (None, _) => create(e, &change.new),
        (Some(old), "status") => status::update(e, &change.new, old),
        (Some(old), "ephemeralcontainers") => update::ephemeral(e, &change.new, old),
        (Some(old), "resize") => update::resize(e, &change.new, old),
        (Some(old), _) => update::update(e, &change.new, old),
    }
}

fn create(e: &mut Errors, pod: &Node<'_>) {
    whole(e, pod);
    let spec = pod.get("spec");
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        e.forbidden(&ephemeral, "cannot be set on create");
    }
    let node = spec.get("nodeName");
    if !node.is_empty() && !spec.get("schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        e.forbidden(&node, why);
    }
    annotations::match_fields(e, pod.value, &spec);
}

/// The rules that creation and update share.
fn whole(e: &mut Errors, pod: &Node<'_>) {
    let spec = pod.get("spec");
    annotations::check(e, &pod.get("metadata.annotations"), &spec);
    specification(e, &spec, Some(pod.value));
    if spec.get("serviceAccountName").is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected.sources").items() {
                let token = source.get("serviceAccountToken");
                if token.is_set() {
                    e.forbidden(
                        &token,
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            trimmed_image(e, &container);
        }
    }
}

fn trimmed_image(e: &mut Errors, container: &Node<'_>) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        e.bad(&image, "must not have leading or trailing whitespace");
    }
}

/// A template of pods in some other kind.
pub(super) fn template(e: &mut Errors, template: &Node<'_>) {
    let metadata = template.get("metadata");
    let spec = template.get("spec");
    // Upstream names these fields as if they stood in the template itself.
    let at = |name: &str| Node::new(metadata.get(name).value, template.path.child(name));
    meta::labels(e, &at("labels"));
    meta::annotations(e, &at("annotations"));
    annotations::check(e, &at("annotations"), &spec);
    specification(e, &spec, None);
    annotations::match_fields(e, template.value, &spec);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        e.forbidden(
            &ephemeral,
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// What StatefulSets check of their template.
pub(super) fn template_metadata(e: &mut Errors, template: &Node<'_>) {
    let at = |name: &str| {
        let metadata = template.get("metadata");
        Node::new(metadata.get(name).value, template.path.child(name))
    };
    meta::labels(e, &at("labels"));
    meta::annotations(e, &at("annotations"));
    annotations::check(e, &at("annotations"), &template.get("spec"));
}

fn specification(e: &mut Errors, spec: &Node<'_>, pod: Option<&Value>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    e.need(&grace);
    let name = pod.and_then(|p| p["metadata"]["name"].as_str());
    let volumes = volume::volumes(e, &spec.get("volumes"), name, pod.is_some());
    let claims = spec.get("resourceClaims");
    let scope = Scope {
        spec: spec.clone(),
        is_pod: pod.is_some(),
        volumes,
        claims: claims
            .items()
            .map(|c| c.get("name").text())
            .filter(|n| !n.is_empty())
            .collect(),
        grace: grace.number(),
        host_users: spec.value["hostUsers"] != false,
    };
    scheduling::resource_claims(e, &claims);
    container::containers(e, &scope);
    container::init_containers(e, &scope);
    container::ephemeral_containers(e, &scope);
    resources::of_pod(e, &scope);
    host_ports(e, &scope);
    e.one_of_required(
        &spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    e.one_of_required(
        &spec.get("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    meta::labels(e, &spec.get("nodeSelector"));
    security::of_pod(e, spec);
    scheduling::affinity(e, &spec.get("affinity"));
    dns_config(e, spec);
    for gate in spec.get("readinessGates").items() {
        e.check(&gate.get("conditionType"), names::qualified_name_faults);
    }
    scheduling::gates(e, &spec.get("schedulingGates"));
    scheduling::spread(e, &spec.get("topologySpreadConstraints"));
    windows::host_process(e, spec);
    security::host_users(e, spec);
    simple_fields(e, spec);
    operating_system(e, spec);
}

fn simple_fields(e: &mut Errors, spec: &Node<'_>) {
    e.check_optional(&spec.get("serviceAccountName"), names::subdomain_faults);
    e.check_optional(&spec.get("nodeName"), names::subdomain_faults);
    let deadline = spec.get("activeDeadlineSeconds");
    let most = i64::from(i32::MAX);
    if deadline.number().is_some_and(|n| !(1..=most).contains(&n)) {
        e.bad(&deadline, names::between(1, most));
    }
    e.check_optional(&spec.get("hostname"), names::label_faults);
    hostname_override(e, spec);
    e.check_optional(&spec.get("subdomain"), names::label_faults);
    scheduling::tolerations(e, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        check_ip(e, &alias.get("ip"));
        for hostname in alias.get("hostnames").items() {
            e.check(&hostname, names::subdomain_faults);
        }
    }
    e.check_optional(&spec.get("priorityClassName"), names::subdomain_faults);
    let runtime = spec.get("runtimeClassName");
    if runtime.is_set() {
        e.check(&runtime, names::subdomain_faults);
    }
    preemption_policy(e, &spec.get("preemptionPolicy"));
    let overhead = spec.get("overhead");
    if overhead.is_set() {
        resources::amounts(e, &overhead);
    }
}

/// Pods and priority classes.
pub(super) fn preemption_policy(e: &mut Errors, policy: &Node<'_>) {
    if policy.is_set() {
        e.one_of_required(policy, &["PreemptLowerPriority", "Never"]);
    }
}

fn hostname_override(e: &mut Errors, spec: &Node<'_>) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if name.text().len() > 64 {
        e.bad(&name, "must be no more than 64 characters");
    }
    e.check(&name, names::subdomain_faults);
    if spec.get("setHostnameAsFQDN").flag() {
        let why = "may not be specified when `setHostnameAsFQDN` is true";
        e.forbidden(&name, why);
    }
    if spec.get("hostNetwork").flag() {
        e.forbidden(&name, "may not be specified when `hostNetwork` is true");
    }
}

fn host_ports(e: &mut Errors, scope: &Scope<'_>) {
    if !scope.host_network() {
        return;
    }
    for container in scope.spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let differs = host.int() != port.get("containerPort").int();
            if differs && (scope.is_pod || host.int() != 0) {
                e.invalid(
                    &host,
                    host.int(),
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(e: &mut Errors, spec: &Node<'_>) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            return e.required(&config, why);
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return e.required(&servers, why);
        }
    }
    if servers.len() > 3 {
        e.bad(&servers, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        check_ip(e, &server);
    }
    let searches = config.get("searches");
    if searches.len() > 32 {
        e.bad(&searches, "must not have more than 32 search paths");
    }
    if searches.texts().join(" ").len() > 2048 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        e.bad(&searches, why);
    }
    for search in searches.items() {
        let text = search.text();
        if text != "." {
            let name = text.strip_suffix('.').unwrap_or(text);
            e.faults(&search, name, names::underscore_subdomain_faults(name));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            e.required(&option, "must not be empty");
        }
    }
}

fn operating_system(e: &mut Errors, spec: &Node<'_>) {
    let system = spec.get("os");
    if !system.is_set() {
        return;
    }
    let name = system.get("name");
    match name.text() {
        "" => e.required(&name, "cannot be empty"),
        ONLY_LINUX => windows::forbid_on_linux(e, spec),
        WINDOWS => windows::forbid_on_windows(e, spec),
        other => e.not_supported(&system, other, &[ONLY_LINUX, WINDOWS]),
    }
}

/// Every container with its place: init, regular, ephemeral.
fn all_containers<'a>(spec: &Node<'a>) -> Vec<Node<'a>> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| spec.get(list).items().collect::<Vec<_>>())
        .collect()
}

/// The PodTemplate kind.
pub(super) fn pod_template(e: &mut Errors, change: &Change<'_>) {
    template(e, &change.new.get("template"));
}

/// A Binding of a pod to a node.
pub(super) fn binding(e: &mut Errors, change: &Change<'_>) {
    let target = change.new.get("target");
    let kind = target.get("kind");
    if !matches!(kind.text(), "" | "Node") {
        e.not_supported(&kind, kind.text(), &["Node", "<empty>"]);
    }
    e.need(&target.get("name"));
}

/// Used where a fault is that of the whole object.
fn nowhere() -> Path {
    Path::default()
}
