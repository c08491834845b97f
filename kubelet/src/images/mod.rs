//! Images: whether to pull, with which credentials, and which to remove.

mod collect;
mod credentials;
mod reference;

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::v1;
use events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub(crate) use collect::collect;
pub(crate) use credentials::Credentials;
pub(crate) use reference::Reference;

use crate::events::Recorder;
use crate::pod::memory::Waiting;
use crate::pod::security::ImageUser;
use crate::runtime::Runtime;

/// Pulls at the same time.
const PULLS: usize = 4;

/// An image that is on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub id: String,
    pub user: ImageUser,
}

/// Why there is no image, in the words of a container's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(pub Waiting);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

/// What is to be had, for whom.
pub(crate) struct Request<'a> {
    pub pod: &'a Pod,
    pub container: Option<&'a str>,
    pub image: &'a str,
    pub policy: PullPolicy,
    pub secrets: &'a [Arc<Secret>],
    pub sandbox: Option<v1::PodSandboxConfig>,
}

/// The node's images. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images {
    runtime: Arc<dyn Runtime>,
    events: Recorder,
    pulls: Arc<Semaphore>,
    /// When each image, by id, was last used or first seen.
    used: Arc<Mutex<BTreeMap<String, Timestamp>>>,
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, events: Recorder) -> Self {
        Self {
            runtime,
            events,
            pulls: Arc::new(Semaphore::new(PULLS)),
            used: Arc::default(),
        }
    }

    /// Makes sure that the image is on the node, by the pull policy.
    pub(crate) async fn ensure(&self, request: Request<'_>) -> Result<Present, Failure> {
        let image = request.image;
        let reference = Reference::parse(image).map_err(|error| {
            let message = format!("Failed to apply default image tag \"{image}\": {error}");
            self.warn(&request, "InspectFailed", message.clone());
            Failure(Waiting::new("InvalidImageName", message))
        })?;
        let found = self
            .runtime
            .image_status(&reference.full())
            .await
            .map_err(|error| {
                let message = format!("Failed to inspect image \"{image}\": {error}");
                self.warn(&request, "InspectFailed", message.clone());
                Failure(Waiting::new("ImageInspectError", message))
            })?;
        match (decide(request.policy, found.as_ref()), found) {
            (Decision::Use, Some(found)) => {
                let message = format!("Container image \"{image}\" already present on machine");
                self.note(&request, "Pulled", message);
                Ok(self.present(found))
            }
            (Decision::Refuse, _) => {
                let message =
                    format!("Container image \"{image}\" is not present with pull policy of Never");
                self.warn(&request, "ErrImageNeverPull", message.clone());
                Err(Failure(Waiting::new("ErrImageNeverPull", message)))
            }
            _ => self.pull(&request, &reference).await,
        }
    }

    async fn pull(&self, request: &Request<'_>, reference: &Reference) -> Result<Present, Failure> {
        let image = request.image;
        self.note(request, "Pulling", format!("Pulling image \"{image}\""));
        let begun = std::time::Instant::now();
        let _turn = self.pulls.acquire().await;
        let credentials = Credentials::from_secrets(request.secrets);
        let mut candidates: Vec<Option<v1::AuthConfig>> = credentials
            .matching(reference)
            .into_iter()
            .map(Some)
            .collect();
        if candidates.is_empty() {
            candidates.push(None);
        }
        let mut complaint = String::new();
        for auth in candidates {
            let sandbox = request.sandbox.clone();
            match self
                .runtime
                .pull_image(&reference.full(), auth, sandbox)
                .await
            {
                Ok(id) => {
                    let took = begun.elapsed().as_millis();
                    let message = format!("Successfully pulled image \"{image}\" in {took}ms");
                    self.note(request, "Pulled", message);
                    let found = self.runtime.image_status(&id).await.ok().flatten();
                    return Ok(self.present(found.unwrap_or(v1::Image {
                        id,
                        ..v1::Image::default()
                    })));
                }
                Err(error) => complaint = error.to_string(),
            }
        }
        let message = format!("Failed to pull image \"{image}\": {complaint}");
        self.warn(request, "Failed", message);
        self.warn(request, "Failed", "Error: ErrImagePull".to_owned());
        Err(Failure(Waiting::new("ErrImagePull", complaint)))
    }

    fn present(&self, image: v1::Image) -> Present {
        self.used.lock().insert(image.id.clone(), Timestamp::now());
        let user = ImageUser {
            uid: image.uid.map(|uid| uid.value),
            name: image.username,
        };
        Present { id: image.id, user }
    }

    fn note(&self, request: &Request<'_>, reason: &'static str, message: String) {
        self.events.pod(
            request.pod,
            request.container,
            EventType::Normal,
            reason,
            message,
        );
    }

    fn warn(&self, request: &Request<'_>, reason: &'static str, message: String) {
        self.events.pod(
            request.pod,
            request.container,
            EventType::Warning,
            reason,
            message,
        );
    }

    /// When each image was last used. Images that were not seen before count from now.
    pub(crate) fn last_used(
        &self,
        ids: impl IntoIterator<Item = String>,
    ) -> BTreeMap<String, Timestamp> {
        let now = Timestamp::now();
        let mut used = self.used.lock();
        let ages: BTreeMap<String, Timestamp> = ids
            .into_iter()
            .map(|id| {
                let at = used.get(&id).copied().unwrap_or(now);
                (id, at)
            })
            .collect();
        used.clone_from(&ages);
        ages
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Use,
    Pull,
    Refuse,
}

/// `Always` asks the registry even for an image that is there: whoever runs it has to be let in.
fn decide(policy: PullPolicy, found: Option<&v1::Image>) -> Decision {
    match (policy, found) {
        (PullPolicy::Never, None) => Decision::Refuse,
        (PullPolicy::Always, _) | (_, None) => Decision::Pull,
        (_, Some(_)) => Decision::Use,
    }
}

/// Whether an image came from an archive rather than from a registry.
pub(crate) fn is_local(image: &v1::Image) -> bool {
    image.repo_digests.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_what_is_pulled() {
        let pulled = v1::Image {
            repo_digests: vec!["a@sha256:1".into()],
            ..v1::Image::default()
        };
        let loaded = v1::Image::default();
        for (policy, found, expected) in [
            (PullPolicy::Always, None, Decision::Pull),
            (PullPolicy::Always, Some(&pulled), Decision::Pull),
            (PullPolicy::Always, Some(&loaded), Decision::Pull),
            (PullPolicy::IfNotPresent, None, Decision::Pull),
            (PullPolicy::IfNotPresent, Some(&pulled), Decision::Use),
            (PullPolicy::Never, None, Decision::Refuse),
            (PullPolicy::Never, Some(&loaded), Decision::Use),
        ] {
            assert_eq!(decide(policy, found), expected, "{policy:?} {found:?}");
        }
    }
}
