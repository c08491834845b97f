//! What BGP and BFD peers send, and the speaker's file.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp_agent::bfd::{Packet, Session, Settings};
use bgp_agent::config::{Config, Peer};
use bgp_agent::session::{ConnectionId, Side, State};
use bgp_agent::speaker::Speaker;
use bgp_agent::wire::{Context, Family, Framer, Message};
use bytes::BytesMut;

/// Any datagram is a BFD packet that says the same when it is written again, or none.
pub(crate) fn bfd_packet(data: &[u8]) {
    let now = Instant::now();
    let mut session = Session::new(Settings::default(), 7, now);
    for piece in data.chunks(24) {
        let Some(packet) = Packet::decode(piece) else {
            continue;
        };
        assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        session.received(&packet, now);
        session.tick(session.timeout());
    }
}

/// Any text is a configuration file, or it is told what is wrong with it.
pub(crate) fn file(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        // Either is an answer.
        let _ = bgp_agent::check_file(text);
    }
}

/// Whatever a peer sends is a message, which can be read when it is written again, or a fault.
/// The first byte says what the session agreed on.
pub(crate) fn message(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else {
        return;
    };
    let families = |on: bool| if on { Family::ALL.to_vec() } else { Vec::new() };
    let context = Context {
        four_octets: flags & 1 != 0,
        extended_messages: flags & 2 != 0,
        add_path_receive: families(flags & 4 != 0),
        add_path_send: families(flags & 4 != 0),
        internal: flags & 8 != 0,
    };
    let framer = Framer {
        extended: context.extended_messages,
    };
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(raw)) = framer.next(&mut buffer) {
        let Ok(message) = raw.decode(&context) else {
            continue;
        };
        let mut again = BytesMut::new();
        message.encode(&context, &mut again);
        let mended = matches!(&message, Message::Update(own) if !own.mended.is_empty());
        loop {
            match framer.next(&mut again) {
                Ok(Some(raw)) => {
                    let read = raw.decode(&context);
                    assert!(mended || read.is_ok(), "{message:?} becomes {read:?}");
                }
                Ok(None) => break,
                Err(fault) => panic!("{message:?} becomes {fault:?}"),
            }
        }
        assert!(again.is_empty(), "{message:?} leaves {again:?}");
    }
}

/// A whole speaker with a peer that sends anything: no panic, and nothing is learnt without a
/// session.
pub(crate) fn session(data: &[u8]) {
    let mut now = Instant::now();
    let peer: IpAddr = Ipv4Addr::new(192, 0, 2, 2).into();
    let mut config = Config::new(64512, Ipv4Addr::new(192, 0, 2, 1));
    config.next_hop_v4 = Some(Ipv4Addr::new(192, 0, 2, 1));
    let settings = Peer {
        passive: true,
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
}
