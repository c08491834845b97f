//! Where measurements come from: the metrics APIs that adapters serve beside the API server.

use std::fmt::Write;
use std::time::Duration;

use api_rules::quantity;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::core::Selector;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::framework::{During, Error};

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// The reason that the client gives to answers of other forms.
const UNREADABLE: &str = "Failed to parse error data";
/// What a measurement without a window is an average of.
const CUSTOM_WINDOW: Duration = Duration::from_secs(60);

/// The client of the metrics APIs.
#[derive(Clone)]
pub(crate) struct Source {
    pub client: Client,
}

impl Source {
    async fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Error> {
        let request = http::Request::get(format!("{path}{}", query_text(query)))
            .body(Vec::new())
            .map_err(kube::Error::HttpError)
            .during("asking for", path)?;
        let answer = self.client.request(request).await;
        answer
            .map_err(|error| plain(error, path))
            .during("reading", path)
    }

    /// CPU or memory of the pods that a selector picks; of one container where it is named.
    pub(crate) async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Samples, Error> {
        let path = format!("{RESOURCE}/namespaces/{namespace}/pods");
        let answer = self.read(&path, &[("labelSelector", selector)]).await?;
        Ok(of_pod_metrics(&answer, resource, container))
    }

    /// A metric that each of the pods has.
    pub(crate) async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &MetricIdentifier,
    ) -> Result<Samples, Error> {
        let path = format!("{CUSTOM}/namespaces/{namespace}/pods/*/{}", metric.name);
        let wanted = selector_text(metric.selector.as_ref());
        let query = [
            ("labelSelector", selector),
            ("metricLabelSelector", &wanted),
        ];
        Ok(of_values(&self.read(&path, &query).await?))
    }

    /// A metric of one object; `plural` is its resource with the group, as `routes.example.com`.
    pub(crate) async fn object(
        &self,
        namespace: &str,
        plural: &str,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<Option<i64>, Error> {
        let (name, metric_name) = (&object.name, &metric.name);
        let path = format!("{CUSTOM}/namespaces/{namespace}/{plural}/{name}/{metric_name}");
        let wanted = selector_text(metric.selector.as_ref());
        let answer = self
            .read(&path, &[("metricLabelSelector", &wanted)])
            .await?;
        Ok(of_values(&answer).into_values().map(|s| s.value).next())
    }

    /// The sum of a metric that belongs to no object of the cluster.
    pub(crate) async fn external(
        &self,
        namespace: &str,
        metric: &MetricIdentifier,
    ) -> Result<Option<i64>, Error> {
        let path = format!("{EXTERNAL}/namespaces/{namespace}/{}", metric.name);
        let wanted = selector_text(metric.selector.as_ref());
        let answer = self.read(&path, &[("labelSelector", &wanted)]).await?;
        let values: Vec<i64> = items(&answer)
            .filter_map(|item| milli(&item["value"]))
            .collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }
}

/// The client's words for answers that are not a Status: where nobody serves a metrics API, the
/// server has only a code.
fn plain(error: kube::Error, path: &str) -> kube::Error {
    let kube::Error::Api(mut status) = error else {
        return error;
    };
    let told = match status.code {
        _ if status.reason != UNREADABLE => None,
        404 => Some("the server could not find the requested resource"),
        503 => Some("the server is currently unable to handle the request"),
        _ => None,
    };
    if let Some(told) = told {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let group = parts.get(1).copied().unwrap_or_default();
        let resource = parts.get(5).copied().unwrap_or_default();
        status.message = format!("{told} (get {resource}.{group})");
    }
    kube::Error::Api(status)
}

fn selector_text(selector: Option<&LabelSelector>) -> String {
    let selector = selector.cloned().map(Selector::try_from);
    match selector {
        Some(Ok(selector)) => selector.to_string(),
        _ => String::new(),
    }
}

/// `?key=value&...` without what is empty.
fn query_text(query: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        let _ = write!(text, "{key}=");
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn milli(value: &Value) -> Option<i64> {
    quantity::milli_value(&Quantity(value.as_str()?.to_owned())).ok()
}

fn sample(item: &Value, value: i64, window: Option<Duration>) -> Option<Sample> {
    Some(Sample {
        value,
        taken: item["timestamp"].as_str()?.parse().ok()?,
        window: window.unwrap_or(CUSTOM_WINDOW),
    })
}

fn of_pod_metrics(list: &Value, resource: &str, container: Option<&str>) -> Samples {
    let of_pod = |item: &Value| {
        let containers = item["containers"].as_array()?.iter();
        let picked = containers.filter(|c| container.is_none_or(|wanted| c["name"] == wanted));
        let values: Option<Vec<i64>> = picked.map(|c| milli(&c["usage"][resource])).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let window: Option<jiff::SignedDuration> =
            item["window"].as_str().and_then(|text| text.parse().ok());
        let window = window.and_then(|window| Duration::try_from(window).ok());
        let name = item["metadata"]["name"].as_str()?.to_owned();
        Some((name, sample(item, values.iter().sum(), window)?))
    };
    items(list).filter_map(of_pod).collect()
}

fn of_values(list: &Value) -> Samples {
    let of = |item: &Value| {
        let seconds = item["windowSeconds"].as_u64().map(Duration::from_secs);
        let name = item["describedObject"]["name"].as_str()?.to_owned();
        Some((name, sample(item, milli(&item["value"])?, seconds)?))
    };
    items(list).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_of_a_pod_is_the_sum_of_its_containers() {
        let list = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10.5s",
                "containers": [{"name": "c", "usage": {"cpu": "250m", "memory": "1Ki"}},
                    {"name": "d", "usage": {"cpu": "1", "memory": "1Ki"}}]},
            {"metadata": {"name": "incomplete"}, "timestamp": "2026-01-01T00:00:00Z",
                "containers": [{"name": "c", "usage": {}}]}]});
        let all = of_pod_metrics(&list, "cpu", None);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(all["a"].value, 1250);
        assert_eq!(all["a"].window, Duration::from_millis(10_500));
        assert_eq!(of_pod_metrics(&list, "memory", None)["a"].value, 2_048_000);
        assert_eq!(of_pod_metrics(&list, "cpu", Some("d"))["a"].value, 1000);
        assert!(of_pod_metrics(&list, "cpu", Some("none")).is_empty());
    }

    #[test]
    fn a_missing_metrics_api_is_told_as_people_know_it() {
        let unreadable = |code: u16| {
            let status = kube::core::Status::failure("404 page not found", UNREADABLE);
            kube::Error::Api(status.with_code(code).boxed())
        };
        let told = |error| match plain(error, "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods") {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        };
        assert_eq!(
            told(unreadable(404)),
            "the server could not find the requested resource (get pods.metrics.k8s.io)"
        );
        assert_eq!(told(unreadable(500)), "404 page not found");
    }

    #[test]
    fn a_query_is_encoded_and_leaves_out_what_is_empty() {
        let query = [
            ("labelSelector", "a=b,c in (d)"),
            ("metricLabelSelector", ""),
        ];
        assert_eq!(
            query_text(&query),
            "?labelSelector=a%3Db%2Cc%20in%20%28d%29"
        );
        assert_eq!(query_text(&[("a", "")]), "");
    }

    #[test]
    fn values_of_custom_metrics_are_read_by_object() {
        let list = json!({"items": [{"describedObject": {"name": "p"}, "value": "1500m",
            "timestamp": "2026-01-01T00:00:00Z", "windowSeconds": 30}]});
        let values = of_values(&list);
        assert_eq!(
            (values["p"].value, values["p"].window),
            (1500, Duration::from_secs(30))
        );
    }
}
