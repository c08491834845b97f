//! Roles and bindings, arranged for the question "what may this user do?".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::rule::Rule;
use super::subject::Subject;
use crate::authn::UserInfo;

/// Namespace (empty: the cluster) and name.
type Key = (String, String);

/// What a binding grants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RoleReference {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
}

/// A binding as the index keeps it.
#[derive(Debug, Clone)]
pub struct Binding {
    pub role: RoleReference,
    pub subjects: Vec<Subject>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: BTreeMap<Key, Binding>,
    by_subject: BTreeMap<Subject, BTreeSet<Key>>,
}

impl Index {
    /// Forgets all objects of a resource.
    pub fn clear(&mut self, resource: &str) {
        let cluster = resource.starts_with("cluster");
        if resource.ends_with("roles") {
            self.roles
                .retain(|(namespace, _), _| namespace.is_empty() != cluster);
            return;
        }
        let gone: Vec<Key> = self
            .bindings
            .keys()
            .filter(|(namespace, _)| namespace.is_empty() == cluster)
            .cloned()
            .collect();
        for key in gone {
            self.unbind(&key);
        }
    }

    /// Takes in an object as it is now.
    pub fn put(&mut self, resource: &str, object: &Value) {
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let key = (text("namespace"), text("name"));
        if resource.ends_with("roles") {
            let rules = object.get("rules").cloned().unwrap_or_default();
            let rules: Vec<Rule> = serde_json::from_value(rules).unwrap_or_default();
            self.roles.insert(key, rules.into());
            return;
        }
        self.unbind(&key);
        let role = object.get("roleRef").cloned().unwrap_or_default();
        let Ok(role) = serde_json::from_value::<RoleReference>(role) else {
            return;
        };
        let list = object.get("subjects").and_then(Value::as_array);
        let subjects: Vec<Subject> = list
            .into_iter()
            .flatten()
            .filter_map(|subject| Subject::parse(subject, &key.0))
            .collect();
        for subject in &subjects {
            self.by_subject
                .entry(subject.clone())
                .or_default()
                .insert(key.clone());
        }
        self.bindings.insert(key, Binding { role, subjects });
    }

    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if resource.ends_with("roles") {
            self.roles.remove(&key);
        } else {
            self.unbind(&key);
        }
    }

    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else {
            return;
        };
        for subject in binding.subjects {
            if let Some(keys) = self.by_subject.get_mut(&subject) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }

    /// The rules of a role that a binding in `namespace` refers to.
    pub fn role(&self, reference: &RoleReference, namespace: &str) -> Option<Arc<[Rule]>> {
        let namespace = if reference.kind == "ClusterRole" {
            ""
        } else {
            namespace
        };
        self.roles
            .get(&(namespace.to_owned(), reference.name.clone()))
            .cloned()
    }

    /// Shows the rules that a user has, those of the whole cluster first, until the visitor
    /// has enough. The second argument describes the binding.
    pub fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut visitor: impl FnMut(&Arc<[Rule]>, &dyn Fn() -> String) -> bool,
    ) {
        let subjects = Subject::all_of(user);
        let scopes: &[&str] = if namespace.is_empty() {
            &[""]
        } else {
            &["", namespace]
        };
        for scope in scopes {
            for subject in &subjects {
                let Some(keys) = self.by_subject.get(subject) else {
                    continue;
                };
                let first = ((*scope).to_owned(), String::new());
                for key in keys.range(first..).take_while(|key| key.0 == *scope) {
                    let Some(binding) = self.bindings.get(key) else {
                        continue;
                    };
                    let Some(rules) = self.role(&binding.role, scope) else {
                        continue;
                    };
                    if visitor(&rules, &|| describe(key, binding, subject)) {
                        return;
                    }
                }
            }
        }
    }
}

fn describe((namespace, name): &Key, binding: &Binding, subject: &Subject) -> String {
    let RoleReference { kind, name: role } = &binding.role;
    if namespace.is_empty() {
        format!("ClusterRoleBinding {name:?} of {kind} {role:?} to {subject}")
    } else {
        format!("RoleBinding \"{name}/{namespace}\" of {kind} {role:?} to {subject}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::Attributes;

    fn role(namespace: &str, name: &str, verb: &str) -> Value {
        json!({
            "metadata": {"namespace": namespace, "name": name},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}],
        })
    }

    fn binding(namespace: &str, name: &str, kind: &str, role: &str, subject: Value) -> Value {
        json!({
            "metadata": {"namespace": namespace, "name": name},
            "roleRef": {"kind": kind, "name": role},
            "subjects": [subject],
        })
    }

    fn index() -> Index {
        let mut index = Index::default();
        index.put("roles", &role("n", "r", "get"));
        index.put("clusterroles", &role("", "c", "list"));
        let bob = json!({"kind": "User", "name": "bob"});
        let devs = json!({"kind": "Group", "name": "devs"});
        let account = json!({"kind": "ServiceAccount", "name": "default"});
        index.put("rolebindings", &binding("n", "rb", "Role", "r", bob));
        index.put(
            "clusterrolebindings",
            &binding("", "cb", "ClusterRole", "c", devs),
        );
        index.put(
            "rolebindings",
            &binding("n", "sb", "ClusterRole", "c", account),
        );
        index
    }

    fn reason(index: &Index, user: &UserInfo, verb: &str, namespace: &str) -> Option<String> {
        let attributes = Attributes::resource(verb, "", "pods", namespace, "");
        let mut found = None;
        index.visit(user, namespace, |rules, describe| {
            if rules.iter().any(|rule| rule.allows(&attributes)) {
                found = Some(describe());
            }
            found.is_some()
        });
        found
    }

    #[test]
    fn bindings_grant_in_their_scope_alone() {
        let index = index();
        let none: [&str; 0] = [];
        let bob = UserInfo::new("bob", none);
        let text = "RoleBinding \"rb/n\" of Role \"r\" to User \"bob\"";
        assert_eq!(reason(&index, &bob, "get", "n").as_deref(), Some(text));
        assert_eq!(reason(&index, &bob, "get", "m"), None);
        assert_eq!(reason(&index, &bob, "get", ""), None);
        assert_eq!(reason(&index, &bob, "list", "n"), None);
        let dev = UserInfo::new("x", ["devs"]);
        let text = "ClusterRoleBinding \"cb\" of ClusterRole \"c\" to Group \"devs\"";
        assert_eq!(reason(&index, &dev, "list", "m").as_deref(), Some(text));
        assert_eq!(reason(&index, &dev, "list", "").as_deref(), Some(text));
        let account = UserInfo::new("system:serviceaccount:n:default", none);
        let text = "RoleBinding \"sb/n\" of ClusterRole \"c\" to ServiceAccount \"default/n\"";
        assert_eq!(reason(&index, &account, "list", "n").as_deref(), Some(text));
        assert_eq!(reason(&index, &account, "list", "m"), None);
    }

    #[test]
    fn changes_take_effect() {
        let mut index = index();
        let bob = UserInfo::new("bob", ["devs"]);
        let eve = json!({"kind": "User", "name": "eve"});
        index.put("rolebindings", &binding("n", "rb", "Role", "r", eve));
        assert_eq!(reason(&index, &bob, "get", "n"), None);
        index.remove("clusterroles", "", "c");
        assert_eq!(reason(&index, &bob, "list", "n"), None);
        index.clear("rolebindings");
        assert_eq!(index.bindings.len(), 1);
        index.remove("clusterrolebindings", "", "cb");
        assert!(index.by_subject.is_empty());
    }
}
