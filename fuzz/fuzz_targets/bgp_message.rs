//! Whatever a peer sends is a message, which says the same when it is written again, or a fault.
#![no_main]

use bgp_agent::wire::{Context, Family, Framer, Message};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
        while let Ok(Some(raw)) = framer.next(&mut again) {
            let read = raw.decode(&context);
            assert!(mended || read.is_ok(), "{message:?} becomes {read:?}");
        }
    }
});
