use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::attribute::{Origin, Unknown};
use super::open::{AddPath, RestartFamily};
use super::*;

fn context() -> Context {
    Context {
        four_octets: true,
        internal: true,
        ..Context::default()
    }
}

fn messages(bytes: &[u8], context: &Context) -> Result<Vec<Message>, Fault> {
    let mut buffer = BytesMut::from(bytes);
    let framer = Framer {
        extended: context.extended_messages,
    };
    let mut all = Vec::new();
    while let Some(raw) = framer.next(&mut buffer)? {
        all.push(raw.decode(context)?);
    }
    assert!(buffer.is_empty(), "whole messages leave nothing");
    Ok(all)
}

fn round_trip(message: &Message, context: &Context) {
    let mut bytes = BytesMut::new();
    message.encode(context, &mut bytes);
    assert_eq!(
        messages(&bytes, context).unwrap(),
        std::slice::from_ref(message)
    );
}

fn attributes() -> Attributes {
    Attributes {
        origin: Origin::Igp,
        as_path: vec![
            Segment::Sequence(vec![65001, 4_200_000_000]),
            Segment::Set(vec![1, 2]),
        ],
        med: Some(7),
        local_pref: Some(100),
        atomic_aggregate: true,
        aggregator: Some((4_200_000_001, Ipv4Addr::new(1, 2, 3, 4))),
        communities: vec![0xffff_ff01, 1],
        originator_id: Some(Ipv4Addr::new(9, 9, 9, 9)),
        cluster_list: vec![1, 2],
        extended_communities: vec![[1; 8]],
        large_communities: vec![[1, 2, 3]],
        unknown: Vec::new(),
    }
}

fn nlri(prefix: &str) -> Nlri {
    Nlri::new(prefix.parse().unwrap())
}

fn update() -> Update {
    Update {
        withdrawn: vec![],
        attributes: attributes(),
        reachable: vec![(
            NextHop::new("10.0.0.1".parse().unwrap()),
            vec![nlri("10.1.0.0/16"), nlri("0.0.0.0/0"), nlri("10.2.3.4/32")],
        )],
        ..Update::default()
    }
}

#[test]
fn an_open_with_every_capability_survives_the_wire() {
    let family = |family, stale_time| RestartFamily {
        family,
        forwarding: true,
        stale_time,
    };
    let open = Open {
        asn: 4_200_000_000,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4),
            Capability::Multiprotocol(Family::Ipv6),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
            Capability::ExtendedNextHop,
            Capability::FourOctetAs(4_200_000_000),
            Capability::GracefulRestart {
                restarting: true,
                notification: true,
                seconds: 120,
                families: vec![family(Family::Ipv4, 0)],
            },
            Capability::LongLivedGracefulRestart(vec![family(Family::Ipv6, 3600)]),
            Capability::AddPath(vec![(
                Family::Ipv4,
                AddPath {
                    receive: true,
                    send: false,
                },
            )]),
            Capability::Other {
                code: 200,
                value: Bytes::from_static(b"x"),
            },
        ],
    };
    round_trip(&Message::Open(open), &Context::default());
}

#[test]
fn an_update_of_each_family_survives_the_wire() {
    round_trip(&Message::Update(Box::new(update())), &context());
    let mut v6 = update();
    let next_hop = NextHop {
        address: "fd00::1".parse().unwrap(),
        link_local: "fe80::1".parse().ok(),
    };
    v6.reachable = vec![(next_hop, vec![nlri("fd00:1::/64")])];
    round_trip(&Message::Update(Box::new(v6)), &context());
    let mut extended_next_hop = update();
    extended_next_hop.reachable[0].0 = NextHop::new("fd00::1".parse().unwrap());
    round_trip(&Message::Update(Box::new(extended_next_hop)), &context());
    let withdrawn = vec![nlri("10.0.0.0/8")];
    round_trip(
        &Message::Update(Box::new(Update {
            withdrawn,
            ..Update::default()
        })),
        &context(),
    );
    for family in Family::ALL {
        round_trip(
            &Message::Update(Box::new(Update::end_of_rib(family))),
            &context(),
        );
    }
}

#[test]
fn wide_numbers_pass_through_a_two_octet_session() {
    let two_octets = Context {
        internal: true,
        ..Context::default()
    };
    let mut bytes = BytesMut::new();
    Message::Update(Box::new(update())).encode(&two_octets, &mut bytes);
    let read = messages(&bytes, &two_octets).unwrap();
    let Message::Update(read) = &read[0] else {
        panic!("{read:?}")
    };
    assert_eq!(read.attributes, attributes());
}

#[test]
fn many_prefixes_become_several_messages() {
    let prefixes: Vec<Nlri> = (0..2000_u32)
        .map(|n| nlri(&format!("10.{}.{}.0/24", n / 256, n % 256)))
        .collect();
    let mut many = update();
    many.reachable[0].1.clone_from(&prefixes);
    let mut bytes = BytesMut::new();
    Message::Update(Box::new(many)).encode(&context(), &mut bytes);
    let read = messages(&bytes, &context()).unwrap();
    assert!(read.len() > 1);
    let mut all = Vec::new();
    for message in read {
        let Message::Update(update) = message else {
            panic!("an UPDATE")
        };
        assert_eq!(update.attributes, attributes());
        all.extend(
            update
                .reachable
                .into_iter()
                .flat_map(|(_, prefixes)| prefixes),
        );
    }
    assert_eq!(all, prefixes);
}

/// An UPDATE that announces 10.0.0.0/8 with these attributes, given in hexadecimal.
fn with_attributes(attributes: &str) -> Result<Update, Fault> {
    let digits: Vec<u8> = attributes
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(byte).to_digit(16).unwrap() as u8)
        .collect();
    let attributes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    let mut bytes = BytesMut::new();
    frame(&mut bytes, UPDATE, |out| {
        out.put_u16(0);
        out.put_u16(attributes.len() as u16);
        out.put_slice(&attributes);
        out.put_slice(&[8, 10]);
    });
    match messages(&bytes, &context())?.remove(0) {
        Message::Update(update) => Ok(*update),
        other => panic!("{other:?}"),
    }
}

const SOUND: &str = "400101 00  400200  400304 0a000001  400504 00000064";

#[test]
fn malformed_attributes_are_handled_as_rfc_7606_says() {
    let sound = with_attributes(SOUND).unwrap();
    assert_eq!((sound.reachable.len(), sound.mended.len()), (1, 0));
    let withdraws = [
        "400101 09  400200  400304 0a000001  400504 00000064",
        "400200  400304 0a000001  400504 00000064",
        "400101 00  400304 0a000001  400504 00000064",
        "400101 00  400200  400504 00000064",
        "400101 00  400200  400304 0a000001",
        "400101 00  400204 02020001  400304 0a000001  400504 00000064",
        "400101 00  400203 020100  400304 0a000001  400504 00000064",
        "800101 00  400200  400304 0a000001  400504 00000064",
        &format!("{SOUND} c00803 000001"),
        &format!("{SOUND} c010 07 01020304050607"),
        &format!("{SOUND} c02004 00000001"),
        &format!("{SOUND} 40ff01 00"),
        &format!("{SOUND} c008ff 00"),
    ];
    for case in withdraws {
        let update = with_attributes(case).unwrap();
        assert_eq!(update.withdrawn, [nlri("10.0.0.0/8")], "{case}");
        assert!(
            update.reachable.is_empty() && !update.mended.is_empty(),
            "{case}"
        );
    }
    let discards = [
        &format!("{SOUND} 400601 00"),
        &format!("{SOUND} c00703 000000"),
        &format!("{SOUND} 400101 00"),
        &format!("{SOUND} c01106 020100000001"),
    ];
    for case in &discards[..] {
        let update = with_attributes(case).unwrap();
        assert!(update.reachable.len() == 1, "{case}: {update:?}");
    }
    assert!(with_attributes(&format!("{SOUND} 800e03 000101")).is_err());
    let twice = "800f03 000201";
    assert!(with_attributes(&format!("{SOUND} {twice} {twice}")).is_err());
}

#[test]
fn an_unknown_transitive_attribute_is_kept() {
    let update = with_attributes(&format!("{SOUND} c0c802 abcd")).unwrap();
    let value = Bytes::from_static(&[0xab, 0xcd]);
    assert_eq!(
        update.attributes.unknown,
        [Unknown {
            flags: 0xc0,
            code: 200,
            value
        }]
    );
}

#[test]
fn a_header_that_does_not_fit_ends_the_session() {
    let cases: [(&[u8], u8); 4] = [
        (&[0; 19], 1),
        (&[&[0xff; 16][..], &[0, 18, 4]].concat(), 2),
        (&[&[0xff; 16][..], &[0x10, 1, 2]].concat(), 2),
        (&[&[0xff; 16][..], &[0, 19, 9]].concat(), 3),
    ];
    for (bytes, subcode) in cases {
        let fault = Framer::default()
            .next(&mut BytesMut::from(bytes))
            .unwrap_err();
        assert_eq!(
            (fault.notification.code, fault.notification.subcode),
            (1, subcode)
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_the_decoder(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 1_u8..6,
        four_octets: bool,
        add_path: bool,
    ) {
        let mut bytes = BytesMut::new();
        frame(&mut bytes, kind, |out| out.put_slice(&body));
        let families = if add_path { Family::ALL.to_vec() } else { vec![] };
        let context = Context { four_octets, add_path_receive: families, ..Context::default() };
        if let Ok(Some(raw)) = Framer::default().next(&mut bytes) {
            let _ = raw.decode(&context);
        }
    }

    #[test]
    fn no_attributes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut message = BytesMut::new();
        frame(&mut message, UPDATE, |out| {
            out.put_u16(0);
            out.put_u16(bytes.len() as u16);
            out.put_slice(&bytes);
        });
        let _ = messages(&message, &context());
    }
}
