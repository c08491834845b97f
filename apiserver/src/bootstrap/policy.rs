//! The default roles and bindings, read from `policy.txt`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::authz::rbac::{GROUP, Rule};

const TEXT: &str = include_str!("policy.txt");
const CONTROLLER: &str = "system:controller:";
/// The cluster role that joins those of all controllers.
const CONTROLLERS: &str = "fairlead:controllers";

/// One role of the file.
#[derive(Debug, Default, Clone)]
struct Role {
    /// Empty for cluster roles.
    namespace: String,
    name: String,
    aggregated_to: Vec<String>,
    aggregates: Vec<String>,
    rules: Vec<Rule>,
}

/// One binding of the file.
#[derive(Debug, Clone)]
struct Binding {
    namespace: String,
    name: String,
    role: String,
    subjects: Vec<Value>,
}

#[derive(Debug, Default)]
struct Policy {
    roles: Vec<Role>,
    bindings: Vec<Binding>,
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| parse(TEXT));

/// The rules of a default cluster role; none when there is no such role.
pub fn cluster_role(name: &str) -> Vec<Rule> {
    let found = POLICY
        .roles
        .iter()
        .find(|role| role.namespace.is_empty() && role.name == name);
    found.map(|role| role.rules.clone()).unwrap_or_default()
}

/// Every default object with its plural, roles before bindings.
pub fn objects() -> Vec<(&'static str, Value)> {
    let roles = POLICY.roles.iter().map(role_object);
    roles
        .chain(POLICY.bindings.iter().map(binding_object))
        .collect()
}

fn parse(text: &str) -> Policy {
    let mut policy = Policy::default();
    let joined = text.replace("\\\n", " ");
    for line in joined
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix("  ") {
            Some(rule) => {
                if let Some(role) = policy.roles.last_mut() {
                    role.rules.push(parse_rule(rule.trim()));
                }
            }
            None => parse_head(line, &mut policy),
        }
    }
    join_controllers(&mut policy);
    aggregate(&mut policy.roles);
    policy
}

fn parse_head(line: &str, policy: &mut Policy) {
    let mut words = line.split_whitespace();
    let (kind, name) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    match kind {
        "clusterrole" => policy.roles.push(cluster_role_head(name, words)),
        "role" => {
            let (namespace, name) = split_name(name);
            policy.roles.push(Role {
                namespace,
                name,
                ..Role::default()
            });
        }
        "controller" => {
            let role = format!("{CONTROLLER}{name}");
            policy.roles.push(Role {
                name: role.clone(),
                ..Role::default()
            });
            let subjects = vec![subject(&format!("account:kube-system/{name}"))];
            let namespace = String::new();
            policy.bindings.push(Binding {
                namespace,
                name: role.clone(),
                role,
                subjects,
            });
        }
        _ => {
            let (namespace, name) = split_name(name);
            let mut rest = words.peekable();
            let mut role = name.clone();
            if rest.next_if_eq(&"=").is_some() {
                rest.next().unwrap_or_default().clone_into(&mut role);
            }
            let subjects = rest.map(subject).collect();
            policy.bindings.push(Binding {
                namespace,
                name,
                role,
                subjects,
            });
        }
    }
}

fn cluster_role_head<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Role {
    let mut role = Role {
        name: name.to_owned(),
        ..Role::default()
    };
    let mut gives = true;
    for word in words {
        match word {
            ">" => gives = true,
            "<" => gives = false,
            other if gives => role.aggregated_to.push(other.to_owned()),
            other => role.aggregates.push(other.to_owned()),
        }
    }
    role
}

/// `NAMESPACE/NAME` or `NAME`.
fn split_name(text: &str) -> (String, String) {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    (namespace.to_owned(), name.to_owned())
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("account", account)) => {
            let (namespace, name) = split_name(account);
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some((_, name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        None => Value::Null,
    }
}

fn parse_rule(text: &str) -> Rule {
    if text == "events" {
        return parse_rule("core|events.k8s.io: events: create,patch,update");
    }
    let list = |words: &str| {
        words
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if let Some((paths, names)) = text
        .strip_prefix("paths ")
        .and_then(|rest| rest.split_once(": "))
    {
        let non_resource_urls = list(paths);
        return Rule {
            verbs: verbs(names),
            non_resource_urls,
            ..Rule::default()
        };
    }
    let mut parts = text.splitn(3, ": ");
    let mut part = || parts.next().unwrap_or_default();
    let (groups, resources, rest) = (part(), part(), part());
    let (names, resource_names) = rest.split_once(" @ ").unwrap_or((rest, ""));
    let api_groups = groups
        .split('|')
        .map(|group| {
            if group == "core" {
                String::new()
            } else {
                group.to_owned()
            }
        })
        .collect();
    Rule {
        verbs: verbs(names),
        api_groups,
        resources: list(resources),
        resource_names: list(resource_names),
        non_resource_urls: Vec::new(),
    }
}

fn verbs(text: &str) -> Vec<String> {
    let expand = |word: &'static str| word.split(',').map(str::to_owned);
    text.trim()
        .split(',')
        .flat_map(|word| match word {
            "read" => expand("get,list,watch").collect(),
            "write" => expand("create,delete,deletecollection,patch,update").collect(),
            "all-verbs" => {
                expand("create,delete,deletecollection,get,list,patch,update,watch").collect()
            }
            other => vec![other.to_owned()],
        })
        .collect()
}

fn join_controllers(policy: &mut Policy) {
    let mut rules: Vec<Rule> = Vec::new();
    for role in policy
        .roles
        .iter()
        .filter(|role| role.name.starts_with(CONTROLLER))
    {
        for rule in &role.rules {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    policy.roles.push(Role {
        name: CONTROLLERS.to_owned(),
        rules,
        ..Role::default()
    });
}

/// Fills the aggregating roles as the aggregation controller would.
fn aggregate(roles: &mut [Role]) {
    // `admin` aggregates `edit`, which aggregates `view`: three rounds reach everything.
    for _ in 0..3 {
        let by_target = roles.to_vec();
        for role in roles.iter_mut().filter(|role| !role.aggregates.is_empty()) {
            let mut sources: Vec<&Role> = by_target
                .iter()
                .filter(|source| {
                    source
                        .aggregated_to
                        .iter()
                        .any(|to| role.aggregates.contains(to))
                })
                .filter(|source| source.name != role.name)
                .collect();
            sources.sort_by(|a, b| a.name.cmp(&b.name));
            role.rules = Vec::new();
            for rule in sources.iter().flat_map(|source| &source.rules) {
                if !role.rules.contains(rule) {
                    role.rules.push(rule.clone());
                }
            }
        }
    }
}

fn metadata(namespace: &str, name: &str, labels: BTreeMap<String, &str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": labels,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn default_labels() -> BTreeMap<String, &'static str> {
    BTreeMap::from([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults")])
}

fn aggregation_label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

fn role_object(role: &Role) -> (&'static str, Value) {
    let cluster = role.namespace.is_empty();
    let mut labels = default_labels();
    labels.extend(
        role.aggregated_to
            .iter()
            .map(|to| (aggregation_label(to), "true")),
    );
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if cluster { "ClusterRole" } else { "Role" },
        "metadata": metadata(&role.namespace, &role.name, labels),
        "rules": role.rules,
    });
    if !role.aggregates.is_empty() {
        let selectors: Vec<Value> = role
            .aggregates
            .iter()
            .map(|name| json!({"matchLabels": {aggregation_label(name): "true"}}))
            .collect();
        object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    (if cluster { "clusterroles" } else { "roles" }, object)
}

fn binding_object(binding: &Binding) -> (&'static str, Value) {
    let cluster = binding.namespace.is_empty();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if cluster { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(&binding.namespace, &binding.name, default_labels()),
        "roleRef": {
            "apiGroup": GROUP,
            "kind": if cluster { "ClusterRole" } else { "Role" },
            "name": binding.role,
        },
    });
    if !binding.subjects.is_empty() {
        object["subjects"] = binding.subjects.clone().into();
    }
    (
        if cluster {
            "clusterrolebindings"
        } else {
            "rolebindings"
        },
        object,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str) -> Vec<Rule> {
        let found = cluster_role(name);
        assert!(!found.is_empty(), "{name}");
        found
    }

    #[test]
    fn every_line_of_the_file_is_understood() {
        for role in &POLICY.roles {
            assert!(!role.name.is_empty());
            for rule in &role.rules {
                let paths = !rule.non_resource_urls.is_empty();
                let whole = paths || (!rule.api_groups.is_empty() && !rule.resources.is_empty());
                assert!(whole && !rule.verbs.is_empty(), "{}: {rule:?}", role.name);
                assert!(
                    rule.verbs.iter().all(|verb| !verb.contains(' ')),
                    "{rule:?}"
                );
            }
        }
        for binding in &POLICY.bindings {
            let role =
                |role: &&Role| role.name == binding.role && role.namespace == binding.namespace;
            assert!(
                POLICY.roles.iter().any(|r| role(&r)),
                "{} binds nothing",
                binding.name
            );
            assert!(
                binding.subjects.iter().all(Value::is_object),
                "{}",
                binding.name
            );
        }
        assert_eq!(
            POLICY
                .roles
                .iter()
                .filter(|role| role.name.starts_with(CONTROLLER))
                .count(),
            42
        );
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        let rule = parse_rule("core|events.k8s.io: a b/c: get,write @ n1 n2");
        assert_eq!(rule.api_groups, ["", "events.k8s.io"]);
        assert_eq!(rule.resources, ["a", "b/c"]);
        assert_eq!(
            rule.verbs,
            [
                "get",
                "create",
                "delete",
                "deletecollection",
                "patch",
                "update"
            ]
        );
        assert_eq!(rule.resource_names, ["n1", "n2"]);
        let rule = parse_rule("paths /a /b/*: get");
        assert_eq!((rule.non_resource_urls.len(), rule.verbs.len()), (2, 1));
    }

    #[test]
    fn aggregated_roles_hold_what_they_aggregate() {
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
        assert!(admin.len() > edit.len() && edit.len() > view.len());
    }
}
