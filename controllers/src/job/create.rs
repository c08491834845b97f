//! A pod of a Job.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;

use super::plan::NewPod;
use super::policy::{FAILURES, INDEX};
use super::tally::FINALIZER;
use crate::framework::owners::controller_of;
use crate::framework::pods::from_template;

const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

pub(crate) fn pod(job: &Job, new: NewPod) -> Pod {
    let template = job
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let namespace = job.namespace().unwrap_or_default();
    let name = job.name_any();
    let prefix = new
        .index
        .map_or_else(|| name.clone(), |index| format!("{name}-{index}"));
    let mut pod = from_template(&template, &namespace, &prefix, controller_of(job));
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(FINALIZER.to_owned());
    let labels = pod.metadata.labels.get_or_insert_default();
    for (key, value) in [
        ("batch.kubernetes.io/job-name", name.clone()),
        (
            "batch.kubernetes.io/controller-uid",
            job.uid().unwrap_or_default(),
        ),
    ] {
        labels.entry(key.to_owned()).or_insert(value);
    }
    if let Some(index) = new.index {
        dress(&mut pod, &name, index, new.failures);
    }
    pod
}

/// An indexed pod knows its index by label, annotation, host name and environment.
fn dress(pod: &mut Pod, job: &str, index: i32, failures: Option<i32>) {
    let number = index.to_string();
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(INDEX.to_owned(), number.clone());
    let notes = pod.metadata.annotations.get_or_insert_default();
    notes.insert(INDEX.to_owned(), number);
    if let Some(failures) = failures {
        notes.insert(FAILURES.to_owned(), failures.to_string());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{index}"));
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        add_index(container);
    }
}

fn add_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|known| known.name == INDEX_ENV) {
        return;
    }
    let field_path = format!("metadata.labels['{INDEX}']");
    env.push(EnvVar {
        name: INDEX_ENV.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path,
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "ns", "uid": "u"},
            "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}))
        .expect("a Job");
        let pod = pod(
            &job,
            NewPod {
                index: Some(3),
                failures: Some(1),
            },
        );
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!(pod.labels()[INDEX], "3");
        assert_eq!(pod.annotations()[FAILURES], "1");
        assert_eq!(pod.finalizers(), [FINALIZER]);
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(
            spec.containers[0].env.as_ref().expect("env")[0].name,
            INDEX_ENV
        );
    }
}
