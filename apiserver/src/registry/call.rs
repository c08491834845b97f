//! One request to one resource, with everything that its handler needs.

use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Registry;
use super::cache::{Filter, LateFilter};
use super::fields;
use super::options::WriteOptions;
use super::resource::Resource;
use super::selector::{FieldSelector, LabelSelector};
use crate::authn::SharedUser;
use crate::request::{Query, RequestInfo};
use crate::response::negotiate::{self, BUILT_IN, CUSTOM};
use crate::response::{Accepted, ApiError, ApiResponse};

/// See the module's documentation.
pub struct Call {
    pub registry: Arc<Registry>,
    pub resource: Arc<Resource>,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub user: SharedUser,
    pub accepted: Accepted,
    /// A step that the server takes to carry out another request.
    pub internal: bool,
    warnings: Mutex<Vec<String>>,
}

impl Call {
    /// Negotiates the representation.
    pub fn new(
        registry: Arc<Registry>,
        resource: Arc<Resource>,
        info: RequestInfo,
        query: Query,
        headers: HeaderMap,
        user: SharedUser,
    ) -> Result<Self, ApiError> {
        let offered = if resource.is_custom() {
            CUSTOM
        } else {
            BUILT_IN
        };
        // What is only asked, such as a review, has no columns.
        let mut accepted = if resource.allows("get") {
            negotiate::accepted(&headers, offered)?
        } else {
            negotiate::accepted_without_table(&headers, offered)?
        };
        accepted.pretty |= negotiate::wants_pretty(&query, &headers);
        let used = schema::warnings::deprecated_kind(&resource.gvk()).map(str::to_owned);
        let deprecated = resource.custom.as_ref().and_then(|c| c.deprecated.clone());
        let warnings = Mutex::new(used.into_iter().chain(deprecated).collect());
        Ok(Call {
            registry,
            resource,
            info,
            query,
            headers,
            user,
            accepted,
            internal: false,
            warnings,
        })
    }

    /// The same request turned to another object (of this namespace, where it has one).
    pub fn for_object(&self, resource: Arc<Resource>, name: &str, subresource: &str) -> Call {
        let info = RequestInfo {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..self.info.clone()
        };
        Call {
            registry: self.registry.clone(),
            resource,
            info,
            query: self.query.clone(),
            headers: self.headers.clone(),
            user: self.user.clone(),
            accepted: self.accepted,
            internal: true,
            warnings: Mutex::default(),
        }
    }

    /// The media types that bodies may have.
    pub fn offered(&self) -> &'static [&'static str] {
        if self.resource.is_custom() {
            CUSTOM
        } else {
            BUILT_IN
        }
    }

    pub fn namespace(&self) -> &str {
        if self.resource.namespaced() {
            &self.info.namespace
        } else {
            ""
        }
    }

    pub fn key(&self) -> String {
        self.resource.key(self.namespace(), &self.info.name)
    }

    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.resource.group, &self.resource.plural, name)
    }

    /// The kind of the options of this request, as reviews show them.
    fn options_kind(&self) -> &'static str {
        match self.info.verb {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            _ => "UpdateOptions",
        }
    }

    /// The options of this write as an object.
    pub fn options(&self, write: &WriteOptions) -> Value {
        let mut options = json!({
            "kind": self.options_kind(),
            "apiVersion": "meta.k8s.io/v1",
        });
        if write.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Some(force) = write.force {
            options["force"] = force.into();
        }
        for field in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.query.get(field) {
                options[field] = value.into();
            }
        }
        options
    }

    pub fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Puts the collected warnings into the response.
    pub fn with_warnings(&self, mut response: ApiResponse) -> ApiResponse {
        crate::response::add_warnings(&mut response, &self.warnings.lock());
        response
    }

    pub fn user_agent(&self) -> &str {
        self.headers
            .get(http::header::USER_AGENT)
            .and_then(|a| a.to_str().ok())
            .unwrap_or("")
    }

    /// Who is recorded in managedFields: what the client says, else its program's name.
    pub fn manager(&self, given: &str) -> String {
        if !given.is_empty() {
            return given.to_owned();
        }
        let program = self.user_agent().split('/').next().unwrap_or_default();
        let mut end = program.len().min(128);
        while !program.is_char_boundary(end) {
            end -= 1;
        }
        let printable: String = program[..end].chars().filter(|c| !c.is_control()).collect();
        if printable.is_empty() {
            "unknown".into()
        } else {
            printable
        }
    }

    /// The request's selectors.
    pub fn filter(&self) -> Result<Filter, ApiError> {
        let labels = match self.query.get("labelSelector") {
            Some(text) => LabelSelector::parse(text)?,
            None => LabelSelector::default(),
        };
        let mut fields = match self.query.get("fieldSelector") {
            Some(text) => FieldSelector::parse(text)?,
            None => FieldSelector::default(),
        };
        let known = self.resource.cache.fields();
        fields.rename(|label| match &self.resource.custom {
            Some(custom) => custom.known_label(label),
            None => fields::known_label(&self.resource.group, &self.resource.plural, label),
        })?;
        if !self.info.name.is_empty() && fields.exact("metadata.name").is_none() {
            fields.require("metadata.name", &self.info.name);
        }
        let late = self.resource.custom.as_ref().and_then(|custom| {
            let calls = custom.versions.calls_webhook();
            let terms = fields.split_off(|f| calls && !f.starts_with("metadata."));
            let known = custom.selectable.clone();
            (!terms.is_empty()).then_some(LateFilter { terms, known })
        });
        Ok(Filter {
            namespace: self.namespace().to_owned(),
            labels,
            fields,
            known,
            late,
        })
    }
}
