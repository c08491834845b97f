//! The docker archive format: a tar of one layer, the image's configuration and a manifest.
//!
//! The same content gives the same bytes: entries are sorted, times are zero.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// A file of the image's layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Symlink { target: String },
}

/// The layer: paths without a leading slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    nodes: BTreeMap<String, Node>,
}

impl Layer {
    /// Adds a node and the directories above it. A later node replaces an earlier one.
    pub fn add(&mut self, path: &str, node: Node) -> &mut Self {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            let directory = || Node::Directory { mode: 0o755 };
            self.nodes
                .entry(path[..slash].to_owned())
                .or_insert_with(directory);
        }
        self.nodes.insert(path.to_owned(), node);
        self
    }

    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        self.add(
            path,
            Node::File {
                mode,
                content: content.into(),
            },
        )
    }

    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Node::Directory { mode })
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(
            path,
            Node::Symlink {
                target: target.to_owned(),
            },
        )
    }

    /// Adds what lies under `root` and `keep` accepts; `keep` sees paths without a leading slash.
    pub fn tree(&mut self, root: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<&mut Self> {
        self.subtree(root, "", keep)?;
        Ok(self)
    }

    fn subtree(
        &mut self,
        directory: &Path,
        prefix: &str,
        keep: &dyn Fn(&str) -> bool,
    ) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            if !keep(&path) {
                continue;
            }
            let kind = entry.file_type()?;
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            if kind.is_dir() {
                // A merged-/usr symlink of another package stays what it is.
                if !matches!(self.nodes.get(&path), Some(Node::Symlink { .. })) {
                    self.directory(&path, mode);
                }
                self.subtree(&entry.path(), &path, keep)?;
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path())?;
                self.symlink(&path, &target.to_string_lossy());
            } else if kind.is_file() {
                self.file(&path, mode, std::fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Moves `/bin`, `/sbin` and `/lib*` below `/usr` and leaves symlinks, as Debian has it.
    pub fn merge_usr(&mut self) -> &mut Self {
        let old = std::mem::take(&mut self.nodes);
        for name in ["bin", "sbin", "lib", "lib64"] {
            self.symlink(name, &format!("usr/{name}"));
        }
        for (path, node) in old {
            let first = path.split('/').next().unwrap_or_default();
            match first {
                "bin" | "sbin" | "lib" | "lib64" => self.add(&format!("usr/{path}"), node),
                _ => self.add(&path, node),
            };
        }
        self
    }

    fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            match node {
                Node::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Node::File { mode, content } => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Node::Symlink { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()
    }
}

/// What a container of the image runs unless it is told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunConfig {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub environment: Vec<String>,
    pub exposed_ports: Vec<String>,
    pub stop_signal: Option<String>,
    pub working_directory: Option<String>,
    pub user: Option<String>,
}

/// An image, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// With registry and tag, as runtimes store them.
    pub references: Vec<String>,
    pub layer: Layer,
    pub run: RunConfig,
}

impl Image {
    /// Writes the image as a docker archive.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let layer = self.layer.to_tar()?;
        let layer_digest = hex::encode(Sha256::digest(&layer));
        let config = self.config(&layer_digest).to_string().into_bytes();
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": self.references,
            "Layers": [layer_name],
        }]);
        let mut tar = tar::Builder::new(out);
        let parts = [
            (config_name.as_str(), config.as_slice()),
            (layer_name.as_str(), layer.as_slice()),
            ("manifest.json", manifest.to_string().as_bytes()),
        ]
        .map(|(name, content)| (name.to_owned(), content.to_vec()));
        for (name, content) in parts {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_slice())?;
        }
        tar.into_inner()?.flush()
    }

    fn config(&self, layer_digest: &str) -> serde_json::Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let ports: serde_json::Map<_, _> = self
            .run
            .exposed_ports
            .iter()
            .map(|port| (port.clone(), json!({})))
            .collect();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let environment: Vec<_> = std::iter::once(path)
            .chain(self.run.environment.iter().cloned())
            .collect();
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": environment,
                "Entrypoint": self.run.entrypoint,
                "Cmd": self.run.command,
                "ExposedPorts": ports,
                "StopSignal": self.run.stop_signal,
                "WorkingDir": self.run.working_directory.as_deref().unwrap_or("/"),
                "User": self.run.user.as_deref().unwrap_or(""),
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "fairlead image build" }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Image {
        let mut layer = Layer::default();
        layer
            .file("/bin/server", 0o755, *b"program")
            .symlink("/bin/alias", "server");
        Image {
            references: vec!["docker.io/fairlead/sample:1".to_owned()],
            layer,
            run: RunConfig {
                entrypoint: vec!["/bin/server".to_owned()],
                ..RunConfig::default()
            },
        }
    }

    fn bytes(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        assert_eq!(bytes(&sample()), bytes(&sample()));
    }

    #[test]
    fn the_manifest_names_parts_that_have_the_digests_of_their_names() {
        let archive = bytes(&sample());
        let mut parts = BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            io::copy(&mut entry, &mut content).unwrap();
            parts.insert(name, content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&parts["manifest.json"]).unwrap();
        let config_name = manifest[0]["Config"].as_str().unwrap();
        let layer_name = manifest[0]["Layers"][0].as_str().unwrap();
        let digest = |content: &Vec<u8>| hex::encode(Sha256::digest(content));
        assert_eq!(config_name, format!("{}.json", digest(&parts[config_name])));
        let config: serde_json::Value = serde_json::from_slice(&parts[config_name]).unwrap();
        let layer_digest = digest(&parts[layer_name]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{layer_digest}")
        );
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let layer = sample().layer.to_tar().unwrap();
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["bin/", "bin/alias", "bin/server"]);
    }

    #[test]
    fn merging_usr_keeps_every_file_reachable() {
        let mut image = sample();
        image.layer.merge_usr();
        assert_eq!(
            image.layer.nodes["bin"],
            Node::Symlink {
                target: "usr/bin".to_owned()
            }
        );
        assert!(image.layer.nodes.contains_key("usr/bin/server"));
    }
}
