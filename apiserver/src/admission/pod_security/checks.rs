//! The Pod Security Standards: each check tells what about a pod it forbids.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, Policy};

pub(super) const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) detail: String,
}

fn failure(reason: impl Into<String>, detail: impl Into<String>) -> Option<Failure> {
    Some(Failure {
        reason: reason.into(),
        detail: detail.into(),
    })
}

type Check = fn(&Pod<'_>) -> Option<Failure>;

/// In the order in which their findings are told.
const BASELINE: [Check; 12] = [
    app_armor,
    capabilities,
    host_namespaces,
    host_path,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    seccomp,
    sysctls,
    host_process,
];

/// Baseline checks that a restricted check is stricter than are left out.
const RESTRICTED: [Check; 15] = [
    app_armor,
    host_namespaces,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    sysctls,
    host_process,
    privilege_escalation,
    restricted_capabilities,
    restricted_volumes,
    non_root,
    root_user,
    restricted_seccomp,
];

/// Everything that the policy forbids about a pod or a template of one.
pub(super) fn evaluate(policy: &Policy, pod: &Value) -> Vec<Failure> {
    let checks: &[Check] = match policy.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &BASELINE,
        Level::Restricted => &RESTRICTED,
    };
    let pod = Pod {
        metadata: &pod["metadata"],
        spec: &pod["spec"],
        minor: policy.minor(),
    };
    checks.iter().filter_map(|check| check(&pod)).collect()
}

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    /// Of the release whose rules count.
    minor: u32,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers that something is the case for.
    fn named(&self, wrong: impl Fn(&Value) -> bool) -> Vec<String> {
        let wrong = self.containers().filter(|c| wrong(c));
        wrong.map(|c| text(&c["name"]).to_owned()).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = names
        .into_iter()
        .map(|n| format!("{:?}", n.as_ref()))
        .collect();
    all.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn these(names: &[String]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", names.len()),
        quoted(names)
    )
}

/// The pod and containers that set something wrong.
fn setters(pod: bool, containers: &[String]) -> Option<String> {
    let mut all = Vec::new();
    if pod {
        all.push("pod".to_owned());
    }
    if !containers.is_empty() {
        all.push(these(containers));
    }
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor(pod: &Pod<'_>) -> Option<Failure> {
    let fine = |profile: &str| {
        profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
    };
    let annotations = pod.metadata["annotations"].as_object();
    let mut wrong: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with(APPARMOR_ANNOTATION) && !fine(text(value)))
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    let unconfined = |at: &Value| at["securityContext"]["appArmorProfile"]["type"] == "Unconfined";
    let own = setters(unconfined(pod.spec), &pod.named(unconfined));
    let count = wrong.len() + usize::from(own.is_some());
    if let Some(own) = own {
        let own = format!("{own} must not set AppArmor profile type to \"Unconfined\"");
        wrong.insert(0, own);
    }
    (count > 0).then(|| Failure {
        reason: plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            count,
        )
        .into(),
        detail: wrong.join(", "),
    })
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added(container: &Value) -> impl Iterator<Item = &str> {
    let list = container["securityContext"]["capabilities"]["add"].as_array();
    list.into_iter().flatten().map(text)
}

fn capabilities(pod: &Pod<'_>) -> Option<Failure> {
    let names = pod.named(|c| added(c).any(|cap| !CAPABILITIES.contains(&cap)));
    if names.is_empty() {
        return None;
    }
    let wrong: BTreeSet<&str> = pod
        .containers()
        .flat_map(added)
        .filter(|cap| !CAPABILITIES.contains(cap))
        .collect();
    failure(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            these(&names),
            quoted(wrong)
        ),
    )
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Failure> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty())
        .then(|| failure("host namespaces", set.join(", ")))
        .flatten()
}

fn volumes<'a>(pod: &Pod<'a>) -> impl Iterator<Item = &'a Value> {
    pod.spec["volumes"].as_array().into_iter().flatten()
}

fn host_path(pod: &Pod<'_>) -> Option<Failure> {
    let names: Vec<&str> = volumes(pod)
        .filter(|v| !v["hostPath"].is_null())
        .map(|v| text(&v["name"]))
        .collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("volume", "volumes", names.len());
    failure("hostPath volumes", format!("{what} {}", quoted(names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Failure> {
    fn used(container: &Value) -> impl Iterator<Item = u64> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter_map(|p| p["hostPort"].as_u64().filter(|p| *p != 0))
    }
    let names = pod.named(|c| used(c).next().is_some());
    if names.is_empty() {
        return None;
    }
    let ports: BTreeSet<String> = pod
        .containers()
        .flat_map(used)
        .map(|p| p.to_string())
        .collect();
    let list: Vec<String> = ports.into_iter().collect();
    failure(
        "hostPort",
        format!(
            "{} {} {} {}",
            these(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", list.len()),
            list.join(", ")
        ),
    )
}

fn host_probes(pod: &Pod<'_>) -> Option<Failure> {
    if pod.minor < 34 {
        return None;
    }
    fn hosts(container: &Value) -> Vec<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|p| &container[p]);
        let hooks = ["postStart", "preStop"].map(|h| &container["lifecycle"][h]);
        let handlers = probes.into_iter().chain(hooks);
        let all = handlers.flat_map(|h| [&h["httpGet"]["host"], &h["tcpSocket"]["host"]]);
        all.map(text)
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect()
    }
    let names = pod.named(|c| !hosts(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let list: Vec<String> = all.into_iter().collect();
    failure(
        "probe or lifecycle host",
        format!(
            "{} {} probe or lifecycle {} {}",
            these(&names),
            plural("uses", "use", names.len()),
            plural("host", "hosts", list.len()),
            quoted(list)
        ),
    )
}

fn privileged(pod: &Pod<'_>) -> Option<Failure> {
    let names = pod.named(|c| c["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        these(&names)
    );
    failure("privileged", detail)
}

fn proc_mount(pod: &Pod<'_>) -> Option<Failure> {
    let wrong = |c: &Value| !matches!(text(&c["securityContext"]["procMount"]), "" | "Default");
    let names = pod.named(wrong);
    if names.is_empty() {
        return None;
    }
    let values: BTreeSet<&str> = pod
        .containers()
        .filter(|c| wrong(c))
        .map(|c| text(&c["securityContext"]["procMount"]))
        .collect();
    failure(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            these(&names),
            quoted(values)
        ),
    )
}

fn se_linux(pod: &Pod<'_>) -> Option<Failure> {
    let options = |at: &Value| at["securityContext"]["seLinuxOptions"].clone();
    let wrong_type = |o: &Value| {
        let known = matches!(
            text(&o["type"]),
            "" | "container_t" | "container_init_t" | "container_kvm_t"
        );
        !(known || (pod.minor >= 31 && o["type"] == "container_engine_t"))
    };
    let wrong = |at: &Value| {
        let o = options(at);
        wrong_type(&o) || !text(&o["user"]).is_empty() || !text(&o["role"]).is_empty()
    };
    let who = setters(wrong(pod.spec), &pod.named(wrong))?;
    let all: Vec<Value> = std::iter::once(options(pod.spec))
        .chain(pod.containers().map(options))
        .collect();
    let types: BTreeSet<&str> = all
        .iter()
        .filter(|o| wrong_type(o))
        .map(|o| text(&o["type"]))
        .collect();
    let mut bad = Vec::new();
    if !types.is_empty() {
        bad.push(format!(
            "{} {}",
            plural("type", "types", types.len()),
            quoted(types)
        ));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| !text(&o[field]).is_empty()) {
            bad.push(format!("{field} may not be set"));
        }
    }
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        bad.join("; ")
    );
    failure("seLinuxOptions", detail)
}

fn seccomp_type(at: &Value) -> &str {
    text(&at["securityContext"]["seccompProfile"]["type"])
}

fn is_confined(profile: &str) -> bool {
    matches!(profile, "" | "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Failure> {
    let wrong = |at: &Value| !is_confined(seccomp_type(at));
    let who = setters(wrong(pod.spec), &pod.named(wrong))?;
    let values: BTreeSet<&str> = std::iter::once(pod.spec)
        .chain(pod.containers())
        .map(seccomp_type)
        .filter(|p| !is_confined(p))
        .collect();
    failure(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted(values)
        ),
    )
}

/// Safe sysctls and the release that allowed them.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<Failure> {
    let all = pod.spec["securityContext"]["sysctls"].as_array();
    let wrong: Vec<&str> = all
        .into_iter()
        .flatten()
        .map(|s| text(&s["name"]))
        .filter(|name| {
            !SYSCTLS
                .iter()
                .any(|(n, since)| n == name && pod.minor >= *since)
        })
        .collect();
    (!wrong.is_empty())
        .then(|| failure("forbidden sysctls", wrong.join(", ")))
        .flatten()
}

fn host_process(pod: &Pod<'_>) -> Option<Failure> {
    let set = |at: &Value| at["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(set(pod.spec), &pod.named(set))?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    failure("hostProcess", detail)
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Failure> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.named(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        these(&names)
    );
    failure("allowPrivilegeEscalation != false", detail)
}

fn restricted_capabilities(pod: &Pod<'_>) -> Option<Failure> {
    if pod.is_windows() {
        return None;
    }
    let keeps = pod.named(|c| {
        let dropped = c["securityContext"]["capabilities"]["drop"].as_array();
        !dropped.is_some_and(|d| d.iter().any(|cap| cap == "ALL"))
    });
    let adds = pod.named(|c| added(c).any(|cap| cap != "NET_BIND_SERVICE"));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            these(&keeps)
        ));
    }
    if !adds.is_empty() {
        let wrong: BTreeSet<&str> = pod
            .containers()
            .flat_map(added)
            .filter(|cap| *cap != "NET_BIND_SERVICE")
            .collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            these(&adds),
            quoted(wrong)
        ));
    }
    (!details.is_empty())
        .then(|| failure("unrestricted capabilities", details.join("; ")))
        .flatten()
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted_volumes(pod: &Pod<'_>) -> Option<Failure> {
    fn kind(volume: &Value) -> Option<&str> {
        let fields = volume.as_object()?;
        let mut sources = fields.keys().filter(|k| *k != "name");
        Some(sources.next().map_or("unknown", String::as_str))
    }
    let wrong: Vec<(&str, &str)> = volumes(pod)
        .filter_map(|v| Some((text(&v["name"]), kind(v)?)))
        .filter(|(_, kind)| !VOLUMES.contains(kind))
        .collect();
    if wrong.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = wrong.iter().map(|(_, kind)| *kind).collect();
    failure(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", wrong.len()),
            quoted(wrong.iter().map(|(name, _)| *name)),
            plural("uses", "use", wrong.len()),
            plural(
                "restricted volume type",
                "restricted volume types",
                types.len()
            ),
            quoted(types)
        ),
    )
}

fn non_root(pod: &Pod<'_>) -> Option<Failure> {
    let of = |at: &Value| at["securityContext"]["runAsNonRoot"].as_bool();
    let reason = "runAsNonRoot != true";
    let refuses = |at: &Value| of(at) == Some(false);
    if let Some(who) = setters(refuses(pod.spec), &pod.named(refuses)) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return failure(reason, detail);
    }
    if of(pod.spec) == Some(true) {
        return None;
    }
    let silent = pod.named(|c| of(c).is_none());
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.runAsNonRoot=true",
        these(&silent)
    );
    failure(reason, detail)
}

fn root_user(pod: &Pod<'_>) -> Option<Failure> {
    let root = |at: &Value| at["securityContext"]["runAsUser"] == 0;
    let who = setters(root(pod.spec), &pod.named(root))?;
    failure("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn restricted_seccomp(pod: &Pod<'_>) -> Option<Failure> {
    if pod.is_windows() {
        return None;
    }
    if let Some(found) = seccomp(pod) {
        return Some(found);
    }
    if !seccomp_type(pod.spec).is_empty() {
        return None;
    }
    let silent = pod.named(|c| seccomp_type(c).is_empty());
    if silent.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        these(&silent)
    );
    failure("seccompProfile", detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(level: Level, pod: &Value, expect: &[&str]) {
        let policy = Policy {
            level,
            ..Policy::default()
        };
        let found = evaluate(&policy, pod);
        let found: Vec<String> = found
            .iter()
            .map(|f| format!("{} ({})", f.reason, f.detail))
            .collect();
        assert_eq!(found, expect, "{pod}");
    }

    #[test]
    fn a_plain_pod_is_fine_for_baseline_and_not_for_restricted() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        check(Level::Privileged, &pod, &[]);
        check(Level::Baseline, &pod, &[]);
        check(
            Level::Restricted,
            &pod,
            &[
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
        let good = json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        }});
        check(Level::Restricted, &good, &[]);
    }

    #[test]
    fn what_reaches_for_the_host_is_told() {
        let pod = json!({"spec": {
            "hostNetwork": true, "hostPID": true,
            "securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}], "seLinuxOptions": {"type": "x", "role": "y"},
                "seccompProfile": {"type": "Unconfined"}, "windowsOptions": {"hostProcess": true}},
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
            "initContainers": [{"name": "i", "securityContext": {"procMount": "Unmasked"}}],
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}],
                "livenessProbe": {"httpGet": {"host": "10.0.0.1"}},
                "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_TIME", "CHOWN", "NET_ADMIN"]}, "appArmorProfile": {"type": "Unconfined"}}}],
        }});
        check(
            Level::Baseline,
            &pod,
            &[
                "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
                "non-default capabilities (container \"a\" must not include \"NET_ADMIN\", \"SYS_TIME\" in securityContext.capabilities.add)",
                "host namespaces (hostNetwork=true, hostPID=true)",
                "hostPath volumes (volume \"h\")",
                "hostPort (container \"a\" uses hostPorts 443, 80)",
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
                "privileged (container \"a\" must not set securityContext.privileged=true)",
                "procMount (container \"i\" must not set securityContext.procMount to \"Unmasked\")",
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; role may not be set)",
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
                "forbidden sysctls (kernel.msgmax)",
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ],
        );
        let restricted = json!({"spec": {
            "securityContext": {"runAsUser": 0, "runAsNonRoot": false, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}],
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}}],
        }});
        check(
            Level::Restricted,
            &restricted,
            &[
                "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
                "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
                "runAsUser=0 (pod must not set runAsUser=0)",
            ],
        );
    }
}
