//! A server alone, without a lab.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::cluster::wait_for;
use crate::command::{command, fairlead};

/// A running `fairlead server`. It is killed with this value.
pub struct Server {
    pub data: PathBuf,
    pub port: u16,
    child: Child,
}

impl Server {
    /// Starts a server on a free port and waits until it is ready.
    pub fn start(data: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(data, free_port()?, arguments)
    }

    pub fn start_on(data: &Path, port: u16, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::spawn(data, port, arguments)?;
        server.ready()?;
        Ok(server)
    }

    /// Starts a server and does not wait.
    pub fn spawn(data: &Path, port: u16, arguments: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(data)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(data.with_extension("log"))?;
        let child = command(fairlead())
            .args([
                "server",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
            ])
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--secure-port={port}"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start fairlead server")?;
        Ok(Self {
            data: data.to_owned(),
            port,
            child,
        })
    }

    pub fn ready(&mut self) -> anyhow::Result<()> {
        let kubeconfig = self.kubeconfig();
        wait_for("the server", Duration::from_secs(30), || {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.data.with_extension("log"))?;
                anyhow::bail!("the server ended with {status}: {log}");
            }
            let mut kubectl = command("kubectl");
            kubectl
                .env("KUBECONFIG", &kubeconfig)
                .args(["get", "--raw", "/readyz"]);
            Ok(kubeconfig.exists() && kubectl.output()?.status.success())
        })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    /// Ends the server as a crash does.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
