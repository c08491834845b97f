//! Operations of a plan, each in a task that reports back.

use std::sync::Arc;
use std::time::Instant;

use events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::reports::Report;
use super::start::Starter;
use super::state::Worker;
use super::{gather, stop};
use crate::context::Context;
use crate::csi;
use crate::pod::memory::{Pending, Volumes};
use crate::pod::observed::Sandbox;
use crate::pod::plan::{Kill, Op};
use crate::pod::{admission, cgroup, config, containers, dns, resize, resources};
use crate::runtime::PodIdentity;
use crate::volumes;

impl Worker {
    pub(super) fn perform(&mut self, op: Op, now: Timestamp) {
        match op {
            Op::PrepareVolumes => self.prepare_volumes(),
            Op::CreateSandbox { attempt } => self.create_sandbox(attempt),
            Op::Start(starts) => self.start_containers(starts, now),
            Op::Kill(kill) => self.kill(kill),
            Op::Resize { name, id } => self.resize(name, id, now),
            Op::StopSandbox { id } => self.stop_sandbox(id),
            Op::RemoveSandbox { id } => self.remove(id, Removable::Sandbox),
            Op::RemoveContainer { id } => self.remove(id, Removable::Container),
            Op::CancelStarts => self.cancel_starts.cancel(),
            Op::TearDown => self.tear_down(),
            Op::Erase => self.erase(now),
        }
    }

    /// Runs an action in a task of its own.
    pub(super) fn act<F>(&mut self, action: F)
    where
        F: Future<Output = Report> + Send + 'static,
    {
        let reporter = self.reporter.clone();
        self.actions.spawn(async move {
            let _ = reporter.send(action.await);
        });
    }

    fn prepare_volumes(&mut self) {
        self.memory.volumes = Volumes::Preparing;
        self.stale = false;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let sandbox_ips = self.pod_ips();
        self.act(async move {
            let made = async {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let identity = PodIdentity::of(&pod);
                make_directories(&context, &uid, &identity).await?;
                gather::volumes(&context, &pod, &sandbox_ips).await
            };
            Report::Volumes(made.await)
        });
    }

    /// Writes the contents of volumes again while the pod runs.
    pub(super) fn refresh_volumes(&mut self) {
        self.refreshing = true;
        self.stale = false;
        self.renew_at = None;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let sandbox_ips = self.pod_ips();
        self.act(
            async move { Report::Refreshed(gather::volumes(&context, &pod, &sandbox_ips).await) },
        );
    }

    fn create_sandbox(&mut self, attempt: u32) {
        self.memory.starting = true;
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            let (events, reason) = (&self.context.events, "SandboxChanged");
            events.pod(&self.pod, None, EventType::Normal, reason, message);
        }
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.act(async move {
            let begun = Instant::now();
            let made = make_sandbox(&context, &pod, attempt).await;
            context.metrics.count("run_podsandbox", &made);
            Report::Sandbox(made, begun.elapsed())
        });
    }

    fn start_containers(&mut self, starts: Vec<crate::pod::plan::Start>, now: Timestamp) {
        self.memory.starting = true;
        self.cancel_starts = CancellationToken::new();
        for start in &starts {
            let restart = self
                .observed
                .newest(&start.name)
                .is_some_and(|r| r.exit().is_some());
            if restart && !self.memory.replace.contains(&start.name) {
                self.memory.restarts.attempt(&start.name, now);
            }
            if let Some(spec) = containers::find(&self.pod, &start.name) {
                self.memory
                    .allocated
                    .insert(start.name.clone(), resize::wanted(&spec.container));
            }
        }
        let starter = Starter {
            context: self.context.clone(),
            pod: self.pod.clone(),
            sandbox: self.observed.sandbox().cloned(),
            observed: self.observed.clone(),
            volumes: self.volumes.clone(),
            reporter: self.reporter.clone(),
            cancel: self.cancel_starts.clone(),
        };
        self.act(async move {
            starter.run(starts).await;
            Report::StartsOver
        });
    }

    fn kill(&mut self, kill: Kill) {
        let Some(record) = self.observed.by_id(&kill.id).cloned() else {
            return;
        };
        let spec = containers::find(&self.pod, &record.name);
        let changed = spec.as_ref().is_some_and(|spec| spec.hash() != record.hash);
        if changed {
            self.memory.replace.insert(record.name.clone());
        }
        let repeated = self
            .memory
            .stopping
            .insert(kill.id.clone(), kill.deadline)
            .is_some();
        let deadline = kill.deadline;
        let order = stop::Order {
            context: self.context.clone(),
            pod: self.pod.clone(),
            record,
            kill,
            address: self.pod_ips().first().copied(),
            running: self.running.subscribe(),
            repeated,
        };
        self.act(async move {
            let id = order.run().await;
            Report::Killed { id, deadline }
        });
    }

    fn resize(&mut self, name: String, id: String, now: Timestamp) {
        let Some(spec) = containers::find(&self.pod, &name) else {
            return;
        };
        if let Err(rejection) = self
            .context
            .with_room(&self.uid, |room| admission::fits(&self.pod, room))
        {
            let alone = self.context.with_room(&self.uid, |room| {
                admission::fits(
                    &self.pod,
                    &admission::Room {
                        others: &[],
                        ..*room
                    },
                )
            });
            let (reason, pause) = if alone.is_err() {
                ("Infeasible", 3600)
            } else {
                ("Deferred", 10)
            };
            let retry_at = now + SignedDuration::from_secs(pause);
            let message = rejection.message.replace("Pod was rejected: ", "");
            self.memory.resize_pending = Some(Pending {
                reason: reason.into(),
                message,
                retry_at,
            });
            return;
        }
        self.memory.resize_pending = None;
        let given = self
            .memory
            .allocated
            .get(&name)
            .cloned()
            .unwrap_or_default();
        let wanted = resize::wanted(&spec.container);
        self.memory.loose_limits = true;
        if resize::needs_restart(&spec.container, &given) {
            self.memory
                .condemned
                .insert(id, format!("Container {name} resize requires a restart"));
            self.memory.replace.insert(name);
            self.look = true;
            // The container keeps what it was given until the next one starts.
            self.hold_to(self.room_to_resize());
            return;
        }
        let limits = resources::linux(&self.pod, &spec.container, self.context.memory_capacity());
        self.memory.starting = true;
        let room = self.room_to_resize();
        let context = self.context.clone();
        self.act(async move {
            let changed = async {
                apply_cgroup(&context, &room).await?;
                context
                    .runtime
                    .update_resources(&id, limits)
                    .await
                    .map_err(|error| error.to_string())
            };
            Report::Resized {
                name,
                result: changed.await.map(|()| wanted),
            }
        });
    }

    /// The pod with room for what its containers have and for what they are to get.
    fn room_to_resize(&self) -> Pod {
        let allocated = &self.memory.allocated;
        resize::with_resources(&self.pod, |container| {
            let wanted = resize::wanted(container);
            match allocated.get(&container.name) {
                Some(given) => resize::roomiest(given, &wanted),
                None => wanted,
            }
        })
    }

    /// Holds the pod's cgroup to its limits again when all of its containers have theirs.
    pub(super) fn tighten_limits(&mut self) {
        let changing = |spec: &containers::Spec<'_>| {
            resize::is_wanted(spec, &self.memory) || self.memory.replace.contains(spec.name())
        };
        if !self.memory.loose_limits || containers::all(&self.pod).iter().any(changing) {
            return;
        }
        self.memory.loose_limits = false;
        self.hold_to((*self.pod).clone());
    }

    fn hold_to(&mut self, pod: Pod) {
        let context = self.context.clone();
        self.act(async move { Report::Held(apply_cgroup(&context, &pod).await) });
    }

    fn stop_sandbox(&mut self, id: String) {
        self.memory.stopping_sandbox = true;
        let context = self.context.clone();
        self.act(async move {
            let result = context.runtime.stop_sandbox(&id).await;
            context.metrics.count("stop_podsandbox", &result);
            Report::SandboxStopped { id, result }
        });
    }

    fn remove(&mut self, id: String, what: Removable) {
        if !self.memory.removing.insert(id.clone()) {
            return;
        }
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let record = self.observed.by_id(&id).cloned();
        self.act(async move {
            let result = match what {
                Removable::Sandbox => context.runtime.remove_sandbox(&id).await,
                Removable::Container => context.runtime.remove_container(&id).await,
            };
            if let (Ok(()), Some(record)) = (&result, record) {
                let identity = PodIdentity::of(&pod);
                forget_files(&context, &identity, &record).await;
            }
            Report::Removed { id, result }
        });
    }

    fn tear_down(&mut self) {
        self.memory.volumes = Volumes::Preparing;
        self.context.objects.release(&self.uid);
        self.context.tokens.release(&self.uid);
        let (context, pod, uid) = (self.context.clone(), self.pod.clone(), self.uid.clone());
        let known_spec = pod.spec.is_some();
        self.act(async move {
            if let Err(error) = csi::tear_down(&context, &uid).await {
                return Report::TornDown(Err(error.to_string()));
            }
            let work = move || {
                volumes::tear_down(&context.paths, &uid).map_err(|error| error.to_string())?;
                let root = &context.config.cgroup_root;
                let paths = if known_spec {
                    vec![cgroup::pod_path(root, &pod)]
                } else {
                    // Of an orphan the class is not known.
                    use crate::pod::qos::Qos::{BestEffort, Burstable, Guaranteed};
                    let classes = [Guaranteed, Burstable, BestEffort];
                    classes
                        .map(|class| format!("{}/pod{uid}", cgroup::class_path(root, class)))
                        .to_vec()
                };
                for path in paths {
                    context
                        .cgroups
                        .remove(&path)
                        .map_err(|error| error.to_string())?;
                }
                Ok(())
            };
            Report::TornDown(blocking(work).await)
        });
    }

    fn erase(&mut self, now: Timestamp) {
        let waits = self.retry_erase_at.is_some_and(|at| now < at);
        if waits || !self.memory.removing.insert("files".to_owned()) {
            return;
        }
        self.retry_erase_at = None;
        let (context, pod, uid) = (self.context.clone(), self.pod.clone(), self.uid.clone());
        self.act(async move {
            let work = move || {
                volumes::erase(&context.paths, &uid).map_err(|error| error.to_string())?;
                let logs = context
                    .config
                    .pod_logs
                    .join(config::log_directory(&PodIdentity::of(&pod)));
                match std::fs::remove_dir_all(&logs) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(error.to_string())
                    }
                    _ => Ok(()),
                }
            };
            Report::Erased(blocking(work).await)
        });
    }

    pub(super) fn pod_ips(&self) -> Vec<std::net::IpAddr> {
        if containers::is_host_network(&self.pod) {
            return self.context.facts.read().host_ips.clone();
        }
        self.observed
            .sandbox()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default()
    }
}

enum Removable {
    Sandbox,
    Container,
}

/// Runs work that blocks on the threads that are there for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

async fn make_directories(
    context: &Arc<Context>,
    uid: &str,
    identity: &PodIdentity,
) -> Result<(), (String, String)> {
    let directories = [
        context.paths.pod(uid),
        context
            .config
            .pod_logs
            .join(config::log_directory(identity)),
        context.config.container_logs.clone(),
    ];
    for directory in directories {
        let made = tokio::fs::create_dir_all(&directory).await;
        made.map_err(|error| (directory.display().to_string(), error.to_string()))?;
    }
    Ok(())
}

async fn apply_cgroup(context: &Arc<Context>, pod: &Pod) -> Result<(), String> {
    let path = cgroup::pod_path(&context.config.cgroup_root, pod);
    let limits = cgroup::limits(pod, None);
    let cgroups = context.cgroups.clone();
    blocking(move || {
        cgroups
            .apply(&path, &limits)
            .map_err(|error| error.to_string())
    })
    .await
}

/// The configuration of a pod's sandbox.
pub(super) fn sandbox_config(
    context: &Context,
    pod: &Pod,
    attempt: u32,
) -> cri::v1::PodSandboxConfig {
    let host = std::fs::read_to_string(&context.config.resolv_conf).unwrap_or_default();
    let domain = &context.config.cluster_domain;
    config::sandbox(&config::SandboxInputs {
        pod,
        attempt,
        cluster_domain: domain,
        dns: dns::config(pod, &dns::parse(&host), &context.config.cluster_dns, domain),
        cgroup_root: &context.config.cgroup_root,
        log_root: &context.config.pod_logs.display().to_string(),
        seccomp_root: &seccomp_root(context),
    })
}

pub(super) fn seccomp_root(context: &Context) -> String {
    context.config.root.join("seccomp").display().to_string()
}

async fn make_sandbox(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    attempt: u32,
) -> Result<Sandbox, String> {
    apply_cgroup(context, pod).await?;
    let handler = match containers::spec(pod).runtime_class_name.as_deref() {
        None | Some("") => String::new(),
        Some(name) => match context.runtime_classes.get("", name) {
            Some(class) => class.handler.clone(),
            None => return Err(format!("RuntimeClass \"{name}\" not found")),
        },
    };
    let sandbox = sandbox_config(context, pod, attempt);
    let created_at = Timestamp::now();
    let id = context
        .runtime
        .run_sandbox(sandbox, handler)
        .await
        .map_err(|error| error.to_string())?;
    let status = context
        .runtime
        .sandbox_status(&id)
        .await
        .map_err(|error| error.to_string())?;
    let network = status.network.unwrap_or_default();
    let addresses =
        std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|ip| &ip.ip));
    let ips = addresses.filter_map(|ip| ip.parse().ok()).collect();
    Ok(Sandbox {
        id,
        attempt,
        ready: true,
        created_at,
        ips,
    })
}

/// Removes a container's log and its link.
async fn forget_files(
    context: &Context,
    identity: &PodIdentity,
    record: &crate::pod::observed::Record,
) {
    let link = context
        .config
        .container_logs
        .join(link_name(identity, &record.name, &record.id));
    let _ = tokio::fs::remove_file(link).await;
    if !record.log_path.is_empty() {
        let _ = tokio::fs::remove_file(&record.log_path).await;
    }
}

/// The name by which log collectors find a container's log.
pub(super) fn link_name(identity: &PodIdentity, container: &str, id: &str) -> String {
    format!(
        "{}_{}_{container}-{id}.log",
        identity.name, identity.namespace
    )
}

impl Worker {
    /// Tells of a container that is about to be stopped or has failed.
    pub(super) fn warn(&self, container: &str, reason: &'static str, message: String) {
        let events = &self.context.events;
        events.pod(
            &self.pod,
            Some(container),
            EventType::Warning,
            reason,
            message,
        );
    }
}
