//! What the speaker learnt, in the kernel: a difference between what is wanted and what is
//! there, with routes of our protocol number only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::netlink::{self, Request, Socket};
use kernel::route::{self, Filter, Kind, MAIN_TABLE, NextHop, Protocol, Route};

use crate::speaker::Forwarding;

/// What is observed of our routes in the main table.
pub(crate) type Actual = BTreeMap<IpNetwork, Route>;

/// A change of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Replace(Box<Route>),
    Delete(Box<Route>),
}

/// How a gateway is reached: through an interface, or by way of another gateway.
pub(crate) type Resolve<'a> = &'a dyn Fn(IpAddr) -> Option<NextHop>;

/// The route that does what is wanted; `None` where no gateway can be reached.
fn route(prefix: IpNetwork, wanted: &Forwarding, resolve: Resolve<'_>) -> Option<Route> {
    match wanted {
        Forwarding::Blackhole => Some(Route::blackhole(prefix, Protocol::BGP)),
        Forwarding::Via(gateways) => {
            let mut hops: Vec<NextHop> = gateways.iter().filter_map(|own| resolve(*own)).collect();
            match hops.len() {
                0 => None,
                1 => Some(Route::new(prefix, Protocol::BGP, hops.remove(0))),
                _ => Some(Route::multipath(prefix, Protocol::BGP, hops)),
            }
        }
    }
}

/// The operations for these prefixes.
pub(crate) fn plan(
    wanted: &BTreeMap<IpNetwork, Forwarding>,
    prefixes: &BTreeSet<IpNetwork>,
    actual: &Actual,
    resolve: Resolve<'_>,
) -> Vec<Op> {
    prefixes
        .iter()
        .filter_map(|prefix| {
            let want = wanted
                .get(prefix)
                .and_then(|own| route(*prefix, own, resolve));
            match (want, actual.get(prefix)) {
                (Some(want), Some(have)) if is_same(&want, have) => None,
                (Some(want), _) => Some(Op::Replace(Box::new(want))),
                (None, Some(have)) => Some(Op::Delete(Box::new(have.clone()))),
                (None, None) => None,
            }
        })
        .collect()
}

/// Equal in what we decide: the kernel fills in the rest.
pub(crate) fn is_same(want: &Route, have: &Route) -> bool {
    let gateways = |route: &Route| -> BTreeSet<Option<IpAddr>> {
        route.next_hops.iter().map(|hop| hop.gateway).collect()
    };
    want.kind == have.kind && (want.kind == Kind::Blackhole || gateways(want) == gateways(have))
}

pub(crate) struct KernelRoutes {
    socket: Socket,
    pub(crate) actual: Actual,
    /// Networks of our own links. The kernel's route to one must not be replaced by what a router
    /// tells of it: the router itself is behind it.
    pub(crate) connected: BTreeSet<IpNetwork>,
}

impl KernelRoutes {
    /// Opens netlink in the calling thread's network namespace and looks at what is there.
    pub(crate) fn open() -> Result<Self, netlink::Error> {
        let mut routes = Self {
            socket: Socket::route()?,
            actual: Actual::new(),
            connected: BTreeSet::new(),
        };
        routes.observe()?;
        Ok(routes)
    }

    pub(crate) fn observe(&mut self) -> Result<(), netlink::Error> {
        let ours = route::list(&mut self.socket, Filter::protocol(Protocol::BGP))?;
        self.actual = ours
            .into_iter()
            .map(|route| (route.destination, route))
            .collect();
        let connected = route::list(&mut self.socket, Filter::protocol(Protocol::KERNEL))?;
        self.connected = connected
            .into_iter()
            .filter(|route| route.table == MAIN_TABLE)
            .map(|route| route.destination)
            .collect();
        Ok(())
    }

    /// How the kernel reaches a gateway now.
    pub(crate) fn resolve(&mut self, gateway: IpAddr) -> Option<NextHop> {
        let found = route::lookup(&mut self.socket, gateway).ok().flatten()?;
        let hop = found.next_hops.first()?;
        let interface = hop.interface?;
        let next = NextHop::via(hop.gateway.unwrap_or(gateway)).on(interface);
        // The kernel knows the neighbour; that its address is not of the interface's range (a
        // /32 of a cloud provider) is no reason to refuse it.
        Some(next.onlink())
    }

    /// Performs the operations; what failed stays wanted, and is returned.
    pub(crate) fn apply(&mut self, ops: &[Op]) -> Result<BTreeSet<IpNetwork>, netlink::Error> {
        let request = |op: &Op| -> Request {
            match op {
                Op::Replace(route) => route::replace(route),
                Op::Delete(route) => route::delete(route),
            }
        };
        let requests: Vec<Request> = ops.iter().map(request).collect();
        let results = self.socket.batch(&requests)?;
        let mut failed = BTreeSet::new();
        for (op, result) in ops.iter().zip(results) {
            let (Op::Replace(route) | Op::Delete(route)) = op;
            match (op, result) {
                (Op::Replace(_), Ok(())) => {
                    self.actual.insert(route.destination, (**route).clone());
                }
                (Op::Delete(_), Ok(())) => {
                    self.actual.remove(&route.destination);
                }
                (Op::Delete(_), Err(error)) if error.is_not_found() => {
                    self.actual.remove(&route.destination);
                }
                (_, Err(error)) => {
                    tracing::warn!(prefix = %route.destination, %error, "a route was not written");
                    failed.insert(route.destination);
                }
            }
        }
        Ok(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn via(last: u8) -> Forwarding {
        Forwarding::Via(vec![IpAddr::from([192, 0, 2, last])])
    }

    fn resolve(gateway: IpAddr) -> Option<NextHop> {
        Some(NextHop::via(gateway))
    }

    fn applied(ops: &[Op], mut actual: Actual) -> Actual {
        for op in ops {
            match op {
                Op::Replace(route) => actual.insert(route.destination, (**route).clone()),
                Op::Delete(route) => actual.remove(&route.destination),
            };
        }
        actual
    }

    #[test]
    fn what_is_there_is_not_written_again_and_what_nobody_wants_goes() {
        let wanted: BTreeMap<_, _> = [
            (prefix("10.1.0.0/24"), via(1)),
            (prefix("10.2.0.0/24"), Forwarding::Blackhole),
        ]
        .into();
        let mut all: BTreeSet<IpNetwork> = wanted.keys().copied().collect();
        let leftover = Route::blackhole(prefix("10.9.0.0/24"), Protocol::BGP);
        let actual = Actual::from([(leftover.destination, leftover)]);
        let ops = plan(&wanted, &all, &actual, &resolve);
        assert_eq!(ops.len(), 2);
        let actual = applied(&ops, actual);
        assert_eq!(plan(&wanted, &all, &actual, &resolve), []);
        all.insert(prefix("10.9.0.0/24"));
        let ops = plan(&wanted, &all, &actual, &resolve);
        assert!(
            matches!(ops.as_slice(), [Op::Delete(route)] if route.destination == prefix("10.9.0.0/24"))
        );
    }

    #[test]
    fn a_prefix_whose_gateway_cannot_be_reached_has_no_route() {
        let wanted: BTreeMap<_, _> = [(prefix("10.1.0.0/24"), via(1))].into();
        let all: BTreeSet<IpNetwork> = wanted.keys().copied().collect();
        let have = Route::new(
            prefix("10.1.0.0/24"),
            Protocol::BGP,
            NextHop::via([192, 0, 2, 7].into()),
        );
        let actual = Actual::from([(have.destination, have)]);
        let ops = plan(&wanted, &all, &actual, &|_| None);
        assert!(matches!(ops.as_slice(), [Op::Delete(_)]));
    }
}
