//! A whole speaker with a peer that sends anything: no panic, and nothing is learnt without a
//! session.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_agent::config::{Config, Peer};
use bgp_agent::session::{ConnectionId, Side, State};
use bgp_agent::speaker::Speaker;
use bgp_agent::wire::Framer;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let peer: IpAddr = Ipv4Addr::new(192, 0, 2, 2).into();
    let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
    config.next_hop_v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let passive = true;
    let settings = Peer {
        passive,
        ..Peer::internal(64512)
    };
    config.peers.insert(peer, settings);
    let mut speaker = Speaker::new(config, false, now);
    let id = ConnectionId(1);
    speaker.connected(peer, id, Side::Inbound, now);
    let mut buffer = BytesMut::from(data);
    let framer = Framer { extended: true };
    loop {
        now += Duration::from_millis(500);
        speaker.tick(now);
        let next = framer.next(&mut buffer);
        let ends = !matches!(next, Ok(Some(_)));
        match next {
            Ok(Some(raw)) => speaker.received(id, Ok(raw), now),
            Ok(None) => {}
            Err(fault) => speaker.received(id, Err(fault), now),
        }
        speaker.actions();
        let up = speaker.status()[0].state == State::Established;
        assert!(up || speaker.status()[0].keeps_stale || speaker.rib().prefixes().count() == 0);
        if ends {
            return;
        }
    }
});
