//! Kernel settings below `/proc/sys`.
//!
//! The `net` part shows the network namespace of the thread that opens the file: within
//! [`crate::netns::Netns::run`] it is that namespace's.

use std::path::PathBuf;
use std::{fs, io};

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the setting {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("cannot set {path} to {value:?}: {source}")]
    Write {
        path: String,
        value: String,
        source: io::Error,
    },
    #[error("{0:?} is no name of a setting: it has to stay below /proc/sys")]
    Name(String),
}

/// Where a setting is. The name's parts are separated by `/`; in a name without a `/` they
/// may be separated by dots, as people write them.
fn path(name: &str) -> Result<PathBuf, Error> {
    let relative = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    let strange = |part: &str| part.is_empty() || part == "." || part == "..";
    if relative.split('/').any(strange) {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(PathBuf::from("/proc/sys").join(relative))
}

/// The setting's value without the line's end.
pub fn read(name: &str) -> Result<String, Error> {
    let path = path(name)?;
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(Error::Read {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// Sets the value.
pub fn write(name: &str, value: &str) -> Result<(), Error> {
    let path = path(name)?;
    fs::write(&path, value).map_err(|source| Error::Write {
        path: path.display().to_string(),
        value: value.to_owned(),
        source,
    })
}

/// Sets the value unless it is set already; `true` when it was changed.
pub fn ensure(name: &str, value: &str) -> Result<bool, Error> {
    if read(name)? == value {
        return Ok(false);
    }
    write(name, value).map(|()| true)
}

impl Error {
    /// The kernel has no such setting, or no such interface.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            Self::Name(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_below_proc_sys() {
        let expected = PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(path("net/ipv4/conf/eth0.1/rp_filter").unwrap(), expected);
        assert_eq!(
            path("net.ipv4.ip_forward").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/ip_forward")
        );
        for name in ["", "../etc/passwd", "net/../../x", "/etc/passwd", "net//x"] {
            assert!(path(name).is_err(), "{name}");
        }
    }
}
