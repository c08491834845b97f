//! Load on any API server: ConfigMaps of a given size, by a number of clients.
//!
//! Each client has a TLS connection of its own with the kubeconfig's client certificate and
//! sends one request after the other, so that what is measured is the server.

mod client;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use client::{Client, Target};
pub use report::{Measured, ProcessUse};

/// Load on an API server.
///
/// Example: apiload --kubeconfig /var/lib/fairlead/admin.kubeconfig --pid $(pidof fairlead) --clients 10
#[derive(Debug, Clone, Parser)]
pub struct Options {
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// How many clients send at the same time.
    #[arg(long, default_value_t = 10)]
    pub clients: usize,
    /// Objects to create; updates, reads and lists are of these.
    #[arg(long, default_value_t = 5000)]
    pub objects: usize,
    /// Size of an object's data.
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// How long reads and updates go on.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Process of the server, to tell its CPU and memory.
    #[arg(long)]
    pub pid: Option<u32>,
    /// What to do, in order; `create` makes what the others need.
    #[arg(long, value_delimiter = ',', default_value = "create,get,update,list")]
    pub phases: Vec<Phase>,
    /// Leave the objects there.
    #[arg(long)]
    pub keep: bool,
    /// One JSON object a line instead of a table.
    #[arg(short = 'o', long, value_parser = ["text", "json"], default_value = "text")]
    pub output: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    Create,
    Get,
    Update,
    /// Server-side apply of a Deployment.
    Apply,
    List,
}

const NAMESPACE: &str = "apiload";
const COLLECTION: &str = "/api/v1/namespaces/apiload/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/apiload/deployments";
/// How long the namespace may take to go when its objects are gone.
const CLEANED: Duration = Duration::from_secs(60);

/// Runs all phases and returns what each measured.
pub async fn run(options: &Options) -> Result<Vec<Measured>> {
    let target = Arc::new(Target::from_kubeconfig(&options.kubeconfig)?);
    let mut admin = Client::connect(&target).await?;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let made = admin
        .send(Method::POST, "/api/v1/namespaces", Some(&namespace))
        .await?;
    ensure!(
        made.code == 201 || made.code == 409,
        "the namespace was not made: {}",
        made.code
    );
    let mut results = Vec::new();
    for phase in &options.phases {
        let before = options.pid.map(ProcessUse::read).transpose()?;
        let begun = Instant::now();
        let latencies = drive(*phase, &target, options).await?;
        let elapsed = begun.elapsed();
        let after = options.pid.map(ProcessUse::read).transpose()?;
        results.push(Measured::new(
            *phase,
            options.clients,
            latencies,
            elapsed,
            before,
            after,
        ));
    }
    if !options.keep {
        clean(&mut admin).await?;
    }
    Ok(results)
}

/// Whether the server of that kubeconfig says that it is ready.
pub async fn is_ready(kubeconfig: &Path) -> bool {
    let asked = async {
        let target = Target::from_kubeconfig(kubeconfig)?;
        let mut client = Client::connect(&target).await?;
        client.send(Method::GET, "/readyz", None).await
    };
    asked.await.is_ok_and(|answer| answer.code == 200)
}

/// Removes what the load made, so that the next one finds nothing.
async fn clean(admin: &mut Client) -> Result<()> {
    let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
    for path in [DEPLOYMENTS, COLLECTION, &namespace] {
        admin.send(Method::DELETE, path, None).await?;
    }
    let end = Instant::now() + CLEANED;
    while admin.send(Method::GET, &namespace, None).await?.code != 404 {
        ensure!(
            Instant::now() < end,
            "the namespace {NAMESPACE} stays; does the server run the namespace controller? use --keep"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// All clients at once; every one returns the times of its requests.
async fn drive(phase: Phase, target: &Arc<Target>, options: &Options) -> Result<Vec<Duration>> {
    let clients = if phase == Phase::List {
        1
    } else {
        options.clients
    };
    let mut tasks = JoinSet::new();
    for index in 0..clients {
        let (target, options) = (target.clone(), options.clone());
        tasks.spawn(async move {
            let worker = Worker {
                index,
                client: Client::connect(&target).await?,
                options,
            };
            worker.run(phase).await
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.context("a client")??);
    }
    Ok(all)
}

struct Worker {
    index: usize,
    client: Client,
    options: Options,
}

impl Worker {
    async fn run(mut self, phase: Phase) -> Result<Vec<Duration>> {
        match phase {
            Phase::Create => self.create().await,
            Phase::Get => self.repeat(Method::GET, 200).await,
            Phase::Update => self.repeat(Method::PUT, 200).await,
            Phase::Apply => self.apply().await,
            Phase::List => self.list().await,
        }
    }

    /// The objects that are this client's.
    fn own(&self) -> Vec<usize> {
        (self.index..self.options.objects)
            .step_by(self.options.clients)
            .collect()
    }

    fn object(&self, number: usize, version: usize) -> Value {
        let text = format!("{version:08}").repeat(self.options.bytes.div_ceil(8));
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": format!("load-{number:06}"), "labels": {"app": "apiload"}},
            "data": {"text": &text[..self.options.bytes]},
        })
    }

    async fn create(&mut self) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for number in self.own() {
            let object = self.object(number, 0);
            let begun = Instant::now();
            let answer = self
                .client
                .send(Method::POST, COLLECTION, Some(&object))
                .await?;
            times.push(begun.elapsed());
            ensure!(
                answer.code == 201 || answer.code == 409,
                "create answers {}",
                answer.code
            );
        }
        Ok(times)
    }

    async fn repeat(&mut self, method: Method, code: u16) -> Result<Vec<Duration>> {
        let own = self.own();
        ensure!(!own.is_empty(), "there are fewer objects than clients");
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut times = Vec::new();
        while Instant::now() < end {
            let number = own[times.len() % own.len()];
            let path = format!("{COLLECTION}/load-{number:06}");
            let body = (method == Method::PUT).then(|| self.object(number, times.len() + 1));
            let begun = Instant::now();
            let answer = self
                .client
                .send(method.clone(), &path, body.as_ref())
                .await?;
            times.push(begun.elapsed());
            ensure!(answer.code == code, "{method} answers {}", answer.code);
        }
        Ok(times)
    }

    /// Each client has Deployments of its own, which no controller acts on.
    async fn apply(&mut self) -> Result<Vec<Duration>> {
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut times = Vec::new();
        while Instant::now() < end {
            let name = format!("load-{}-{}", self.index, times.len() % 20);
            let path = format!("{DEPLOYMENTS}/{name}?fieldManager=apiload&force=true");
            let body = deployment(&name, times.len());
            let begun = Instant::now();
            let answer = self
                .client
                .send_as(
                    Method::PATCH,
                    &path,
                    "application/apply-patch+yaml",
                    Some(&body),
                )
                .await?;
            times.push(begun.elapsed());
            ensure!(
                answer.code == 200 || answer.code == 201,
                "apply answers {}",
                answer.code
            );
        }
        Ok(times)
    }

    async fn list(&mut self) -> Result<Vec<Duration>> {
        let end = Instant::now() + Duration::from_secs(self.options.seconds);
        let mut times = Vec::new();
        while Instant::now() < end {
            let begun = Instant::now();
            let answer = self.client.send(Method::GET, COLLECTION, None).await?;
            times.push(begun.elapsed());
            ensure!(answer.code == 200, "list answers {}", answer.code);
            let least = self.options.objects * self.options.bytes;
            ensure!(
                answer.bytes >= least,
                "the list has {} bytes only",
                answer.bytes
            );
        }
        Ok(times)
    }
}

fn deployment(name: &str, version: usize) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": "apiload"}},
        "spec": {
            "paused": true,
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "server",
                    "image": "server:1",
                    "env": [{"name": "VERSION", "value": version.to_string()}],
                    "ports": [{"containerPort": 8080}],
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }]},
            },
        },
    })
}
