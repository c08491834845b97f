//! The client libraries for Python and JavaScript; `clients/client.py` and `clients/client.mjs`
//! hold the cases.

use cluster_tests::clients::library;

use crate::Suite;

fn python(suite: &Suite, case: &str) -> anyhow::Result<()> {
    let kubectl = suite.kubectl(&format!("python-{}", case.replace('_', "-")))?;
    library(
        &suite.kubeconfig(),
        "python3",
        "client.py",
        case,
        &kubectl.namespace,
    )
}

fn javascript(suite: &Suite, case: &str) -> anyhow::Result<()> {
    let kubectl = suite.kubectl(&format!("javascript-{case}"))?;
    library(
        &suite.kubeconfig(),
        "node",
        "client.mjs",
        case,
        &kubectl.namespace,
    )
}

pub(crate) fn the_python_client_does_typed_requests(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "typed")
}

pub(crate) fn the_python_client_creates_manifests(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "manifests")
}

pub(crate) fn the_python_client_watches_and_resumes(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "watches")
}

pub(crate) fn the_python_client_informs(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "informers")
}

pub(crate) fn the_python_client_is_dynamic(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "dynamic_client")
}

pub(crate) fn the_python_client_elects_a_leader(suite: &Suite) -> anyhow::Result<()> {
    python(suite, "leader_election")
}

pub(crate) fn the_javascript_client_does_typed_requests(suite: &Suite) -> anyhow::Result<()> {
    javascript(suite, "typed")
}

pub(crate) fn the_javascript_client_applies_any_object(suite: &Suite) -> anyhow::Result<()> {
    javascript(suite, "objects")
}

pub(crate) fn the_javascript_client_informs(suite: &Suite) -> anyhow::Result<()> {
    javascript(suite, "informer")
}

pub(crate) fn the_javascript_client_watches(suite: &Suite) -> anyhow::Result<()> {
    javascript(suite, "watch")
}
