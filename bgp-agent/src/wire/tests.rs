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

/// Numbers of systems: those that two octets hold, and those that they do not.
fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1_u32..65_536, 65_536_u32..]
}

fn segment() -> impl Strategy<Value = Segment> {
    let numbers = proptest::collection::vec(asn(), 1..6);
    (0..4, numbers).prop_map(|(kind, numbers)| match kind {
        0 => Segment::Set(numbers),
        1 => Segment::Sequence(numbers),
        2 => Segment::ConfederationSequence(numbers),
        _ => Segment::ConfederationSet(numbers),
    })
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let address = || any::<[u8; 4]>().prop_map(Ipv4Addr::from);
    let origin = prop_oneof![
        Just(Origin::Igp),
        Just(Origin::Egp),
        Just(Origin::Incomplete)
    ];
    let first = (
        origin,
        proptest::collection::vec(segment(), 0..4),
        any::<Option<u32>>(),
        any::<u32>(),
        any::<bool>(),
        proptest::option::of((asn(), address())),
    );
    let list = || proptest::collection::vec(any::<u32>(), 0..70);
    let unknown = (
        any::<bool>(),
        40_u8..128,
        proptest::collection::vec(any::<u8>(), 0..300),
    );
    let second = (
        list(),
        proptest::option::of(address()),
        list(),
        proptest::collection::vec(any::<[u8; 8]>(), 0..4),
        proptest::collection::vec(any::<[u32; 3]>(), 0..4),
        proptest::option::of(unknown),
    );
    (first, second).prop_map(|(first, second)| Attributes {
        origin: first.0,
        as_path: first.1,
        med: first.2,
        local_pref: Some(first.3),
        atomic_aggregate: first.4,
        aggregator: first.5,
        communities: second.0,
        originator_id: second.1,
        cluster_list: second.2,
        extended_communities: second.3,
        large_communities: second.4,
        // What is passed on says so.
        unknown: second
            .5
            .map(|(_, code, value)| Unknown {
                flags: 0xe0,
                code,
                value: value.into(),
            })
            .into_iter()
            .collect(),
    })
}

fn prefixes(family: Family) -> impl Strategy<Value = Vec<Nlri>> {
    let one = (any::<[u8; 16]>(), 0_u8..=128, any::<u32>()).prop_map(move |(octets, bits, id)| {
        let (address, bits) = match family {
            Family::Ipv4 => {
                let [a, b, c, d, ..] = octets;
                (std::net::IpAddr::from([a, b, c, d]), bits % 33)
            }
            Family::Ipv6 => (std::net::IpAddr::from(octets), bits),
        };
        let network = ipnetwork::IpNetwork::new(address, bits).unwrap();
        let prefix = ipnetwork::IpNetwork::new(network.network(), bits).unwrap();
        Nlri {
            path_id: id,
            prefix,
        }
    });
    proptest::collection::vec(one, 1..400)
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    let v4 = any::<[u8; 4]>().prop_map(|own| NextHop::new(own.into()));
    let v6 = (any::<[u8; 16]>(), any::<Option<[u8; 16]>>()).prop_map(|(own, link)| NextHop {
        address: own.into(),
        link_local: link.map(Into::into),
    });
    prop_oneof![v4, v6]
}

/// Everything that messages of one UPDATE say, in the order in which it came.
fn said(
    messages: Vec<Message>,
    family: Family,
) -> (Vec<Attributes>, Vec<(NextHop, Nlri)>, Vec<Nlri>) {
    let (mut attributes, mut announced, mut withdrawn) = (Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        let Message::Update(update) = message else {
            panic!("{message:?}")
        };
        assert!(update.mended.is_empty(), "{update:?}");
        if !update.reachable.is_empty() {
            attributes.push(update.attributes);
        }
        for (next_hop, prefixes) in update.reachable {
            announced.extend(prefixes.into_iter().map(|nlri| (next_hop, nlri)));
        }
        withdrawn.extend(update.withdrawn);
    }
    assert!(announced.iter().all(|(_, nlri)| nlri.family() == family));
    (attributes, announced, withdrawn)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_update_says_the_same_when_it_is_read_again(
        attributes in any_attributes(),
        (family, prefixes, gone) in prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
            .prop_flat_map(|family| (Just(family), prefixes(family), prefixes(family))),
        next_hop in next_hop(),
        extended_messages: bool,
        add_path: bool,
    ) {
        let families = if add_path { Family::ALL.to_vec() } else { vec![] };
        let context = Context {
            four_octets: true,
            internal: true,
            extended_messages,
            add_path_receive: families.clone(),
            add_path_send: families,
        };
        let plain = |all: &[Nlri]| -> Vec<Nlri> {
            let each = all.iter();
            each.map(|nlri| if add_path { *nlri } else { Nlri::new(nlri.prefix) }).collect()
        };
        let (prefixes, gone) = (plain(&prefixes), plain(&gone));
        let update = Update {
            withdrawn: gone.clone(),
            attributes: attributes.clone(),
            reachable: vec![(next_hop, prefixes.clone())],
            ..Update::default()
        };
        let mut bytes = BytesMut::new();
        Message::Update(Box::new(update)).encode(&context, &mut bytes);
        let (read, announced, withdrawn) = said(messages(&bytes, &context).unwrap(), family);
        prop_assert!(!read.is_empty() && read.iter().all(|own| *own == attributes));
        let expected: Vec<_> = prefixes.into_iter().map(|nlri| (next_hop, nlri)).collect();
        prop_assert_eq!(announced, expected);
        prop_assert_eq!(withdrawn, gone);
    }

    #[test]
    fn wide_numbers_survive_narrow_sessions(
        path in proptest::collection::vec(
            proptest::collection::vec(asn(), 1..6).prop_map(Segment::Sequence),
            1..3,
        ),
        aggregator in proptest::option::of((asn(), any::<[u8; 4]>().prop_map(Ipv4Addr::from))),
    ) {
        let narrow = Context { internal: true, ..Context::default() };
        let mut sent = update();
        sent.attributes.as_path = path;
        sent.attributes.aggregator = aggregator;
        let mut bytes = BytesMut::new();
        Message::Update(Box::new(sent.clone())).encode(&narrow, &mut bytes);
        let read = messages(&bytes, &narrow).unwrap();
        prop_assert_eq!(read, vec![Message::Update(Box::new(sent))]);
    }
}

#[test]
fn attributes_that_leave_no_room_do_not_fit() {
    use super::update::Encoded;
    let long = Attributes {
        communities: (0..1100).collect(),
        ..attributes()
    };
    let extended = Context {
        extended_messages: true,
        ..context()
    };
    assert!(!Encoded::of(&long, &context()).fits(&context()));
    assert!(Encoded::of(&long, &extended).fits(&extended));
    assert!(Encoded::of(&attributes(), &context()).fits(&context()));
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
