//! PATCH: the four patch types over one read-modify-write loop.

use bytes::Bytes;
use schema::types::{Scalar, Type};
use serde_json::Value;

use super::update::ATTEMPTS;
use super::write::{Refused, Stored};
use crate::registry::call::Call;
use crate::registry::options::{FieldValidation, WriteOptions};
use crate::registry::patch::{Patch, PatchType, repeated_in_apply, repeated_keys};
use crate::registry::{kinds, managed, meta};
use crate::response::{ApiError, ApiResponse, Cause};

impl Call {
    /// PATCH of an object or its status.
    pub async fn patch(&self, body: Bytes) -> Result<ApiResponse, ApiError> {
        let patch_type = PatchType::negotiate(&self.headers, self.resource.is_custom())?;
        let options = WriteOptions::parse(&self.query, "PatchOptions", patch_type.applies())?;
        let patch = Patch::decode(patch_type, &body)?;
        let stored = match patch {
            Patch::Apply(applied) => {
                let repeated = match options.field_validation {
                    FieldValidation::Ignore => None,
                    // Keys that stand twice in CBOR are no CBOR.
                    _ if patch_type == PatchType::ApplyCbor => None,
                    _ => repeated_in_apply(&body),
                };
                if let Some(why) = repeated {
                    if options.field_validation == FieldValidation::Strict {
                        return Err(ApiError::bad_request(why));
                    }
                    let told = why.trim_start_matches("error strict decoding YAML: ");
                    self.warn(told.to_owned());
                }
                self.apply(applied, &options).await?
            }
            patch => {
                let repeated = repeated_keys(&self.resource.shape, patch_type, &body);
                self.patch_value(&patch, &repeated, &options).await?
            }
        };
        let code = if stored.created { 201 } else { 200 };
        self.object_response(code, &stored.object).await
    }

    async fn patch_value(
        &self,
        patch: &Patch,
        repeated: &[String],
        options: &WriteOptions,
    ) -> Result<Stored, ApiError> {
        let key = self.key();
        for attempt in 1.. {
            let current = self.current(&self.info.name).await?;
            let old = self.present(&current).await?;
            let new = self.patched(patch, repeated, &old, options)?;
            let conditional =
                meta::text(&new, "resourceVersion") != meta::text(&old, "resourceVersion");
            match self.replace(&key, &current, &old, new, options).await {
                Err(Refused::Conflict) if !conditional && attempt < ATTEMPTS => {}
                Err(Refused::Conflict) => return Err(self.stale()),
                Err(Refused::Error(error)) => return Err(error),
                Ok(object) => {
                    return Ok(Stored {
                        object,
                        created: false,
                    });
                }
            }
        }
        Err(self.stale())
    }

    /// The patch applied to the object and read back as its kind.
    fn patched(
        &self,
        patch: &Patch,
        repeated: &[String],
        old: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let gvk = self.resource.gvk();
        let merged = patch.apply(&self.resource, old)?;
        let forgets_managers = managed::is_emptied(&merged);
        // Upstream shows as the value that is invalid the whole merged object, or the patch where
        // it never made the object a text.
        let text = match patch {
            Patch::Strategic(patch) => managed::typed::plain(patch),
            _ => go_json(&merged),
        };
        let invalid = |why: String| {
            let shown = meta::quote(&text);
            let fault = Cause::new(
                "FieldValueInvalid",
                format!("Invalid value: {shown}: {why}"),
                "patch",
            );
            ApiError::invalid("", "", "", vec![fault])
        };
        if matches!(patch, Patch::Strategic(_))
            && let Some(why) = unrestorable(&Type::Struct(self.resource.shape.clone()), &merged)
        {
            return Err(invalid(why));
        }
        let decoded = kinds::decode_patched(&self.resource, &gvk, merged)
            .map_err(|e| invalid(e.to_string()))?;
        let mut faults = decoded.faults;
        faults.extend(repeated.iter().cloned());
        if options.field_validation == FieldValidation::Strict && !faults.is_empty() {
            return Err(invalid(format!(
                "strict decoding error: {}",
                faults.join(", ")
            )));
        }
        self.report_faults(&gvk, faults, options.field_validation)?;
        let mut new = decoded.value;
        if forgets_managers {
            managed::forget(&mut new);
        }
        self.check_name(&new)?;
        meta::set_namespace(&self.resource, &mut new, self.namespace())?;
        managed::track_update(self, Some(old), &mut new, &options.field_manager);
        Ok(new)
    }

    /// Server-side apply: merges what the manager wants into the object, or creates it.
    async fn apply(&self, applied: Value, options: &WriteOptions) -> Result<Stored, ApiError> {
        let gvk = self.resource.gvk();
        managed::check_applied(&gvk, &applied)?;
        // What is there keeps its name, whether the configuration repeats it or not.
        if !meta::name(&applied).is_empty() {
            self.check_name(&applied)?;
        }
        let key = self.key();
        for attempt in 1.. {
            self.registry.cacher.consistent().await?;
            let current = self.resource.cache.get(&key);
            let old = match &current {
                Some(current) => Some(self.present(current).await?),
                None => None,
            };
            if old.is_none() && !self.info.subresource.is_empty() {
                return Err(self.not_found(&self.info.name));
            }
            let uid = meta::text(&applied, "uid");
            if old.is_none() && !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(ApiError::conflict(
                    &self.resource.group,
                    &self.resource.plural,
                    &self.info.name,
                    &why,
                ));
            }
            let merged = managed::apply(self, old.as_ref(), &applied, options)?;
            let respelled = old.as_ref().is_some_and(|old| is_respelled(old, &merged));
            let decoded = kinds::decode_patched(&self.resource, &gvk, merged)
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            self.check_name(&decoded.value)?;
            let outcome = match (current, old) {
                (Some(current), Some(old)) => self
                    .replace_spelled(&key, &current, &old, decoded.value, respelled, options)
                    .await
                    .map(|object| Stored {
                        object,
                        created: false,
                    }),
                _ => match self.create_value(decoded.value, options).await {
                    Err(error) if error.reason() == "AlreadyExists" => Err(Refused::Conflict),
                    other => other.map_err(Refused::Error),
                },
            };
            match outcome {
                Err(Refused::Conflict) if attempt < ATTEMPTS => {}
                Err(Refused::Conflict) => return Err(self.stale()),
                Err(Refused::Error(error)) => return Err(error),
                Ok(stored) => return Ok(stored),
            }
        }
        Err(self.stale())
    }
}

/// Whether a value stands differently in the two trees, such as a quantity that is written in
/// another way. Fields that only one of them has do not count.
fn is_respelled(old: &Value, merged: &Value) -> bool {
    match (old, merged) {
        (Value::Object(old), Value::Object(merged)) => merged.iter().any(|(key, value)| {
            let skipped = matches!(key.as_str(), "managedFields" | "resourceVersion");
            !skipped && old.get(key).is_some_and(|old| is_respelled(old, value))
        }),
        (Value::Array(old), Value::Array(merged)) => {
            old.len() == merged.len() && old.iter().zip(merged).any(|(o, m)| is_respelled(o, m))
        }
        (Value::String(old), Value::String(merged)) => old != merged,
        _ => false,
    }
}

/// Why a merged tree is no object of its kind, in the words of Go's conversion.
fn unrestorable(ty: &Type, value: &Value) -> Option<String> {
    let go = match value {
        Value::Null => return None,
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    match (ty, value) {
        (Type::Struct(shape), Value::Object(map)) => map.iter().find_map(|(key, value)| {
            let field = shape.get().field(key)?;
            unrestorable(&field.ty, value)
        }),
        (Type::Struct(shape), _) if shape.get().scalar.is_none() => {
            Some(format!("cannot restore struct from: {go}"))
        }
        (Type::List(list), Value::Array(items)) => {
            items.iter().find_map(|item| unrestorable(&list.item, item))
        }
        (Type::List(_), _) => Some(format!("cannot restore slice from {go}")),
        (Type::Map(map), Value::Object(entries)) => entries
            .values()
            .find_map(|value| unrestorable(&map.value, value)),
        (Type::Map(_), _) => Some(format!("cannot restore map from {go}")),
        (Type::Scalar(scalar), _) => {
            let wanted = match scalar {
                Scalar::String if !value.is_string() => "string",
                Scalar::Bool if !value.is_boolean() => "bool",
                Scalar::Int32 if !value.is_number() => "int32",
                Scalar::Int64 if !value.is_number() => "int64",
                _ => return None,
            };
            // Go makes a text of any number.
            (wanted != "string" || !value.is_number())
                .then(|| format!("cannot convert {go} to {wanted}"))
        }
        _ => None,
    }
}

/// An object's text with the metadata in the order of upstream's types.
fn go_json(object: &Value) -> String {
    const METADATA: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    const ENTRY: &[&str] = &[
        "manager",
        "operation",
        "apiVersion",
        "time",
        "fieldsType",
        "fieldsV1",
        "subresource",
    ];
    fn ordered(map: &Value, order: &[&str], write: impl Fn(&str, &Value) -> String) -> String {
        let known = order.iter().filter_map(|k| map.get(*k).map(|v| (*k, v)));
        let others = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v));
        let others = others.filter(|(k, _)| !order.contains(k));
        let parts: Vec<String> = known
            .chain(others)
            .map(|(k, v)| format!("{}:{}", meta::quote(k), write(k, v)))
            .collect();
        format!("{{{}}}", parts.join(","))
    }
    let metadata = |value: &Value| {
        ordered(value, METADATA, |key, value| {
            match (key, value.as_array()) {
                ("managedFields", Some(entries)) => {
                    let all: Vec<String> = entries
                        .iter()
                        .map(|e| ordered(e, ENTRY, |_, v| v.to_string()))
                        .collect();
                    format!("[{}]", all.join(","))
                }
                _ => value.to_string(),
            }
        })
    };
    ordered(object, &[], |key, value| match key {
        "metadata" if value.is_object() => metadata(value),
        _ => value.to_string(),
    })
}
