//! Queueing disciplines: token bucket shaping, and redirecting what an interface receives to
//! an intermediate device, where it can be shaped as well.

use crate::Ifindex;
use crate::netlink::{
    self, Attributes, Error, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, Socket,
};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const HEADER: usize = 20;
const ETH_P_ALL: u16 = 3;
/// Redirect and stop looking at further filters.
const TC_ACT_STOLEN: i32 = 4;
const TCA_EGRESS_REDIR: i32 = 1;
const U32_TERMINAL: u8 = 1;

/// How long a packet may wait for its tokens before it is dropped.
const LATENCY_MICROSECONDS: u64 = 25_000;

/// A limit on what an interface sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenBucket {
    pub bytes_per_second: u64,
    pub burst_bytes: u32,
}

impl TokenBucket {
    /// The bytes that may wait: what flows in the allowed latency, and the burst.
    fn queue_limit(&self) -> u32 {
        let waiting = self.bytes_per_second.saturating_mul(LATENCY_MICROSECONDS) / 1_000_000;
        u32::try_from(waiting.saturating_add(u64::from(self.burst_bytes))).unwrap_or(u32::MAX)
    }

    /// `struct tc_tbf_qopt`: two rate specifications, limit, buffer, mtu.
    fn parameters(&self) -> Vec<u8> {
        let rate = u32::try_from(self.bytes_per_second).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(36);
        // Link layer 1 is Ethernet: the kernel needs no rate table then.
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&rate.to_ne_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&self.queue_limit().to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes
    }
}

/// A queueing discipline at an interface's root, as read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Qdisc {
    pub interface: Ifindex,
    pub kind: String,
    pub ingress: bool,
    /// The limit, when the kind is `tbf`.
    pub rate: Option<u64>,
}

fn header(interface: Ifindex, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&interface.0.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    header
}

/// Limits what the interface sends; replaces another limit.
pub fn replace_token_bucket(interface: Ifindex, bucket: &TokenBucket) -> Request {
    let mut payload = Attributes::with_header(&header(interface, 0x0001_0000, ROOT, 0));
    payload.text(TCA_KIND, "tbf").nest(TCA_OPTIONS, |options| {
        options.put(TCA_TBF_PARMS, &bucket.parameters());
        options.u32(TCA_TBF_BURST, bucket.burst_bytes.max(1));
        if bucket.bytes_per_second > u64::from(u32::MAX) {
            options.u64(TCA_TBF_RATE64, bucket.bytes_per_second);
        }
    });
    let object = format_args!("of interface number {interface}");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::new(
        "set the rate limit",
        object,
        RTM_NEWQDISC,
        flags,
        payload.into_bytes(),
    )
}

/// Deletes the discipline at the root, and with it the limit.
pub fn delete_root(interface: Ifindex) -> Request {
    let payload = header(interface, 0, ROOT, 0).to_vec();
    let object = format_args!("of interface number {interface}");
    Request::new("delete the root queue", object, RTM_DELQDISC, 0, payload)
}

/// The two requests that send everything which `from` receives out of `to`.
pub fn redirect_ingress(from: Ifindex, to: Ifindex) -> [Request; 2] {
    let object = format!("of interface number {from}");
    let mut queue = Attributes::with_header(&header(from, INGRESS_HANDLE, INGRESS, 0));
    queue.text(TCA_KIND, "ingress").nest(TCA_OPTIONS, |_| {});
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let queue = Request::new(
        "add the ingress queue",
        &object,
        RTM_NEWQDISC,
        flags,
        queue.into_bytes(),
    );

    let info = (1u32 << 16) | u32::from(ETH_P_ALL.to_be());
    let mut filter = Attributes::with_header(&header(from, 0, INGRESS_HANDLE, info));
    filter.text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
        options.put(TCA_U32_SEL, &match_everything());
        options.nest(TCA_U32_ACT, |actions| {
            actions.nest(1, |action| {
                action.text(TCA_ACT_KIND, "mirred");
                action.nest(TCA_ACT_OPTIONS, |options| {
                    options.put(TCA_MIRRED_PARMS, &redirect_parameters(to));
                });
            });
        });
    });
    let filter = Request::new(
        "add the ingress redirect",
        &object,
        RTM_NEWTFILTER,
        flags,
        filter.into_bytes(),
    );
    [queue, filter]
}

/// `struct tc_u32_sel` with one key that matches any packet, marked as final.
fn match_everything() -> Vec<u8> {
    let mut selector = vec![0; 16];
    selector[0] = U32_TERMINAL;
    selector[2] = 1;
    selector.extend_from_slice(&[0; 16]);
    selector
}

/// `struct tc_mirred`.
fn redirect_parameters(to: Ifindex) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
    bytes.extend_from_slice(&to.0.to_ne_bytes());
    bytes
}

/// The disciplines at the root and at the ingress of an interface.
pub fn list(socket: &mut Socket, interface: Ifindex) -> Result<Vec<Qdisc>, Error> {
    let payload = header(interface, 0, 0, 0).to_vec();
    let object = format_args!("of interface number {interface}");
    let request = Request::new("list queues", object, RTM_GETQDISC, 0, payload);
    let replies = socket.dump(&request)?;
    Ok(replies
        .iter()
        .filter(|reply| reply.message_type == RTM_NEWQDISC)
        .filter_map(|reply| decode(&reply.payload))
        .filter(|qdisc| qdisc.interface == interface)
        .collect())
}

fn decode(payload: &[u8]) -> Option<Qdisc> {
    let header = payload.first_chunk::<HEADER>()?;
    let parent = u32::from_ne_bytes(*header[12..].first_chunk()?);
    let mut qdisc = Qdisc {
        interface: Ifindex(u32::from_ne_bytes(*header[4..].first_chunk()?)),
        kind: String::new(),
        ingress: parent == INGRESS,
        rate: None,
    };
    for attribute in netlink::parse(&payload[HEADER..]) {
        match attribute.kind {
            TCA_KIND => qdisc.kind = attribute.as_text()?.to_owned(),
            TCA_OPTIONS if qdisc.kind == "tbf" => qdisc.rate = token_bucket_rate(attribute),
            _ => {}
        }
    }
    (qdisc.ingress || parent == ROOT).then_some(qdisc)
}

fn token_bucket_rate(options: netlink::Attribute<'_>) -> Option<u64> {
    let find = |kind| {
        options
            .nested()
            .find(move |attribute| attribute.kind == kind)
    };
    if let Some(rate) = find(TCA_TBF_RATE64).and_then(|attribute| attribute.as_u64()) {
        return Some(rate);
    }
    let rate = find(TCA_TBF_PARMS)?.value.get(8..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*rate)))
}
