//! What a node needs of its machine.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use kernel::netlink::Socket;
use kernel::route;

pub(super) const PLUGIN: &str = "fairlead-cni";

pub(crate) fn require_root(what: &str) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{what} needs root: run it with sudo"
    );
    Ok(())
}

/// The addresses with which this machine reaches others: one of each family that has a route
/// to the world.
pub(super) fn addresses() -> anyhow::Result<Vec<IpAddr>> {
    // Addresses for documentation: nothing is sent, the kernel says what it would do.
    let far: [IpAddr; 2] = [
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ];
    let mut socket = Socket::route().context("cannot read the routes")?;
    let source = |destination| {
        let route = route::lookup(&mut socket, destination).ok().flatten();
        route.and_then(|route| route.preferred_source)
    };
    let addresses: Vec<IpAddr> = far.into_iter().filter_map(source).collect();
    if addresses.is_empty() {
        bail!("this machine has no default route; say its address with --node-ip");
    }
    Ok(addresses)
}

/// Puts the CNI plugin that belongs to this program where the runtime looks for it.
pub(crate) fn install_plugin(directory: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let own = program.with_file_name(PLUGIN);
    let installed = directory.join(PLUGIN);
    // A package may have put it there already.
    if own.exists() || !installed.exists() {
        let wanted = fs::read(&own).with_context(|| {
            format!(
                "the CNI plugin {} is missing; install it beside fairlead",
                own.display()
            )
        })?;
        install(&wanted, &installed)?;
    }
    // Whoever has containerd's own plugins keeps theirs.
    let loopback = directory.join(cni_plugin::loopback::PROGRAM);
    if !loopback.exists() {
        std::os::unix::fs::symlink(PLUGIN, &loopback)
            .with_context(|| format!("cannot install {}", loopback.display()))?;
    }
    Ok(())
}

fn install(wanted: &[u8], target: &Path) -> anyhow::Result<()> {
    if fs::read(target).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    // The runtime may run the old one at this moment.
    let unfinished = target.with_extension("new");
    let write = || -> std::io::Result<()> {
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&unfinished, wanted)?;
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
        fs::rename(&unfinished, target)
    };
    write().with_context(|| format!("cannot install {}", target.display()))
}

/// Whether a runtime listens on the socket.
pub(super) fn require_runtime(socket: &Path) -> anyhow::Result<()> {
    std::os::unix::net::UnixStream::connect(socket)
        .map(drop)
        .with_context(|| {
            format!(
                "no container runtime answers at {}: install and start containerd, or name its \
             socket with --container-runtime",
                socket.display()
            )
        })
}
