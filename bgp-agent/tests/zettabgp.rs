//! Our codec beside an independent one: what we write, `zettabgp` reads. And why it is not the
//! one that reads what peers send.
#![expect(clippy::unwrap_used, reason = "a test can do nothing else")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use bgp_agent::wire::attribute::Origin;
use bgp_agent::wire::{Attributes, Context, Message, NextHop, Nlri, Segment, Update};
use bytes::BytesMut;
use proptest::prelude::*;
use zettabgp::prelude::*;

fn session() -> BgpSessionParams {
    BgpSessionParams::new(
        64512,
        90,
        BgpTransportMode::IPv4,
        "192.0.2.1".parse().unwrap(),
        vec![BgpCapability::CapASN32(64512)],
    )
}

/// The body of our UPDATE.
fn encoded(prefix: &str, path: &[u32], communities: &[u32]) -> BytesMut {
    let attributes = Attributes {
        origin: Origin::Igp,
        as_path: vec![Segment::Sequence(path.to_vec())],
        communities: communities.to_vec(),
        ..Attributes::default()
    };
    let next_hop = NextHop::new("192.0.2.1".parse().unwrap());
    let update = Update {
        attributes,
        reachable: vec![(next_hop, vec![Nlri::new(prefix.parse().unwrap())])],
        ..Update::default()
    };
    let context = Context {
        four_octets: true,
        ..Context::default()
    };
    let mut bytes = BytesMut::new();
    Message::Update(Box::new(update)).encode(&context, &mut bytes);
    bytes.split_off(19)
}

fn theirs(body: &[u8]) -> Result<BgpUpdateMessage, BgpError> {
    let mut session = session();
    session.has_as32bit = true;
    let mut message = BgpUpdateMessage::new();
    message.decode_from(&session, body)?;
    Ok(message)
}

proptest! {
    #[test]
    fn zettabgp_reads_what_we_write(
        octets: [u8; 4],
        length in 0_u8..=32,
        path in proptest::collection::vec(1_u32.., 1..20),
        communities in proptest::collection::vec(any::<u32>(), 0..20),
    ) {
        let network = ipnetwork::IpNetwork::new(octets.into(), length).unwrap();
        let prefix = ipnetwork::IpNetwork::new(network.network(), length).unwrap();
        let read = theirs(&encoded(&prefix.to_string(), &path, &communities)).unwrap();
        let BgpAddrs::IPV4U(prefixes) = &read.updates else {
            panic!("{:?}", read.updates)
        };
        prop_assert_eq!(prefixes[0].to_string(), prefix.to_string());
        let numbers: Vec<u32> = read
            .get_attr_aspath()
            .unwrap()
            .value
            .iter()
            .flat_map(|item| match item {
                BgpASitem::Seq(numbers) => numbers.value.iter().map(|n| n.value).collect(),
                BgpASitem::Set(_) => Vec::new(),
            })
            .collect();
        prop_assert_eq!(numbers, path);
        let count = read.get_attr_communitylist().map_or(0, |own| own.value.len());
        let different: std::collections::BTreeSet<u32> = communities.into_iter().collect();
        prop_assert_eq!(count, different.len());
    }
}

/// Lengths that do not fit are an index out of bounds there: one byte of an attribute at the
/// message's end, a header that is shorter than itself, communities that are cut off.
#[test]
fn zettabgp_panics_where_we_withdraw() {
    let body = [0, 0, 0, 1, 0x40];
    assert!(catch_unwind(AssertUnwindSafe(|| theirs(&body))).is_err());
    let mut cut = encoded("10.0.0.0/8", &[65001], &[1]).to_vec();
    let communities = cut.windows(3).position(|own| own == [0xc0, 8, 4]).unwrap();
    cut[communities + 2] = 3;
    assert!(catch_unwind(AssertUnwindSafe(|| theirs(&cut))).is_err());
    let mut head = [0xff; 19];
    head[16..].copy_from_slice(&[0, 18, 4]);
    assert!(catch_unwind(AssertUnwindSafe(|| session().decode_message_head(&head))).is_err());
}

/// One attribute that is wrong is a message that is not read there: what RFC 7606 makes of it,
/// withdrawing the routes with the session going on, needs the prefixes all the same.
#[test]
fn zettabgp_gives_up_where_rfc_7606_goes_on() {
    let mut body = encoded("10.0.0.0/8", &[65001], &[1]).to_vec();
    let origin = body.windows(3).position(|own| own == [0x40, 1, 1]).unwrap();
    body[origin + 3] = 9;
    assert!(theirs(&body).is_err());
}

/// AS 65536 is AS 1 there: a path through the one would be a loop for the other.
#[test]
fn zettabgp_takes_different_systems_for_one() {
    assert_eq!(BgpAS::new(65536), BgpAS::new(1));
}
