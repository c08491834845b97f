//! Workloads: jobs' selectors, daemon sets' template generations.

use serde_json::{Map, Value, json};

use super::Context;
use crate::registry::meta;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Unless it is told to be manual, a job selects its pods by its own uid.
pub(super) fn create_job(job: &mut Value, _: &Context<'_>) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (name, uid) = (
        meta::name(job).to_owned(),
        meta::text(job, "uid").to_owned(),
    );
    let template = &mut job["spec"]["template"];
    if !template.is_object() {
        *template = json!({});
    }
    let labels = meta::of_mut(template)
        .entry("labels")
        .or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        for (key, value) in [("job-name", &name), ("controller-uid", &uid)] {
            for key in [key.to_owned(), format!("batch.kubernetes.io/{key}")] {
                labels.insert(key, value.as_str().into());
            }
        }
    }
    let selector = &mut job["spec"]["selector"];
    if !selector.is_object() {
        *selector = json!({});
    }
    if !selector["matchLabels"].is_object() {
        selector["matchLabels"] = Value::Object(Map::new());
    }
    selector["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.into();
}

fn template_generation(set: &Value) -> i64 {
    set["metadata"]["annotations"][TEMPLATE_GENERATION]
        .as_str()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    let annotations = meta::of_mut(set)
        .entry("annotations")
        .or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
    }
}

pub(super) fn create_daemon_set(set: &mut Value, _: &Context<'_>) {
    let generation = template_generation(set).max(1);
    set_template_generation(set, generation);
}

pub(super) fn update_daemon_set(new: &mut Value, old: &Value, _: &Context<'_>) {
    let mut generation = template_generation(old);
    if old["spec"]["template"] != new["spec"]["template"] {
        generation += 1;
    }
    set_template_generation(new, generation);
}

/// A deployment's annotations count like its specification.
pub(super) fn annotations_differ(old: &Value, new: &Value) -> bool {
    let of = |o: &Value| {
        o["metadata"]["annotations"]
            .as_object()
            .cloned()
            .unwrap_or_default()
    };
    of(old) != of(new)
}
