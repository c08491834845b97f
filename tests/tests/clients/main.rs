//! The programs and libraries that people bring, against the server alone: kubectl of an old and
//! of the current release, Helm, and the client libraries for Python, JavaScript and Rust.
//!
//! `scripts/clients` fetches what is not Rust. What needs running pods is in the suite `cluster`.

mod applying;
mod custom;
mod helm;
mod libraries;
mod machinery;
mod reading;
mod running;
mod rust;
mod writing;

use std::path::PathBuf;
use std::process::ExitCode;

use cluster_tests::cases;
use cluster_tests::clients::{Kubectl, RELEASES};
use cluster_tests::server::Server;

/// A server with all controllers and no nodes.
pub(crate) struct Suite {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Suite {
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Tries a case with each release of kubectl.
    pub(crate) fn with_each(
        &self,
        case: &str,
        run: impl Fn(&Kubectl) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for release in RELEASES {
            let kubectl = Kubectl::start(&self.kubeconfig(), release, case)?;
            run(&kubectl).map_err(|error| error.context(format!("kubectl-{release}")))?;
        }
        Ok(())
    }

    /// Tries a case with the release of the server itself.
    pub(crate) fn with_newest(
        &self,
        case: &str,
        run: impl Fn(&Kubectl) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        run(&self.kubectl(case)?)
    }

    /// The release of the server itself.
    pub(crate) fn kubectl(&self, case: &str) -> anyhow::Result<Kubectl> {
        Kubectl::start(&self.kubeconfig(), "new", case)
    }
}

fn main() -> ExitCode {
    let cases = cases![
        reading::every_kind_is_made_shown_described_and_deleted,
        libraries::the_python_client_watches_and_resumes,
        applying::a_client_applies_and_sees_differences,
        applying::a_server_applies_with_owners_and_conflicts,
        writing::objects_are_edited_patched_labelled_and_replaced,
        writing::what_is_wrong_is_told_before_anything_is_stored,
        running::workloads_are_scaled_exposed_and_rolled_back,
        running::nodes_are_cordoned_tainted_and_drained,
        running::what_is_asked_for_is_waited_for,
        reading::lists_are_printed_as_asked,
        reading::the_api_explains_itself,
        reading::rights_are_asked_and_reconciled,
        reading::the_proxy_of_kubectl_serves_a_port_and_a_socket,
        libraries::the_python_client_does_typed_requests,
        libraries::the_python_client_creates_manifests,
        libraries::the_python_client_informs,
        libraries::the_python_client_is_dynamic,
        libraries::the_python_client_elects_a_leader,
        libraries::the_javascript_client_does_typed_requests,
        libraries::the_javascript_client_applies_any_object,
        libraries::the_javascript_client_informs,
        libraries::the_javascript_client_watches,
        rust::a_watcher_streams_its_first_list,
        rust::a_controller_finalizes_what_it_made,
        rust::apply_keeps_to_its_own_fields,
        helm::a_release_is_installed_upgraded_rolled_back_and_removed,
        custom::published_schemas_are_explained_and_validated,
        custom::versions_come_and_go_in_what_is_published,
        machinery::what_cannot_be_a_table_is_refused,
        machinery::duplicate_and_unknown_fields_are_told_by_place,
        machinery::concurrent_watchers_see_one_order,
        machinery::a_namespace_loses_its_pods_first,
        machinery::discovery_agrees_with_itself,
        machinery::chunks_agree_while_others_write,
    ];
    cluster_tests::harness::run("clients", 3, cases, || {
        let directory = tempfile::tempdir()?;
        let server = Server::start(&directory.path().join("data"), &[])?;
        let suite = Suite {
            server,
            _directory: directory,
        };
        custom::install_widgets(&suite)?;
        Ok(suite)
    })
}
