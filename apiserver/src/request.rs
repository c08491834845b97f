//! What a request asks for, read from its method and path alone.
//!
//! `/api/v1/namespaces/NS/pods/NAME/log` and everything else below `/api` and `/apis` is a
//! resource request; any other path is not. There is one parser and no table of routes, so that
//! custom resources need no registration here.

use http::Method;

use crate::authz::{Attributes, SelectorRequirement};

/// A parsed path. Strings that do not apply are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Below `/api/VERSION` or `/apis/GROUP/VERSION` and naming a resource.
    pub is_resource: bool,
    /// As [`Attributes::verb`].
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource (`proxy/a/b`), without the leading slash.
    pub rest: String,
    /// The whole path, decoded.
    pub path: String,
}

impl RequestInfo {
    /// Parses; `query` decides between list and watch and between delete and deletecollection.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = RequestInfo {
            path: percent_decode(path, false),
            verb: plain_verb(method),
            ..RequestInfo::default()
        };
        if !info.parse_resource(path) {
            return info;
        }
        info.verb = info.resource_verb(method, query);
        if info.name.is_empty()
            && matches!(info.verb, "list" | "watch" | "deletecollection")
            && let Some(selector) = query.get("fieldSelector")
        {
            info.name = selected_name(selector).unwrap_or_default();
        }
        info
    }

    /// Splits the path; false when it does not name a resource.
    fn parse_resource(&mut self, path: &str) -> bool {
        let mut parts = path
            .trim_matches('/')
            .split('/')
            .map(|p| percent_decode(p, false));
        match parts.next().as_deref() {
            Some("api") => {}
            Some("apis") => match parts.next() {
                Some(group) => self.group = group,
                None => return false,
            },
            _ => return false,
        }
        let (Some(version), Some(first)) = (parts.next(), parts.next()) else {
            self.group.clear();
            return false;
        };
        self.version = version;
        let mut resource = first;
        if resource == "watch" {
            // The deprecated prefix `/api/v1/watch/...`.
            match parts.next() {
                Some(next) => resource = next,
                None => return false,
            }
        }
        let mut rest: Vec<String> = parts.collect();
        if resource == "namespaces" {
            resource = self.enter_namespace(&mut rest);
        }
        self.is_resource = true;
        self.resource = resource;
        let mut rest = rest.into_iter();
        self.name = rest.next().unwrap_or_default();
        self.subresource = rest.next().unwrap_or_default();
        self.rest = rest.collect::<Vec<_>>().join("/");
        true
    }

    /// `namespaces/NS/RESOURCE...` is a resource in a namespace, except that `status`,
    /// `finalize` and nothing belong to the Namespace object itself.
    fn enter_namespace(&mut self, rest: &mut Vec<String>) -> String {
        if rest.is_empty() || (rest.len() == 1 && rest[0].is_empty()) {
            return "namespaces".into();
        }
        self.namespace = rest[0].clone();
        if rest.len() > 1 && !matches!(rest[1].as_str(), "status" | "finalize" | "") {
            let resource = rest[1].clone();
            rest.drain(..2);
            return resource;
        }
        "namespaces".into()
    }

    fn resource_verb(&self, method: &Method, query: &Query) -> &'static str {
        let collection = self.name.is_empty();
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD if self.path.starts_with("/api/v1/watch/") => "watch",
            Method::GET | Method::HEAD if collection && query.flag("watch") => "watch",
            Method::GET | Method::HEAD if collection => "list",
            Method::GET | Method::HEAD => "get",
            _ => "",
        }
    }

    /// The question for the authorizer.
    pub fn attributes(&self, query: &Query) -> Attributes {
        if !self.is_resource {
            return Attributes {
                verb: self.verb.into(),
                path: self.path.clone(),
                ..Attributes::default()
            };
        }
        Attributes {
            verb: self.verb.into(),
            api_group: self.group.clone(),
            api_version: self.version.clone(),
            namespace: self.namespace.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            name: self.name.clone(),
            path: String::new(),
            field_selector: field_requirements(query.get("fieldSelector")),
            label_selector: label_requirements(query.get("labelSelector")),
        }
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::OPTIONS => "options",
        _ => "",
    }
}

/// The one name that a field selector such as `metadata.name=x` lets through.
fn selected_name(selector: &str) -> Option<String> {
    let requirement = selector
        .split(',')
        .find_map(|r| r.strip_prefix("metadata.name="))?;
    let name = requirement.strip_prefix('=').unwrap_or(requirement);
    (!name.is_empty()).then(|| name.to_owned())
}

fn field_requirements(selector: Option<&str>) -> Vec<SelectorRequirement> {
    let Some(Ok(parsed)) = selector.map(crate::registry::FieldSelector::parse) else {
        return Vec::new();
    };
    parsed
        .requirements()
        .map(|(key, equal, value)| SelectorRequirement {
            key: key.into(),
            operator: if equal { "In" } else { "NotIn" }.into(),
            values: vec![value.into()],
        })
        .collect()
}

fn label_requirements(selector: Option<&str>) -> Vec<SelectorRequirement> {
    let Some(Ok(parsed)) = selector.map(crate::registry::LabelSelector::parse) else {
        return Vec::new();
    };
    parsed.attributes()
}

/// The query string, decoded once. Keys may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (percent_decode(key, true), percent_decode(value, true))
            });
        Query(pairs.collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Every pair, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// A boolean as upstream reads them: present and neither `0` nor `false`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false"))
    }
}

/// Decodes `%xx` (and `+` in queries). What is not valid UTF-8 becomes replacement characters,
/// which no object's name contains.
fn percent_decode(text: &str, plus: bool) -> String {
    if !(text.contains('%') || plus && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let decoded = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if plus && bytes[i] == b'+' {
                    b' '
                } else {
                    bytes[i]
                });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expect: [&str; 6]) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(Some(query)));
        let got = [
            info.verb,
            &info.group,
            &info.namespace,
            &info.resource,
            &info.name,
            &info.subresource,
        ];
        assert_eq!(got, expect, "{method} {uri}");
    }

    #[test]
    fn paths_are_split_as_upstream_splits_them() {
        check(
            Method::GET,
            "/api/v1/pods",
            ["list", "", "", "pods", "", ""],
        );
        check(
            Method::GET,
            "/api/v1/pods?watch=1",
            ["watch", "", "", "pods", "", ""],
        );
        check(
            Method::GET,
            "/api/v1/namespaces",
            ["list", "", "", "namespaces", "", ""],
        );
        check(
            Method::GET,
            "/api/v1/namespaces/a",
            ["get", "", "a", "namespaces", "a", ""],
        );
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            ["update", "", "a", "namespaces", "a", "finalize"],
        );
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            ["patch", "apps", "a", "deployments", "d", "scale"],
        );
        check(
            Method::DELETE,
            "/api/v1/namespaces/a/pods",
            ["deletecollection", "", "a", "pods", "", ""],
        );
        check(
            Method::GET,
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn1&watch=true",
            ["watch", "", "", "nodes", "n1", ""],
        );
        check(Method::GET, "/healthz", ["get", "", "", "", "", ""]);
        check(Method::GET, "/apis/apps/v1", ["get", "", "", "", "", ""]);
    }

    #[test]
    fn what_follows_a_proxy_subresource_is_kept() {
        let query = Query::default();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/nodes/n/proxy/logs/a", &query);
        assert_eq!(
            (info.subresource.as_str(), info.rest.as_str()),
            ("proxy", "logs/a")
        );
    }
}
