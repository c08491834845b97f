//! A tiny image of Debian's static busybox, as a docker archive.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Names of the one image in the archive.
pub(crate) const TAGS: [&str; 2] = ["docker.io/fairlead/pause:1", "docker.io/library/busybox:1"];

fn entry(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    tar.append_data(&mut header, path, data)
        .expect("tar in memory");
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    header.set_cksum();
    tar.append_data(&mut header, path, &[][..])
        .expect("tar in memory");
}

fn layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is needed");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("dev", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
    ] {
        directory(&mut tar, path, mode);
    }
    entry(&mut tar, "bin/busybox", 0o755, &busybox);
    entry(
        &mut tar,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
    );
    entry(&mut tar, "etc/group", 0o644, b"root:x:0:\nweb:x:33:\n");
    for applet in [
        "sh", "sleep", "cat", "ls", "echo", "id", "wget", "httpd", "nc", "touch", "stat", "mkdir",
        "kill", "env", "hostname", "true", "false", "test", "dd", "grep",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_cksum();
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("tar in memory");
    }
    tar.into_inner().expect("tar in memory")
}

/// Writes the archive.
pub(crate) fn write(path: &Path) {
    let layer = layer();
    let digest = hex::encode(Sha256::digest(&layer));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep"], "Cmd": ["1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [],
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    let manifest = json!([{"Config": config_name, "RepoTags": TAGS, "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    entry(&mut tar, &config_name, 0o644, config.as_bytes());
    entry(&mut tar, "layer.tar", 0o644, &layer);
    entry(
        &mut tar,
        "manifest.json",
        0o644,
        manifest.to_string().as_bytes(),
    );
    std::fs::write(path, tar.into_inner().expect("tar in memory")).expect("the archive is written");
}
