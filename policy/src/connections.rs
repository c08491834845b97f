//! The connections that were seen in the last hour: what a new policy may cut.
//!
//! They are read from connection tracking now and then: nothing is added to the path of a packet.
//! A connection that began and was forgotten between two looks is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kernel::conntrack::{self, Conntrack, status};
use kernel::netlink::Error;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Interval;

use crate::flows::protocol_name;
use crate::index::Index;

/// Between two looks: the kernel remembers what ended for longer (a closed TCP connection for two
/// minutes, an answered datagram for half of one).
const INTERVAL: Duration = Duration::from_secs(20);
const REMEMBERED: Duration = Duration::from_secs(3600);
const MOST: usize = 65_536;

/// Who connects to what. The client's port does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub source: IpAddr,
    /// Behind Service translation.
    pub destination: IpAddr,
    pub protocol: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_pod: Option<String>,
}

/// A connection and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    #[serde(flatten)]
    pub connection: Connection,
    /// Seconds since 1970.
    pub seen: u64,
}

/// The memory of one node. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Connections {
    shared: Arc<Mutex<BTreeMap<Connection, SystemTime>>>,
}

/// Looks at connection tracking now and then, beside whatever else the agent does.
pub(crate) struct Tracking {
    looks: Interval,
    /// Away while a look is taken.
    conntrack: Option<Conntrack>,
    looking: Option<JoinHandle<Look>>,
}

/// The socket comes back with what it was told.
type Look = (Conntrack, Result<Vec<conntrack::Flow>, Error>);

impl Tracking {
    /// Of the calling thread's network namespace.
    pub(crate) fn open() -> Self {
        let conntrack = Conntrack::open().inspect_err(|error| {
            tracing::warn!(%error, "connections are not remembered: connection tracking cannot be read");
        });
        Self {
            looks: tokio::time::interval(INTERVAL),
            conntrack: conntrack.ok(),
            looking: None,
        }
    }

    /// Takes the next look at once.
    pub(crate) fn hurry(&mut self) {
        self.looks.reset_immediately();
    }

    /// The next look. Nothing is lost if it is not waited for to the end.
    pub(crate) async fn next(&mut self) -> Vec<conntrack::Flow> {
        loop {
            if let Some(looking) = &mut self.looking {
                let looked = looking.await;
                self.looking = None;
                match looked {
                    Ok((conntrack, Ok(flows))) => {
                        self.conntrack = Some(conntrack);
                        return flows;
                    }
                    Ok((conntrack, Err(error))) => {
                        tracing::warn!(%error, "tracked connections were not read, it is tried again");
                        self.conntrack = Some(conntrack);
                    }
                    Err(error) => {
                        tracing::error!(%error, "connections are not remembered any more")
                    }
                }
            }
            self.looks.tick().await;
            let Some(mut conntrack) = self.conntrack.take() else {
                return std::future::pending().await;
            };
            self.looking = Some(tokio::task::spawn_blocking(move || {
                let flows = conntrack.flows(false).and_then(|mut flows| {
                    flows.extend(conntrack.flows(true)?);
                    Ok(flows)
                });
                (conntrack, flows)
            }));
        }
    }
}

impl Connections {
    /// Remembers the flows of this node's pods. Answers with the addresses that are in use by them.
    pub(crate) fn remember(
        &self,
        flows: &[conntrack::Flow],
        index: &Index,
        now: SystemTime,
    ) -> BTreeSet<IpAddr> {
        let local = index.attachments().values();
        let local: BTreeSet<IpAddr> = local.flat_map(|own| own.addresses.clone()).collect();
        let mut pods = BTreeMap::new();
        for ((namespace, name), pod) in index.pods() {
            pods.extend(pod.addresses.iter().map(|own| (*own, (namespace, name))));
        }
        let pod = |address: &IpAddr| {
            let (namespace, name) = pods.get(address)?;
            Some(format!("{namespace}/{name}"))
        };
        let mut in_use = BTreeSet::new();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        for flow in flows {
            let (source, destination) = (flow.original.source, flow.reply.source);
            let ours = local.contains(&source) || local.contains(&destination);
            if !ours || flow.status & status::SEEN_REPLY == 0 {
                continue;
            }
            in_use.insert(destination);
            let connection = Connection {
                source,
                destination,
                protocol: protocol_name(flow.original.protocol),
                port: flow.reply.source_port,
                source_pod: pod(&source),
                destination_pod: pod(&destination),
            };
            if shared.len() < MOST || shared.contains_key(&connection) {
                shared.insert(connection, now);
            }
        }
        let recent =
            |seen: &SystemTime| now.duration_since(*seen).is_ok_and(|age| age < REMEMBERED);
        shared.retain(|_, seen| recent(seen));
        in_use
    }

    pub(crate) fn list(&self) -> Vec<Seen> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = |time: &SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        };
        let all = shared.iter().map(|(connection, seen)| Seen {
            connection: connection.clone(),
            seen: seconds(seen),
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use kernel::conntrack::{Flow, Tuple};

    use super::*;
    use crate::model::{Attachment, Pod};

    fn flow(destination: [u8; 4], status: u32) -> Flow {
        let original = Tuple {
            source: [10, 0, 0, 1].into(),
            destination: [10, 96, 0, 1].into(),
            protocol: 6,
            source_port: 40_000,
            destination_port: 80,
        };
        let reply = Tuple {
            source: destination.into(),
            destination: original.source,
            protocol: 6,
            source_port: 8080,
            destination_port: 40_000,
        };
        Flow::new(original, reply, status)
    }

    #[test]
    fn answered_connections_of_local_pods_are_remembered_for_an_hour() {
        let mut index = Index::default();
        let name = ("ns".to_owned(), "a".to_owned());
        let addresses: BTreeSet<IpAddr> = [[10, 0, 0, 1].into()].into();
        let pod = Pod {
            addresses: addresses.clone(),
            ..Pod::default()
        };
        index.set_pod(name.clone(), pod);
        let attachment = Attachment {
            pod: name,
            addresses,
            ..Attachment::default()
        };
        index.set_attachment("fld1".into(), attachment);
        let connections = Connections::default();
        let now = SystemTime::UNIX_EPOCH;
        let flows = [
            flow([10, 0, 1, 1], status::SEEN_REPLY),
            flow([10, 0, 1, 2], 0),
        ];
        let in_use = connections.remember(&flows, &index, now);
        assert_eq!(in_use, [IpAddr::from([10, 0, 1, 1])].into());
        let list = connections.list();
        let own = &list[0].connection;
        assert_eq!((list.len(), own.port), (1, 8080));
        assert_eq!(own.source_pod.as_deref(), Some("ns/a"));
        connections.remember(&[], &index, now + REMEMBERED);
        assert_eq!(connections.list(), []);
    }
}
