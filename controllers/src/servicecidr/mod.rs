//! ServiceCIDR: tells when a range of Service addresses is ready, and keeps a range that is
//! being deleted until no address needs it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use serde_json::json;
use watch_cache::WatchCache;

use crate::framework::{Context, Error, Outcome, Reconciler, Tolerate, act};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

pub(crate) fn start(context: &Context) {
    let ranges = context.caches.of::<ServiceCIDR>();
    let addresses = context.caches.of::<IPAddress>();
    let going = ranges.clone();
    let others = ranges.clone();
    context
        .controller("service-cidr-controller")
        .watch(&ranges, move |change| {
            let mut names = vec![change.key().name];
            let all = others.list();
            let waiting = all
                .iter()
                .filter(|one| one.metadata.deletion_timestamp.is_some());
            names.extend(waiting.map(|one| one.name_any()));
            names
        })
        // An address less may be the last that a range waited for.
        .watch(&addresses, move |change| {
            let gone = matches!(change, watch_cache::Change::Deleted { .. });
            let all = if gone { going.list() } else { Vec::new() };
            let waiting = all
                .iter()
                .filter(|one| one.metadata.deletion_timestamp.is_some());
            waiting.map(|one| one.name_any()).collect::<Vec<_>>()
        })
        .run(
            1,
            Controller {
                context: context.clone(),
                ranges,
                addresses,
            },
        );
}

fn cidrs(range: &ServiceCIDR) -> Vec<IpNetwork> {
    let cidrs = range
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|text| text.parse().ok()).collect()
}

/// Whether some address is in this range and in no other that stays.
fn is_needed(range: &ServiceCIDR, others: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let own = cidrs(range);
    let staying: Vec<IpNetwork> = others
        .iter()
        .filter(|other| other.metadata.name != range.metadata.name)
        .filter(|other| other.metadata.deletion_timestamp.is_none())
        .flat_map(|other| cidrs(other))
        .collect();
    let within = |nets: &[IpNetwork], ip: IpAddr| nets.iter().any(|net| net.contains(ip));
    addresses
        .iter()
        .any(|ip| within(&own, *ip) && !within(&staying, *ip))
}

struct Controller {
    context: Context,
    ranges: WatchCache<ServiceCIDR>,
    addresses: WatchCache<IPAddress>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(range) = self.ranges.get("", name) else {
            return Ok(Outcome::Done);
        };
        let api = self.context.cluster_api::<ServiceCIDR>();
        let held = range
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER);
        if range.metadata.deletion_timestamp.is_none() {
            if !held {
                let mut finalizers = range.finalizers().to_vec();
                finalizers.push(FINALIZER.to_owned());
                let change = json!({"metadata": {"finalizers": finalizers}});
                act::merge(&api, range.as_ref(), change)
                    .await
                    .unless_gone()?;
                return Ok(Outcome::Done);
            }
            self.tell(&range, "True", "", "Kubernetes Service CIDR is ready")
                .await?;
            return Ok(Outcome::Done);
        }
        if !held {
            return Ok(Outcome::Done);
        }
        let addresses: Vec<IpAddr> = self
            .addresses
            .list()
            .iter()
            .filter_map(|ip| ip.name_any().parse().ok())
            .collect();
        if is_needed(&range, &self.ranges.list(), &addresses) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.tell(&range, "False", "Terminating", message).await?;
            return Ok(Outcome::Done);
        }
        let mut finalizers = range.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let change = json!({"metadata": {"finalizers": finalizers}});
        act::merge(&api, range.as_ref(), change)
            .await
            .unless_gone()?;
        Ok(Outcome::Done)
    }
}

impl Controller {
    async fn tell(
        &self,
        range: &ServiceCIDR,
        value: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        let conditions = range
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone());
        let mut conditions = conditions.unwrap_or_default();
        let known = conditions
            .iter()
            .find(|condition| condition.type_ == "Ready");
        if known.is_some_and(|known| known.status == value && known.message == message) {
            return Ok(());
        }
        conditions.retain(|condition| condition.type_ != "Ready");
        conditions.push(Condition {
            type_: "Ready".to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(Timestamp::now()),
            observed_generation: None,
        });
        let mut told = range.clone();
        told.status.get_or_insert_default().conditions = Some(conditions);
        act::replace_status(&self.context.cluster_api(), &told)
            .await
            .unless_gone()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_while_an_address_is_in_no_other() {
        let range = |name: &str, cidr: &str, going: bool| -> Arc<ServiceCIDR> {
            let mut range = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
            if going {
                range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value(range).expect("a ServiceCIDR"))
        };
        let small = range("small", "10.0.0.0/24", true);
        let large = range("large", "10.0.0.0/16", false);
        let address: IpAddr = "10.0.0.7".parse().expect("an address");
        let all = [small.clone(), large.clone()];
        assert!(!is_needed(&small, &all, &[address]));
        assert!(is_needed(&small, std::slice::from_ref(&small), &[address]));
        assert!(!is_needed(&small, std::slice::from_ref(&small), &[]));
    }
}
