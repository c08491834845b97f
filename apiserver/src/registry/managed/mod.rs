//! Managed fields: who set what, and server-side apply, which decides by that.
//!
//! [`typed`] has the operations of structured merge on values beside their schema, [`field_set`]
//! the sets of fields, [`entries`] their form in the object. This file has the rules: what a
//! plain write takes from others, what an apply conflicts with, and what it removes.

pub mod entries;
mod field_set;
mod last_applied;
pub(super) mod typed;

use schema::types::{Gvk, StructRef};
use serde_json::Value;

use super::call::Call;
use super::options::WriteOptions;
use super::{kinds, meta};
use crate::response::{ApiError, Cause, Details};
pub use entries::{Entry, Operation, same_but_times};
pub use field_set::FieldSet;

/// Fields that nobody owns: the server sets them.
const SYSTEM: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

fn without_system_fields(set: FieldSet) -> FieldSet {
    let mut set = set.without(SYSTEM);
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

/// What a write to this (sub)resource never changes, and so never owns.
pub fn reset_fields(call: &Call) -> &'static [&'static [&'static str]] {
    match call.info.subresource.as_str() {
        "status" if call.resource.is_custom() => &[
            &["f:spec"],
            &["f:metadata", "f:deletionTimestamp"],
            &["f:metadata", "f:ownerReferences"],
        ],
        "status" if call.resource.plural == "pods" => &[
            &["f:spec"],
            &["f:metadata", "f:deletionTimestamp"],
            &["f:metadata", "f:ownerReferences"],
        ],
        "status" => &[&["f:spec"]],
        _ if call.resource.has_status() => &[&["f:status"]],
        _ => &[],
    }
}

/// One write, as far as ownership is concerned.
pub struct Writer<'a> {
    pub shape: &'a StructRef,
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    /// Fields that the write cannot change.
    pub reset: &'a [&'a [&'a str]],
    pub now: String,
}

impl<'a> Writer<'a> {
    fn of(call: &'a Call, field_manager: &str) -> Self {
        Writer {
            shape: &call.resource.shape,
            manager: call.manager(field_manager),
            api_version: call.resource.api_version(),
            subresource: call.info.subresource.clone(),
            reset: reset_fields(call),
            now: meta::now(),
        }
    }

    fn entry(&self, operation: Operation) -> Entry {
        Entry {
            manager: self.manager.clone(),
            operation,
            api_version: self.api_version.clone(),
            subresource: self.subresource.clone(),
            time: self.now.clone(),
            set: FieldSet::default(),
        }
    }

    /// Records a plain write from `live` to `new`: what changed is owned by the writer alone.
    pub fn update(&self, live: &Value, new: &mut Value, is_create: bool) {
        let mut all = self.known_entries(live, new);
        if all.is_empty() && !is_create {
            meta::of_mut(new).remove("managedFields");
            return;
        }
        let compared = typed::compare(self.shape, live, new);
        let added = compared.added.without(self.reset);
        let modified = compared.modified.without(self.reset);
        let removed = compared.removed.without(self.reset);
        let taken = added.union(&modified);
        let lost = taken.clone().union(&removed);
        let own = self.entry(Operation::Update);
        for entry in &mut all {
            let set = std::mem::take(&mut entry.set);
            let gone = if entry.is_of(&own) { &removed } else { &lost };
            entry.set = set.difference(gone);
        }
        let taken = without_system_fields(taken);
        if !taken.is_empty() {
            match all.iter_mut().find(|e| e.is_of(&own)) {
                Some(entry) => {
                    entry.set = std::mem::take(&mut entry.set).union(&taken);
                    entry.time = own.time;
                }
                None => all.push(Entry { set: taken, ..own }),
            }
        }
        entries::encode(new, all);
    }

    /// The entries that the write starts from: those it sends, else the object's.
    fn known_entries(&self, live: &Value, new: &Value) -> Vec<Entry> {
        let live = || entries::decode(live).unwrap_or_default();
        if !self.subresource.is_empty() {
            return live();
        }
        if entries::is_reset(new) {
            return Vec::new();
        }
        entries::decode(new)
            .filter(|sent| !sent.is_empty())
            .unwrap_or_else(live)
    }

    /// Server-side apply.
    pub fn apply(&self, live: &Value, applied: &Value, force: bool) -> Result<Value, ApplyError> {
        let mut all = entries::decode(live).unwrap_or_default();
        if all.is_empty() {
            all.extend(self.before_first_apply(live));
        }
        let mut base = live.clone();
        meta::of_mut(&mut base).remove("managedFields");
        typed::check(self.shape, applied)?;
        let own = self.entry(Operation::Apply);
        let last = match all.iter().position(|e| e.is_of(&own)) {
            Some(at) => all.remove(at),
            None => Entry {
                time: String::new(),
                ..own.clone()
            },
        };
        let set = typed::field_set(self.shape, applied).without(self.reset);
        let merged = typed::merge(self.shape, &base, applied);
        let merged = self.prune(merged, &all, &set, &last.set);
        self.take_from_others(&base, &merged, &mut all, force)?;
        let set = without_system_fields(set);
        let unchanged = entries::equal_but_version(&merged, &base);
        let time = if unchanged {
            last.time
        } else {
            own.time.clone()
        };
        all.push(Entry { set, time, ..own });
        let mut merged = merged;
        last_applied::renew(&self.manager, applied, &mut merged);
        entries::encode(&mut merged, all);
        Ok(merged)
    }

    /// Somebody set what is there, even where nobody was told apart.
    fn before_first_apply(&self, live: &Value) -> Option<Entry> {
        // A fresh object has nothing that anybody set.
        if meta::text(live, "uid").is_empty() {
            return None;
        }
        let set = typed::field_set(self.shape, live).without(self.reset);
        Some(Entry {
            manager: "before-first-apply".into(),
            set: without_system_fields(set),
            ..self.entry(Operation::Update)
        })
    }

    /// Removes what this manager applied before, applies no longer, and no other applier owns.
    fn prune(&self, merged: Value, others: &[Entry], set: &FieldSet, last: &FieldSet) -> Value {
        // What was applied before and still is stays, with all that stands beside it: mostly
        // nothing else was applied.
        if last.is_within(set) {
            return merged;
        }
        let named = |set: &FieldSet| typed::with_named_fields(self.shape, set);
        let fields = |value: &Value| named(&typed::field_set(self.shape, value));
        let last = named(last);
        let owned = others
            .iter()
            .filter(|e| e.operation == Operation::Apply)
            .fold(set.clone(), |owned, e| owned.union(&e.set));
        let everything = fields(&merged);
        let pruned = typed::remove(self.shape, &merged, &last);
        let keep = fields(&pruned).union(&named(&owned));
        let pruned = typed::remove(self.shape, &merged, &everything.clone().difference(&keep));
        let dangling = everything.difference(&fields(&pruned)).intersection(&last);
        typed::remove(self.shape, &merged, &dangling)
    }

    /// What the apply changes is no longer owned by others; without force that is a conflict.
    fn take_from_others(
        &self,
        live: &Value,
        new: &Value,
        others: &mut [Entry],
        force: bool,
    ) -> Result<(), ApplyError> {
        let compared = typed::compare(self.shape, live, new);
        let taken = compared.added.union(&compared.modified).without(self.reset);
        let removed = compared.removed.without(self.reset);
        let own = last_applied::still_applied(self.shape, &self.manager, &self.api_version, live);
        let mut conflicts = Vec::new();
        for entry in others.iter() {
            let fought = entry.set.intersection(&taken).difference(&own);
            for path in fought.paths() {
                conflicts.push((entry.describe(), path));
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        let lost = taken.union(&removed);
        for entry in others {
            entry.set = std::mem::take(&mut entry.set).difference(&lost);
        }
        Ok(())
    }
}

/// Why an apply is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Typed(#[from] typed::TypedError),
    /// (manager, path)
    #[error("{} fields are owned by others", .0.len())]
    Conflicts(Vec<(String, String)>),
}

/// Upstream's wording of conflicts.
fn conflict_status(conflicts: &[(String, String)]) -> ApiError {
    let causes = conflicts.iter().map(|(manager, path)| {
        Cause::new(
            "FieldManagerConflict",
            format!("conflict with {manager}"),
            path.as_str(),
        )
    });
    let details = Details {
        causes: causes.collect(),
        ..Details::default()
    };
    let message = match conflicts {
        [(manager, path)] => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
        }
        many => {
            let mut lines = Vec::new();
            let mut managers: Vec<&String> = many.iter().map(|(manager, _)| manager).collect();
            managers.sort();
            managers.dedup();
            for manager in managers {
                lines.push(format!("conflicts with {manager}:"));
                let paths = many.iter().filter(|(m, _)| m == manager);
                lines.extend(paths.map(|(_, path)| format!("- {path}")));
            }
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.join("\n")
            )
        }
    };
    ApiError::new(409, "Conflict", message, Some(details))
}

/// Whether an object says that it has no managed fields, which forgets them.
pub fn is_emptied(object: &Value) -> bool {
    object["metadata"]["managedFields"]
        .as_array()
        .is_some_and(Vec::is_empty)
}

/// Marks the object so: reading it has dropped the empty list.
pub fn forget(object: &mut Value) {
    meta::of_mut(object).insert("managedFields".into(), serde_json::json!([{}]));
}

/// Records the change from `old` to `new` for the manager of this request.
pub fn track_update(call: &Call, old: Option<&Value>, new: &mut Value, manager: &str) {
    if call.resource.strategy.untracked {
        meta::of_mut(new).remove("managedFields");
        return;
    }
    let writer = Writer::of(call, manager);
    match old {
        Some(old) => writer.update(old, new, false),
        None => writer.update(&kinds::empty_object(&call.resource), new, true),
    }
}

/// Records what the server itself changes while it answers somebody's request.
pub fn track_own_update(call: &Call, old: &Value, new: &mut Value) {
    track_update(call, Some(old), new, "kube-apiserver");
}

/// As [`track_update`] on creation, for a kind that is not the resource's own.
pub fn track_creation_of(call: &Call, gvk: &Gvk, new: &mut Value, manager: &str) {
    let Some(shape) = schema::types::root(&gvk.group, &gvk.version, &gvk.kind) else {
        return;
    };
    let mut empty = serde_json::json!({"metadata": {}});
    schema::check::complete(&mut empty, &shape);
    let writer = Writer {
        shape: &shape,
        api_version: gvk.api_version(),
        reset: &[],
        ..Writer::of(call, manager)
    };
    writer.update(&empty, new, true);
}

/// The object with a configuration merged in as an apply would, without anybody owning it.
pub fn merge_configuration(
    shape: &StructRef,
    live: &Value,
    configuration: &Value,
) -> Result<Value, typed::TypedError> {
    typed::check(shape, configuration)?;
    Ok(typed::merge(shape, live, configuration))
}

/// Refuses an applied object that cannot be applied at all.
pub fn check_applied(gvk: &Gvk, applied: &Value) -> Result<(), ApiError> {
    let text = |key: &str| applied[key].as_str().unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind.is_empty() || version.is_empty() {
        let (group, version) = super::resource::split_api_version(version);
        return Err(ApiError::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={kind}"
        )));
    }
    if version != gvk.api_version() {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            gvk.api_version()
        )));
    }
    if kind != gvk.kind {
        let (group, version) = super::resource::split_api_version(version);
        return Err(ApiError::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={kind}"
        )));
    }
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// The object (or an empty one) with what is applied merged in.
pub fn apply(
    call: &Call,
    old: Option<&Value>,
    applied: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let writer = Writer::of(call, &options.field_manager);
    let empty;
    let live = match old {
        Some(old) => old,
        None => {
            empty = kinds::empty_object(&call.resource);
            &empty
        }
    };
    let applied_now = writer.apply(live, applied, options.force == Some(true));
    outcome(applied_now, &call.resource.gvk(), applied)
}

/// The outcome of an apply as clients are told.
pub fn outcome(
    merged: Result<Value, ApplyError>,
    gvk: &Gvk,
    applied: &Value,
) -> Result<Value, ApiError> {
    merged.map_err(|error| match error {
        ApplyError::Conflicts(conflicts) => conflict_status(&conflicts),
        ApplyError::Typed(fault) => {
            let message = format!(
                "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {fault}",
                meta::text(applied, "namespace"),
                meta::name(applied),
                gvk.group,
                gvk.version,
                gvk.kind,
            );
            ApiError::new(500, "", message, None)
        }
    })
}

#[cfg(test)]
mod tests;
