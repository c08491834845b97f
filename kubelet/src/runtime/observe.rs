use std::collections::BTreeMap;
use std::net::IpAddr;

use cri::Error;
use cri::v1::{self, ContainerState};
use jiff::Timestamp;

use super::{PodIdentity, Runtime, Selector, annotation, label};
use crate::pod::observed::{
    Exit, Limits, Observed, Record, Sandbox, State, TerminationMessage, User,
};

fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Everything that the runtime has of one pod. What `known` already says of containers that
/// have exited is not asked again: it does not change.
pub async fn observe(
    runtime: &dyn Runtime,
    uid: &str,
    known: &Observed,
) -> Result<Observed, Error> {
    let selector: Selector = [(label::POD_UID.to_owned(), uid.to_owned())].into();
    let (sandboxes, containers) = futures::try_join!(
        runtime.list_sandboxes(selector.clone()),
        runtime.list_containers(selector)
    )?;
    let mut observed = Observed::default();
    for item in sandboxes {
        let ready = item.is_ready();
        let ips = match known.sandboxes.iter().find(|sandbox| sandbox.id == item.id) {
            Some(sandbox) if !sandbox.ips.is_empty() || !ready => sandbox.ips.clone(),
            _ if ready => addresses(runtime, &item.id).await?,
            _ => Vec::new(),
        };
        observed.sandboxes.push(Sandbox {
            attempt: item.metadata.as_ref().map_or(0, |meta| meta.attempt),
            ready,
            created_at: timestamp(item.created_at),
            ips,
            id: item.id,
        });
    }
    for item in containers {
        let exited = item.state() == ContainerState::ContainerExited;
        let before = known
            .by_id(&item.id)
            .filter(|record| exited && !record.is_alive());
        if let Some(before) = before {
            observed.containers.push(before.clone());
            continue;
        }
        match runtime.container_status(&item.id).await {
            Ok(status) => observed
                .containers
                .push(record(&item.pod_sandbox_id, &status)),
            // It was removed in between.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    observed.sort();
    Ok(observed)
}

async fn addresses(runtime: &dyn Runtime, id: &str) -> Result<Vec<IpAddr>, Error> {
    let status = match runtime.sandbox_status(id).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let network = status.network.unwrap_or_default();
    let additional = network.additional_ips.iter().map(|ip| ip.ip.as_str());
    let all = std::iter::once(network.ip.as_str()).chain(additional);
    Ok(all.filter_map(|ip| ip.parse().ok()).collect())
}

/// A container's status as plain data.
pub fn record(sandbox_id: &str, status: &v1::ContainerStatus) -> Record {
    let meta = status.metadata.clone().unwrap_or_default();
    let started_at = timestamp(status.started_at);
    let state = match status.state() {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => State::Running { started_at },
        ContainerState::ContainerExited => State::Exited(Exit {
            started_at,
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }),
        ContainerState::ContainerUnknown => State::Unknown,
    };
    let note = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let message_path = note(annotation::MESSAGE_PATH);
    let mount = status
        .mounts
        .iter()
        .find(|mount| mount.container_path == message_path);
    let image = status.image.clone().unwrap_or_default();
    Record {
        id: status.id.clone(),
        name: meta.name,
        sandbox_id: sandbox_id.to_owned(),
        attempt: meta.attempt,
        hash: note(annotation::HASH),
        state,
        created_at: timestamp(status.created_at),
        image: if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        },
        image_ref: status.image_ref.clone(),
        log_path: status.log_path.clone(),
        limits: status
            .resources
            .as_ref()
            .and_then(|r| r.linux.as_ref())
            .map(|linux| Limits {
                cpu_shares: linux.cpu_shares,
                cpu_quota: linux.cpu_quota,
                cpu_period: linux.cpu_period,
                memory: linux.memory_limit_in_bytes,
            }),
        user: status
            .user
            .as_ref()
            .and_then(|user| user.linux.as_ref())
            .map(|user| User {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: user.supplemental_groups.clone(),
            }),
        stop_signal: cri::stop_signal_name(status.stop_signal).map(str::to_owned),
        termination: TerminationMessage {
            host_path: mount
                .map(|mount| mount.host_path.clone())
                .unwrap_or_default(),
            fallback_to_logs: note(annotation::MESSAGE_POLICY) == "FallbackToLogsOnError",
        },
    }
}

/// A pod as the runtime knows it, and a mark that changes when anything of it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub identity: PodIdentity,
    /// Seconds that its containers get to stop.
    pub grace: Option<i64>,
    /// Ids and states of sandboxes and containers.
    pub mark: BTreeMap<String, i32>,
}

/// Every pod that the runtime has something of, by uid.
pub async fn identities(runtime: &dyn Runtime) -> Result<BTreeMap<String, Seen>, Error> {
    let (sandboxes, containers) = futures::try_join!(
        runtime.list_sandboxes(Selector::new()),
        runtime.list_containers(Selector::new())
    )?;
    let mut pods: BTreeMap<String, Seen> = BTreeMap::new();
    let sandboxes = sandboxes
        .into_iter()
        .map(|s| (s.id, s.state, s.labels, None));
    let containers = containers.into_iter().map(|c| {
        let grace = c
            .annotations
            .get(annotation::GRACE_PERIOD)
            .and_then(|text| text.parse().ok());
        (c.id, c.state, c.labels, grace)
    });
    for (id, state, labels, grace) in sandboxes.chain(containers) {
        let Some(identity) = PodIdentity::from_labels(&labels) else {
            continue;
        };
        let seen = pods.entry(identity.uid.clone()).or_insert_with(|| Seen {
            identity,
            grace: None,
            mark: BTreeMap::new(),
        });
        seen.grace = seen.grace.or(grace);
        seen.mark.insert(id, state);
    }
    Ok(pods)
}
