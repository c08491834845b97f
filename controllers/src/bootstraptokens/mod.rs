//! Deletes join tokens (bootstrap token Secrets) when they expire.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::DeleteParams;
use watch_cache::WatchCache;

use crate::framework::pods::until;
use crate::framework::{Context, Error, Outcome, Reconciler, act};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

pub(crate) fn start(context: &Context) {
    let secrets = context.caches.selected::<Secret>(&format!("type={TYPE}"));
    context
        .controller("token-cleaner-controller")
        .watch(&secrets, |change| {
            let key = change.key();
            (key.namespace == NAMESPACE).then_some(key.name)
        })
        .run(
            1,
            Cleaner {
                context: context.clone(),
                secrets,
            },
        );
}

/// When the token expires. An expiry that cannot be read has passed: better a token too few.
fn expiry(secret: &Secret) -> Option<Timestamp> {
    let text = secret.data.as_ref()?.get("expiration")?;
    let text = String::from_utf8_lossy(&text.0);
    Some(text.trim().parse().unwrap_or(Timestamp::MIN))
}

struct Cleaner {
    context: Context,
    secrets: WatchCache<Secret>,
}

impl Reconciler for Cleaner {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(secret) = self.secrets.get(NAMESPACE, name) else {
            return Ok(Outcome::Done);
        };
        let Some(at) = expiry(&secret) else {
            return Ok(Outcome::Done);
        };
        if let Some(rest) = until(at, Timestamp::now()) {
            return Ok(Outcome::After(rest));
        }
        tracing::info!(secret = secret.name_any(), "a join token has expired");
        let api = self.context.api::<Secret>(NAMESPACE);
        act::delete(&api, secret.as_ref(), DeleteParams::default()).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn an_expiry_is_read_and_an_unreadable_one_has_passed() {
        let secret = |text: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(text.into()))].into()),
            ..Secret::default()
        };
        let at = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(expiry(&secret("2026-01-01T00:00:00Z")), Some(at));
        assert_eq!(expiry(&secret("soon")), Some(Timestamp::MIN));
        assert_eq!(expiry(&Secret::default()), None);
    }
}
