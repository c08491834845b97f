//! Tokens of service accounts, bound to the pods that use them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::runtime::PodIdentity;

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    pub pod: PodIdentity,
    pub service_account: String,
    pub audience: Option<String>,
    pub seconds: i64,
}

/// A token, and when to ask for the next one.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub text: String,
    pub renew_at: Timestamp,
}

/// Tokens that are still good. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tokens {
    client: Client,
    known: Arc<Mutex<BTreeMap<Wanted, Token>>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            known: Arc::default(),
        }
    }

    /// A token that is good for a while yet. When the API cannot be asked, a token that has
    /// not expired is better than none.
    pub(crate) async fn get(&self, wanted: &Wanted) -> Result<Token, kube::Error> {
        let now = Timestamp::now();
        let known = self.known.lock().get(wanted).cloned();
        if let Some(token) = known.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.clone());
        }
        match self.request(wanted, now).await {
            Ok(token) => {
                self.known.lock().insert(wanted.clone(), token.clone());
                Ok(token)
            }
            Err(error) => match known {
                Some(mut token) => {
                    token.renew_at = now + SignedDuration::from_secs(30);
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    async fn request(&self, wanted: &Wanted, now: Timestamp) -> Result<Token, kube::Error> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &wanted.pod.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(wanted.audience.iter().cloned().collect()),
                expiration_seconds: Some(wanted.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(wanted.pod.name.clone()),
                    uid: Some(wanted.pod.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(&wanted.service_account, &PostParams::default(), &request)
            .await?;
        let status = answer.status.unwrap_or_default();
        let expires = status.expiration_timestamp.map_or(now, |time| time.0);
        Ok(Token {
            text: status.token.unwrap_or_default(),
            renew_at: renewal(now, expires),
        })
    }

    pub(crate) fn release(&self, uid: &str) {
        self.known.lock().retain(|wanted, _| wanted.pod.uid != uid);
    }
}

/// After four fifths of its life, and not later than after a day.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs().max(0);
    now + SignedDuration::from_secs((life * 4 / 5).min(24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn tokens_are_renewed_well_before_they_expire() {
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(365 * 86_400)), at(86_400));
        assert_eq!(renewal(at(0), at(-5)), at(0));
    }
}
