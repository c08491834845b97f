//! Endpoints: the older form of EndpointSlices, one object for each Service.

mod plan;

use std::time::Instant;

use api_rules::selector::map_matches;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::ResourceExt;
use kube::api::DeleteParams;
use watch_cache::{ObjectKey, WatchCache};

use crate::endpointslice::{desired, services_of};
use crate::framework::{Context, Error, Expectations, Outcome, Reconciler, Tolerate, act};
use plan::MANAGED_BY;

const NAME: &str = "endpoints-controller";

pub(crate) fn start(context: &Context) {
    let services = context.caches.of::<Service>();
    let all_pods = context.caches.of::<Pod>();
    let all = context.caches.of::<Endpoints>();
    let for_pods = services.clone();
    context
        .controller(NAME)
        .watch(&services, |change| [change.key()])
        .watch(&all_pods, move |change| services_of(change, &for_pods))
        .watch(&all, |change| [change.key()])
        .run(
            context.config.workers,
            Controller {
                context: context.clone(),
                services,
                all_pods,
                all,
                expectations: Expectations::default(),
            },
        );
}

struct Controller {
    context: Context,
    services: WatchCache<Service>,
    all_pods: WatchCache<Pod>,
    all: WatchCache<Endpoints>,
    expectations: Expectations,
}

impl Reconciler for Controller {
    type Key = ObjectKey;

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        if let Err(wait) = self.expectations.fresh(key, &self.all, Instant::now()) {
            return Ok(Outcome::After(wait));
        }
        let api = self.context.api::<Endpoints>(&key.namespace);
        let current = self.all.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            // Only what a Service had: Endpoints without one belong to whoever wrote them.
            let ours = current.filter(|found| found.labels().contains_key(MANAGED_BY));
            if let Some(endpoints) = ours {
                act::delete(&api, endpoints.as_ref(), DeleteParams::default()).await?;
                self.expectations
                    .deleted(key, endpoints.as_ref(), Instant::now());
            }
            return Ok(Outcome::Done);
        };
        if !desired::is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector = selector.unwrap_or_default();
        let mut selected = self.all_pods.list_namespace(&key.namespace);
        selected.retain(|pod| map_matches(&selector, pod.labels()));
        let wanted = plan::endpoints(&service, &selected, current.as_deref());
        let written = match current {
            Some(current) if plan::is_same(&current, &wanted) => return Ok(Outcome::Done),
            Some(_) => act::replace(&api, &wanted).await.unless_gone()?,
            None => match act::create(&api, &wanted).await {
                Err(error) if error.is_namespace_terminating() => None,
                other => Some(other?),
            },
        };
        if let Some(written) = written {
            self.expectations.wrote(key, &written, Instant::now());
        }
        Ok(Outcome::Done)
    }
}
