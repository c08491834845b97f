//! Any datagram is a BFD packet that says the same when it is written again, or none.
#![no_main]

use std::time::Instant;

use bgp_agent::bfd::{Packet, Session, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
});
