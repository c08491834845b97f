//! DELETE of one object.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::write::{Commit, Refused};
use crate::admission::Operation;
use crate::registry::call::Call;
use crate::registry::meta;
use crate::registry::object::Object;
use crate::registry::options::{DeleteOptions, Propagation, WriteOptions};
use crate::registry::resource::Resource;
use crate::response::{self, ApiError, ApiResponse, negotiate};

/// What a deletion comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// The object goes now.
    Remove,
    /// It is marked, so that watchers see that it was deleted in no time, and goes at once.
    MarkAndRemove(Value),
    /// The object is marked and waits for its node or its finalizers.
    Mark(Value),
    /// It is already marked; nothing changes.
    Pending,
}

/// The end of a deletion.
pub struct Deleted {
    pub object: Arc<Object>,
    pub removed: bool,
}

impl Call {
    /// DELETE.
    pub async fn delete(&self, body: Bytes) -> Result<ApiResponse, ApiError> {
        let options = self.delete_options(&body)?;
        let deleted = self.delete_named(&self.info.name, &options).await?;
        if deleted.removed && !self.resource.strategy.returns_deleted {
            return Ok(response::value(
                200,
                &self.deleted_status(&deleted.object),
                self.accepted,
            ));
        }
        self.object_response(200, &deleted.object).await
    }

    pub(super) fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, ApiError> {
        if body.is_empty() {
            return DeleteOptions::parse(&self.query, None);
        }
        let media = negotiate::sent(&self.headers, negotiate::BUILT_IN)?;
        let value = crate::registry::kinds::decode_options(media, body)?;
        DeleteOptions::parse(&self.query, Some(&value))
    }

    fn deleted_status(&self, object: &Object) -> Value {
        let value = object.value();
        let mut details = json!({
            "name": meta::name(&value),
            "kind": self.resource.plural,
            "uid": value["metadata"]["uid"],
        });
        if !self.resource.group.is_empty() {
            details["group"] = self.resource.group.as_ref().into();
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }

    /// Deletes an object of this resource; retries against a moving object.
    pub async fn delete_named(
        &self,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let key = self.resource.key(self.namespace(), name);
        let write = WriteOptions {
            dry_run: options.dry_run,
            ..WriteOptions::default()
        };
        loop {
            let current = self.current(name).await?;
            let old = self.present(&current).await?;
            self.check_delete_preconditions(&old, options)?;
            let mut attributes = self.attributes(Operation::Delete, None, Some(&old), &write);
            attributes.name = name.to_owned();
            attributes.options = options.to_value();
            self.registry.admission.mutate(&mut attributes).await?;
            self.registry.admission.validate(&attributes).await?;
            let verdict = decide(&self.resource, &old, options, Timestamp::now());
            let outcome = match &verdict {
                Verdict::Pending => {
                    return Ok(Deleted {
                        object: current,
                        removed: false,
                    });
                }
                Verdict::Remove => {
                    self.commit(&key, &old, Commit::Delete(current.revision), &write)
                        .await
                }
                Verdict::MarkAndRemove(new) => {
                    match self
                        .commit(&key, new, Commit::Update(current.revision), &write)
                        .await
                    {
                        Ok(marked) if options.dry_run => Ok(marked),
                        Ok(marked) => self
                            .commit(&key, new, Commit::Delete(marked.revision), &write)
                            .await
                            .map(|_| marked),
                        refused => refused,
                    }
                }
                Verdict::Mark(new) => {
                    self.commit(&key, new, Commit::Update(current.revision), &write)
                        .await
                }
            };
            match outcome {
                Ok(object) => {
                    let removed = matches!(verdict, Verdict::Remove | Verdict::MarkAndRemove(_));
                    return Ok(Deleted { object, removed });
                }
                // Only a deletion can end this loop for good: the object is gone or it goes.
                Err(Refused::Conflict) => {}
                Err(Refused::Error(error)) => return Err(error),
            }
        }
    }

    fn check_delete_preconditions(
        &self,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let conflict = |why: String| {
            let mut group = self.resource.group.as_ref();
            if self.resource.kind.is_empty() {
                group = "";
            }
            Err(ApiError::conflict(
                group,
                &self.resource.kind,
                meta::name(old),
                &why,
            ))
        };
        if let Some(uid) = &options.uid
            && uid != meta::text(old, "uid")
        {
            return conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                meta::text(old, "uid")
            ));
        }
        if let Some(version) = &options.resource_version
            && version != meta::text(old, "resourceVersion")
        {
            return conflict(format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                meta::text(old, "resourceVersion")
            ));
        }
        Ok(())
    }
}

/// What becomes of the object.
pub(super) fn decide(
    resource: &Resource,
    old: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Verdict {
    let mut new = old.clone();
    let finalizers = propagation_finalizers(resource, old, options.propagation);
    let waits_for_namespace = resource.kind == "Namespace"
        && old["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    let grace = grace_period(resource, old, options);
    if finalizers.is_empty() && grace == 0 && !waits_for_namespace {
        if resource.strategy.graceful {
            mark(&mut new, old, grace, now);
            if new != *old {
                return Verdict::MarkAndRemove(new);
            }
        }
        return Verdict::Remove;
    }
    set_finalizers(&mut new, &finalizers);
    mark(&mut new, old, grace, now);
    if waits_for_namespace {
        new["status"]["phase"] = "Terminating".into();
    }
    if new == *old {
        Verdict::Pending
    } else {
        Verdict::Mark(new)
    }
}

/// Seconds that the object has left; 0 where nobody waits.
fn grace_period(resource: &Resource, old: &Value, options: &DeleteOptions) -> i64 {
    if !resource.strategy.graceful {
        return 0;
    }
    let unscheduled = old["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let finished = matches!(
        old["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if unscheduled || finished {
        return 0;
    }
    let default = old["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    options.grace_period_seconds.unwrap_or(default).max(0)
}

/// Marks the object as being deleted; a second deletion can only shorten the time.
fn mark(new: &mut Value, old: &Value, grace: i64, now: Timestamp) {
    let marked = meta::is_deleting(old);
    let left = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if marked && left.is_some_and(|left| left <= grace) {
        return;
    }
    let metadata = meta::of_mut(new);
    let begun = match (marked, left) {
        // The first deletion's moment: its deadline less its period.
        (true, Some(left)) => metadata
            .get("deletionTimestamp")
            .and_then(|t| t.as_str()?.parse::<Timestamp>().ok())
            .map_or(now, |deadline| deadline - SignedDuration::from_secs(left)),
        _ => now,
    };
    let deadline = begun + SignedDuration::from_secs(grace);
    metadata.insert("deletionTimestamp".into(), meta::time(deadline).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if !marked && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The finalizers that the object has when it is being deleted this way.
fn propagation_finalizers(
    resource: &Resource,
    old: &Value,
    propagation: Option<Propagation>,
) -> Vec<String> {
    let has = |name: &str| meta::finalizers(old).contains(&name);
    let chosen = match propagation {
        Some(chosen) => chosen,
        None if has(ORPHAN) => Propagation::Orphan,
        None if has(FOREGROUND) => Propagation::Foreground,
        None if resource.strategy.orphans => Propagation::Orphan,
        None => Propagation::Background,
    };
    let mut finalizers: Vec<String> = meta::finalizers(old)
        .into_iter()
        .filter(|f| !matches!(*f, ORPHAN | FOREGROUND))
        .map(str::to_owned)
        .collect();
    match chosen {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    finalizers
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = meta::of_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}
