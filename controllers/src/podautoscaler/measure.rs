//! One metric of an autoscaler: read, compared with its target, and told in the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_rules::quantity;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::core::GroupVersionKind;

use super::replicas::{self, Answer, NoAnswer, Samples, TOLERANCE, Target};
use super::source::Source;
use crate::framework::pods::is_ready;
use crate::framework::{During, Error};

/// What one metric asks for, and how the status tells it.
#[derive(Debug)]
pub(crate) struct Measured {
    pub replicas: i32,
    /// The metric's name for people.
    pub subject: String,
    pub status: MetricStatus,
}

/// Why a metric says nothing; the reason is the one of condition and event.
#[derive(Debug)]
pub(crate) struct Failed {
    pub reason: &'static str,
    /// Which value is missing, for the event about all metrics.
    pub what: String,
    pub message: String,
}

/// What the metrics of one autoscaler are measured against.
pub(crate) struct Subject<'a> {
    pub autoscaler: &'a HorizontalPodAutoscaler,
    pub namespace: &'a str,
    /// The pods' selector, as text.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    pub current: i32,
    pub now: Timestamp,
}

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    quantity.and_then(|quantity| quantity::milli_value(quantity).ok())
}

/// Thousandths as people write them.
fn written(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    })
}

fn averaged(answer: Answer) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: answer
            .utilization
            .and_then(|percent| i32::try_from(percent).ok()),
        average_value: Some(written(answer.average)),
        value: None,
    }
}

/// What each pod requests of a resource; an error where a container requests none.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, NoAnswer> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let containers = pod.spec.iter().flat_map(|spec| {
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| api_rules::requests::is_sidecar(c));
            spec.containers.iter().chain(sidecars)
        });
        let mut sum = 0;
        for own in containers.filter(|own| container.is_none_or(|wanted| own.name == wanted)) {
            sum += request(own, resource).ok_or_else(|| NoAnswer::Request {
                resource: resource.to_owned(),
                container: own.name.clone(),
                pod: pod.name_any(),
            })?;
        }
        requests.insert(pod.name_any(), sum);
    }
    Ok(requests)
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    milli(requests.get(resource))
}

impl Subject<'_> {
    fn tolerance(&self, up: bool) -> f64 {
        let behavior = self.autoscaler.spec.behavior.as_ref();
        let rules = behavior.and_then(|behavior| {
            if up {
                behavior.scale_up.as_ref()
            } else {
                behavior.scale_down.as_ref()
            }
        });
        let own = milli(rules.and_then(|rules| rules.tolerance.as_ref()));
        own.map_or(TOLERANCE, |milli| milli as f64 / 1000.0)
    }

    fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| is_ready(pod)).count()
    }

    /// The narrower tolerance counts: the direction is not known before the comparison.
    fn narrow(&self) -> f64 {
        self.tolerance(true).min(self.tolerance(false))
    }

    /// Reads and compares one metric.
    pub(crate) async fn measure(
        &self,
        source: &Source,
        spec: &MetricSpec,
    ) -> Result<Measured, Failed> {
        let measured = match spec.type_.as_str() {
            "Resource" => self.resource(source, spec).await,
            "ContainerResource" => self.container(source, spec).await,
            "Pods" => self.of_pods(source, spec).await,
            "Object" => self.object(source, spec).await,
            "External" => self.external(source, spec).await,
            _ => Err(Fault::Target),
        };
        measured.map_err(|fault| self.failed(spec, &fault))
    }

    /// A fault in upstream's words.
    fn failed(&self, spec: &MetricSpec, fault: &Fault) -> Failed {
        let custom = "unable to fetch metrics from custom metrics API";
        let of_resource = |name: &str, target: &MetricTarget| {
            let kind = match target.average_utilization {
                Some(_) => "utilization",
                None => "usage",
            };
            let unread = format!(
                "unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API"
            );
            (format!("failed to get {name} {kind}: "), unread)
        };
        let (reason, what, (lead, unread)) = match (
            &spec.resource,
            &spec.container_resource,
            &spec.pods,
            &spec.object,
            &spec.external,
        ) {
            (Some(metric), ..) => (
                "FailedGetResourceMetric",
                format!("{} resource", metric.name),
                of_resource(&metric.name, &metric.target),
            ),
            (_, Some(metric), ..) => (
                "FailedGetContainerResourceMetric",
                format!("{} container", metric.name),
                of_resource(&metric.name, &metric.target),
            ),
            (_, _, Some(metric), ..) => {
                let unread = format!("unable to get metric {}: {custom}", metric.metric.name);
                (
                    "FailedGetPodsMetric",
                    "pods".to_owned(),
                    (String::new(), unread),
                )
            }
            (_, _, _, Some(metric), _) => {
                let (of, name) = (&metric.described_object, &metric.metric.name);
                let on = format!("{} on {} {}", of.kind, self.namespace, of.name);
                let unread = format!("unable to get metric {name}: {on}/{custom}");
                (
                    "FailedGetObjectMetric",
                    "object".to_owned(),
                    (String::new(), unread),
                )
            }
            (_, _, _, _, Some(metric)) => {
                let name = &metric.metric.name;
                let unread = format!(
                    "unable to get external metric {}/{name}: unable to fetch metrics from external metrics API",
                    self.namespace
                );
                (
                    "FailedGetExternalMetric",
                    format!("{name} external"),
                    (String::new(), unread),
                )
            }
            _ => {
                let message = format!("unknown metric source type {:?}", spec.type_);
                let what = "invalid metric source".to_owned();
                return Failed {
                    reason: "InvalidMetricSourceType",
                    what,
                    message,
                };
            }
        };
        let message = match fault {
            Fault::Read(error) => format!("{lead}{unread}: {}", error.message()),
            other => format!("{lead}{other}"),
        };
        Failed {
            reason,
            what: format!("failed to get {what} metric value"),
            message,
        }
    }

    fn compare(
        &self,
        samples: Samples,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<Answer, Fault> {
        let cpu = resource == "cpu";
        let tolerance = self.narrow();
        if let Some(average) = milli(target.average_value.as_ref()) {
            let target = Target::Average(average);
            let of = replicas::of_pods(
                self.current,
                self.pods,
                samples,
                target,
                cpu,
                tolerance,
                self.now,
            );
            return Ok(of?);
        }
        let percent = target.average_utilization.ok_or(Fault::Target)?;
        let requests = requests(self.pods, resource, container)?;
        let target = Target::Utilization {
            percent: i64::from(percent),
            requests: &requests,
        };
        let of = replicas::of_pods(
            self.current,
            self.pods,
            samples,
            target,
            cpu,
            tolerance,
            self.now,
        );
        Ok(of?)
    }

    async fn resource(&self, source: &Source, spec: &MetricSpec) -> Result<Measured, Fault> {
        let metric = spec.resource.as_ref().ok_or(Fault::Target)?;
        let samples = source
            .resource(self.namespace, self.selector, &metric.name, None)
            .await?;
        let answer = self.compare(samples, &metric.name, None, &metric.target)?;
        let kind = if answer.utilization.is_some() {
            "resource utilization (percentage of request)"
        } else {
            "resource"
        };
        Ok(Measured {
            replicas: answer.replicas,
            subject: format!("{} {kind}", metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                resource: Some(ResourceMetricStatus {
                    name: metric.name.clone(),
                    current: averaged(answer),
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn container(&self, source: &Source, spec: &MetricSpec) -> Result<Measured, Fault> {
        let metric = spec.container_resource.as_ref().ok_or(Fault::Target)?;
        let container = Some(metric.container.as_str());
        let samples = source
            .resource(self.namespace, self.selector, &metric.name, container)
            .await?;
        let answer = self.compare(samples, &metric.name, container, &metric.target)?;
        Ok(Measured {
            replicas: answer.replicas,
            subject: format!("{} container resource", metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                container_resource: Some(ContainerResourceMetricStatus {
                    container: metric.container.clone(),
                    name: metric.name.clone(),
                    current: averaged(answer),
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn of_pods(&self, source: &Source, spec: &MetricSpec) -> Result<Measured, Fault> {
        let metric = spec.pods.as_ref().ok_or(Fault::Target)?;
        let samples = source
            .pods(self.namespace, self.selector, &metric.metric)
            .await?;
        let answer = self.compare(samples, "", None, &metric.target)?;
        Ok(Measured {
            replicas: answer.replicas,
            subject: format!("pods metric {}", metric.metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                pods: Some(PodsMetricStatus {
                    metric: metric.metric.clone(),
                    current: averaged(answer),
                }),
                ..MetricStatus::default()
            },
        })
    }

    /// A value of one thing, compared as a whole or divided among the pods.
    fn whole(&self, usage: i64, target: &MetricTarget) -> Result<(i32, MetricValueStatus), Fault> {
        if let Some(value) = milli(target.value.as_ref()) {
            let replicas =
                replicas::of_value(self.current, self.ready(), usage, value, self.narrow());
            let current = MetricValueStatus {
                value: Some(written(usage)),
                ..MetricValueStatus::default()
            };
            return Ok((replicas, current));
        }
        let share = milli(target.average_value.as_ref()).ok_or(Fault::Target)?;
        let replicas = replicas::of_share(self.current, usage, share, self.narrow());
        let current = MetricValueStatus {
            average_value: Some(written(usage / i64::from(self.current.max(1)))),
            ..MetricValueStatus::default()
        };
        Ok((replicas, current))
    }

    async fn object(&self, source: &Source, spec: &MetricSpec) -> Result<Measured, Fault> {
        let metric = spec.object.as_ref().ok_or(Fault::Target)?;
        let described = &metric.described_object;
        let version = described
            .api_version
            .clone()
            .unwrap_or_else(|| "v1".to_owned());
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = GroupVersionKind::gvk(group, version, &described.kind);
        let (resource, _) = kube::discovery::pinned_kind(&source.client, &kind)
            .await
            .during("looking up", &described.kind)?;
        let plural = if group.is_empty() {
            resource.plural
        } else {
            format!("{}.{group}", resource.plural)
        };
        let usage = source
            .object(self.namespace, &plural, described, &metric.metric)
            .await?
            .ok_or(NoAnswer::Metrics)?;
        let (replicas, current) = self.whole(usage, &metric.target)?;
        Ok(Measured {
            replicas,
            subject: format!("{} metric {}", described.kind, metric.metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                object: Some(ObjectMetricStatus {
                    described_object: described.clone(),
                    metric: metric.metric.clone(),
                    current,
                }),
                ..MetricStatus::default()
            },
        })
    }

    async fn external(&self, source: &Source, spec: &MetricSpec) -> Result<Measured, Fault> {
        let metric = spec.external.as_ref().ok_or(Fault::Target)?;
        let usage = source
            .external(self.namespace, &metric.metric)
            .await?
            .ok_or(NoAnswer::Metrics)?;
        let (replicas, current) = self.whole(usage, &metric.target)?;
        Ok(Measured {
            replicas,
            subject: format!("external metric {}", metric.metric.name),
            status: MetricStatus {
                type_: spec.type_.clone(),
                external: Some(ExternalMetricStatus {
                    metric: metric.metric.clone(),
                    current,
                }),
                ..MetricStatus::default()
            },
        })
    }
}

/// Why one metric says nothing.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Read(#[from] Error),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// Validation should have refused it.
    #[error("the metric has no target of a known kind")]
    Target,
}
