//! EncryptionConfiguration: which resources are kept secret, and with which keys.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::cipher::Key;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    secretbox: Option<serde::de::IgnoredAny>,
    aescbc: Option<serde::de::IgnoredAny>,
    kms: Option<serde::de::IgnoredAny>,
    identity: Option<Identity>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct Configuration(Arc<[(Vec<String>, Providers)]>);

/// The keys of some resources: the first seals, all of them open.
#[derive(Clone)]
pub(super) struct Providers(Arc<[Key]>);

impl Configuration {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !file.api_version.starts_with("apiserver.config.k8s.io/")
            || file.kind != "EncryptionConfiguration"
        {
            return Err("it is no EncryptionConfiguration of apiserver.config.k8s.io/v1".into());
        }
        let mut all = Vec::new();
        for entry in file.resources {
            if entry.resources.is_empty() || entry.providers.is_empty() {
                return Err("each entry needs resources and providers".into());
            }
            let mut keys = Vec::new();
            for provider in entry.providers {
                keys.extend(provider.keys()?);
            }
            all.push((entry.resources, Providers(keys.into())));
        }
        Ok(Configuration(all.into()))
    }

    /// The first entry that names the resource.
    pub(super) fn of(&self, group: &str, resource: &str) -> Option<&Providers> {
        let named = |pattern: &String| {
            let (own, own_group) = pattern.split_once('.').unwrap_or((pattern, ""));
            match (own, own_group) {
                ("*", "*") => true,
                ("*", wanted) => wanted == group,
                (own, wanted) => own == resource && wanted == group,
            }
        };
        let found = self.0.iter().find(|(names, _)| names.iter().any(named));
        found.map(|(_, providers)| providers)
    }
}

impl Provider {
    fn keys(self) -> Result<Vec<Key>, String> {
        for (name, given) in [
            ("aescbc", self.aescbc.is_some()),
            ("kms", self.kms.is_some()),
            ("secretbox", self.secretbox.is_some()),
        ] {
            if given {
                return Err(format!("the provider {name} is not supported: use aesgcm"));
            }
        }
        let keys = match (self.aesgcm, self.identity) {
            (Some(keys), None) => keys,
            (None, Some(_)) => return Ok(vec![Key::identity()]),
            _ => return Err("each provider is one of aesgcm and identity".into()),
        };
        if keys.keys.is_empty() {
            return Err("a provider has no keys".into());
        }
        let read = |key: NamedKey| {
            if key.name.is_empty() || key.name.contains(':') {
                return Err(format!("{:?} is no name for a key", key.name));
            }
            let secret = STANDARD
                .decode(&key.secret)
                .map_err(|_| format!("the secret of key {:?} is not base64", key.name))?;
            Key::aes_gcm(&key.name, &secret)
        };
        keys.keys.into_iter().map(read).collect()
    }
}

impl Providers {
    pub(super) fn seal(&self, key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let first = self.0.first().ok_or("there is no key")?;
        first.seal(key, plain)
    }

    /// `None` for what is stored as it is.
    pub(super) fn open(&self, key: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let fitting: Vec<&Key> = self.0.iter().filter(|k| k.has_sealed(stored)).collect();
        if fitting.is_empty() {
            return Err("no key of the encryption configuration fits".into());
        }
        // Several keys may have one name while they are being replaced.
        let mut failure = String::new();
        for own in fitting {
            match own.open(key, stored) {
                Ok(opened) => return Ok(opened),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    pub(super) fn is_current(&self, stored: &[u8]) -> bool {
        self.0.first().is_none_or(|first| first.has_sealed(stored))
    }
}
