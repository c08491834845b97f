//! Watches the metadata of every kind that can be deleted and feeds the graph.
//!
//! Kinds come and go with CustomResourceDefinitions and APIServices: a change of one of
//! these, not a clock, makes the collector look at discovery again.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Node, Todo, Uid};
use crate::framework::discovery::{self, Kind};
use crate::framework::queue::Queue;

/// Several changes of definitions in a row are one.
const SETTLE: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_secs(5);

/// Group and kind.
pub(crate) type KindKey = (String, String);

/// What all monitors share.
pub(crate) struct World {
    pub graph: Mutex<Graph>,
    pub kinds: Mutex<HashMap<KindKey, Kind>>,
    pub queue: Queue<Todo>,
    definitions_changed: Notify,
}

impl World {
    pub(crate) fn new(queue: Queue<Todo>) -> Self {
        Self {
            graph: Mutex::default(),
            kinds: Mutex::default(),
            queue,
            definitions_changed: Notify::new(),
        }
    }

    fn enqueue(&self, todo: Vec<Todo>) {
        for item in todo {
            self.queue.add(item);
        }
    }

    /// The object is known to be gone.
    pub(crate) fn gone(&self, uid: &str) {
        let todo = self.graph.lock().remove(uid);
        self.enqueue(todo);
    }
}

/// Events are never owned in a way that matters, and there are many.
fn is_watched(kind: &Kind) -> bool {
    kind.supports("watch") && kind.supports("delete") && kind.resource.kind != "Event"
}

fn key(kind: &Kind) -> KindKey {
    (kind.resource.group.clone(), kind.resource.kind.clone())
}

struct Running {
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

/// Keeps a monitor for each kind until shutdown; tells when the first kinds are all listed.
pub(crate) async fn supervise(client: Client, world: Arc<World>, ready: watch::Sender<bool>) {
    let mut monitors: HashMap<KindKey, Running> = HashMap::new();
    loop {
        let wanted = match discovery::kinds(&client).await {
            Ok(kinds) => kinds.into_iter().filter(is_watched).collect::<Vec<_>>(),
            Err(error) => {
                tracing::warn!(%error, "the garbage collector does not know the API's kinds");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let wanted: HashMap<KindKey, Kind> =
            wanted.into_iter().map(|kind| (key(&kind), kind)).collect();
        monitors.retain(|key, running| {
            let keep = wanted.contains_key(key);
            if !keep {
                running.stop.cancel();
            }
            keep
        });
        for (key, kind) in &wanted {
            if !monitors.contains_key(key) {
                monitors.insert(key.clone(), start(&client, &world, kind.clone()));
            }
        }
        *world.kinds.lock() = wanted;
        if !*ready.borrow() {
            all_synced(&mut monitors).await;
            ready.send_replace(true);
        }
        world.definitions_changed.notified().await;
        tokio::time::sleep(SETTLE).await;
    }
}

/// A kind that cannot be listed must not stop the collection of all others.
async fn all_synced(monitors: &mut HashMap<KindKey, Running>) {
    let patience = tokio::time::sleep(Duration::from_secs(30));
    let mut patience = pin!(patience);
    for (kind, running) in monitors {
        tokio::select! {
            () = &mut patience => {
                tracing::warn!(?kind, "not listed yet; garbage collection starts without it");
                return;
            }
            _ = running.synced.wait_for(|synced| *synced) => {}
        }
    }
}

fn start(client: &Client, world: &Arc<World>, kind: Kind) -> Running {
    let stop = CancellationToken::new();
    let (sender, synced) = watch::channel(false);
    let (client, world, token) = (client.clone(), world.clone(), stop.clone());
    tokio::spawn(async move {
        let monitor = Monitor {
            world,
            kind,
            seen: BTreeSet::new(),
            listing: None,
        };
        tokio::select! {
            () = token.cancelled() => {}
            () = monitor.run(client, sender) => {}
        }
    });
    Running { stop, synced }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Monitor {
    world: Arc<World>,
    kind: Kind,
    seen: BTreeSet<Uid>,
    listing: Option<BTreeSet<Uid>>,
}

type Meta = PartialObjectMeta<DynamicObject>;

impl Monitor {
    async fn run(mut self, client: Client, synced: watch::Sender<bool>) {
        let api: Api<Meta> = Api::all_with(client, &self.kind.resource);
        let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
        let mut events = pin!(events);
        loop {
            match events.try_next().await {
                Ok(Some(event)) => self.handle(event, &synced),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(kind = self.kind.resource.kind, %error, "metadata watch");
                }
            }
        }
    }

    fn handle(&mut self, event: Event<Meta>, synced: &watch::Sender<bool>) {
        match event {
            Event::Apply(object) => self.apply(&object),
            Event::Delete(object) => {
                self.defines_kinds();
                if let Some(uid) = &object.metadata.uid {
                    self.seen.remove(uid);
                    self.world.gone(uid);
                }
            }
            Event::Init => self.listing = Some(BTreeSet::new()),
            Event::InitApply(object) => {
                if let (Some(listing), Some(uid)) = (&mut self.listing, &object.metadata.uid) {
                    listing.insert(uid.clone());
                }
                self.apply(&object);
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                for uid in self.seen.difference(&listed) {
                    self.world.gone(uid);
                }
                self.seen = listed;
                synced.send_replace(true);
            }
        }
    }

    fn apply(&mut self, object: &Meta) {
        self.defines_kinds();
        let Some(uid) = object.meta().uid.clone() else {
            return;
        };
        let resource = &self.kind.resource;
        let node = Node::of(&resource.group, &resource.kind, &object.metadata);
        let todo = self.world.graph.lock().upsert(&uid, node);
        self.seen.insert(uid);
        self.world.enqueue(todo);
    }

    fn defines_kinds(&self) {
        if matches!(
            self.kind.resource.kind.as_str(),
            "CustomResourceDefinition" | "APIService"
        ) {
            self.world.definitions_changed.notify_one();
        }
    }
}
