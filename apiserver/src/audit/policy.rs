//! The audit policy: the first rule that fits says how much is recorded.

use serde::Deserialize;

use super::record::{Request, Stage};

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is left out of a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Omitted {
    pub(super) stages: Vec<Stage>,
    pub(super) managed_fields: bool,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !policy.api_version.starts_with("audit.k8s.io/") || policy.kind != "Policy" {
            return Err("it is no Policy of audit.k8s.io/v1".into());
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".into());
        }
        Ok(policy)
    }

    /// What no rule fits is not recorded.
    pub(super) fn judge(&self, request: &Request) -> (Level, Omitted) {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(request)) else {
            return (Level::None, Omitted::default());
        };
        let mut stages = self.omit_stages.clone();
        stages.extend(&rule.omit_stages);
        let omitted = Omitted {
            stages,
            managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        };
        (rule.level, omitted)
    }
}

impl Rule {
    fn fits(&self, request: &Request) -> bool {
        let any = |list: &[String], own: &str| list.is_empty() || list.iter().any(|x| x == own);
        let user = &request.user;
        if !any(&self.users, &user.name)
            || !any(&self.verbs, &request.verb)
            || !(self.user_groups.is_empty()
                || user.groups.iter().any(|g| self.user_groups.contains(g)))
        {
            return false;
        }
        let info = &request.info;
        if info.is_resource {
            // Rules about paths are not about resources.
            if !self.urls.is_empty() {
                return false;
            }
            if !any(&self.namespaces, &info.namespace) {
                return false;
            }
            return self.resources.is_empty() || self.resources.iter().any(|r| r.fits(request));
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return false;
        }
        self.urls.is_empty() || self.urls.iter().any(|url| path_fits(url, &info.path))
    }
}

fn path_fits(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => pattern == path,
    }
}

impl Resources {
    fn fits(&self, request: &Request) -> bool {
        let info = &request.info;
        if self.group != info.group {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        if self.resources.is_empty() {
            return named;
        }
        let whole = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        self.resources.iter().any(|own| {
            let fits = own == "*"
                || *own == whole
                || own.strip_prefix("*/") == Some(info.subresource.as_str())
                || own.strip_suffix("/*") == Some(info.resource.as_str());
            fits && (named || own.is_empty())
        })
    }
}
