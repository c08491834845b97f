//! Archives as a registry's catalog: manifests by name, blobs by digest.
//!
//! Blobs stay in the archives; the catalog remembers where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Why an archive cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is no docker archive: {detail}", path.display())]
    Archive { path: PathBuf, detail: String },
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: std::net::SocketAddr,
        source: io::Error,
    },
}

/// A part of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    archive: PathBuf,
    offset: u64,
    pub(super) size: u64,
}

impl Blob {
    /// The blob's bytes, from the archive.
    pub(super) fn open(&self) -> io::Result<io::Take<File>> {
        let mut file = File::open(&self.archive)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.size))
    }
}

/// A manifest, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) digest: String,
    pub(super) content: Vec<u8>,
}

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the registry has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// By repository and tag, such as `library/nginx` and `latest`.
    tags: BTreeMap<(String, String), Manifest>,
    blobs: BTreeMap<String, Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ArchiveManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Catalog {
    /// Every archive of a directory. One that cannot be read is left out and told.
    pub fn read(directory: &Path) -> Result<Self, RegistryError> {
        let fail = |source| RegistryError::File {
            path: directory.to_owned(),
            source,
        };
        let mut catalog = Self::default();
        for entry in std::fs::read_dir(directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "tar")
                && let Err(error) = catalog.add(&path)
            {
                tracing::warn!(%error, "archive left out");
            }
        }
        Ok(catalog)
    }

    /// Adds the images of one archive.
    pub fn add(&mut self, path: &Path) -> Result<(), RegistryError> {
        let damaged = |detail: &dyn std::fmt::Display| RegistryError::Archive {
            path: path.to_owned(),
            detail: detail.to_string(),
        };
        let parts = parts(path).map_err(|source| RegistryError::File {
            path: path.to_owned(),
            source,
        })?;
        let content = |name: &str| -> Result<Vec<u8>, RegistryError> {
            let blob = parts
                .get(name)
                .ok_or_else(|| damaged(&format!("it has no {name}")))?;
            let mut content = Vec::new();
            let read = blob
                .open()
                .and_then(|mut part| part.read_to_end(&mut content));
            read.map_err(|error| damaged(&error))?;
            Ok(content)
        };
        let manifests: Vec<ArchiveManifest> =
            serde_json::from_slice(&content("manifest.json")?).map_err(|error| damaged(&error))?;
        for manifest in manifests {
            let config = content(&manifest.config)?;
            let image: serde_json::Value =
                serde_json::from_slice(&config).map_err(|error| damaged(&error))?;
            let config_digest = digest(&config);
            let mut layers = Vec::new();
            for (index, name) in manifest.layers.iter().enumerate() {
                let blob = parts
                    .get(name)
                    .ok_or_else(|| damaged(&format!("it has no {name}")))?;
                // Layers are stored as they are on disk, and the configuration has their digests.
                let digest = image["rootfs"]["diff_ids"][index]
                    .as_str()
                    .ok_or_else(|| damaged(&"a layer has no digest"))?;
                layers.push((digest.to_owned(), blob.size));
                self.blobs.insert(digest.to_owned(), blob.clone());
            }
            let manifest_content = image_manifest(&config_digest, config.len(), &layers);
            self.blobs
                .insert(config_digest, parts[&manifest.config].clone());
            let entry = Manifest {
                digest: digest(&manifest_content),
                content: manifest_content,
            };
            for reference in manifest.repo_tags.unwrap_or_default() {
                self.tags.insert(split_reference(&reference), entry.clone());
            }
        }
        Ok(())
    }

    /// By tag or by digest.
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        let by_tag = self
            .tags
            .get(&(repository.to_owned(), reference.to_owned()));
        by_tag.or_else(|| {
            self.tags
                .iter()
                .find(|((name, _), manifest)| name == repository && manifest.digest == reference)
                .map(|(_, manifest)| manifest)
        })
    }

    pub(super) fn blob(&self, digest: &str) -> Option<&Blob> {
        self.blobs.get(digest)
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn image_manifest(config: &str, config_size: usize, layers: &[(String, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": size,
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": config_size,
        },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// Where each file of the archive is.
fn parts(path: &Path) -> io::Result<BTreeMap<String, Blob>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut parts = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        parts.insert(
            name,
            Blob {
                archive: path.to_owned(),
                offset,
                size,
            },
        );
    }
    Ok(parts)
}

/// `docker.io/library/nginx:latest` as (`library/nginx`, `latest`): a mirror is asked for the
/// path without the registry.
fn split_reference(reference: &str) -> (String, String) {
    let (name, tag) = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    };
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let path = if is_registry { rest } else { name };
    let is_official = !path.contains('/') && (!is_registry || first == "docker.io");
    let repository = if is_official {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    (repository, tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::archive::{Image, Layer, RunConfig};

    #[test]
    fn references_lose_their_registry_and_official_images_get_their_folder() {
        let cases = [
            ("docker.io/library/nginx:latest", "library/nginx", "latest"),
            ("nginx", "library/nginx", "latest"),
            ("nginx:1.2", "library/nginx", "1.2"),
            ("fairlead/pause:1", "fairlead/pause", "1"),
            ("localhost:5000/a/b", "a/b", "latest"),
            ("registry.example/a:2", "a", "2"),
        ];
        for (reference, repository, tag) in cases {
            assert_eq!(
                split_reference(reference),
                (repository.into(), tag.into()),
                "{reference}"
            );
        }
    }

    #[test]
    fn an_archive_is_found_by_tag_and_digest_and_its_blobs_by_theirs() {
        let directory = tempfile::tempdir().unwrap();
        let mut layer = Layer::default();
        layer.file("a", 0o644, "content");
        let references = vec!["docker.io/fairlead/sample:1".to_owned()];
        let image = Image {
            references,
            layer,
            run: RunConfig::default(),
        };
        let path = directory.path().join("sample.tar");
        image.write(File::create(&path).unwrap()).unwrap();
        std::fs::write(directory.path().join("broken.tar"), "no archive").unwrap();

        let catalog = Catalog::read(directory.path()).unwrap();
        let by_tag = catalog.manifest("fairlead/sample", "1").unwrap();
        assert_eq!(
            catalog.manifest("fairlead/sample", &by_tag.digest),
            Some(by_tag)
        );
        assert_eq!(catalog.manifest("fairlead/sample", "2"), None);
        let manifest: serde_json::Value = serde_json::from_slice(&by_tag.content).unwrap();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let wanted = part["digest"].as_str().unwrap();
            let mut content = Vec::new();
            catalog
                .blob(wanted)
                .unwrap()
                .open()
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            assert_eq!(digest(&content), wanted);
            assert_eq!(content.len() as u64, part["size"].as_u64().unwrap());
        }
    }
}
