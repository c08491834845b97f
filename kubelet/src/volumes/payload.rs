//! The files of volumes that are made from objects.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};

use super::atomic::{File, Files};
use super::{Sources, VolumeError, ownership};
use crate::pod::downward::{self, Surroundings};

const DEFAULT_MODE: i32 = 0o644;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
    DownwardApi,
    Projected,
}

impl Kind {
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::DownwardApi => "downward-api",
            Self::Projected => "projected",
        }
    }

    /// Whether the contents must not reach a disk.
    pub(crate) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Projected)
    }
}

/// The kind of a volume that has contents made here; `None` for other volumes.
pub(crate) fn kind(volume: &Volume) -> Option<Kind> {
    if volume.config_map.is_some() {
        Some(Kind::ConfigMap)
    } else if volume.secret.is_some() {
        Some(Kind::Secret)
    } else if volume.downward_api.is_some() {
        Some(Kind::DownwardApi)
    } else if volume.projected.is_some() {
        Some(Kind::Projected)
    } else {
        None
    }
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

/// The files of a volume.
pub(crate) fn files(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    around: &Surroundings<'_>,
) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let keys = Keys {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: source.default_mode,
        };
        add_config_map(&source.name, &keys, sources, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let keys = Keys {
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: source.default_mode,
        };
        add_secret(name, &keys, sources, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        add_downward(pod, items, source.default_mode, around, &mut files)?;
    } else if let Some(source) = &volume.projected {
        add_projected(pod, &volume.name, source, sources, around, &mut files)?;
    }
    Ok(files)
}

struct Keys<'a> {
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: Option<i32>,
}

fn pick(
    kind: &'static str,
    data: &BTreeMap<String, Vec<u8>>,
    keys: &Keys<'_>,
    files: &mut Files,
) -> Result<(), VolumeError> {
    let Some(items) = keys.items.filter(|items| !items.is_empty()) else {
        for (key, data) in data {
            let file = File {
                data: data.clone(),
                mode: mode(None, keys.mode),
                owner: None,
            };
            files.insert(key.clone(), file);
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let file = File {
                    data: data.clone(),
                    mode: mode(item.mode, keys.mode),
                    owner: None,
                };
                files.insert(item.path.clone(), file);
            }
            None if keys.optional => {}
            None => {
                return Err(VolumeError::MissingKey {
                    kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(())
}

fn bytes(map: Option<&BTreeMap<String, ByteString>>) -> BTreeMap<String, Vec<u8>> {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()))
        .collect()
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let mut data = bytes(map.binary_data.as_ref());
    let text = map.data.iter().flatten();
    data.extend(text.map(|(key, value)| (key.clone(), value.clone().into_bytes())));
    data
}

fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    bytes(secret.data.as_ref())
}

fn add_config_map(
    name: &str,
    keys: &Keys<'_>,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match sources.objects.config_maps.get(name) {
        Some(map) => pick("config", &config_map_data(map), keys, files),
        None if keys.optional => Ok(()),
        None => Err(VolumeError::Missing {
            kind: "configmap",
            name: name.to_owned(),
        }),
    }
}

fn add_secret(
    name: &str,
    keys: &Keys<'_>,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match sources.objects.secrets.get(name) {
        Some(secret) => pick("secret", &secret_data(secret), keys, files),
        None if keys.optional => Ok(()),
        None => Err(VolumeError::Missing {
            kind: "secret",
            name: name.to_owned(),
        }),
    }
}

fn add_downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    around: &Surroundings<'_>,
    files: &mut Files,
) -> Result<(), VolumeError> {
    for item in items {
        let value = if let Some(selector) = &item.field_ref {
            downward::field(pod, selector, around)?
        } else if let Some(selector) = &item.resource_field_ref {
            downward::resource(pod, None, selector, around)?
        } else {
            continue;
        };
        let file = File {
            data: value.into_bytes(),
            mode: mode(item.mode, default_mode),
            owner: None,
        };
        files.insert(item.path.clone(), file);
    }
    Ok(())
}

fn add_projected(
    pod: &Pod,
    volume: &str,
    projected: &ProjectedVolumeSource,
    sources: &Sources,
    around: &Surroundings<'_>,
    files: &mut Files,
) -> Result<(), VolumeError> {
    let default_mode = projected.default_mode;
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            let keys = Keys {
                items: map.items.as_deref(),
                optional,
                mode: default_mode,
            };
            add_config_map(&map.name, &keys, sources, files)?;
        }
        if let Some(secret) = &source.secret {
            let optional = secret.optional == Some(true);
            let keys = Keys {
                items: secret.items.as_deref(),
                optional,
                mode: default_mode,
            };
            add_secret(&secret.name, &keys, sources, files)?;
        }
        if let Some(downward) = &source.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            add_downward(pod, items, default_mode, around, files)?;
        }
        if let Some(token) = &source.service_account_token {
            let key = (volume.to_owned(), token.path.clone());
            let value = sources.tokens.get(&key);
            let value =
                value.ok_or_else(|| VolumeError::Token("it was not asked for".to_owned()))?;
            files.insert(token.path.clone(), token_file(pod, value, default_mode));
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            let key = (volume.to_owned(), bundle.path.clone());
            match sources.bundles.get(&key) {
                Some(text) => {
                    let data = text.clone().into_bytes();
                    let file = File {
                        data,
                        mode: mode(None, default_mode),
                        owner: None,
                    };
                    files.insert(bundle.path.clone(), file);
                }
                None if bundle.optional == Some(true) => {
                    let mode = mode(None, default_mode);
                    files.insert(
                        bundle.path.clone(),
                        File {
                            data: Vec::new(),
                            mode,
                            owner: None,
                        },
                    );
                }
                None => {
                    let name = bundle.name.clone().or_else(|| bundle.signer_name.clone());
                    return Err(VolumeError::Missing {
                        kind: "clustertrustbundle",
                        name: name.unwrap_or_default(),
                    });
                }
            }
        }
        if source.pod_certificate.is_some() {
            return Err(VolumeError::Unsupported("podCertificate".to_owned()));
        }
    }
    Ok(())
}

/// A token is for its pod's user alone, where the pod has one.
fn token_file(pod: &Pod, token: &str, default_mode: Option<i32>) -> File {
    let owner = ownership::fs_user(pod);
    let private = owner.is_some() || ownership::fs_group(pod).is_some();
    let mode = if private {
        0o600
    } else {
        mode(None, default_mode)
    };
    File {
        data: token.as_bytes().to_vec(),
        mode,
        owner,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::quantity::ResourceList;
    use crate::testing::pod;

    fn sources() -> Sources {
        let map: ConfigMap = serde_json::from_value(
            json!({"data": {"a": "1", "b": "2"}, "binaryData": {"bin": "/w=="}}),
        )
        .unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "c2VjcmV0"}})).unwrap();
        let mut sources = Sources::default();
        sources
            .objects
            .config_maps
            .insert("m".into(), Arc::new(map));
        sources.objects.secrets.insert("x".into(), Arc::new(secret));
        sources
            .tokens
            .insert(("v".into(), "token".into()), "jwt".into());
        sources
    }

    fn made(source: Value) -> Result<Vec<(String, String, u32)>, String> {
        let mut volume = source;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod = pod(json!({"metadata": {"labels": {"l": "v"}}, "spec": {"containers": []}}));
        let allocatable = ResourceList::new();
        let around = Surroundings {
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            allocatable: &allocatable,
        };
        let files = files(&pod, &volume, &sources(), &around).map_err(|error| error.to_string())?;
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        Ok(files
            .iter()
            .map(|(path, file)| (path.clone(), text(&file.data), file.mode))
            .collect())
    }

    fn check(source: Value, expected: &[(&str, &str, u32)]) {
        let shown = source.to_string();
        let expected: Vec<_> = expected
            .iter()
            .map(|(path, data, mode)| ((*path).into(), (*data).into(), *mode))
            .collect();
        assert_eq!(made(source), Ok(expected), "{shown}");
    }

    #[test]
    fn keys_become_files_with_their_modes() {
        check(
            json!({"configMap": {"name": "m", "defaultMode": 0o400}}),
            &[
                ("a", "1", 0o400),
                ("b", "2", 0o400),
                ("bin", "\u{fffd}", 0o400),
            ],
        );
        check(
            json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 0o600}]}}),
            &[("x/y", "1", 0o600)],
        );
        check(
            json!({"secret": {"secretName": "x"}}),
            &[("s", "secret", 0o644)],
        );
        check(
            json!({"secret": {"secretName": "none", "optional": true}}),
            &[],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            made(json!({"configMap": {"name": "z"}})),
            Err("configmap \"z\" not found".into())
        );
        assert_eq!(
            made(json!({"secret": {"secretName": "x", "items": [{"key": "k", "path": "p"}]}})),
            Err("references non-existent secret key: k".into())
        );
    }

    #[test]
    fn projected_volumes_join_their_sources() {
        check(
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "m", "items": [{"key": "a", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"secret": {"name": "none", "optional": true}},
            ]}}),
            &[
                ("ca.crt", "1", 0o644),
                ("labels", "l=\"v\"", 0o644),
                ("token", "jwt", 0o644),
            ],
        );
    }
}
