//! Network interfaces: veth pairs, VXLAN devices, bridges and their settings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::RawFd;

use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use crate::MacAddress;
use crate::netlink::{self, Attributes, Error, NLM_F_CREATE, NLM_F_EXCL, Reply, Request, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROTINFO: u16 = 12;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
/// Leaves the counters out of the answer: they are most of its size.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const HEADER: usize = 16;
const AF_BRIDGE: u8 = 7;

/// The kernel refuses longer names.
pub const MAX_NAME: usize = 15;

/// The number of an interface in its network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ifindex(pub u32);

impl fmt::Display for Ifindex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub index: Ifindex,
    pub name: String,
    pub kind: Kind,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// There is a carrier.
    pub running: bool,
    pub loopback: bool,
    /// The bridge or bond that the interface is a port of.
    pub master: Option<Ifindex>,
    /// The other end of a veth pair, the lower device of a tunnel.
    pub link: Option<Ifindex>,
    /// The namespace that `link` is in, when it is another one.
    pub link_netns_id: Option<i32>,
    pub alias: Option<String>,
}

/// What an interface is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Veth,
    Vxlan(Vxlan),
    Bridge,
    Dummy,
    Ifb,
    /// A hardware interface, or a kind that Fairlead does not make.
    Other(String),
}

/// The settings of a VXLAN device. The kernel can change none of those that identify it
/// (`vni`, `port`, `local`, `device`): a device with others has to be made anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    /// The outer source address.
    pub local: Option<IpAddr>,
    /// The underlay's interface.
    pub device: Option<Ifindex>,
    pub learning: bool,
    /// The group policy extension.
    pub group_policy: bool,
}

/// An interface to make. The setters are for what differs from the kernel's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    pub name: String,
    pub settings: Settings,
    kind: NewKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NewKind {
    Veth(Box<Peer>),
    Vxlan(Vxlan),
    Bridge,
    Dummy,
    Ifb,
}

/// The other end of a veth pair. It starts down: the kernel can bring it up only when the
/// pair is complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub name: String,
    pub mac: Option<MacAddress>,
    pub mtu: Option<u32>,
    /// The namespace that it is put into.
    pub netns: Option<RawFd>,
    /// The number that it gets.
    pub index: Option<Ifindex>,
}

impl Peer {
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    fn message(&self) -> LinkMessage {
        let settings = Settings {
            mac: self.mac,
            mtu: self.mtu,
            netns: self.netns,
            ..Settings::default()
        };
        let mut message = LinkMessage::default();
        message.header.index = self.index.map_or(0, |index| index.0);
        settings.fill(&mut message);
        message
            .attributes
            .push(LinkAttribute::IfName(self.name.clone()));
        message
    }
}

/// Settings that an interface gets when it is made, or later by [`set`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    pub mac: Option<MacAddress>,
    pub mtu: Option<u32>,
    pub up: Option<bool>,
    /// `Some(None)` takes the interface out of its bridge.
    pub master: Option<Option<Ifindex>>,
    /// The namespace that the interface is put into.
    pub netns: Option<RawFd>,
    pub alias: Option<String>,
    pub tx_queue_length: Option<u32>,
    /// Only when the interface is made: the number that it gets.
    pub index: Option<Ifindex>,
}

impl Settings {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn up() -> Self {
        Self {
            up: Some(true),
            ..Self::default()
        }
    }

    fn fill(&self, message: &mut LinkMessage) {
        if let Some(up) = self.up {
            message.header.change_mask |= LinkFlags::Up;
            message.header.flags.set(LinkFlags::Up, up);
        }
        let attributes = &mut message.attributes;
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(
            self.master
                .map(|to| LinkAttribute::Controller(to.map_or(0, |index| index.0))),
        );
        attributes.extend(self.netns.map(LinkAttribute::NetNsFd));
        attributes.extend(self.alias.clone().map(LinkAttribute::IfAlias));
        attributes.extend(self.tx_queue_length.map(LinkAttribute::TxQueueLen));
    }
}

impl NewLink {
    fn new(name: impl Into<String>, kind: NewKind) -> Self {
        Self {
            name: name.into(),
            settings: Settings::default(),
            kind,
        }
    }

    pub fn veth(name: impl Into<String>, peer: Peer) -> Self {
        Self::new(name, NewKind::Veth(Box::new(peer)))
    }

    pub fn vxlan(name: impl Into<String>, vxlan: Vxlan) -> Self {
        Self::new(name, NewKind::Vxlan(vxlan))
    }

    pub fn bridge(name: impl Into<String>) -> Self {
        Self::new(name, NewKind::Bridge)
    }

    pub fn dummy(name: impl Into<String>) -> Self {
        Self::new(name, NewKind::Dummy)
    }

    pub fn ifb(name: impl Into<String>) -> Self {
        Self::new(name, NewKind::Ifb)
    }

    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }
}

/// Makes the interface; fails with `EEXIST` when the name is taken.
pub fn create(link: &NewLink) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = link.settings.index.map_or(0, |index| index.0);
    link.settings.fill(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(link.name.clone()));
    let info = match &link.kind {
        NewKind::Veth(peer) => {
            vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.message()))),
            ]
        }
        NewKind::Vxlan(vxlan) => {
            vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vxlan_attributes(vxlan))),
            ]
        }
        // A bridge that waits for 15 seconds before it forwards would be a trap: no spanning tree.
        NewKind::Bridge => vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::ForwardDelay(0)])),
        ],
        NewKind::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
        NewKind::Ifb => vec![LinkInfo::Kind(InfoKind::Ifb)],
    };
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Request::of(
        "create interface",
        &link.name,
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &message,
    )
}

fn vxlan_attributes(vxlan: &Vxlan) -> Vec<InfoVxlan> {
    let mut attributes = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
    ];
    attributes.extend(vxlan.device.map(|index| InfoVxlan::Link(index.0)));
    attributes.extend(vxlan.local.map(|local| match local {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    }));
    if vxlan.group_policy {
        attributes.push(InfoVxlan::Gbp);
    }
    attributes
}

/// Changes settings of an existing interface.
pub fn set(index: Ifindex, settings: &Settings) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    settings.fill(&mut message);
    Request::of(
        "change interface",
        format_args!("number {index}"),
        RTM_SETLINK,
        0,
        &message,
    )
}

/// Gives the interface another name. Before Linux 6.2 it has to be down for that.
pub fn rename(index: Ifindex, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    Request::of(
        "rename interface",
        format_args!("number {index} to {name}"),
        RTM_SETLINK,
        0,
        &message,
    )
}

/// As [`set`], for the interface of that name.
pub fn set_by_name(name: &str, settings: &Settings) -> Request {
    let mut message = LinkMessage::default();
    settings.fill(&mut message);
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    Request::of("change interface", name, RTM_SETLINK, 0, &message)
}

/// Lets a bridge send frames back through the port that they came from.
pub fn set_hairpin(port: Ifindex, on: bool) -> Request {
    let mut payload = Attributes::with_header(&header(AF_BRIDGE, port));
    payload.nest(IFLA_PROTINFO, |inner| {
        inner.u8(IFLA_BRPORT_MODE, u8::from(on));
    });
    let object = format_args!("hairpin mode of interface number {port}");
    Request::new("change", object, RTM_SETLINK, 0, payload.into_bytes())
}

pub fn delete(index: Ifindex) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    Request::of(
        "delete interface",
        format_args!("number {index}"),
        RTM_DELLINK,
        0,
        &message,
    )
}

pub fn delete_by_name(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    Request::of("delete interface", name, RTM_DELLINK, 0, &message)
}

/// The interface of that name, if there is one.
pub fn get(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut payload = Attributes::with_header(&[0; HEADER]);
    payload
        .text(IFLA_IFNAME, name)
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    get_one(
        socket,
        Request::new("read interface", name, RTM_GETLINK, 0, payload.into_bytes()),
    )
}

/// The interface of that number, if there is one.
pub fn get_by_index(socket: &mut Socket, index: Ifindex) -> Result<Option<Link>, Error> {
    let mut payload = Attributes::with_header(&header(0, index));
    payload.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    let object = format_args!("number {index}");
    get_one(
        socket,
        Request::new(
            "read interface",
            object,
            RTM_GETLINK,
            0,
            payload.into_bytes(),
        ),
    )
}

fn get_one(socket: &mut Socket, request: Request) -> Result<Option<Link>, Error> {
    match socket.query(&request) {
        Ok(replies) => Ok(replies.iter().find_map(decode)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All interfaces of the socket's namespace, ordered by number.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let mut payload = Attributes::with_header(&[0; HEADER]);
    payload.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    let request = Request::new("list", "interfaces", RTM_GETLINK, 0, payload.into_bytes());
    let mut links: Vec<Link> = socket.dump(&request)?.iter().filter_map(decode).collect();
    links.sort();
    Ok(links)
}

/// All interfaces by name.
pub fn by_name(socket: &mut Socket) -> Result<BTreeMap<String, Link>, Error> {
    Ok(list(socket)?
        .into_iter()
        .map(|link| (link.name.clone(), link))
        .collect())
}

fn header(family: u8, index: Ifindex) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family;
    header[4..8].copy_from_slice(&index.0.to_ne_bytes());
    header
}

fn decode(reply: &Reply) -> Option<Link> {
    (reply.message_type == RTM_NEWLINK)
        .then(|| decode_payload(&reply.payload))
        .flatten()
}

/// Reads only what [`Link`] holds: a kind or attribute of a later kernel is no error.
pub(crate) fn decode_payload(payload: &[u8]) -> Option<Link> {
    let header = payload.first_chunk::<HEADER>()?;
    // Messages of the bridge family are about ports, not about interfaces.
    if header[0] == AF_BRIDGE {
        return None;
    }
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let mut link = Link {
        index: Ifindex(u32::from_ne_bytes(*header[4..].first_chunk()?)),
        name: String::new(),
        kind: Kind::Other(String::new()),
        mac: None,
        mtu: 0,
        up: flags & LinkFlags::Up.bits() != 0,
        running: flags & LinkFlags::LowerUp.bits() != 0,
        loopback: flags & LinkFlags::Loopback.bits() != 0,
        master: None,
        link: None,
        link_netns_id: None,
        alias: None,
    };
    for attribute in netlink::parse(&payload[HEADER..]) {
        match attribute.kind {
            IFLA_IFNAME => link.name = attribute.as_text()?.to_owned(),
            IFLA_ADDRESS => link.mac = attribute.value.try_into().ok().map(MacAddress),
            IFLA_MTU => link.mtu = attribute.as_u32()?,
            IFLA_MASTER => link.master = attribute.as_u32().map(Ifindex),
            IFLA_LINK => link.link = attribute.as_u32().filter(|index| *index != 0).map(Ifindex),
            IFLA_LINK_NETNSID => link.link_netns_id = attribute.as_u32().map(u32::cast_signed),
            IFLA_IFALIAS => link.alias = attribute.as_text().map(str::to_owned),
            IFLA_LINKINFO => link.kind = decode_kind(attribute),
            _ => {}
        }
    }
    Some(link)
}

fn decode_kind(info: netlink::Attribute<'_>) -> Kind {
    let part = |kind| info.nested().find(move |attribute| attribute.kind == kind);
    match part(IFLA_INFO_KIND)
        .and_then(|kind| kind.as_text())
        .unwrap_or_default()
    {
        "veth" => Kind::Veth,
        "vxlan" => Kind::Vxlan(decode_vxlan(part(IFLA_INFO_DATA))),
        "bridge" => Kind::Bridge,
        "dummy" => Kind::Dummy,
        "ifb" => Kind::Ifb,
        other => Kind::Other(other.to_owned()),
    }
}

fn decode_vxlan(data: Option<netlink::Attribute<'_>>) -> Vxlan {
    let mut vxlan = Vxlan {
        vni: 0,
        port: 0,
        local: None,
        device: None,
        learning: false,
        group_policy: false,
    };
    for attribute in data.into_iter().flat_map(|data| data.nested()) {
        match attribute.kind {
            1 => vxlan.vni = attribute.as_u32().unwrap_or_default(),
            3 => vxlan.device = attribute.as_u32().filter(|index| *index != 0).map(Ifindex),
            4 => vxlan.local = <[u8; 4]>::try_from(attribute.value).ok().map(IpAddr::from),
            7 => vxlan.learning = attribute.as_u8() == Some(1),
            15 => vxlan.port = attribute.as_u16_be().unwrap_or_default(),
            17 => vxlan.local = <[u8; 16]>::try_from(attribute.value).ok().map(IpAddr::from),
            23 => vxlan.group_policy = true,
            _ => {}
        }
    }
    vxlan.local = vxlan.local.filter(|address| !address.is_unspecified());
    vxlan
}
