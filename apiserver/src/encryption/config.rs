//! EncryptionConfiguration: which resources are kept secret, and with which keys.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::cipher::Key;
use super::kms::Kms;

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
    secretbox: Option<Keys>,
    aescbc: Option<Keys>,
    kms: Option<KmsConfig>,
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsConfig {
    api_version: String,
    name: String,
    /// `unix:///PATH`
    endpoint: String,
    timeout: Option<String>,
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
pub(super) struct Providers(Arc<[Sealer]>);

/// A key of the configuration, or one that somebody else keeps.
pub(super) enum Sealer {
    Key(Key),
    Kms(Arc<Kms>),
}

impl Sealer {
    fn has_sealed(&self, stored: &[u8]) -> bool {
        match self {
            Sealer::Key(key) => key.has_sealed(stored),
            Sealer::Kms(kms) => kms.has_sealed(stored),
        }
    }

    async fn open(&self, place: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            Sealer::Key(key) => key.open(place, stored),
            Sealer::Kms(kms) => kms.open(place, stored).await.map(Some),
        }
    }
}

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

    /// Asks the plugins that are configured; from then on they are asked now and then.
    pub(super) async fn start(&self) -> Result<(), String> {
        for (_, providers) in self.0.iter() {
            for sealer in providers.0.iter() {
                if let Sealer::Kms(kms) = sealer {
                    kms.refresh().await?;
                    Kms::follow(kms);
                }
            }
        }
        Ok(())
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
    fn keys(self) -> Result<Vec<Sealer>, String> {
        let one = "each provider is one of aesgcm, aescbc, secretbox, kms and identity";
        match (
            self.aesgcm,
            self.aescbc,
            self.secretbox,
            self.kms,
            self.identity,
        ) {
            (Some(keys), None, None, None, None) => keys.read(Key::aes_gcm),
            (None, Some(keys), None, None, None) => keys.read(Key::aes_cbc),
            (None, None, Some(keys), None, None) => keys.read(Key::secretbox),
            (None, None, None, Some(kms), None) => Ok(vec![Sealer::Kms(kms.read()?)]),
            (None, None, None, None, Some(_)) => Ok(vec![Sealer::Key(Key::identity())]),
            _ => Err(one.into()),
        }
    }
}

impl Keys {
    fn read(self, make: fn(&str, &[u8]) -> Result<Key, String>) -> Result<Vec<Sealer>, String> {
        if self.keys.is_empty() {
            return Err("a provider has no keys".into());
        }
        let read = |key: NamedKey| {
            check_name(&key.name)?;
            let secret = STANDARD
                .decode(&key.secret)
                .map_err(|_| format!("the secret of key {:?} is not base64", key.name))?;
            make(&key.name, &secret).map(Sealer::Key)
        };
        self.keys.into_iter().map(read).collect()
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(':') {
        return Err(format!("{name:?} is no name for a key"));
    }
    Ok(())
}

impl KmsConfig {
    fn read(self) -> Result<Arc<Kms>, String> {
        check_name(&self.name)?;
        if self.api_version != "v2" {
            return Err(format!("kms {:?}: apiVersion has to be v2", self.name));
        }
        let socket = self
            .endpoint
            .strip_prefix("unix://")
            .filter(|p| !p.is_empty());
        let socket = socket
            .ok_or_else(|| format!("kms {:?}: the endpoint has to be unix:///PATH", self.name))?;
        let timeout = self.timeout.as_deref().unwrap_or("3s");
        let timeout: jiff::SignedDuration = timeout
            .parse()
            .map_err(|_| format!("kms {:?}: {timeout:?} is no time", self.name))?;
        let timeout = Duration::try_from(timeout).map_err(|e| e.to_string())?;
        Ok(Kms::new(&self.name, socket.into(), timeout))
    }
}

impl Providers {
    pub(super) async fn seal(&self, key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        match self.0.first().ok_or("there is no key")? {
            Sealer::Key(first) => first.seal(key, plain),
            Sealer::Kms(first) => first.seal(key, plain).await,
        }
    }

    /// `None` for what is stored as it is.
    pub(super) async fn open(&self, key: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
        // Several keys may have one name while they are being replaced.
        let mut failure = "no key of the encryption configuration fits".to_owned();
        for own in self.0.iter().filter(|k| k.has_sealed(stored)) {
            match own.open(key, stored).await {
                Ok(opened) => return Ok(opened),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    pub(super) fn is_current(&self, stored: &[u8]) -> bool {
        match self.0.first() {
            None => true,
            Some(Sealer::Key(first)) => first.has_sealed(stored),
            Some(Sealer::Kms(first)) => first.is_current(stored),
        }
    }
}
