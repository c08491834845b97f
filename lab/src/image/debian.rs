//! Files of Debian packages: downloaded by apt and unpacked, never installed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Why a package could not be fetched. All are worth a second try once mended.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("cannot start {program}: {source}; this needs a Debian machine with {program}")]
    Start {
        program: &'static str,
        source: io::Error,
    },
    #[error("{program} failed for {package}: {detail}; try `apt-get update` first")]
    Program {
        program: &'static str,
        package: String,
        detail: String,
    },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// Packages, downloaded once into a directory.
#[derive(Debug, Clone)]
pub struct PackageCache {
    directory: PathBuf,
}

impl PackageCache {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Unpacks the packages into `root`, downloading those that are missing.
    pub fn unpack(&self, packages: &[&str], root: &Path) -> Result<(), PackageError> {
        let fail = |path: &Path, source| PackageError::File {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(&self.directory).map_err(|source| fail(&self.directory, source))?;
        for package in packages {
            let archive = match self.find(package)? {
                Some(archive) => archive,
                None => self.download(package)?,
            };
            let arguments = ["-x".as_ref(), archive.as_os_str(), root.as_os_str()];
            run(
                "dpkg-deb",
                package,
                Command::args(&mut command("dpkg-deb"), arguments),
            )?;
        }
        Ok(())
    }

    /// The package and the libraries that it needs, without what an image has no use for.
    pub fn with_libraries(&self, package: &str) -> Result<Vec<String>, PackageError> {
        let mut found = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(package) = open.pop() {
            if !found.insert(package.clone()) {
                continue;
            }
            let output = run(
                "apt-cache",
                &package,
                command("apt-cache").args(["depends", "-i", &package]),
            )?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            open.extend(
                dependencies(&text)
                    .filter(|name| is_library(name))
                    .map(str::to_owned),
            );
        }
        Ok(found.into_iter().collect())
    }

    fn find(&self, package: &str) -> Result<Option<PathBuf>, PackageError> {
        let entries = std::fs::read_dir(&self.directory).map_err(|source| PackageError::File {
            path: self.directory.clone(),
            source,
        })?;
        let prefix = format!("{package}_");
        Ok(entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            }))
    }

    fn download(&self, package: &str) -> Result<PathBuf, PackageError> {
        let mut apt = command("apt-get");
        // The sandbox user of apt may not write into root's directories.
        apt.args(["-o", "APT::Sandbox::User=root", "download", package]);
        run("apt-get", package, apt.current_dir(&self.directory))?;
        self.find(package)?.ok_or_else(|| PackageError::Program {
            program: "apt-get",
            package: package.to_owned(),
            detail: "it left no archive behind".to_owned(),
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "packages are Debian's: apt and dpkg read them"
)]
fn command(program: &'static str) -> Command {
    Command::new(program)
}

fn run(
    program: &'static str,
    package: &str,
    command: &mut Command,
) -> Result<Output, PackageError> {
    let output = command
        .output()
        .map_err(|source| PackageError::Start { program, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let detail = String::from_utf8_lossy(&output.stderr);
    Err(PackageError::Program {
        program,
        package: package.to_owned(),
        detail: detail.lines().last().unwrap_or("no message").to_owned(),
    })
}

/// The real packages among the lines that `apt-cache depends` prints.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches('|').split_once("Depends: "))
        .map(|(_, name)| name.trim())
        .filter(|name| !name.starts_with('<'))
}

fn is_library(package: &str) -> bool {
    package.starts_with("lib") || package == "zlib1g"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_without_virtual_packages() {
        let text = "nginx\n  Depends: libc6\n |Depends: libssl3\n  PreDepends: zlib1g\n  \
                    Depends: <httpd>\n    other\n  Depends: iproute2\n";
        let libraries: Vec<_> = dependencies(text).filter(|name| is_library(name)).collect();
        assert_eq!(libraries, ["libc6", "libssl3", "zlib1g"]);
    }
}
