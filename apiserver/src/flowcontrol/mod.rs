//! Priority and fairness: when there is more to do than the server can, everybody gets a share.
//!
//! [`schema`] says which priority level a request belongs to and whose it is, [`level`] lets as
//! many run as the level has seats and lets the others wait in queues, from which they are taken
//! in turns. [`FlowControl`] follows the configuration objects.

mod level;
mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::Value;

use crate::authn::UserInfo;
use crate::registry::Cacher;
use crate::registry::cache::{Filter, ResourceCache};
use crate::request::RequestInfo;
use level::{Level, Limits};
pub(crate) use level::{Rejected, Seats};
use schema::FlowSchema;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(15);

/// See the module's documentation.
pub(crate) struct FlowControl {
    schemas: Arc<ResourceCache>,
    levels: Arc<ResourceCache>,
    /// Seats of all levels together.
    total: u32,
    current: RwLock<Current>,
}

#[derive(Default)]
struct Current {
    revisions: (u64, u64),
    plan: Arc<Plan>,
}

/// The configuration, compiled.
#[derive(Default)]
struct Plan {
    schemas: Vec<FlowSchema>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// What the client is told of its place, as headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) schema: String,
    pub(crate) level: String,
}

impl FlowControl {
    pub(crate) fn new(cacher: &Cacher, total: u32) -> Self {
        FlowControl {
            schemas: cacher.resource(GROUP, "flowschemas"),
            levels: cacher.resource(GROUP, "prioritylevelconfigurations"),
            total,
            current: RwLock::default(),
        }
    }

    fn plan(&self) -> Arc<Plan> {
        let newest = (self.schemas.touched(), self.levels.touched());
        {
            let current = self.current.read();
            if current.revisions == newest {
                return current.plan.clone();
            }
        }
        let mut current = self.current.write();
        let list = |cache: &ResourceCache| cache.list(&Filter::default(), None, 0, 0);
        let (schemas, levels) = (list(&self.schemas), list(&self.levels));
        let values = |objects: Vec<Arc<crate::registry::object::Object>>| -> Vec<Value> {
            objects.iter().map(|o| o.value()).collect()
        };
        let plan = Plan::new(
            &values(schemas.objects),
            &values(levels.objects),
            self.total,
            &current.plan,
        );
        *current = Current {
            revisions: (schemas.revision, levels.revision),
            plan: Arc::new(plan),
        };
        current.plan.clone()
    }

    /// Waits until the request may run; the seats are given back when they are dropped.
    pub(crate) async fn enter(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        width: u32,
    ) -> (Place, Result<Seats, Rejected>) {
        let plan = self.plan();
        let Some(schema) = plan.schemas.iter().find(|s| s.fits(user, info)) else {
            return (Place::default(), Ok(Seats::free()));
        };
        let Some(level) = plan.levels.get(&schema.level) else {
            return (Place::default(), Ok(Seats::free()));
        };
        let place = Place {
            schema: schema.uid.clone(),
            level: level.uid.clone(),
        };
        let flow = schema.flow(user, info);
        let seats = level.enter(flow, width, PATIENCE).await;
        (place, seats)
    }
}

impl Plan {
    /// Levels that are there already keep their queues and what runs.
    fn new(schemas: &[Value], levels: &[Value], total: u32, old: &Plan) -> Self {
        let mut schemas: Vec<FlowSchema> = schemas.iter().map(FlowSchema::parse).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let limits = Limits::all(levels, total);
        let levels = limits
            .into_iter()
            .map(|(name, uid, limits)| {
                let level = match old.levels.get(&name).filter(|l| l.uid == uid) {
                    Some(level) => level.clone(),
                    None => Arc::new(Level::new(uid)),
                };
                level.set(limits);
                (name, level)
            })
            .collect();
        let plan = Plan { schemas, levels };
        for level in plan.levels.values() {
            let others = plan.levels.values().filter(|l| !Arc::ptr_eq(l, level));
            level.meet(others.map(Arc::downgrade).collect());
        }
        plan
    }
}

#[cfg(test)]
mod tests;
