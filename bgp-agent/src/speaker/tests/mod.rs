//! Whole meshes in one process, with simulated time.

mod faults;
mod features;

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::config::Filter;
use crate::session::{Side, State};
use crate::wire::{Attributes, Framer, NextHop, Refresh};

struct Mesh {
    now: Instant,
    speakers: Vec<Speaker>,
    next: u64,
    /// The other end of each connection: speaker and number.
    wires: HashMap<(usize, ConnectionId), (usize, ConnectionId)>,
    messages: usize,
    cut: BTreeSet<(usize, usize)>,
}

fn address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + u32::try_from(index).unwrap()))
}

fn index_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(own) => usize::try_from(own.to_bits() - 0x0a00_0001).unwrap(),
        IpAddr::V6(_) => panic!("an IPv4 address"),
    }
}

fn range(index: usize) -> IpNetwork {
    let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
    format!("10.{}.{low}.0/24", 100 + high).parse().unwrap()
}

fn config(index: usize, asn: u32) -> Config {
    let IpAddr::V4(own) = address(index) else {
        panic!("an IPv4 address")
    };
    Config {
        next_hop_v4: Some(own),
        next_hop_v6: Some(format!("fd00::{}", index + 1).parse().unwrap()),
        own_addresses: [address(index)].into(),
        originate: [(
            range(index),
            crate::config::Origination {
                blackhole: true,
                ..Default::default()
            },
        )]
        .into(),
        multipath: 8,
        ..Config::new(asn, own)
    }
}

impl Mesh {
    fn new(configs: Vec<Config>) -> Self {
        let now = Instant::now();
        let speakers = configs
            .into_iter()
            .map(|c| Speaker::new(c, false, now))
            .collect();
        let mut mesh = Self {
            now,
            speakers,
            next: 1,
            wires: HashMap::new(),
            messages: 0,
            cut: BTreeSet::new(),
        };
        mesh.settle();
        mesh
    }

    fn full(size: usize) -> Self {
        let configs = (0..size).map(|index| {
            let mut own = config(index, 64512);
            for other in (0..size).filter(|other| *other != index) {
                // One side of each pair connects, as the driver has it for nodes.
                let passive = other < index;
                own.peers.insert(
                    address(other),
                    Peer {
                        passive,
                        ..Peer::internal(64512)
                    },
                );
            }
            own
        });
        Self::new(configs.collect())
    }

    fn settle(&mut self) {
        let mut queue: VecDeque<(usize, Action)> = VecDeque::new();
        loop {
            for (index, speaker) in self.speakers.iter_mut().enumerate() {
                queue.extend(speaker.actions().into_iter().map(|action| (index, action)));
            }
            if queue.is_empty() {
                return;
            }
            for (index, action) in std::mem::take(&mut queue) {
                self.act(index, action);
            }
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Connect(to, _) => {
                let other = index_of(to);
                if self.cut.contains(&(index, other)) || !self.speakers[other].knows(address(index))
                {
                    return self.speakers[index].connect_failed(to, now);
                }
                let (here, there) = (ConnectionId(self.next), ConnectionId(self.next + 1));
                self.next += 2;
                self.wires.insert((index, here), (other, there));
                self.wires.insert((other, there), (index, here));
                self.speakers[index].connected(to, here, Side::Outbound, now);
                self.speakers[other].connected(address(index), there, Side::Inbound, now);
            }
            Action::Send(id, bytes) => {
                let Some((other, there)) = self.wires.get(&(index, id)).copied() else {
                    return;
                };
                let mut buffer = BytesMut::from(&bytes[..]);
                let framer = Framer { extended: true };
                while let Some(raw) = framer.next(&mut buffer).unwrap() {
                    self.messages += 1;
                    self.speakers[other].received(there, Ok(raw), now);
                }
            }
            Action::Close(id) => {
                if let Some((other, there)) = self.wires.remove(&(index, id)) {
                    self.wires.remove(&(other, there));
                    self.speakers[other].closed(there, now);
                }
            }
            Action::Routes(_) | Action::Sweep => {}
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.speakers.iter().filter_map(Speaker::timeout).min() {
            if due > end {
                break;
            }
            self.now = due.max(self.now);
            for speaker in &mut self.speakers {
                if speaker.timeout().is_some_and(|at| at <= self.now) {
                    speaker.tick(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn next_hops(&self, at: usize, of: usize) -> Option<Forwarding> {
        self.speakers[at].forwarding(&range(of))
    }
}

fn via(indexes: &[usize]) -> Option<Forwarding> {
    Some(Forwarding::Via(
        indexes.iter().map(|index| address(*index)).collect(),
    ))
}

#[test]
fn a_full_mesh_learns_every_range_and_keeps_its_own() {
    let mesh = Mesh::full(5);
    for at in 0..5 {
        for of in 0..5 {
            let expected = if at == of {
                Some(Forwarding::Blackhole)
            } else {
                via(&[of])
            };
            assert_eq!(mesh.next_hops(at, of), expected, "at {at} of {of}");
        }
    }
}

#[test]
fn a_mesh_of_500_converges_with_as_many_messages_as_theory_says() {
    const SIZE: usize = 500;
    let mesh = Mesh::full(SIZE);
    for at in 0..SIZE {
        let reached = (0..SIZE)
            .filter(|of| mesh.next_hops(at, *of).is_some())
            .count();
        assert_eq!(reached, SIZE);
    }
    // Of each session, both ends: OPEN, KEEPALIVE, one UPDATE, two end-of-RIB marks.
    let sessions = SIZE * (SIZE - 1) / 2;
    assert_eq!(mesh.messages, sessions * 2 * 5);
}

#[test]
fn reflectors_tell_every_route_to_every_node_over_few_sessions() {
    const SIZE: usize = 100;
    const REFLECTORS: usize = 3;
    let configs = (0..SIZE).map(|index| {
        let mut own = config(index, 64512);
        let peers = (0..SIZE).filter(|other| *other != index);
        for other in peers.filter(|other| index < REFLECTORS || *other < REFLECTORS) {
            let peer = Peer {
                passive: other < index,
                client: index < REFLECTORS && other >= REFLECTORS,
                ..Peer::internal(64512)
            };
            own.peers.insert(address(other), peer);
        }
        own
    });
    let mesh = Mesh::new(configs.collect());
    for at in 0..SIZE {
        for of in (0..SIZE).filter(|of| *of != at) {
            assert_eq!(mesh.next_hops(at, of), via(&[of]), "at {at} of {of}");
        }
    }
    let sessions = REFLECTORS * (SIZE - REFLECTORS) + REFLECTORS * (REFLECTORS - 1) / 2;
    assert_eq!(mesh.wires.len(), sessions * 2, "both ends of each session");
    // OPEN, KEEPALIVE and two marks of each end. A reflector tells each node of each route once,
    // and once more when it hears of it from the node itself after another reflector.
    let fixed = sessions * 2 * 4;
    let updates = mesh.messages - fixed;
    assert!(updates >= SIZE * (SIZE - REFLECTORS), "{updates}");
    assert!(updates <= 2 * REFLECTORS * SIZE * SIZE, "{updates}");
}

#[test]
fn a_range_that_goes_is_withdrawn_everywhere() {
    let mut mesh = Mesh::full(3);
    let mut less = mesh.speakers[0].config().clone();
    less.originate.clear();
    let now = mesh.now;
    mesh.speakers[0].configure(less, now);
    mesh.settle();
    assert_eq!(mesh.next_hops(1, 0), None);
    assert_eq!(mesh.next_hops(1, 2), via(&[2]));
}

#[test]
fn routes_survive_a_graceful_restart_and_end_when_nobody_comes_back() {
    let mut mesh = Mesh::full(2);
    let sessions: Vec<_> = mesh.wires.drain().collect();
    mesh.cut = [(0, 1), (1, 0)].into();
    for ((index, id), _) in sessions {
        let now = mesh.now;
        mesh.speakers[index].closed(id, now);
    }
    mesh.settle();
    assert_eq!(mesh.next_hops(0, 1), via(&[1]), "stale routes forward");
    mesh.cut.clear();
    mesh.advance(Duration::from_secs(70));
    assert_eq!(mesh.next_hops(0, 1), via(&[1]));
    let sessions: Vec<_> = mesh.wires.drain().collect();
    mesh.cut = [(0, 1), (1, 0)].into();
    for ((index, id), _) in sessions {
        let now = mesh.now;
        mesh.speakers[index].closed(id, now);
    }
    mesh.advance(Duration::from_secs(121));
    assert_eq!(mesh.next_hops(0, 1), None);
}

#[test]
fn a_reflector_tells_clients_of_each_other_and_loops_are_refused() {
    let mut configs: Vec<Config> = (0..3).map(|index| config(index, 64512)).collect();
    for client in [1, 2] {
        configs[0].peers.insert(
            address(client),
            Peer {
                client: true,
                ..Peer::internal(64512)
            },
        );
        configs[client].peers.insert(
            address(0),
            Peer {
                passive: true,
                ..Peer::internal(64512)
            },
        );
    }
    let mesh = Mesh::new(configs);
    assert_eq!(
        mesh.next_hops(1, 2),
        via(&[2]),
        "the next hop is the originator"
    );
    let path = &mesh.speakers[1].rib().paths(&range(2))[0];
    assert_eq!(path.attributes.cluster_list.len(), 1);
    assert!(path.attributes.originator_id.is_some());
    assert_eq!(mesh.next_hops(1, 0), via(&[0]));
}

#[test]
fn nothing_passes_between_systems_until_filters_say_so() {
    let mut configs = vec![config(0, 65001), config(1, 65002)];
    configs[0].peers.insert(address(1), Peer::external(65002));
    configs[1].peers.insert(
        address(0),
        Peer {
            passive: true,
            ..Peer::external(65001)
        },
    );
    let mut mesh = Mesh::new(configs.clone());
    assert_eq!(mesh.next_hops(1, 0), None);
    for (index, other) in [(0, 1), (1, 0)] {
        let peer = configs[index].peers.get_mut(&address(other)).unwrap();
        (peer.import, peer.export) = (Filter::ACCEPT, Filter::ACCEPT);
        let now = mesh.now;
        mesh.speakers[index].configure(configs[index].clone(), now);
    }
    mesh.settle();
    mesh.advance(Duration::from_secs(30));
    assert_eq!(mesh.next_hops(1, 0), via(&[0]));
    let path = &mesh.speakers[1].rib().paths(&range(0))[0];
    assert_eq!(path.attributes.neighbour_as(), Some(65001));
    assert_eq!(path.attributes.local_pref, None);
}

#[test]
fn a_peer_that_sends_too_much_is_ended_and_its_routes_with_it() {
    let mut configs = vec![config(0, 64512), config(1, 64512)];
    for index in 2..10 {
        configs[1]
            .originate
            .insert(range(index), crate::config::Origination::default());
    }
    let limited = Peer {
        max_prefixes: Some(5),
        ..Peer::internal(64512)
    };
    configs[0].peers.insert(address(1), limited);
    configs[0].restart_time = 0;
    configs[1].peers.insert(
        address(0),
        Peer {
            passive: true,
            ..Peer::internal(64512)
        },
    );
    let mesh = Mesh::new(configs);
    assert_eq!(mesh.speakers[0].status()[0].state, State::Idle);
    assert_eq!(mesh.next_hops(0, 1), None);
}

#[test]
fn a_reconfigured_peer_leaves_the_other_sessions_alone() {
    let mut mesh = Mesh::full(3);
    let mut changed = mesh.speakers[0].config().clone();
    changed.peers.remove(&address(2));
    let now = mesh.now;
    mesh.speakers[0].configure(changed, now);
    mesh.settle();
    assert_eq!(mesh.speakers[0].status().len(), 1);
    assert_eq!(mesh.speakers[0].status()[0].counters.flaps, 0);
    assert_eq!(mesh.next_hops(0, 2), None);
}
