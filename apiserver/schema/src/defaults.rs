//! What the API promises for absent fields.
//!
//! Defaults that are plain data stand in the type table and are set by one walk; this
//! module and its files say only what depends on other fields, a file for each family of
//! groups. Everything is a function of the object alone: no clock, no cluster, no names.
//! (Values that a server allocates, such as addresses, are not defaults.)

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod core;
mod custom;
mod extensions;
mod networking;
mod pod;
mod policy;
mod resource;
mod storage;
mod walk;

use serde_json::{Map, Value};

use crate::types::{Gvk, root};

pub use custom::apply_custom;

type Object = Map<String, Value>;

/// Sets the defaults of an object of a built-in kind.
pub fn apply(object: &mut Value, kind: &Gvk) {
    if let Some(shape) = root(&kind.group, &kind.version, &kind.kind) {
        walk::declared(object, shape.get());
    }
    let Some(map) = object.as_object_mut() else {
        return;
    };
    let name = kind.kind.as_ref();
    match kind.group.as_ref() {
        "" => core::apply(map, name),
        "apps" => apps::apply(map, name),
        "batch" => batch::apply(map, name),
        "autoscaling" => autoscaling::apply(map, name, &kind.version),
        "networking.k8s.io" | "discovery.k8s.io" => networking::apply(map, name),
        "storage.k8s.io" => storage::apply(map, name),
        "rbac.authorization.k8s.io"
        | "scheduling.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "authentication.k8s.io" => {
            policy::apply(map, name);
        }
        "admissionregistration.k8s.io" => admission::apply(map, name),
        "apiextensions.k8s.io" | "apiregistration.k8s.io" => extensions::apply(map, name),
        "resource.k8s.io" => resource::apply(map, name),
        _ => {}
    }
}

/// An object of the kind with nothing in it but what is always written.
pub fn apply_to_empty(object: &mut Value, kind: &Gvk) {
    if kind.group == "apps"
        && kind.kind == "DaemonSet"
        && let Some(map) = object.as_object_mut()
    {
        apps::template_generation(map);
    }
}

/// Sets a field that is absent.
fn set(map: &mut Object, name: &str, value: impl Into<Value>) {
    if !has(map, name) {
        map.insert(name.into(), value.into());
    }
}

/// Whether a field is there.
fn has(map: &Object, name: &str) -> bool {
    map.get(name).is_some_and(|v| !v.is_null())
}

/// A field's text, empty where it is absent.
fn text<'a>(map: &'a Object, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A field that is an object.
fn object<'a>(map: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

/// A field that is an object, made if it is absent.
fn object_or_new<'a>(map: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    set(map, name, Object::new());
    object(map, name)
}

/// The objects of a field that is a list.
fn objects<'a>(map: &'a mut Object, name: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The object at a path.
fn at<'a>(map: &'a mut Object, path: &[&str]) -> Option<&'a mut Object> {
    path.iter().try_fold(map, |m, name| object(m, name))
}

#[cfg(test)]
mod tests;
