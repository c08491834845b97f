//! Runs a test in mount, network and process namespaces of its own. Whatever it starts dies
//! with it, also when it is killed, and what it mounts is never seen outside.

use std::path::Path;
use std::process::Command;

const MARK: &str = "FAIRLEAD_KUBELET_TEST_INSIDE";

/// What the cgroups of tests are called, before the number of the test's process.
const PREFIX: &str = "fairlead-kubelet-test-";

/// The cgroups of tests that were killed before they could tidy up.
fn stale_roots() -> Vec<String> {
    let mount = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(mount).into_iter().flatten().flatten();
    let mut directories: Vec<_> = hierarchies.map(|entry| entry.path()).collect();
    directories.push(mount.to_owned());
    let mut stale = std::collections::BTreeSet::new();
    for directory in directories {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for name in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
            let number = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if number.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                stale.insert(name);
            }
        }
    }
    stale.into_iter().collect()
}

/// Calls `body` inside. `name` is the test's own name, as the harness knows it.
pub(crate) fn run(name: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(MARK).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(400), body())
                .await
                .expect("the test took too long");
        });
        return;
    }
    for stale in stale_roots() {
        remove_cgroups(&stale);
    }
    let root = format!("{PREFIX}{}-{}", std::process::id(), rand::random::<u16>());
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is started in new namespaces"
    )]
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
        ])
        .args([
            "--kill-child=KILL",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .arg(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(MARK, &root)
        .status()
        .expect("unshare and setpriv (util-linux) are needed");
    remove_cgroups(&root);
    assert!(status.success(), "the test failed inside its namespaces");
}

/// The cgroup that everything of this test is below.
pub(crate) fn cgroup_root() -> String {
    std::env::var(MARK).expect("called inside only")
}

fn remove_cgroups(root: &str) {
    let mount = Path::new("/sys/fs/cgroup");
    let mut roots = vec![mount.join(root)];
    for entry in std::fs::read_dir(mount).into_iter().flatten().flatten() {
        roots.push(entry.path().join(root));
    }
    for root in roots.iter().filter(|root| root.is_dir()) {
        for _ in 0..50 {
            remove_tree(root);
            if !root.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn remove_tree(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}
