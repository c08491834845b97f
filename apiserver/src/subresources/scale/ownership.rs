//! Who owns the replicas: the object's managed fields as those of its Scale, and back.

use schema::types::{Gvk, StructRef};
use serde_json::Value;

use crate::registry::managed::{self, Entry, FieldSet, Writer, entries};
use crate::registry::options::WriteOptions;
use crate::registry::{Call, meta};
use crate::response::ApiError;

const VERSION: &str = "autoscaling/v1";

/// `/spec/replicas` as a set with that field alone.
fn field(pointer: &str) -> FieldSet {
    let path = pointer.trim_start_matches('/').split('/');
    path.rev().fold(FieldSet::leaf(), |below, name| {
        let mut set = FieldSet::default();
        set.children.insert(format!("f:{name}"), below);
        set
    })
}

/// The Scale with those managers that own the object's replicas.
pub(super) fn to_scale(call: &Call, object: &Value, mut scale: Value, pointer: &str) -> Value {
    let replicas = field(pointer);
    let own = call.resource.api_version();
    let all = entries::decode(object).unwrap_or_default();
    let owners = all
        .into_iter()
        .filter(|e| e.api_version == own && !e.set.intersection(&replicas).is_empty())
        .map(|e| Entry {
            api_version: VERSION.into(),
            set: field("/spec/replicas"),
            ..e
        });
    entries::encode(&mut scale, owners.collect());
    scale
}

fn writer<'a>(call: &Call, shape: &'a StructRef, manager: &str) -> Writer<'a> {
    Writer {
        shape,
        manager: call.manager(manager),
        api_version: VERSION.into(),
        subresource: call.info.subresource.clone(),
        reset: &[&["f:status"], &["f:metadata"]],
        now: meta::now(),
    }
}

/// Records a plain write.
pub(super) fn track(
    call: &Call,
    current: &Value,
    scale: &mut Value,
    manager: &str,
) -> Result<(), ApiError> {
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    let shape = schema::types::root(&gvk.group, &gvk.version, &gvk.kind)
        .ok_or_else(|| ApiError::internal("no kind Scale"))?;
    // That nobody owned the replicas is no reason not to begin.
    writer(call, &shape, manager).update(current, scale, true);
    Ok(())
}

/// Server-side apply of a Scale.
pub(super) fn apply(
    call: &Call,
    shape: &StructRef,
    scale: &Value,
    applied: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    let writer = writer(call, shape, &options.field_manager);
    managed::outcome(
        writer.apply(scale, applied, options.force == Some(true)),
        &gvk,
        applied,
    )
}

/// Gives the object the managers of its Scale. They have no time, as upstream has it; what they
/// took is taken from the others.
pub(super) fn to_object(call: &Call, scale: &Value, object: &mut Value, pointer: &str) {
    let replicas = field(pointer);
    let own = call.resource.api_version();
    let owners = entries::decode(scale).unwrap_or_default();
    let mut all = entries::decode(object).unwrap_or_default();
    for entry in &mut all {
        let stays = owners.iter().any(|o| {
            (&o.manager, o.operation, &o.subresource)
                == (&entry.manager, entry.operation, &entry.subresource)
        });
        if entry.api_version == own && !stays {
            entry.set = std::mem::take(&mut entry.set).difference(&replicas);
        }
    }
    for owner in owners {
        let owner = Entry {
            api_version: own.clone(),
            time: String::new(),
            set: replicas.clone(),
            ..owner
        };
        match all.iter_mut().find(|e| e.is_of(&owner)) {
            Some(known) => known.set = std::mem::take(&mut known.set).union(&replicas),
            None => all.push(owner),
        }
    }
    entries::encode(object, all);
}
