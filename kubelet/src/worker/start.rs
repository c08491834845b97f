//! Making and starting containers, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1::{ContainerConfig, PodSandboxConfig};
use events::EventType;
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gather;
use super::perform::{blocking, link_name, sandbox_config, seccomp_root};
use super::reports::Report;
use crate::context::Context;
use crate::images::{Present, PullPolicy, Request};
use crate::pod::config::{self, ContainerInputs};
use crate::pod::containers::{self, Spec};
use crate::pod::downward::Surroundings;
use crate::pod::env::{self, Environment};
use crate::pod::memory::{Cause, Waiting};
use crate::pod::observed::{Observed, Record, Sandbox};
use crate::pod::plan::Start;
use crate::pod::{dns, hosts};
use crate::probes::{self, Target};
use crate::runtime::{self, PodIdentity};
use crate::volumes::{ReadyVolumes, mounts};

/// How long a postStart hook may take: it has no deadline of its own.
const HOOK_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What starting containers needs.
pub(super) struct Starter {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) observed: Observed,
    pub(super) volumes: Arc<ReadyVolumes>,
    pub(super) reporter: mpsc::UnboundedSender<Report>,
    pub(super) cancel: CancellationToken,
}

/// Why a container was not started.
struct Failure {
    waiting: Waiting,
    cause: Cause,
}

impl Failure {
    fn config(reason: &str, message: impl ToString) -> Self {
        Self {
            waiting: Waiting::new(reason, message.to_string()),
            cause: Cause::Config,
        }
    }
}

impl Starter {
    pub(super) async fn run(&self, starts: Vec<Start>) {
        for start in starts {
            let Some(spec) = containers::find(&self.pod, &start.name) else {
                continue;
            };
            let result = tokio::select! {
                // Preparing is given up at once; what the runtime has begun is finished.
                () = self.cancel.cancelled() => return,
                prepared = self.prepare(&spec, &start) => prepared,
            };
            let made = match result {
                Ok((config, sandbox)) => self.create(&spec, &start, config, sandbox).await,
                Err(failure) => Err(failure),
            };
            match made {
                Ok(id) => self.post_start(&spec, &id).await,
                Err(Failure { waiting, cause }) => {
                    if cause == Cause::Config {
                        let message = format!("Error: {}", waiting.message);
                        self.event(&spec, EventType::Warning, "Failed", message);
                    }
                    let _ = self.reporter.send(Report::StartFailed {
                        name: start.name,
                        waiting,
                        cause,
                    });
                }
            }
            if self.cancel.is_cancelled() {
                return;
            }
        }
    }

    fn event(&self, spec: &Spec<'_>, kind: EventType, reason: &'static str, message: String) {
        self.context
            .events
            .pod(&self.pod, Some(spec.name()), kind, reason, message);
    }

    /// Image, environment, mounts: everything before the runtime is told.
    async fn prepare(
        &self,
        spec: &Spec<'_>,
        start: &Start,
    ) -> Result<(ContainerConfig, PodSandboxConfig), Failure> {
        let attempt = self.sandbox.as_ref().map_or(0, |sandbox| sandbox.attempt);
        let sandbox = sandbox_config(&self.context, &self.pod, attempt);
        let image = self.image(spec, &sandbox).await?;
        let environment = self.environment(spec).await?;
        let mounts = self.mounts(spec, start, &environment).await?;
        let target_id = match spec.target {
            None => None,
            Some(target) => {
                let found = self
                    .observed
                    .newest(target)
                    .filter(|record| record.is_running());
                let missing = || {
                    Failure::config(
                        "CreateContainerConfigError",
                        format!("target container \"{target}\" is not running"),
                    )
                };
                Some(found.ok_or_else(missing)?.id.clone())
            }
        };
        let config = config::container(ContainerInputs {
            pod: &self.pod,
            spec,
            attempt: start.attempt,
            image: &image.id,
            image_user: image.user,
            environment,
            mounts,
            seccomp_root: &seccomp_root(&self.context),
            memory_capacity: self.context.memory_capacity(),
            target_id: target_id.as_deref(),
        })
        .map_err(|error| Failure::config("CreateContainerConfigError", error))?;
        Ok((config, sandbox))
    }

    async fn image(&self, spec: &Spec<'_>, sandbox: &PodSandboxConfig) -> Result<Present, Failure> {
        let secrets = gather::pull_secrets(&self.context, &self.pod).await;
        let request = Request {
            pod: &self.pod,
            container: Some(spec.name()),
            image: spec.container.image.as_deref().unwrap_or_default(),
            policy: PullPolicy::parse(spec.container.image_pull_policy.as_deref()),
            secrets: &secrets,
            sandbox: Some(sandbox.clone()),
        };
        let present = self.context.images.ensure(request).await;
        present.map_err(|failure| Failure {
            waiting: failure.0,
            cause: Cause::Image,
        })
    }

    async fn environment(&self, spec: &Spec<'_>) -> Result<Environment, Failure> {
        let wrong = |error: String| Failure::config("CreateContainerConfigError", error);
        let objects = gather::objects(&self.context, &self.pod)
            .await
            .map_err(wrong)?;
        let facts = self.context.facts.read().clone();
        let pod_ips = self.pod_ips(&facts.host_ips);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut services = self.context.services.list_namespace(namespace);
        if namespace != "default" {
            services.extend(self.context.services.get("default", "kubernetes"));
        }
        let services: Vec<&Service> = services.iter().map(Arc::as_ref).collect();
        let variables = env::of_services(&self.pod, services);
        env::environment(&env::Inputs {
            pod: &self.pod,
            container: &spec.container,
            objects: &objects,
            around: Surroundings {
                pod_ips: &pod_ips,
                host_ips: &facts.host_ips,
                node_name: &self.context.config.node_name,
                allocatable: &facts.allocatable,
            },
            services: &variables,
        })
        .map_err(|error| wrong(error.to_string()))
    }

    fn pod_ips(&self, host_ips: &[std::net::IpAddr]) -> Vec<std::net::IpAddr> {
        if containers::is_host_network(&self.pod) {
            return host_ips.to_vec();
        }
        self.sandbox
            .as_ref()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default()
    }

    async fn mounts(
        &self,
        spec: &Spec<'_>,
        start: &Start,
        environment: &Environment,
    ) -> Result<Vec<cri::v1::Mount>, Failure> {
        let (context, pod, volumes) =
            (self.context.clone(), self.pod.clone(), self.volumes.clone());
        let (name, attempt) = (spec.name().to_owned(), start.attempt);
        let environment = environment.clone();
        let pod_ips = self.pod_ips(&context.facts.read().host_ips);
        let work = move || {
            let spec = containers::find(&pod, &name).ok_or("the container is gone from the pod")?;
            let node_file = match containers::is_host_network(&pod) {
                true => std::fs::read_to_string(hosts::PATH).unwrap_or_default(),
                false => String::new(),
            };
            let host_name = dns::host_name(&pod, &context.config.cluster_domain);
            let inputs = mounts::Inputs {
                pod: &pod,
                spec: &spec,
                attempt,
                volumes: &volumes,
                environment: &environment,
                paths: &context.paths,
                hosts: &hosts::render(&pod, &pod_ips, &host_name, &node_file),
            };
            mounts::prepare(&inputs).map_err(|error| error.to_string())
        };
        let mounts = blocking(work)
            .await
            .map_err(|error| Failure::config("CreateContainerConfigError", error))?;
        if mounts.iter().any(|mount| mount.image.is_some()) {
            self.check_image_volumes().await?;
        }
        Ok(mounts)
    }

    /// A runtime that does not know image volumes would make something else of their mounts.
    async fn check_image_volumes(&self) -> Result<(), Failure> {
        let version = self.context.runtime.version().await.unwrap_or_default();
        if runtime::mounts_images(&version) {
            return Ok(());
        }
        let message = format!(
            "{} {} cannot mount image volumes: install containerd 2.1 or newer on node {}",
            version.runtime_name, version.runtime_version, self.context.config.node_name
        );
        Err(Failure::config("CreateContainerConfigError", message))
    }

    /// From here on a container may exist: nothing is given up half-way.
    async fn create(
        &self,
        spec: &Spec<'_>,
        start: &Start,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Result<String, Failure> {
        let runtime = &self.context.runtime;
        let Some(home) = &self.sandbox else {
            return Err(Failure::config(
                "CreateContainerError",
                "the pod has no sandbox",
            ));
        };
        let begun = Instant::now();
        if let Some(id) = &start.replaces {
            let _ = runtime.remove_container(id).await;
        }
        let created = runtime.create_container(&home.id, config, sandbox).await;
        self.context.metrics.count("create_container", &created);
        let id = created.map_err(|error| Failure::config("CreateContainerError", error))?;
        self.event(
            spec,
            EventType::Normal,
            "Created",
            format!("Created container: {}", spec.name()),
        );
        let started = runtime.start_container(&id).await;
        self.context.metrics.count("start_container", &started);
        started.map_err(|error| Failure::config("RunContainerError", error))?;
        let status = runtime.container_status(&id).await;
        let status = status.map_err(|error| Failure::config("RunContainerError", error))?;
        let took = begun.elapsed();
        let record = runtime::record(&home.id, &status);
        self.event(
            spec,
            EventType::Normal,
            "Started",
            format!("Started container {}", spec.name()),
        );
        self.link_log(&record).await;
        if has_post_start(spec) {
            let _ = self.reporter.send(Report::HookBegan(id.clone()));
        }
        let _ = self.reporter.send(Report::Started(Box::new(record), took));
        Ok(id)
    }

    async fn link_log(&self, record: &Record) {
        let identity = PodIdentity::of(&self.pod);
        let name = link_name(&identity, &record.name, &record.id);
        let link = self.context.config.container_logs.join(name);
        let _ = tokio::fs::symlink(&record.log_path, link).await;
    }

    /// The next container waits for the hook, as upstream's does.
    async fn post_start(&self, spec: &Spec<'_>, id: &str) {
        let lifecycle = spec.container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return;
        };
        let host_ips = self.context.facts.read().host_ips.clone();
        let target = Target {
            container: &spec.container,
            container_id: id,
            address: self.pod_ips(&host_ips).first().copied(),
        };
        let runtime = self.context.runtime.as_ref();
        let answer = tokio::select! {
            () = self.cancel.cancelled() => Ok(()),
            answer = probes::hook(runtime, handler, &target, HOOK_LIMIT) => answer,
        };
        let _ = self.reporter.send(Report::HookOver {
            id: id.to_owned(),
            answer,
        });
    }
}

fn has_post_start(spec: &Spec<'_>) -> bool {
    spec.container
        .lifecycle
        .as_ref()
        .is_some_and(|lifecycle| lifecycle.post_start.is_some())
}
