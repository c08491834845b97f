//! A containerd of its own for each node.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::image::catalog::PAUSE;
use crate::registry;

/// Where containerd keeps things, as its node sees it.
pub const ROOT: &str = "/var/lib/containerd";
pub const STATE: &str = "/run/containerd";
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// The programs of a runtime: those of a directory, or those of the system.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    pub directory: Option<PathBuf>,
}

impl Programs {
    pub fn path(&self, name: &str) -> PathBuf {
        let own = self
            .directory
            .as_ref()
            .map(|directory| directory.join(name));
        own.filter(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// The search path with which containerd finds its shims, runc and the rest.
    pub fn search_path(&self) -> String {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let inherited = std::env::var("PATH").unwrap_or_default();
        match &self.directory {
            Some(directory) => format!("{}:{system}:{inherited}", directory.display()),
            None => format!("{system}:{inherited}"),
        }
    }
}

/// The configuration file. Paths are those of the node's mount namespace.
///
/// `restrict_oom_score_adj`: a machine may lack the right to lower the score. `disable_apparmor`:
/// a lab's containers need no profile, and the host's may not fit.
pub fn config(opt: &Path) -> String {
    format!(
        r#"version = 2
root = "{ROOT}"
state = "{STATE}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"#,
        opt = opt.display()
    )
}

/// How containerd reaches registries: the lab's own first, as a mirror of docker.io, and the
/// private one under its name. The folder of each in `certs.d` with the file's content.
pub fn registry_hosts(server: IpAddr) -> [(String, String); 2] {
    let address = |port| SocketAddr::new(server, port);
    let mirror = format!(
        "server = \"https://registry-1.docker.io\"\n\n[host.\"http://{}\"]\n  \
         capabilities = [\"pull\", \"resolve\"]\n",
        address(registry::OPEN_PORT)
    );
    let private = format!(
        "server = \"http://{0}\"\n\n[host.\"http://{0}\"]\n  \
         capabilities = [\"pull\", \"resolve\"]\n",
        registry::private_name()
    );
    [
        ("docker.io".to_owned(), mirror),
        (registry::private_name(), private),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_a_directory_win_and_missing_ones_are_the_systems() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("containerd"), "").unwrap();
        let programs = Programs {
            directory: Some(directory.path().to_owned()),
        };
        assert_eq!(
            programs.path("containerd"),
            directory.path().join("containerd")
        );
        assert_eq!(programs.path("runc"), Path::new("runc"));
        assert!(
            programs
                .search_path()
                .starts_with(&directory.path().display().to_string())
        );
    }
}
