//! How a refusal is told.

use serde_json::Value;

use super::{Attributes, Decision};
use crate::authn::UserInfo;
use crate::response::{ApiError, qualified};

/// The error for a request that was not allowed.
pub fn forbidden(user: &UserInfo, attributes: &Attributes, decision: &Decision) -> ApiError {
    let name = Value::from(user.name.as_str());
    let reason = match decision.reason() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let verb = &attributes.verb;
    if !attributes.is_resource_request() {
        let path = Value::from(attributes.path.as_str());
        let why = format!("User {name} cannot {verb} path {path}{reason}");
        return ApiError::forbidden("", "", "", &why);
    }
    let mut resource = attributes.resource.clone();
    if !attributes.subresource.is_empty() {
        resource = format!("{resource}/{}", attributes.subresource);
    }
    let place = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!(
            "in the namespace {}",
            Value::from(attributes.namespace.as_str())
        )
    };
    let why = format!(
        "User {name} cannot {verb} resource {} in API group {} {place}{reason}",
        Value::from(resource),
        Value::from(attributes.api_group.as_str()),
    );
    let Attributes {
        api_group,
        resource,
        name,
        ..
    } = attributes;
    let error = ApiError::forbidden(api_group, resource, name, &why);
    if name.is_empty() {
        let message = format!("{} is forbidden: {why}", qualified(api_group, resource));
        return error.with_message(message);
    }
    error
}
