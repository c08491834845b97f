//! The objects that parametrize a policy through a binding.

use std::sync::Arc;

use serde_json::Value;

use super::Attributes;
use super::config::{ParamRef, Policy};
use super::{Bound, Fault};
use crate::registry::object::Object;
use crate::registry::resource::split_api_version;
use crate::registry::{Resource, kinds};

/// One evaluation for each; null where there are no parameters at all.
pub(super) async fn find<S>(
    a: &Attributes<'_>,
    policy: &Policy<S>,
    binding: &Bound,
) -> Result<Vec<Value>, Fault> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![Value::Null]);
    };
    let registry = &a.call.registry;
    // A parameter that was just written is in force.
    registry
        .cacher
        .consistent()
        .await
        .map_err(|error| Fault::Binding(error.message().to_owned()))?;
    let (group, version) = split_api_version(api_version);
    let resource = registry.catalog.of_kind(group, version, kind);
    let resource = resource.ok_or_else(|| {
        Fault::Policy(format!(
            "failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"
        ))
    })?;
    let namespace = namespace(a, &resource, reference).map_err(|why| Fault::Binding(why.into()))?;
    let found = objects(a, &resource, reference, namespace);
    if found.is_empty() && reference.must_exist {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(Fault::Binding(why.to_owned()));
    }
    let values = found.iter().map(|o| o.value()).collect();
    if resource.is_stored_version() {
        return Ok(values);
    }
    kinds::convert(registry, &resource, values)
        .await
        .map_err(|error| Fault::Binding(error.message().to_owned()))
}

fn namespace<'a>(
    a: &'a Attributes<'_>,
    resource: &Resource,
    reference: &'a ParamRef,
) -> Result<&'a str, &'static str> {
    match (resource.namespaced(), reference.namespace.as_str()) {
        (true, "") => match a.namespace() {
            "" => Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources",
            ),
            own => Ok(own),
        },
        (true, given) => Ok(given),
        (false, "") => Ok(""),
        (false, _) => {
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
        }
    }
}

fn objects(
    a: &Attributes<'_>,
    resource: &Resource,
    reference: &ParamRef,
    namespace: &str,
) -> Vec<Arc<Object>> {
    let registry = &a.call.registry;
    let (group, plural) = (&resource.storage.0, &resource.plural);
    if !reference.name.is_empty() {
        let found = registry.lookup(group, plural, namespace, &reference.name);
        return found.into_iter().collect();
    }
    let Some(selector) = &reference.selector else {
        return Vec::new();
    };
    let mut all = registry.list(group, plural, namespace);
    all.retain(|object| selector.matches(|key| object.label(key)));
    all
}
