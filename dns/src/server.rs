//! Queries from the wire to the zone and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::directory::CachedDirectory;
use crate::forward::Forwarder;
use crate::tell::{Answered, tell};
use crate::zone::{Answer, Data, Kind, Rr, Zone};
use crate::{Config, Error};

/// How long an answer about the cluster may be kept, in seconds.
const TTL: u32 = 5;
/// How far aliases are followed.
const LONGEST_CHAIN: usize = 8;
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_BUFFER: usize = 128;
/// What fits a datagram on every path (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

pub(crate) struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    pub(crate) async fn bind(config: &Config) -> Result<Self, Error> {
        let mut sockets = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for ip in &config.addresses {
            let address = SocketAddr::new(*ip, config.port);
            let failed = |source| Error::Listen { address, source };
            sockets
                .udp
                .push(UdpSocket::bind(address).await.map_err(failed)?);
            sockets
                .tcp
                .push(TcpListener::bind(address).await.map_err(failed)?);
        }
        Ok(sockets)
    }

    pub(crate) async fn serve(self, handler: Handler, shutdown: CancellationToken) {
        let mut server = Server::new(handler);
        for socket in self.udp {
            server.register_socket(socket);
        }
        for listener in self.tcp {
            server.register_listener(listener, TCP_IDLE, TCP_BUFFER);
        }
        shutdown.cancelled().await;
        if let Err(error) = server.shutdown_gracefully().await {
            tracing::debug!(%error, "the DNS server ended");
        }
    }
}

pub(crate) struct Handler {
    zone: Zone,
    apex: Name,
    directory: CachedDirectory,
    forwarder: Arc<Forwarder>,
    /// Turns the order of answers, so that clients that take the first one are spread.
    turn: AtomicUsize,
    listener: Option<mpsc::Sender<Answered>>,
}

/// What goes into the response.
struct Outcome {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Handler {
    pub(crate) fn new(
        config: &Config,
        directory: CachedDirectory,
        listener: Option<mpsc::Sender<Answered>>,
    ) -> Result<Self, Error> {
        let domain = config
            .cluster_domain
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let apex = absolute(&domain).map_err(|reason| Error::Domain {
            domain: config.cluster_domain.clone(),
            reason: reason.to_string(),
        })?;
        let ranges = config.cluster_ranges.clone();
        let forwarder = Arc::new(Forwarder::new(config)?);
        let zone = Zone { domain, ranges };
        Ok(Self {
            zone,
            apex,
            directory,
            forwarder,
            turn: AtomicUsize::new(0),
            listener,
        })
    }

    async fn resolve(&self, name: &Name, kind: RecordType) -> Outcome {
        let mut answers = Vec::new();
        let mut current = text(name);
        for _ in 0..LONGEST_CHAIN {
            match self.zone.answer(&self.directory, &current, asked(kind)) {
                Answer::Found {
                    answers: found,
                    additionals,
                } => {
                    answers.extend(self.turned(found));
                    let additionals = additionals.iter().filter_map(record).collect();
                    return Outcome {
                        additionals,
                        ..self.own(ResponseCode::NoError, answers)
                    };
                }
                Answer::Alias { name, target } => {
                    answers.extend(record(&Rr {
                        name,
                        data: Data::Alias(target.clone()),
                    }));
                    if kind == RecordType::CNAME {
                        return self.own(ResponseCode::NoError, answers);
                    }
                    current = target;
                }
                Answer::Empty => return self.own(ResponseCode::NoError, answers),
                Answer::NoSuchName => return self.own(ResponseCode::NXDomain, answers),
                Answer::Elsewhere => return self.elsewhere(&current, name, kind, answers).await,
            }
        }
        self.own(ResponseCode::ServFail, answers)
    }

    fn own(&self, code: ResponseCode, answers: Vec<Record>) -> Outcome {
        let authorities = if answers.is_empty() {
            vec![self.authority()]
        } else {
            Vec::new()
        };
        Outcome {
            code,
            authoritative: true,
            answers,
            authorities,
            additionals: Vec::new(),
        }
    }

    async fn elsewhere(
        &self,
        current: &str,
        asked: &Name,
        kind: RecordType,
        mut answers: Vec<Record>,
    ) -> Outcome {
        // The client's own spelling where nothing was followed: some compare it.
        let target = if answers.is_empty() {
            Ok(asked.clone())
        } else {
            absolute(current)
        };
        let Ok(target) = target else {
            return self.own(ResponseCode::ServFail, answers);
        };
        let forwarded = self.forwarder.ask(target, kind).await;
        let followed = !answers.is_empty();
        answers.extend(forwarded.answers);
        // An alias is an answer even if its target cannot be resolved.
        let code = if followed {
            ResponseCode::NoError
        } else {
            forwarded.code
        };
        let none = Vec::new;
        Outcome {
            code,
            authoritative: false,
            answers,
            authorities: none(),
            additionals: none(),
        }
    }

    fn turned(&self, mut found: Vec<Rr>) -> Vec<Record> {
        if !found.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        found.iter().filter_map(record).collect()
    }

    /// Says for how long the absence of a name may be remembered (RFC 2308).
    fn authority(&self) -> Record {
        let prefixed = |label: &str| {
            absolute(&format!("{label}.{}", self.zone.domain)).unwrap_or_else(|_| self.apex.clone())
        };
        let soa = SOA::new(
            prefixed("ns.dns"),
            prefixed("hostmaster"),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let outcome = match request.request_info() {
            Ok(info) if request.metadata.op_code == OpCode::Query => {
                let query = info.query;
                match query.query_class() {
                    DNSClass::IN | DNSClass::ANY => {
                        let name = query.original().name();
                        let outcome = self.resolve(name, query.query_type()).await;
                        if let Some(listener) = &self.listener {
                            tell(listener, &text(name), &outcome.answers).await;
                        }
                        outcome
                    }
                    _ => refused(ResponseCode::Refused),
                }
            }
            Ok(_) => refused(ResponseCode::NotImp),
            Err(_) => refused(ResponseCode::FormErr),
        };
        metadata.response_code = outcome.code;
        metadata.authoritative = outcome.authoritative;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD.min(request.max_payload()).max(512));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let message = builder.build(
            metadata,
            &outcome.answers,
            &outcome.authorities,
            [],
            &outcome.additionals,
        );
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "an answer was not sent");
                let mut metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                Header {
                    metadata,
                    counts: HeaderCounts::default(),
                }
                .into()
            }
        }
    }
}

fn refused(code: ResponseCode) -> Outcome {
    let none = Vec::new;
    Outcome {
        code,
        authoritative: false,
        answers: none(),
        authorities: Vec::new(),
        additionals: Vec::new(),
    }
}

fn asked(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        RecordType::CNAME => Kind::Cname,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// A name as the zone reads it: lower case, without the final dot.
fn text(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn absolute(name: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// A record for the wire; `None` if an object's name does not fit a domain name.
fn record(rr: &Rr) -> Option<Record> {
    let data = match &rr.data {
        Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        Data::Srv {
            port,
            weight,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, absolute(target).ok()?)),
        Data::Pointer(name) => RData::PTR(PTR(absolute(name).ok()?)),
        Data::Alias(name) => RData::CNAME(CNAME(absolute(name).ok()?)),
        Data::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(absolute(&rr.name).ok()?, TTL, data))
}
