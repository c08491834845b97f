//! FlowSchema: which requests belong together.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::authn::UserInfo;
use crate::request::RequestInfo;

pub(super) struct FlowSchema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    pub(super) precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

struct Paths {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).map(text).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn any(list: &[String], own: &str) -> bool {
    list.iter().any(|x| x == "*" || x == own)
}

impl FlowSchema {
    pub(super) fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        FlowSchema {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).map(Rule::parse).collect(),
        }
    }

    pub(super) fn fits(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.fits(user, info))
    }

    /// Requests with the same number compete with each other as one.
    pub(super) fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let subject = |s: &Value| match s["kind"].as_str()? {
            "User" => Some(Subject::User(text(&s["user"]["name"]))),
            "Group" => Some(Subject::Group(text(&s["group"]["name"]))),
            "ServiceAccount" => Some(Subject::ServiceAccount {
                namespace: text(&s["serviceAccount"]["namespace"]),
                name: text(&s["serviceAccount"]["name"]),
            }),
            _ => None,
        };
        Rule {
            subjects: list(&rule["subjects"]).filter_map(subject).collect(),
            resources: list(&rule["resourceRules"])
                .map(|r| Resources {
                    verbs: texts(&r["verbs"]),
                    groups: texts(&r["apiGroups"]),
                    resources: texts(&r["resources"]),
                    cluster: r["clusterScope"] == true,
                    namespaces: texts(&r["namespaces"]),
                })
                .collect(),
            paths: list(&rule["nonResourceRules"])
                .map(|r| Paths {
                    verbs: texts(&r["verbs"]),
                    urls: texts(&r["nonResourceURLs"]),
                })
                .collect(),
        }
    }

    fn fits(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && if info.is_resource {
                self.resources.iter().any(|rule| rule.fits(info))
            } else {
                self.paths.iter().any(|rule| rule.fits(info))
            }
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::ServiceAccount { namespace, name } => {
                user.service_account().is_some_and(|(own_namespace, own)| {
                    namespace == own_namespace && (name == "*" || name == own)
                })
            }
        }
    }
}

impl Resources {
    fn fits(&self, info: &RequestInfo) -> bool {
        let resource = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let placed = if info.namespace.is_empty() {
            self.cluster
        } else {
            any(&self.namespaces, &info.namespace)
        };
        placed
            && any(&self.verbs, info.verb)
            && any(&self.groups, &info.group)
            && any(&self.resources, &resource)
    }
}

impl Paths {
    fn fits(&self, info: &RequestInfo) -> bool {
        let fits = |url: &String| match url.strip_suffix('*') {
            Some(start) => info.path.starts_with(start),
            None => *url == info.path,
        };
        any(&self.verbs, info.verb) && self.urls.iter().any(fits)
    }
}
