//! What peers do wrong, against one speaker.

use super::*;
use crate::wire::attribute::Origin;
use crate::wire::{Message, Nlri, Open, Segment, Update};

const ID: ConnectionId = ConnectionId(1);

/// A speaker with an established session to a peer that the test plays.
struct Stage {
    speaker: Speaker,
    now: Instant,
    peer_as: u32,
}

impl Stage {
    fn new(peer_as: u32, change: impl FnOnce(&mut Peer)) -> Self {
        let mut own = config(0, 64512);
        let mut peer = Peer {
            passive: true,
            import: Filter::ACCEPT,
            export: Filter::ACCEPT,
            ..Peer::internal(peer_as)
        };
        change(&mut peer);
        own.peers.insert(address(1), peer);
        let now = Instant::now();
        let mut stage = Self {
            speaker: Speaker::new(own, false, now),
            now,
            peer_as,
        };
        stage.speaker.connected(address(1), ID, Side::Inbound, now);
        stage.give(&Message::Open(stage.open(peer_as)));
        stage.give(&Message::Keepalive);
        stage
    }

    fn open(&self, asn: u32) -> Open {
        use crate::wire::Capability;
        Open {
            asn,
            hold_time: 90,
            router_id: Ipv4Addr::new(9, 9, 9, 9),
            capabilities: vec![
                Capability::Multiprotocol(Family::Ipv4),
                Capability::FourOctetAs(asn),
                Capability::RouteRefresh,
            ],
        }
    }

    fn give(&mut self, message: &Message) {
        let context = Context {
            four_octets: true,
            ..Context::default()
        };
        let mut bytes = BytesMut::new();
        message.encode(&context, &mut bytes);
        self.give_bytes(&bytes);
    }

    fn give_bytes(&mut self, bytes: &[u8]) {
        let mut buffer = BytesMut::from(bytes);
        let framer = Framer { extended: true };
        loop {
            match framer.next(&mut buffer) {
                Ok(Some(raw)) => self.speaker.received(ID, Ok(raw), self.now),
                Ok(None) => return,
                Err(fault) => return self.speaker.received(ID, Err(fault), self.now),
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut Attributes)) -> Update {
        let internal = self.peer_as == 64512;
        let path = if internal {
            vec![]
        } else {
            vec![Segment::Sequence(vec![self.peer_as])]
        };
        let mut attributes = Attributes {
            origin: Origin::Igp,
            as_path: path,
            local_pref: internal.then_some(100),
            ..Attributes::default()
        };
        change(&mut attributes);
        let next_hop = NextHop::new(address(1));
        Update {
            attributes,
            reachable: vec![(next_hop, vec![Nlri::new(range(1))])],
            ..Update::default()
        }
    }

    fn give_update(&mut self, update: Update) {
        self.give(&Message::Update(Box::new(update)));
    }

    fn has_route(&self) -> bool {
        self.speaker.forwarding(&range(1)).is_some()
    }

    fn state(&self) -> State {
        self.speaker.status()[0].state
    }

    /// Code and subcode of the NOTIFICATIONs that were sent.
    fn notifications(&mut self) -> Vec<(u8, u8)> {
        let actions = self.speaker.actions();
        let sent = actions.iter().filter_map(|action| match action {
            Action::Send(_, bytes) if bytes.get(18) == Some(&3) => Some((bytes[19], bytes[20])),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn loops_are_not_believed_and_the_session_stays() {
    let ours = Ipv4Addr::from(0x0a00_0001);
    let internal: [fn(&mut Attributes); 2] = [
        |own| own.originator_id = Some(Ipv4Addr::from(0x0a00_0001)),
        |own| own.cluster_list = vec![7, 0x0a00_0001],
    ];
    for change in internal {
        let mut stage = Stage::new(64512, |_| {});
        assert_eq!(stage.speaker.config().router_id, ours);
        stage.give_update(stage.update(|_| {}));
        assert!(stage.has_route());
        stage.give_update(stage.update(change));
        assert!(!stage.has_route(), "the older path is replaced");
        assert_eq!(stage.state(), State::Established);
    }
    let looped = |own: &mut Attributes| {
        own.as_path = vec![Segment::Sequence(vec![65001, 64512])];
    };
    for (allowed, taken) in [(0, false), (1, true)] {
        let mut stage = Stage::new(65001, |peer| peer.own_as_allowed = allowed);
        stage.give_update(stage.update(looped));
        assert_eq!(stage.has_route(), taken);
        assert_eq!(stage.state(), State::Established);
    }
}

#[test]
fn a_next_hop_that_is_ours_or_nobodys_is_not_used() {
    for wrong in ["10.0.0.1", "0.0.0.0", "127.0.0.1", "224.0.0.1"] {
        let mut stage = Stage::new(65001, |_| {});
        let mut update = stage.update(|_| {});
        update.reachable[0].0 = NextHop::new(wrong.parse().unwrap());
        stage.give_update(update);
        assert!(!stage.has_route(), "{wrong}");
        assert_eq!(stage.state(), State::Established);
    }
}

/// A whole UPDATE message with these attributes, for 10.100.1.0/24.
fn raw_update(attributes: &[u8]) -> Vec<u8> {
    let length = 19 + 4 + attributes.len() + 4;
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
    bytes.extend([2, 0, 0]);
    bytes.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    bytes.extend(attributes);
    bytes.extend([24, 10, 100, 1]);
    bytes
}

#[test]
fn malformed_attributes_withdraw_or_are_discarded_and_the_session_stays() {
    let origin = [0x40, 1, 1, 0];
    let path = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
    let hop = [0x40, 3, 4, 10, 0, 0, 2];
    let sound = [&origin[..], &path, &hop].concat();
    let with = |more: &[u8]| [&sound[..], more].concat();
    let cases: [(Vec<u8>, bool); 8] = [
        (sound.clone(), true),
        ([&[0x40, 1, 1, 9][..], &path, &hop].concat(), false),
        (
            [&origin[..], &[0x40, 2, 6, 9, 1, 0, 0, 0xfd, 0xe9], &hop].concat(),
            false,
        ),
        ([&origin[..], &path].concat(), false),
        (with(&[0xc0, 8, 3, 0, 0, 1]), false),
        (with(&[0x80, 4, 1, 0]), false),
        (with(&[0x40, 6, 1, 0]), true),
        (with(&[0xc0, 7, 2, 0, 0]), true),
    ];
    for (attributes, taken) in cases {
        let mut stage = Stage::new(65001, |_| {});
        stage.give_update(stage.update(|_| {}));
        stage.give_bytes(&raw_update(&attributes));
        assert_eq!(stage.has_route(), taken, "{attributes:02x?}");
        assert_eq!(stage.state(), State::Established);
        assert_eq!(stage.notifications(), []);
    }
}

#[test]
fn bytes_that_are_no_message_end_the_session_with_the_right_word() {
    let mut bad_length = vec![0xff; 16];
    bad_length.extend([0, 18, 4]);
    let mut bad_prefix = raw_update(&[]);
    let last = bad_prefix.len() - 4;
    bad_prefix[last] = 99;
    for (bytes, expected) in [
        (vec![0; 19], (1, 1)),
        (bad_length, (1, 2)),
        (bad_prefix, (3, 10)),
    ] {
        let mut stage = Stage::new(65001, |_| {});
        stage.speaker.actions();
        stage.give_bytes(&bytes);
        assert_eq!(stage.notifications(), [expected]);
        assert_ne!(stage.state(), State::Established);
    }
}

#[test]
fn a_wrong_as_is_told_and_refused() {
    let mut own = config(0, 64512);
    let passive = true;
    own.peers.insert(
        address(1),
        Peer {
            passive,
            ..Peer::external(65001)
        },
    );
    let now = Instant::now();
    let mut stage = Stage {
        speaker: Speaker::new(own, false, now),
        now,
        peer_as: 65001,
    };
    stage.speaker.connected(address(1), ID, Side::Inbound, now);
    stage.give(&Message::Open(stage.open(65999)));
    assert_eq!(stage.notifications(), [(2, 2)]);
}

#[test]
fn unknown_capabilities_are_passed_over() {
    let mut own = config(0, 64512);
    let passive = true;
    own.peers.insert(
        address(1),
        Peer {
            passive,
            ..Peer::internal(64512)
        },
    );
    let now = Instant::now();
    let mut stage = Stage {
        speaker: Speaker::new(own, false, now),
        now,
        peer_as: 64512,
    };
    stage.speaker.connected(address(1), ID, Side::Inbound, now);
    let mut open = stage.open(64512);
    let value = Bytes::from_static(&[1, 2, 3]);
    open.capabilities
        .push(crate::wire::Capability::Other { code: 250, value });
    stage.give(&Message::Open(open));
    stage.give(&Message::Keepalive);
    assert_eq!(stage.state(), State::Established);
}

#[test]
fn silence_ends_the_session_when_the_hold_time_is_over() {
    let mut stage = Stage::new(65001, |_| {});
    stage.give_update(stage.update(|_| {}));
    stage.speaker.actions();
    stage.speaker.tick(stage.now + Duration::from_secs(89));
    assert_eq!(stage.state(), State::Established);
    stage.speaker.tick(stage.now + Duration::from_secs(90));
    assert!(stage.notifications().contains(&(4, 0)));
    assert!(!stage.has_route(), "the peer has no graceful restart");
}

#[test]
fn a_million_routes_to_a_limit_of_a_thousand_end_the_session_soon() {
    let mut stage = Stage::new(65001, |peer| peer.max_prefixes = Some(1000));
    let attributes = stage.update(|_| {}).attributes;
    let mut told = 0_u32;
    while stage.state() == State::Established && told < 1_000_000 {
        let prefixes = (told..told + 500).map(|number| {
            let [_, high, middle, low] = number.to_be_bytes();
            let network = IpAddr::from([100 + high, middle, low, 0]);
            Nlri::new(IpNetwork::new(network, 24).unwrap())
        });
        let reachable = vec![(NextHop::new(address(1)), prefixes.collect())];
        told += 500;
        stage.give_update(Update {
            attributes: attributes.clone(),
            reachable,
            ..Update::default()
        });
    }
    assert_eq!(told, 1500);
    assert_eq!(stage.notifications(), [(6, 1)]);
    assert_eq!(
        stage.state(),
        State::Idle,
        "until the operator says otherwise"
    );
    assert_eq!(stage.speaker.rib().len(), 1, "only our own");
}

#[test]
fn a_peer_that_asks_is_told_everything_again() {
    let mut stage = Stage::new(65001, |_| {});
    stage.speaker.actions();
    let kind = Refresh::Request;
    let family = Family::Ipv4;
    stage.give(&Message::RouteRefresh { family, kind });
    let updates = stage
        .speaker
        .actions()
        .into_iter()
        .filter(|action| matches!(action, Action::Send(_, bytes) if bytes.get(18) == Some(&2)));
    assert_eq!(updates.count(), 1);
}
