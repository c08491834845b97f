use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use nix::sys::statvfs::statvfs;

/// What the machine has, read once at the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Machine {
    pub cpus: u64,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub storage_bytes: u64,
    /// Bytes of huge pages by page size.
    pub hugepages: Vec<(u64, u64)>,
    pub info: NodeSystemInfo,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A field of /proc/meminfo, in bytes.
pub(super) fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// A variable of /etc/os-release.
fn os_release(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Machine {
    /// Looks at the machine. `root` is on the file system that holds the pods' files.
    pub(crate) fn read(root: &Path) -> Self {
        let memory = read("/proc/meminfo");
        let release = read("/etc/os-release");
        let stat = statvfs(root).ok();
        let uname = nix::sys::utsname::uname().ok();
        let kernel = uname
            .as_ref()
            .map(|uname| uname.release().to_string_lossy().into_owned());
        let machine_id = Some(read("/etc/machine-id")).filter(|id| !id.is_empty());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory_bytes: meminfo(&memory, "MemTotal").unwrap_or(0),
            swap_bytes: meminfo(&memory, "SwapTotal").unwrap_or(0),
            storage_bytes: stat.map_or(0, |stat| stat.blocks() * stat.fragment_size()),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id: read("/proc/sys/kernel/random/boot_id"),
                kernel_version: kernel.unwrap_or_default(),
                kube_proxy_version: String::new(),
                kubelet_version: crate::VERSION.to_owned(),
                machine_id: machine_id.clone().unwrap_or_default(),
                operating_system: "linux".to_owned(),
                os_image: os_release(&release, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
                system_uuid: Some(read("/sys/class/dmi/id/product_uuid"))
                    .filter(|id| !id.is_empty())
                    .or(machine_id)
                    .unwrap_or_default(),
                ..NodeSystemInfo::default()
            },
        }
    }
}

fn hugepages(root: &Path) -> Vec<(u64, u64)> {
    let mut sizes: Vec<(u64, u64)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count: u64 = read(&entry.path().join("nr_hugepages").display().to_string())
                .parse()
                .ok()?;
            Some((size * 1024, size * 1024 * count))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_files_are_read() {
        let text = "MemTotal:       24689412 kB\nMemFree: 1 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_689_412 * 1024));
        assert_eq!(meminfo(text, "SwapTotal"), None);
        assert_eq!(
            os_release("PRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME"),
            Some("Debian 12".into())
        );
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && machine.storage_bytes > 0);
    }
}
