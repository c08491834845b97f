//! Stores to test, each of its own and gone with the value.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use storage::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store};
use tempfile::TempDir;

pub(crate) struct Embedded {
    store: EmbeddedStore,
    _directory: TempDir,
}

impl Embedded {
    pub(crate) fn start() -> Embedded {
        let directory = tempfile::tempdir().unwrap();
        let mut options = EmbeddedOptions::new(directory.path().join("db"));
        // Small, so that every test crosses from the log into the tables.
        options.apply_bytes = 16 << 10;
        options.log_bytes = 64 << 10;
        options.apply_after = Duration::from_millis(20);
        options.compact_every = None;
        Embedded {
            store: EmbeddedStore::open(options).unwrap(),
            _directory: directory,
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }
}

pub(crate) struct Etcd {
    store: EtcdStore,
    process: Child,
    _directory: TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    pub(crate) async fn start() -> Etcd {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Somebody else may take a port between its choice and its use.
            match Etcd::try_start().await {
                Some(etcd) => return etcd,
                None => assert!(Instant::now() < deadline, "etcd does not start"),
            }
        }
    }

    async fn try_start() -> Option<Etcd> {
        let directory = tempfile::tempdir().unwrap();
        let port = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let client = format!("http://127.0.0.1:{}", port());
        let peer = format!("http://127.0.0.1:{}", port());
        let process = spawn(&directory, &client, &peer);
        let mut guard = Starting(Some(process));
        let options = EtcdOptions {
            endpoints: vec![client],
            ..Default::default()
        };
        // It waits for an etcd that is still starting.
        let store = EtcdStore::connect(options).await.ok()?;
        Some(Etcd {
            store,
            process: guard.0.take()?,
            _directory: directory,
        })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }
}

/// Ends the process unless it was taken over.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a real etcd is what the test is about"
)]
fn spawn(directory: &TempDir, client: &str, peer: &str) -> Child {
    // `setpriv` ties etcd's life to the test's, also when the test is killed.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "etcd", "--data-dir"])
        .arg(directory.path())
        .args([
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
        ])
        .args([
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts (Debian: apt-get install etcd-server)")
}
