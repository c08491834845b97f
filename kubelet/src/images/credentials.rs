use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::Reference;

/// Credentials of registries, in the order of their secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    entries: Vec<(String, AuthConfig)>,
}

impl Credentials {
    /// Reads `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` secrets. What
    /// is not well-formed is left out, as if the secret were not there.
    pub(crate) fn from_secrets(secrets: &[Arc<Secret>]) -> Self {
        let mut credentials = Self::default();
        for secret in secrets {
            let Some(data) = &secret.data else { continue };
            let parse =
                |key: &str| -> Option<Value> { serde_json::from_slice(&data.get(key)?.0).ok() };
            let auths = match parse(".dockerconfigjson") {
                Some(mut config) => config.get_mut("auths").map(Value::take),
                None => parse(".dockercfg"),
            };
            for (server, entry) in auths
                .as_ref()
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                credentials.entries.push((server.clone(), auth(entry)));
            }
        }
        credentials
    }

    /// Those that are for the image's registry, the most specific first.
    pub(crate) fn matching(&self, image: &Reference) -> Vec<AuthConfig> {
        let mut found: Vec<(usize, &AuthConfig)> = self
            .entries
            .iter()
            .filter_map(|(server, auth)| Some((specificity(server, image)?, auth)))
            .collect();
        found.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
        found.into_iter().map(|(_, auth)| auth.clone()).collect()
    }
}

fn auth(entry: &Value) -> AuthConfig {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    let decoded = STANDARD
        .decode(text("auth"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, secret)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        if username.is_empty() {
            username = user.to_owned();
        }
        if password.is_empty() {
            password = secret.trim_end_matches('\0').to_owned();
        }
    }
    AuthConfig {
        username,
        password,
        auth: String::new(),
        // The entry was chosen here. A runtime that compares would take the host of a URL, and
        // entries are rarely URLs, and a mirror's host is another one.
        server_address: String::new(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    }
}

/// How closely a server entry fits an image; `None` when it does not. An entry is a host
/// with an optional scheme and path; a `*` stands for one part of the host's name.
fn specificity(server: &str, image: &Reference) -> Option<usize> {
    let server = server
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_matches('/');
    let path = if matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") {
        "docker.io"
    } else {
        host
    };
    let (pattern, wanted) = (split_port(host), split_port(&image.registry));
    if pattern.1 != wanted.1 && !(pattern.1.is_none() && matches!(wanted.1, Some("443" | "80"))) {
        return None;
    }
    let (parts, wanted): (Vec<&str>, Vec<&str>) = (
        pattern.0.split('.').collect(),
        wanted.0.split('.').collect(),
    );
    let fits = parts.len() == wanted.len()
        && parts
            .iter()
            .zip(&wanted)
            .all(|(part, wanted)| *part == "*" || part == wanted);
    let path_fits = path.is_empty()
        || image.repository == path
        || image.repository.starts_with(&format!("{path}/"));
    (fits && path_fits).then_some(server.len())
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(config: &Value) -> Arc<Secret> {
        let data = STANDARD.encode(config.to_string());
        Arc::new(serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap())
    }

    #[test]
    fn the_entry_for_the_registry_is_found() {
        let user = |name: &str| json!({"auth": STANDARD.encode(format!("{name}:pw"))});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": user("hub"),
            "r.io": user("r"),
            "r.io/team": user("team"),
            "*.gcr.io": user("wild"),
        }});
        let credentials = Credentials::from_secrets(&[secret(&config)]);
        let users = |image: &str| -> Vec<String> {
            let image = Reference::parse(image).unwrap();
            credentials
                .matching(&image)
                .into_iter()
                .map(|auth| auth.username)
                .collect()
        };
        assert_eq!(users("nginx"), ["hub"]);
        assert_eq!(users("r.io/team/x"), ["team", "r"]);
        assert_eq!(users("r.io/other"), ["r"]);
        assert_eq!(users("eu.gcr.io/x"), ["wild"]);
        assert_eq!(users("gcr.io/x"), [""; 0]);
        let image = Reference::parse("r.io/other").unwrap();
        assert_eq!(credentials.matching(&image)[0].server_address, "");
    }

    #[test]
    fn malformed_secrets_count_as_none() {
        let credentials = Credentials::from_secrets(&[secret(&json!([1]))]);
        assert!(credentials.entries.is_empty());
    }
}
