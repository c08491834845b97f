//! Bootstrap tokens: Secrets that let a new node ask for its certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::{UserInfo, group, user_name};
use crate::registry::Cacher;
use crate::registry::cache::object_key;

/// The type of such a Secret.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

#[derive(Deserialize)]
struct Secret {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "deletionTimestamp")]
    deleted: Option<String>,
}

/// Splits `abcdef.0123456789abcdef` into its public and secret part.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// A new random token.
pub fn generate() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let letter = || ALPHABET[rand::random_range(0..ALPHABET.len())] as char;
    let id: String = (0..6).map(|_| letter()).collect();
    let secret: String = (0..16).map(|_| letter()).collect();
    format!("{id}.{secret}")
}

/// The user of a token, if its Secret allows it now.
pub(super) fn authenticate(token: &str, cacher: &Cacher) -> Option<UserInfo> {
    let (id, secret) = split(token)?;
    let key = object_key("", "secrets", NAMESPACE, &format!("bootstrap-token-{id}"));
    let object = cacher.resource("", "secrets").get(&key)?;
    user_of(&object.read()?, id, secret, jiff::Timestamp::now())
}

fn user_of(object: &Secret, id: &str, secret: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    let data = |key: &str| {
        let decoded = STANDARD.decode(object.data.get(key)?).ok()?;
        String::from_utf8(decoded).ok()
    };
    let expired = match data("expiration") {
        Some(text) => text.parse::<jiff::Timestamp>().map_or(true, |at| at <= now),
        None => false,
    };
    let usable = object.kind == SECRET_TYPE
        && object.metadata.deleted.is_none()
        && data("token-id")? == id
        && same(data("token-secret")?.as_bytes(), secret.as_bytes())
        && data("usage-bootstrap-authentication")? == "true"
        && !expired;
    if !usable {
        return None;
    }
    let mut groups = vec![group::BOOTSTRAPPERS.to_owned()];
    let further = data("auth-extra-groups").unwrap_or_default();
    for name in further.split(',').filter(|name| !name.is_empty()) {
        // A Secret must not make its bearer a member of anything else.
        if !name.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(name.to_owned());
    }
    Some(UserInfo::new(
        format!("{}{id}", user_name::BOOTSTRAP_PREFIX),
        groups,
    ))
}

/// Compares without telling by its time where the difference is.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(changes: &[(&str, &str)]) -> Secret {
        let mut data: BTreeMap<String, String> = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
        ]
        .iter()
        .chain(changes)
        .map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value)))
        .collect();
        data.retain(|_, value| !value.is_empty());
        Secret {
            kind: SECRET_TYPE.to_owned(),
            data,
            metadata: Metadata { deleted: None },
        }
    }

    fn check(changes: &[(&str, &str)], expected: Option<&[&str]>) {
        let now = "2029-01-01T00:00:00Z".parse().unwrap();
        let user = user_of(&secret(changes), "abcdef", "0123456789abcdef", now);
        assert_eq!(
            user,
            expected
                .map(|groups| { UserInfo::new("system:bootstrap:abcdef", groups.iter().copied()) }),
            "{changes:?}"
        );
    }

    #[test]
    fn a_secret_decides_about_its_token() {
        check(&[], Some(&["system:bootstrappers"]));
        check(&[("expiration", "")], Some(&["system:bootstrappers"]));
        check(&[("expiration", "2028-01-01T00:00:00Z")], None);
        check(&[("expiration", "soon")], None);
        check(&[("token-secret", "0123456789abcdee")], None);
        check(&[("token-id", "abcdeg")], None);
        check(&[("usage-bootstrap-authentication", "false")], None);
        check(
            &[("auth-extra-groups", "system:bootstrappers:a")],
            Some(&["system:bootstrappers", "system:bootstrappers:a"]),
        );
        check(&[("auth-extra-groups", "system:masters")], None);
    }

    #[test]
    fn tokens_have_one_form() {
        assert!(split(&generate()).is_some());
        assert_eq!(split("abcdef.0123456789abcde"), None);
        assert_eq!(split("ABCDEF.0123456789abcdef"), None);
        assert_eq!(split("abcdef"), None);
    }
}
