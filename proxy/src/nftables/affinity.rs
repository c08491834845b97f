//! Services whose clients stay with their back end: chains of their own, and for each back end
//! a set of the clients that it has.

use std::sync::Arc;
use std::time::Duration;

use kernel::nftables::{
    DataType, Datum, DynsetOp, Element, Field, NumgenMode, Set, SetRef, Statement, Verdict,
};
use sha2::{Digest, Sha256};

use super::content::Writer;
use super::layout::Treatment;
use crate::model::{Backend, PortId, Protocol, TrafficPolicy};

/// Names have room for 128 characters.
const LONGEST: usize = 100;

/// What tells a Service port's chains from others, with a part for people to read.
pub(crate) fn suffix(id: &PortId, protocol: Protocol) -> String {
    let hash = hex8(&format!("{id} {}", protocol.name()));
    let mut readable = format!(
        "{}/{}/{}/{}",
        id.service.namespace,
        id.service.name,
        protocol.name(),
        id.port
    );
    readable.truncate(LONGEST);
    format!("{hash}-{readable}")
}

fn hex8(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn choice(writer: &Writer<'_>, policy: TrafficPolicy) -> String {
    let word = match policy {
        TrafficPolicy::Cluster => "service",
        TrafficPolicy::Local => "local",
    };
    format!("{word}-{}", suffix(&writer.port.id, writer.port.protocol))
}

/// The name that a back end's chain and set have in common.
fn endpoint(writer: &Writer<'_>, backend: &Backend) -> String {
    let socket = std::net::SocketAddr::new(backend.address, backend.port);
    let hash = hex8(&format!(
        "{} {} {socket}",
        writer.port.id,
        writer.port.protocol.name()
    ));
    let mut readable = format!("{}/{}", writer.port.id.service, backend.address);
    // Colons are not for names.
    readable = readable.replace(':', ".");
    readable.truncate(LONGEST);
    format!("{hash}-{readable}/{}", backend.port)
}

/// The chains that choose and translate.
pub(crate) fn chains(writer: &mut Writer<'_>) {
    let port = writer.port;
    let Some(seconds) = port.affinity else { return };
    let timeout = Duration::from_secs(u64::from(seconds));
    for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        let backends = port.backends(policy);
        if backends.is_empty() {
            continue;
        }
        let rules = choose(writer, backends);
        let name = choice(writer, policy);
        writer.content.chains.insert(name, rules);
    }
    let mut all: Vec<Backend> = port.cluster.iter().chain(&port.local).copied().collect();
    all.sort();
    all.dedup();
    for backend in all {
        translate(writer, &backend, timeout);
    }
}

fn choose(writer: &Writer<'_>, backends: &[Backend]) -> Vec<Vec<Statement>> {
    let saddr = Field::saddr(writer.layout.family.is_v6());
    let mut rules: Vec<Vec<Statement>> = backends
        .iter()
        .map(|backend| {
            let name = endpoint(writer, backend);
            vec![
                Statement::is_in([saddr.clone()], format!("clients-{name}")),
                Statement::goto(format!("endpoint-{name}")),
            ]
        })
        .collect();
    let elements = (0u32..)
        .zip(backends)
        .map(|(number, backend)| {
            let chain = format!("endpoint-{}", endpoint(writer, backend));
            Element::new(Datum::Number(number)).verdict(Verdict::Goto(chain.into()))
        })
        .collect();
    let modulus = backends.len() as u32;
    rules.push(vec![Statement::VerdictMap {
        key: vec![Field::Numgen {
            mode: NumgenMode::Random,
            modulus,
            offset: 0,
        }],
        map: SetRef::Anonymous { elements },
    }]);
    rules
}

fn translate(writer: &mut Writer<'_>, backend: &Backend, timeout: Duration) {
    let v6 = writer.layout.family.is_v6();
    let name = endpoint(writer, backend);
    let clients = format!("clients-{name}");
    let set = Set::new(
        &writer.layout.table,
        clients.as_str(),
        [DataType::address(v6)],
    );
    writer
        .content
        .sets
        .insert(clients.clone(), Arc::new(set.dynamic(timeout)));
    let remember = Statement::Dynset {
        op: DynsetOp::Update,
        set: clients.into(),
        key: vec![Field::saddr(v6)],
        timeout: None,
    };
    let rules = vec![vec![
        remember,
        Statement::protocol(writer.port.protocol.number()),
        Statement::dnat(backend.address, Some(backend.port)),
    ]];
    writer
        .content
        .chains
        .insert(format!("endpoint-{name}"), rules);
}

/// The chain by which a front end's traffic enters, made where it is missing.
pub(crate) fn entrance(writer: &mut Writer<'_>, treatment: Treatment) -> String {
    let layout = writer.layout;
    let (cluster, local) = (
        choice(writer, TrafficPolicy::Cluster),
        choice(writer, TrafficPolicy::Local),
    );
    let go = |chain: &str| vec![Statement::goto(chain)];
    let (word, rules) = match treatment {
        Treatment::Internal(_) | Treatment::InternalLocal(_) | Treatment::MarkedOffCluster => {
            let target = if matches!(treatment, Treatment::Internal(_)) {
                &cluster
            } else {
                &local
            };
            let mut rules: Vec<_> = layout.mark_off_cluster().into_iter().collect();
            rules.push(go(target));
            ("cluster-ip", rules)
        }
        Treatment::External(_) | Treatment::Choice(_) | Treatment::Marked => (
            "external",
            vec![vec![layout.mark_statement()], go(&cluster)],
        ),
        Treatment::ExternalLocal {
            cluster: all,
            local: here,
        } => {
            let mut rules = if all > 0 {
                layout.short_cut(&cluster)
            } else {
                Vec::new()
            };
            if here > 0 {
                rules.push(go(&local));
            }
            ("external", rules)
        }
    };
    let name = format!("{word}-{}", suffix(&writer.port.id, writer.port.protocol));
    writer.content.chains.insert(name.clone(), rules);
    name
}
