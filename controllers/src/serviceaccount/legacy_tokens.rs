//! Secrets of type `kubernetes.io/service-account-token`: the token of a ServiceAccount that
//! people ask for by a Secret. They are filled in, and deleted with their account.
//!
//! The token itself comes from the account's `token` subresource, so this controller holds no
//! signing key; it is bound to the Secret and lives as long as the server allows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use watch_cache::{ObjectKey, WatchCache};

use crate::framework::{Context, During, Error, Outcome, Reconciler, Tolerate, act};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// A hundred years: such a token ends with its Secret.
const LIFETIME_SECONDS: i64 = 100 * 365 * 24 * 3600;

/// Starts the controller of token Secrets.
pub(crate) fn start(context: &Context) {
    let secrets = context.caches.selected::<Secret>(&format!("type={TYPE}"));
    let accounts = context.caches.of::<ServiceAccount>();
    let of_account = secrets.clone();
    context
        .controller("serviceaccount-token-controller")
        .watch(&secrets, |change| [change.key()])
        .watch(&accounts, move |change| {
            let account = change.key();
            let candidates = of_account.list_namespace(&account.namespace);
            let naming = candidates
                .into_iter()
                .filter(|secret| account_name(secret) == Some(account.name.as_str()))
                .map(|secret| ObjectKey::of(secret.as_ref()));
            naming.collect::<Vec<_>>()
        })
        .run(
            context.config.workers,
            Tokens {
                context: context.clone(),
                secrets,
                accounts,
            },
        );
}

fn account_name(secret: &Secret) -> Option<&str> {
    secret.annotations().get(ACCOUNT_NAME).map(String::as_str)
}

struct Tokens {
    context: Context,
    secrets: WatchCache<Secret>,
    accounts: WatchCache<ServiceAccount>,
}

/// What a token Secret needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Its account is gone, or is another one of that name.
    Deletion,
    Filling,
}

fn need(secret: &Secret, account: Option<&ServiceAccount>) -> Need {
    if secret.metadata.deletion_timestamp.is_some() || account_name(secret).is_none() {
        return Need::Nothing;
    }
    let wanted = secret.annotations().get(ACCOUNT_UID);
    let Some(account) = account else {
        return Need::Deletion;
    };
    if wanted.is_some_and(|uid| Some(uid) != account.metadata.uid.as_ref()) {
        return Need::Deletion;
    }
    let has = |key: &str| {
        secret
            .data
            .as_ref()
            .is_some_and(|data| data.contains_key(key))
    };
    if wanted.is_some() && has("token") && has("namespace") && has("ca.crt") {
        return Need::Nothing;
    }
    Need::Filling
}

impl Reconciler for Tokens {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(secret) = self.secrets.get_key(key) else {
            return Ok(Outcome::Done);
        };
        let name = account_name(&secret).unwrap_or_default().to_owned();
        let account = self.accounts.get(&key.namespace, &name);
        match need(&secret, account.as_deref()) {
            Need::Nothing => {}
            Need::Deletion => self.delete_unless_account(key, &secret, &name).await?,
            Need::Filling => {
                if let Some(account) = account {
                    self.fill(key, &secret, &account).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}

impl Tokens {
    /// The Secret may have been seen before its account: the server decides.
    async fn delete_unless_account(
        &self,
        key: &ObjectKey,
        secret: &Secret,
        name: &str,
    ) -> Result<(), Error> {
        let accounts = self.context.api::<ServiceAccount>(&key.namespace);
        let live = accounts
            .get_opt(name)
            .await
            .during("reading ServiceAccount", name)?;
        if need(secret, live.as_ref()) == Need::Deletion {
            let api = self.context.api::<Secret>(&key.namespace);
            act::delete(&api, secret, DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn fill(
        &self,
        key: &ObjectKey,
        secret: &Secret,
        account: &ServiceAccount,
    ) -> Result<(), Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: None,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Secret".to_owned()),
                    name: secret.metadata.name.clone(),
                    uid: secret.metadata.uid.clone(),
                }),
                expiration_seconds: Some(LIFETIME_SECONDS),
            }),
            ..TokenRequest::default()
        };
        let name = account.name_any();
        let issued = self
            .context
            .api::<ServiceAccount>(&key.namespace)
            .create_token_request(&name, &PostParams::default(), &request)
            .await
            .during("requesting a token of ServiceAccount", &name)?;
        let token = issued
            .status
            .and_then(|status| status.token)
            .unwrap_or_default();
        let encoded = |text: &str| STANDARD.encode(text);
        let change = json!({
            "metadata": {"annotations": {ACCOUNT_UID: account.metadata.uid}},
            "data": {
                "token": encoded(&token),
                "namespace": encoded(&key.namespace),
                "ca.crt": encoded(&self.context.config.root_ca_pem),
            },
        });
        act::merge(&self.context.api(&key.namespace), secret, change)
            .await
            .unless_gone()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(uid: Option<&str>, filled: bool) -> Secret {
        let mut secret = Secret::default();
        let notes = secret.metadata.annotations.get_or_insert_default();
        notes.insert(ACCOUNT_NAME.to_owned(), "sa".to_owned());
        if let Some(uid) = uid {
            notes.insert(ACCOUNT_UID.to_owned(), uid.to_owned());
        }
        if filled {
            let data = secret.data.get_or_insert_default();
            for key in ["token", "namespace", "ca.crt"] {
                data.insert(key.to_owned(), ByteString(b"x".to_vec()));
            }
        }
        secret
    }

    #[test]
    fn a_token_secret_is_filled_kept_or_deleted_with_its_account() {
        let mut account = ServiceAccount::default();
        account.metadata.uid = Some("u".to_owned());
        let cases = [
            (secret(None, false), Some(&account), Need::Filling),
            (secret(Some("u"), false), Some(&account), Need::Filling),
            (secret(Some("u"), true), Some(&account), Need::Nothing),
            (secret(Some("old"), true), Some(&account), Need::Deletion),
            (secret(None, false), None, Need::Deletion),
            (Secret::default(), None, Need::Nothing),
        ];
        for (secret, account, expect) in cases {
            assert_eq!(need(&secret, account), expect, "{secret:?}");
        }
    }
}
