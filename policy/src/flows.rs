//! What the kernel dropped, and what it accepted while somebody asks, told to people: a short
//! history and a stream of what comes.
//!
//! A connection to the socket sends one line of words and gets lines of JSON. Without a word it gets
//! the history; `follow`: what comes, too; `accepted`: accepted connections are logged while it
//! lasts; `connections`: the connections of the last hour instead of flows.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kernel::nflog::Headers;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::index::Index;
use crate::metrics::metrics;
use crate::model::Direction;
use crate::render::Told;
use crate::verdict::Decision;

const HISTORY: usize = 4096;
/// Of one interface and direction in each second; the rest is counted.
const TOLD_PER_SECOND: u32 = 20;

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `NAMESPACE/NAME`, of an address that is a pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `KIND/NAME` of the pod's controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A packet and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Milliseconds since 1970.
    pub time: u64,
    /// `drop` or `accept`
    pub verdict: String,
    /// `ingress` or `egress`, as seen from the pod whose policies decided.
    pub direction: String,
    pub protocol: String,
    pub source: End,
    pub destination: End,
    /// Why, in words.
    pub reason: String,
    /// The policies that the reason names.
    pub policies: Vec<String>,
    /// How many more of this pod and direction were not told since the last one.
    #[serde(default)]
    pub untold: u32,
}

impl Flow {
    /// What a logged packet means.
    pub(crate) fn of(packet: &Headers, told: &Told, index: &Index) -> Self {
        let Headers {
            source,
            destination,
            protocol,
            ports,
        } = *packet;
        let end = |address, port| {
            let (pod, owner) = pod_of(address, index).unzip();
            End {
                address,
                port,
                pod,
                owner: owner.flatten(),
            }
        };
        let policies = match &told.decision {
            Decision::Rule { policy, .. } => vec![policy.to_string()],
            Decision::NoneAllows(policies) => policies
                .iter()
                .map(|(namespace, name)| format!("NetworkPolicy {namespace}/{name}"))
                .collect(),
            Decision::Default | Decision::OwnNode | Decision::Unprotected => Vec::new(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            time: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
            verdict: if told.accepted { "accept" } else { "drop" }.to_owned(),
            direction: name(told.direction).to_owned(),
            protocol: protocol_name(protocol),
            source: end(source, ports.map(|(source, _)| source)),
            destination: end(destination, ports.map(|(_, destination)| destination)),
            reason: told.decision.to_string(),
            policies,
            untold: 0,
        }
    }

    /// Whether one of the ends is the pod, `NAMESPACE/NAME` or `NAME`.
    pub fn concerns(&self, pod: &str) -> bool {
        [&self.source, &self.destination].into_iter().any(|end| {
            let own = end.pod.as_deref();
            own.is_some_and(|own| own == pod || own.split('/').nth(1) == Some(pod))
        })
    }
}

pub(crate) fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// Few packets are told in a second, so the pods are looked through for each.
fn pod_of(address: IpAddr, index: &Index) -> Option<(String, Option<String>)> {
    let mut pods = index.pods().iter();
    let ((namespace, name), pod) = pods.find(|(_, pod)| pod.addresses.contains(&address))?;
    Some((format!("{namespace}/{name}"), pod.owner.clone()))
}

/// A listener that wants to know of accepted connections, as long as this lives.
struct Wanting(Arc<watch::Sender<usize>>);

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The history, and who listens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Flows {
    shared: Arc<Mutex<Shared>>,
    /// How many listeners want to know of accepted connections.
    wanted: Arc<watch::Sender<usize>>,
}

struct Shared {
    history: VecDeque<Arc<Flow>>,
    listeners: broadcast::Sender<Arc<Flow>>,
    /// By interface, direction and whether accepted: since when, how many were told, how many not.
    told: BTreeMap<(String, Direction, bool), (Instant, u32, u32)>,
}

impl Flows {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            history: VecDeque::new(),
            listeners: broadcast::channel(HISTORY).0,
            told: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            wanted: Arc::new(watch::Sender::new(0)),
        }
    }

    /// How many listeners want to know of accepted connections, as it changes.
    pub(crate) fn wanted(&self) -> watch::Receiver<usize> {
        self.wanted.subscribe()
    }

    fn want(&self) -> Wanting {
        self.wanted.send_modify(|count| *count += 1);
        Wanting(self.wanted.clone())
    }

    /// Takes a flow, unless its interface had its share of this second.
    pub(crate) fn tell(
        &self,
        interface: &str,
        direction: Direction,
        accepted: bool,
        flow: impl FnOnce() -> Flow,
    ) {
        metrics().logged(direction, accepted).inc();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (interface.to_owned(), direction, accepted);
        let (since, told, untold) = shared.told.entry(key).or_insert((now, 0, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *told) = (now, 0);
        }
        if *told >= TOLD_PER_SECOND {
            *untold += 1;
            return;
        }
        *told += 1;
        let mut flow = flow();
        flow.untold = std::mem::take(untold);
        let flow = Arc::new(flow);
        if shared.history.len() == HISTORY {
            shared.history.pop_front();
        }
        shared.history.push_back(flow.clone());
        // Without listeners nobody is told.
        let _ = shared.listeners.send(flow);
    }

    /// Forgets what was counted for interfaces that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.told.retain(|(interface, _, _), _| exists(interface));
    }

    fn subscribe(&self) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        (
            shared.history.iter().cloned().collect(),
            shared.listeners.subscribe(),
        )
    }
}

pub(crate) async fn serve(
    listener: UnixListener,
    flows: Flows,
    connections: Connections,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (flows, shutdown) = (flows.clone(), shutdown.clone());
                let connections = connections.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        // Who hangs up has enough.
                        _ = answer(stream, flows, connections) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket of the verdict log does not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, flows: Flows, connections: Connections) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(1024))
        .read_line(&mut line)
        .await?;
    let asks = |word: &str| line.split_whitespace().any(|own| own == word);
    if asks("connections") {
        for connection in connections.list() {
            write(&mut writer, &connection).await?;
        }
        return Ok(());
    }
    let _wanting = asks("accepted").then(|| flows.want());
    let (history, mut coming) = flows.subscribe();
    for flow in history {
        write(&mut writer, flow.as_ref()).await?;
    }
    if !asks("follow") {
        return Ok(());
    }
    loop {
        match coming.recv().await {
            Ok(flow) => write(&mut writer, flow.as_ref()).await?,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn write(
    writer: &mut (impl AsyncWriteExt + Unpin),
    line: &impl Serialize,
) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let end = |pod: &str| End {
            address: [10, 0, 0, 1].into(),
            port: Some(80),
            pod: Some(pod.to_owned()),
            owner: None,
        };
        Flow {
            time: 0,
            verdict: "drop".into(),
            direction: "ingress".into(),
            protocol: "TCP".into(),
            source: end("ns/a"),
            destination: end("ns/b"),
            reason: String::new(),
            policies: Vec::new(),
            untold: 0,
        }
    }

    #[test]
    fn who_floods_is_counted_and_does_not_push_out_others() {
        let flows = Flows::new();
        for _ in 0..1000 {
            flows.tell("fl1", Direction::Ingress, false, flow);
        }
        flows.tell("fl2", Direction::Ingress, false, flow);
        let (history, _) = flows.subscribe();
        // The thousand may have crossed the end of a second or two.
        assert!(history.len() < 200, "{}", history.len());
        assert!(history.iter().filter(|own| own.untold == 0).count() >= 2);
    }

    #[test]
    fn accepted_connections_are_wanted_while_somebody_listens() {
        let flows = Flows::new();
        let wanted = flows.wanted();
        let (first, second) = (flows.want(), flows.want());
        assert_eq!(*wanted.borrow(), 2);
        drop((first, second));
        assert_eq!(*wanted.borrow(), 0);
    }

    #[test]
    fn a_flow_concerns_both_of_its_pods() {
        for (pod, expected) in [
            ("ns/a", true),
            ("a", true),
            ("b", true),
            ("x/a", false),
            ("c", false),
        ] {
            assert_eq!(flow().concerns(pod), expected, "{pod}");
        }
    }
}
