//! What Nodes and Pods say in annotations, and what plugins ask the node's agent.

use std::collections::BTreeMap;

use flannel_vxlan::annotations as flannel;
use flannel_vxlan::model::Outer;
use ip_pools::gate::{Answer, Request};
use ip_pools::model::{annotation, own_ranges, pod_ranges};
use ip_pools::selector::{Labels, Selector};
use ip_pools::wish::Wish;
use k8s_openapi::api::core::v1::Node;

/// A line for each annotation: `KEY=VALUE`.
fn pairs(data: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Flannel's annotations and Fairlead's, on one Node.
pub(crate) fn annotations(data: &[u8]) {
    let pairs = pairs(data);
    for outer in Outer::ALL {
        // Either is an answer.
        let _ = flannel::overwrite(&pairs, outer);
    }
    if let Ok(endpoints) = flannel::decode(&pairs) {
        let written = flannel::encode(&endpoints);
        let written = written.into_iter().filter_map(|(k, v)| Some((k, v?)));
        assert_eq!(flannel::decode(&written.collect()), Ok(endpoints));
    }
    let mut node = Node::default();
    let cidrs = pairs.get("podCIDRs").map(String::as_str);
    let cidrs = cidrs.unwrap_or_default().split(',').map(str::to_owned);
    node.spec.get_or_insert_default().pod_cidrs = Some(cidrs.collect());
    node.metadata.annotations = Some(pairs);
    let published: Vec<_> = pod_ranges(&node)
        .into_iter()
        .skip(own_ranges(&node).len())
        .collect();
    // What nodes publish reads back.
    let text = annotation(&published.iter().copied().collect());
    let read = text.split(',').filter(|text| !text.is_empty());
    assert!(
        read.into_iter()
            .all(|text| text.parse::<ipnetwork::IpNetwork>().is_ok())
    );
}

/// A Pod's annotations before an empty line, its Namespace's behind it; selectors of pools.
pub(crate) fn wish(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pod, namespace) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (pod, namespace) = (pairs(pod.as_bytes()), pairs(namespace.as_bytes()));
    if let Ok(wish) = Wish::read(&pod, &namespace, Labels::new()) {
        assert!(wish.addresses.len() <= 2);
    }
    if let Some(text) = pod.get("selector")
        && let Ok(selector) = Selector::parse(text)
    {
        selector.matches(&namespace);
    }
}

/// A plugin's question to the agent, and what any program would answer in its place.
pub(crate) fn pool_request(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let again = serde_json::to_vec(&request).unwrap_or_default();
        assert_eq!(
            serde_json::from_slice::<Request>(&again).ok(),
            Some(request)
        );
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        let again = serde_json::to_vec(&answer).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Answer>(&again).ok(), Some(answer));
    }
}
