//! Reads what a pod's volumes and environments are made from.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Volume};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::perform::{blocking, sandbox_config};
use super::reports::Prepared;
use crate::context::Context;
use crate::csi;
use crate::images::{PullPolicy, Request};
use crate::pod::containers;
use crate::pod::downward::Surroundings;
use crate::pod::env::Objects;
use crate::pod::references::{self, References};
use crate::runtime::PodIdentity;
use crate::tokens::Wanted;
use crate::volumes::{ClaimTarget, Site, Sources, VolumeError, claim_name, prepare};

/// How often a volume that may become larger is looked at.
const GROWTH: std::time::Duration = std::time::Duration::from_secs(30);

/// The ConfigMaps and Secrets that the pod refers to, as far as they exist.
pub(super) async fn objects(context: &Context, pod: &Pod) -> Result<Objects, String> {
    let identity = PodIdentity::of(pod);
    let References {
        config_maps,
        secrets,
        ..
    } = references::of(pod);
    let mut objects = Objects::default();
    for name in config_maps {
        let found = context
            .objects
            .config_map(&identity.uid, &identity.namespace, &name)
            .await;
        if let Some(found) = found.map_err(|error| error.to_string())? {
            objects.config_maps.insert(name, found);
        }
    }
    for name in secrets {
        let found = context
            .objects
            .secret(&identity.uid, &identity.namespace, &name)
            .await;
        if let Some(found) = found.map_err(|error| error.to_string())? {
            objects.secrets.insert(name, found);
        }
    }
    Ok(objects)
}

/// The secrets with credentials of registries. Those that are missing may not be needed.
pub(super) async fn pull_secrets(context: &Context, pod: &Pod) -> Vec<Arc<Secret>> {
    let identity = PodIdentity::of(pod);
    let mut found = Vec::new();
    for name in references::of(pod).pull_secrets {
        let secret = context
            .objects
            .secret(&identity.uid, &identity.namespace, &name)
            .await;
        found.extend(secret.ok().flatten());
    }
    found
}

/// Makes the pod's volumes, or brings them up to date. An error comes with the volume.
pub(super) async fn volumes(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    pod_ips: &[IpAddr],
) -> Result<Prepared, (String, String)> {
    let unnamed = |error: String| (String::new(), error);
    let mut sources = Sources {
        objects: objects(context, pod).await.map_err(unnamed)?,
        ..Sources::default()
    };
    let mut renew_at = None;
    for volume in containers::spec(pod).volumes.iter().flatten() {
        let named = |error: VolumeError| (volume.name.clone(), error.to_string());
        tokens(context, pod, volume, &mut sources, &mut renew_at)
            .await
            .map_err(named)?;
        bundles(context, volume, &mut sources)
            .await
            .map_err(named)?;
        let behind = claim(context, pod, volume, &mut sources)
            .await
            .map_err(named)?;
        let mounted = csi::set_up(context, pod, volume, behind.as_ref()).await;
        if let Some(mounted) = mounted.map_err(|error| named(error.into()))? {
            if mounted.grows {
                let look = jiff::Timestamp::now() + GROWTH;
                renew_at = Some(renew_at.map_or(look, |at: jiff::Timestamp| at.min(look)));
            }
            sources.plugged.insert(volume.name.clone(), mounted);
        }
        image(context, pod, volume, &mut sources)
            .await
            .map_err(named)?;
    }
    let (context, pod, pod_ips) = (context.clone(), pod.clone(), pod_ips.to_vec());
    let work = move || {
        let facts = context.facts.read().clone();
        let site = Site {
            paths: &context.paths,
            around: Surroundings {
                pod_ips: &pod_ips,
                host_ips: &facts.host_ips,
                node_name: &context.config.node_name,
                allocatable: &facts.allocatable,
            },
        };
        Ok(prepare(&pod, &sources, &site))
    };
    match blocking(work)
        .await
        .map_err(|error| (String::new(), error))?
    {
        Ok(volumes) => Ok(Prepared { volumes, renew_at }),
        Err((volume, error)) => Err((volume, error.to_string())),
    }
}

async fn tokens(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    sources: &mut Sources,
    renew_at: &mut Option<jiff::Timestamp>,
) -> Result<(), VolumeError> {
    let projected = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    for projection in projected.filter_map(|source| source.service_account_token.as_ref()) {
        let account = containers::spec(pod).service_account_name.clone();
        let wanted = Wanted {
            pod: PodIdentity::of(pod),
            service_account: account.unwrap_or_else(|| "default".to_owned()),
            audience: projection
                .audience
                .clone()
                .filter(|audience| !audience.is_empty()),
            seconds: projection.expiration_seconds.unwrap_or(3600),
        };
        let token = context.tokens.get(&wanted).await;
        let token = token.map_err(|error| VolumeError::Token(error.to_string()))?;
        *renew_at = Some(renew_at.map_or(token.renew_at, |at| at.min(token.renew_at)));
        sources
            .tokens
            .insert((volume.name.clone(), projection.path.clone()), token.text);
    }
    Ok(())
}

async fn bundles(
    context: &Context,
    volume: &Volume,
    sources: &mut Sources,
) -> Result<(), VolumeError> {
    let projected = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    for projection in projected.filter_map(|source| source.cluster_trust_bundle.as_ref()) {
        let api = Api::<ClusterTrustBundle>::all(context.client.clone());
        let mut anchors = Vec::new();
        if let Some(name) = &projection.name {
            let found = api.get_opt(name).await;
            let found = found.map_err(|error| VolumeError::Token(error.to_string()))?;
            anchors.extend(found.map(|bundle| bundle.spec.trust_bundle));
        } else if let (Some(signer), Some(selector)) =
            (&projection.signer_name, &projection.label_selector)
        {
            let selector: kube::core::Selector = selector
                .clone()
                .try_into()
                .map_err(|_| VolumeError::Unsupported("selector".into()))?;
            let params = ListParams::default().labels_from(&selector);
            let found = api.list(&params).await;
            let found = found.map_err(|error| VolumeError::Token(error.to_string()))?;
            let fits =
                |bundle: &&ClusterTrustBundle| bundle.spec.signer_name.as_ref() == Some(signer);
            let mut bundles: Vec<&ClusterTrustBundle> = found.iter().filter(fits).collect();
            bundles.sort_by_key(|bundle| bundle.name_any());
            anchors.extend(
                bundles
                    .iter()
                    .map(|bundle| bundle.spec.trust_bundle.clone()),
            );
        }
        if !anchors.is_empty() {
            sources.bundles.insert(
                (volume.name.clone(), projection.path.clone()),
                anchors.join("\n"),
            );
        }
    }
    Ok(())
}

/// Follows a claim to the directory behind it, or to the volume that a plugin provides.
async fn claim(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    sources: &mut Sources,
) -> Result<Option<csi::Behind>, VolumeError> {
    let Some(name) = claim_name(pod, volume) else {
        return Ok(None);
    };
    let wrong = |complaint: String| VolumeError::Claim {
        claim: name.clone(),
        complaint,
    };
    let namespace = pod.namespace().unwrap_or_default();
    let claims = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &namespace);
    let claim = claims
        .get_opt(&name)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    let Some(claim) = claim else {
        return Err(VolumeError::Missing {
            kind: "persistentvolumeclaim",
            name,
        });
    };
    // Another's claim that happens to have the name is not touched.
    let foreign = claim
        .owner_references()
        .iter()
        .all(|owner| Some(&owner.uid) != pod.metadata.uid.as_ref());
    if volume.ephemeral.is_some() && foreign {
        return Err(wrong("it was not made for this pod".to_owned()));
    }
    let bound = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        == Some("Bound");
    let spec = claim.spec.as_ref();
    let volume_name = spec.and_then(|spec| spec.volume_name.clone());
    let Some(volume_name) = volume_name.filter(|_| bound) else {
        return Err(wrong("it is not bound to a volume yet".to_owned()));
    };
    let volumes = Api::<PersistentVolume>::all(context.client.clone());
    let found = volumes
        .get(&volume_name)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    if found.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) {
        let volume = found;
        return Ok(Some(csi::Behind { claim, volume }));
    }
    let spec = found.spec.unwrap_or_default();
    let path = match (&spec.host_path, &spec.local) {
        (Some(host), _) => host.path.clone(),
        (None, Some(local)) => local.path.clone(),
        (None, None) => {
            return Err(wrong(format!(
                "volume {volume_name} is of a kind that needs a driver"
            )));
        }
    };
    let modes = spec.access_modes.unwrap_or_default();
    let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
    sources
        .claims
        .insert(volume.name.clone(), ClaimTarget { path, read_only });
    Ok(None)
}

async fn image(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    sources: &mut Sources,
) -> Result<(), VolumeError> {
    let Some(source) = &volume.image else {
        return Ok(());
    };
    let image = source.reference.clone().unwrap_or_default();
    let secrets = pull_secrets(context, pod).await;
    let request = Request {
        pod,
        container: None,
        image: &image,
        policy: PullPolicy::parse(source.pull_policy.as_deref()),
        secrets: &secrets,
        sandbox: Some(sandbox_config(context, pod, 0)),
    };
    let present = context.images.ensure(request).await;
    let present = present.map_err(|failure| VolumeError::Image(failure.0.message))?;
    sources.images.insert(volume.name.clone(), present.id);
    Ok(())
}
