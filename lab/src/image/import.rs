//! Handing an archive to containerd.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why an archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: {source}")]
    Archive { path: PathBuf, source: io::Error },
    #[error(
        "cannot start {}: {source}; install containerd, whose package brings ctr",
        program.display()
    )]
    Start { program: PathBuf, source: io::Error },
    #[error("containerd at {} did not take {}: {detail}", socket.display(), archive.display())]
    Refused {
        socket: PathBuf,
        archive: PathBuf,
        detail: String,
    },
}

/// A containerd and the program that speaks to it.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub ctr: PathBuf,
    pub socket: PathBuf,
}

impl Runtime {
    /// The containerd of this machine.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            ctr: PathBuf::from("ctr"),
            socket: socket.into(),
        }
    }
}

/// Imports an archive where the kubelet's images live. Returns the references it brought.
#[expect(
    clippy::disallowed_methods,
    reason = "the runtime's own program imports every archive format; the CRI cannot import"
)]
pub fn load(runtime: &Runtime, archive: &Path) -> Result<Vec<String>, ImportError> {
    let fail = |source| ImportError::Archive {
        path: archive.to_owned(),
        source,
    };
    let archive_path = std::fs::canonicalize(archive).map_err(fail)?;
    let output = Command::new(&runtime.ctr)
        .arg("--address")
        .arg(&runtime.socket)
        .args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--digests=false",
        ])
        .arg(&archive_path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ImportError::Start {
            program: runtime.ctr.clone(),
            source,
        })?;
    if !output.status.success() {
        let detail = String::from_utf8_lossy(&output.stderr);
        return Err(ImportError::Refused {
            socket: runtime.socket.clone(),
            archive: archive.to_owned(),
            detail: detail.lines().last().unwrap_or("no message").to_owned(),
        });
    }
    Ok(references(&String::from_utf8_lossy(&output.stdout)))
}

/// `unpacking REFERENCE (sha256:...)...done` on one line per image.
fn references(output: &str) -> Vec<String> {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("unpacking "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_are_read_from_the_programs_output() {
        let output = "unpacking docker.io/library/nginx:latest (sha256:ab)...done\nother\n";
        assert_eq!(references(output), ["docker.io/library/nginx:latest"]);
    }

    #[test]
    fn an_archive_that_is_not_there_is_named() {
        let runtime = Runtime::at("/nonexistent.sock");
        let error = load(&runtime, Path::new("/nonexistent.tar")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent.tar"), "{error}");
    }
}
