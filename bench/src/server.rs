//! An API server by itself: its start, its memory, what requests cost.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::apiload::{self, Measured, Options, Phase, ProcessUse};
use crate::results::table;

const PORT: u16 = 17_643;
const ETCD_PORT: u16 = 17_679;
const IDLE: Duration = Duration::from_secs(20);
/// The phases of the load, in order.
const PHASES: [Phase; 5] = [
    Phase::Create,
    Phase::Get,
    Phase::Update,
    Phase::Apply,
    Phase::List,
];

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark starts what it measures"
    )]
    fn start(program: &Path, arguments: &[String]) -> anyhow::Result<Running> {
        Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Running)
            .with_context(|| format!("start {}", program.display()))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// `fairlead server` with a data directory; ready when this returns.
struct Server {
    process: Running,
    kubeconfig: PathBuf,
    ready_after: Duration,
}

impl Server {
    async fn start(fairlead: &Path, data: &Path, more: &[&str]) -> anyhow::Result<Server> {
        let mut arguments: Vec<String> = [
            "server",
            "--bind-address",
            "127.0.0.1",
            "--advertise-address",
            "127.0.0.1",
            "--secure-port",
            &PORT.to_string(),
            "--data-dir",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(data.display().to_string());
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let begun = Instant::now();
        let mut process = Running::start(fairlead, &arguments)?;
        let kubeconfig = data.join("admin.kubeconfig");
        while !apiload::is_ready(&kubeconfig).await {
            if let Some(status) = process.0.try_wait()? {
                bail!("the server ended: {status}");
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "the server is not ready after 30 s"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Server {
            process,
            kubeconfig,
            ready_after: begun.elapsed(),
        })
    }

    /// Resident memory in MiB and the share of one core, when nothing asks.
    fn idle(&self) -> anyhow::Result<(u64, f64)> {
        std::thread::sleep(Duration::from_secs(5));
        let before = ProcessUse::read(self.process.pid())?;
        std::thread::sleep(IDLE);
        let after = ProcessUse::read(self.process.pid())?;
        let share = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64();
        Ok((after.resident >> 20, share * 100.0))
    }

    async fn load(&self, clients: usize, phases: &[Phase]) -> anyhow::Result<Vec<Measured>> {
        let options = Options {
            kubeconfig: self.kubeconfig.clone(),
            clients,
            objects: 5000,
            bytes: 1024,
            seconds: 5,
            pid: Some(self.process.pid()),
            phases: phases.to_vec(),
            keep: false,
            output: "text".to_owned(),
        };
        apiload::run(&options).await
    }
}

/// Measures everything of this module; the answer is Markdown.
pub async fn measure(fairlead: &Path) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let first = Server::start(fairlead, &data, &[]).await?.ready_after;
    let mut again = Vec::new();
    for _ in 0..5 {
        again.push(Server::start(fairlead, &data, &[]).await?.ready_after);
    }
    again.sort_unstable();
    let server = Server::start(fairlead, &data, &[]).await?;
    let (idle, share) = server.idle()?;
    let mut rows = vec![];
    for clients in [10, 32] {
        rows.extend(described("embedded", server.load(clients, &PHASES).await?));
    }
    let loaded = ProcessUse::read(server.process.pid())?.resident >> 20;
    drop(server);
    rows.extend(described(
        "etcd",
        with_etcd(fairlead, directory.path()).await?,
    ));
    let starts = table(
        ["", "measured"],
        &[
            ["first start to `/readyz`, keys made".into(), seconds(first)],
            [
                "start with that data directory, median of 5".into(),
                seconds(again[2]),
            ],
            ["resident memory, idle".into(), format!("{idle} MiB")],
            [
                "CPU, idle, controllers and scheduler running".into(),
                format!("{share:.2} % of a core"),
            ],
            [
                "resident memory after the load below".into(),
                format!("{loaded} MiB"),
            ],
        ],
    );
    let requests = table(
        [
            "store",
            "request",
            "clients",
            "per second",
            "p50",
            "p99",
            "server CPU each",
        ],
        &rows,
    );
    Ok(format!("{starts}\n{requests}"))
}

/// The same server on Debian's etcd, in the same run.
async fn with_etcd(fairlead: &Path, directory: &Path) -> anyhow::Result<Vec<Measured>> {
    let url = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = format!("http://127.0.0.1:{}", ETCD_PORT + 1);
    let arguments = [
        "--data-dir".to_owned(),
        directory.join("etcd").display().to_string(),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=error".to_owned(),
    ];
    let _etcd = Running::start(Path::new("etcd"), &arguments)?;
    let data = directory.join("data-etcd");
    let more = ["--storage", "etcd", "--etcd-endpoints", &url];
    let server = Server::start(fairlead, &data, &more).await?;
    server.load(10, &PHASES).await
}

fn described(store: &str, measured: Vec<Measured>) -> Vec<[String; 7]> {
    measured
        .into_iter()
        .map(|phase| {
            [
                store.to_owned(),
                phase.name().to_owned(),
                phase.clients.to_string(),
                format!("{:.0}", phase.per_second),
                milliseconds(phase.p50),
                milliseconds(phase.p99),
                phase
                    .cpu_per_request
                    .map_or_else(|| "-".to_owned(), |cpu| format!("{} µs", cpu.as_micros())),
            ]
        })
        .collect()
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
