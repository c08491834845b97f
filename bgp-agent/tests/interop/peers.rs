//! Any of the three daemons with the same wishes, so that what is true of one is tried with all.

use std::collections::BTreeSet;

use super::bird::{bird, bird_again, birdc};
use super::frr::{Frr, router};
use super::gobgp::gobgpd;
use super::lan::{Daemon, Lan, routes, set, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
    Gobgp,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Bird, Self::Frr, Self::Gobgp];
}

/// What the daemon at 192.0.2.2 is to do.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) asn: u32,
    /// It waits for us to connect.
    pub(crate) passive: bool,
    pub(crate) key: Option<&'static str>,
    /// It reflects routes between us and the machine at .3.
    pub(crate) reflects: bool,
    /// It keeps our routes while we restart, and wants the same of us.
    pub(crate) restarts: bool,
    /// Its route has the community `ASN:7` with the lower half of its number.
    pub(crate) tagged: bool,
}

impl Wish {
    pub(crate) fn new(asn: u32) -> Self {
        Self {
            asn,
            passive: false,
            key: None,
            reflects: false,
            restarts: false,
            tagged: false,
        }
    }
}

/// The community of routes that are tagged.
pub(crate) const TAG: &str = "65002:7";

enum Program<'a> {
    Bird(Option<Daemon>),
    Frr(Frr<'a>),
    Gobgp(Option<Daemon>),
}

/// A daemon that runs.
pub(crate) struct Neighbour<'a> {
    lan: &'a Lan,
    pub(crate) kind: Kind,
    wish: Wish,
    program: Program<'a>,
}

impl<'a> Neighbour<'a> {
    pub(crate) fn start(lan: &'a Lan, kind: Kind, wish: Wish) -> Self {
        let program = match kind {
            Kind::Bird => Program::Bird(Some(start_bird(lan, &wish))),
            Kind::Frr => Program::Frr(Frr::start(lan, 2, &frr_config(&wish))),
            Kind::Gobgp => Program::Gobgp(Some(gobgpd(lan, 0, &gobgp_config(&wish)))),
        };
        let this = Self {
            lan,
            kind,
            wish,
            program,
        };
        this.announce();
        this
    }

    /// GoBGP forgets what it was told to say.
    fn announce(&self) {
        if self.kind != Kind::Gobgp {
            return;
        }
        let community = format!("global rib add 10.9.0.0/16 nexthop 192.0.2.2 community {TAG}");
        let v4 = match self.wish.tagged {
            true => community.as_str(),
            false => "global rib add 10.9.0.0/16 nexthop 192.0.2.2",
        };
        let v6 = "global rib add -a ipv6 fd00:9::/48 nexthop 2001:db8::2";
        for line in [v4, v6] {
            wait_for("GoBGP's API", || self.gobgp(line).is_some());
        }
    }

    fn gobgp(&self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let output = self.lan.theirs[0].command("gobgp", &words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        match &mut self.program {
            Program::Bird(daemon) | Program::Gobgp(daemon) => *daemon = None,
            Program::Frr(frr) => frr.kill_bgp(),
        }
    }

    pub(crate) fn start_again(&mut self) {
        match &mut self.program {
            Program::Bird(daemon) => {
                let (options, more) = bird_options(&self.wish);
                let started = match self.wish.restarts {
                    true => bird_again(self.lan, self.wish.asn, &options, &more),
                    false => bird(self.lan, self.wish.asn, &options, &more),
                };
                *daemon = Some(started);
            }
            Program::Gobgp(daemon) => {
                *daemon = Some(gobgpd(self.lan, 0, &gobgp_config(&self.wish)))
            }
            Program::Frr(frr) => frr.start_bgp(),
        }
        self.announce();
    }

    /// An address in its range, which it answers at.
    pub(crate) fn address(&self) -> &'static str {
        match self.kind {
            Kind::Bird => "10.244.2.1",
            Kind::Frr => "10.60.2.1",
            Kind::Gobgp => "10.9.0.1",
        }
    }

    /// The range of IPv4 that it tells.
    pub(crate) fn range(&self) -> &'static str {
        match self.kind {
            Kind::Bird => "10.244.2.0/24",
            Kind::Frr => "10.60.2.0/24",
            Kind::Gobgp => "10.9.0.0/16",
        }
    }

    /// Our kernel's routes when we know everything of it.
    pub(crate) fn its_routes(&self) -> BTreeSet<String> {
        let v6 = match self.kind {
            Kind::Bird => "fd00:10:244:2::/64 via 2001:db8::2",
            Kind::Frr => "fd00:60:2::/48 via 2001:db8::2",
            Kind::Gobgp => "fd00:9::/48 via 2001:db8::2",
        };
        set(&[&format!("{} via 192.0.2.2", self.range()), v6])
    }

    /// Whether it knows our range of IPv4.
    pub(crate) fn knows_v4(&self) -> bool {
        self.knows("10.244.1.0/24", "ipv4")
    }

    pub(crate) fn knows_v6(&self) -> bool {
        self.knows("fd00:10:244:1::/64", "ipv6")
    }

    fn knows(&self, range: &str, family: &str) -> bool {
        let in_kernel = |protocol: &str| {
            let routes = routes(&self.lan.theirs[0], protocol);
            routes.iter().any(|own| own.starts_with(range))
        };
        match &self.program {
            Program::Bird(_) => in_kernel("bird"),
            Program::Frr(_) => in_kernel("bgp"),
            Program::Gobgp(_) => self
                .gobgp(&format!("global rib -a {family} {range}"))
                .is_some_and(|text| text.contains(range)),
        }
    }

    /// What it shows of our range of IPv4.
    pub(crate) fn shown(&self) -> String {
        match &self.program {
            Program::Bird(_) => birdc(self.lan, "show route all 10.244.1.0/24"),
            Program::Frr(frr) => frr.show("show bgp ipv4 unicast 10.244.1.0/24"),
            Program::Gobgp(_) => self.gobgp("global rib 10.244.1.0/24").unwrap_or_default(),
        }
    }

    /// A community as it shows it.
    pub(crate) fn community(&self, high: u32, low: u32) -> String {
        match self.kind {
            Kind::Bird => format!("({high},{low})"),
            Kind::Frr | Kind::Gobgp => format!("{high}:{low}"),
        }
    }

    /// Takes its range of IPv4 back.
    pub(crate) fn withdraw(&self) {
        match &self.program {
            Program::Bird(_) => drop(birdc(self.lan, "disable static1")),
            Program::Frr(frr) => {
                let network = format!("no network {}", self.range());
                let bgp = format!("router bgp {}", self.wish.asn);
                frr.configure(&[&bgp, "address-family ipv4 unicast", &network]);
            }
            Program::Gobgp(_) => drop(self.gobgp("global rib del 10.9.0.0/16")),
        }
    }
}

fn start_bird(lan: &Lan, wish: &Wish) -> Daemon {
    let (options, more) = bird_options(wish);
    bird(lan, wish.asn, &options, &more)
}

/// What stands in its BGP protocol, and beside it.
fn bird_options(wish: &Wish) -> (String, String) {
    let mut options = String::new();
    if wish.passive {
        options += "passive; ";
    }
    if let Some(key) = wish.key {
        options += &format!("password \"{key}\"; ");
    }
    options += match wish.restarts {
        true => "graceful restart on; ",
        false => "graceful restart off; ",
    };
    let mut more = String::new();
    if wish.reflects {
        let exported = "export where source = RTS_BGP || source = RTS_STATIC";
        options += &format!("rr client; ipv4 {{ import all; {exported}; next hop self off; }}; ");
        more += &format!(
            "protocol bgp third {{ local 192.0.2.2 as {asn}; neighbor 192.0.2.3 as {asn}; \
             rr client; connect delay time 1; connect retry time 1; \
             ipv4 {{ import all; {exported}; }}; }}\n",
            asn = wish.asn
        );
    }
    if wish.tagged {
        options += "ipv4 { import all; next hop self; export filter { \
                    if source != RTS_STATIC then reject; bgp_community.add((65002, 7)); accept; }; }; ";
    }
    (options, more)
}

fn frr_config(wish: &Wish) -> String {
    let mut more = String::new();
    if wish.passive {
        more += "neighbor 192.0.2.1 passive\n ";
    }
    if let Some(key) = wish.key {
        more += &format!("neighbor 192.0.2.1 password {key}\n ");
    }
    if wish.restarts {
        more += "bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n ";
    }
    let mut v4 = String::new();
    if wish.reflects {
        more += &format!("neighbor 192.0.2.3 remote-as {}\n ", wish.asn);
        more += "neighbor 192.0.2.3 timers connect 1\n ";
        v4 += "neighbor 192.0.2.1 route-reflector-client\n  \
               neighbor 192.0.2.3 route-reflector-client\n  ";
    }
    let mut maps = String::new();
    if wish.tagged {
        v4 += "neighbor 192.0.2.1 route-map tag out\n  ";
        maps += &format!("route-map tag permit 10\n set community {TAG}\n");
    }
    router(2, wish.asn, &more, &v4, "") + &maps
}

fn gobgp_config(wish: &Wish) -> String {
    let mut text = format!(
        "[global.config]\n  as = {}\n  router-id = \"192.0.2.2\"\n",
        wish.asn
    );
    text += &gobgp_neighbour(wish, "192.0.2.1", 64512);
    if wish.reflects {
        text += &gobgp_neighbour(wish, "192.0.2.3", wish.asn);
    }
    text
}

fn gobgp_neighbour(wish: &Wish, address: &str, asn: u32) -> String {
    let key = match wish.key {
        Some(key) => format!("    auth-password = \"{key}\"\n"),
        None => String::new(),
    };
    let mut text = format!(
        "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{address}\"\n    \
         peer-as = {asn}\n{key}  [neighbors.timers.config]\n    connect-retry = 1\n  \
         [neighbors.transport.config]\n    passive-mode = {}\n",
        wish.passive
    );
    if wish.reflects {
        text += "  [neighbors.route-reflector.config]\n    route-reflector-client = true\n    \
                 route-reflector-cluster-id = \"192.0.2.2\"\n";
    }
    if wish.restarts {
        text += "  [neighbors.graceful-restart.config]\n    enabled = true\n    \
                 notification-enabled = true\n    restart-time = 60\n";
    }
    for family in ["ipv4-unicast", "ipv6-unicast"] {
        text += &format!(
            "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      \
             afi-safi-name = \"{family}\"\n"
        );
        if wish.restarts {
            text += "    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n";
        }
    }
    text
}
