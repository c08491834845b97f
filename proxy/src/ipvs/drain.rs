//! Back ends on their way out: when are they removed?

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kernel::ipvs::{Op, RealServer, VirtualId};

use super::plan::Place;

/// Real servers with weight 0 that wait for their connections to end.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    deadlines: BTreeMap<Place, Instant>,
}

impl Draining {
    pub(crate) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// Those that are on their way out.
    pub(crate) fn places(&self) -> BTreeSet<Place> {
        self.deadlines.keys().copied().collect()
    }

    /// The virtual servers that have any.
    pub(crate) fn services(&self) -> BTreeSet<VirtualId> {
        self.deadlines.keys().map(|(service, _)| *service).collect()
    }

    pub(crate) fn start(&mut self, places: &BTreeSet<Place>, now: Instant, patience: Duration) {
        for place in places {
            self.deadlines.entry(*place).or_insert(now + patience);
        }
    }

    pub(crate) fn settle(&mut self, places: &BTreeSet<Place>) {
        self.deadlines.retain(|place, _| !places.contains(place));
    }

    pub(crate) fn clear(&mut self) {
        self.deadlines.clear();
    }

    /// What can be removed of a virtual server, given what it holds.
    pub(crate) fn finished(
        &mut self,
        service: VirtualId,
        servers: &[RealServer],
        now: Instant,
    ) -> Vec<Op> {
        let mut ops = Vec::new();
        self.deadlines.retain(|(of, server), deadline| {
            if *of != service {
                return true;
            }
            let Some(held) = servers.iter().find(|held| held.id == *server) else {
                return false;
            };
            let idle = held.active + held.inactive + held.persistent == 0;
            if idle || *deadline <= now {
                ops.push(Op::DeleteServer {
                    service,
                    server: *server,
                });
                return false;
            }
            true
        });
        ops
    }
}
