//! `networking.k8s.io` and `discovery.k8s.io`.

use serde_json::Value;

use super::Cells;
use super::core::balancer;
use super::text::{View, selector, with_more};

pub(super) fn cells(view: View<'_>, kind: &str) -> Option<Cells> {
    let name = view.name();
    Some(match kind {
        "Ingress" => vec![
            name,
            view.text_or("/spec/ingressClassName", "<none>"),
            hosts(view.list("/spec/rules")).into(),
            balancer(view)
                .into_iter()
                .collect::<Vec<_>>()
                .join(",")
                .into(),
            if view.list("/spec/tls").is_empty() {
                "80"
            } else {
                "80, 443"
            }
            .into(),
            view.age(),
        ],
        "IngressClass" => vec![
            name,
            view.text("/spec/controller").into(),
            parameters(view).into(),
            view.age(),
        ],
        "NetworkPolicy" => vec![
            name,
            selector(view.at("/spec/podSelector")).into(),
            view.age(),
        ],
        "ServiceCIDR" => {
            let own: Vec<&str> = view
                .list("/spec/cidrs")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            vec![name, own.join(",").into(), view.age()]
        }
        "IPAddress" => vec![name, parent(view).into()],
        "EndpointSlice" => vec![
            name,
            view.text("/addressType").into(),
            ports(view.list("/ports")).into(),
            addresses(view.list("/endpoints")).into(),
            view.age(),
        ],
        _ => return None,
    })
}

fn hosts(rules: &[Value]) -> String {
    const MAX: usize = 3;
    let (mut shown, mut more) = (Vec::new(), false);
    for rule in rules {
        more |= shown.len() == MAX;
        if let Some(host) = rule["host"].as_str().filter(|h| !more && !h.is_empty()) {
            shown.push(host);
        }
    }
    match shown.join(",") {
        all if all.is_empty() => "*".into(),
        all if more => format!("{all} + {} more...", rules.len() - MAX),
        all => all,
    }
}

fn parameters(view: View<'_>) -> String {
    if view.at("/spec/parameters").is_null() {
        return "<none>".into();
    }
    let (kind, name) = (
        view.text("/spec/parameters/kind"),
        view.text("/spec/parameters/name"),
    );
    match view.text("/spec/parameters/apiGroup") {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}

fn parent(view: View<'_>) -> String {
    if view.at("/spec/parentRef").is_null() {
        return "<none>".into();
    }
    let text = |name: &str| view.text(&format!("/spec/parentRef/{name}")).to_lowercase();
    let resource = match text("group") {
        group if group.is_empty() => text("resource"),
        group => format!("{}.{group}", text("resource")),
    };
    let parts = [resource, text("namespace"), text("name")];
    parts
        .into_iter()
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

fn ports(ports: &[Value]) -> String {
    let one = |p: &Value| match (&p["port"], p["name"].as_str()) {
        (Value::Number(n), _) => n.to_string(),
        (_, Some(name)) => name.to_owned(),
        _ => "*".into(),
    };
    with_more(
        &ports.iter().map(one).collect::<Vec<_>>(),
        3,
        ",",
        "<unset>",
    )
}

fn addresses(endpoints: &[Value]) -> String {
    let all: Vec<String> = endpoints
        .iter()
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    with_more(&all, 3, ",", "<unset>")
}
