//! Texts of types and fields, from the schemas that `k8s-openapi` carries.

use k8s_openapi::api::admissionregistration::v1 as admissionregistration;
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::authorization::v1 as authorization;
use k8s_openapi::api::autoscaling::v1 as autoscaling;
use k8s_openapi::api::autoscaling::v2 as autoscaling_v2;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::version;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// Texts of some types and of everything they refer to.
pub(super) struct Descriptions(Map<String, Value>);

/// Lists are generic in `k8s-openapi`: they have no texts there.
const LIST_FIELDS: [(&str, &str); 4] = [
    ("apiVersion", "Version of the schema of this list."),
    ("kind", "Kind of this list."),
    ("metadata", "Standard metadata of the list."),
    ("items", "The objects of the list."),
];

impl Descriptions {
    /// Texts for these definitions.
    pub(super) fn of(names: &Vec<String>) -> Self {
        let mut generator = SchemaGenerator::default();
        for name in names {
            generate(name, &mut generator);
            if let Some(item) = name.strip_suffix("List") {
                generate(item, &mut generator);
            }
        }
        Self(generator.take_definitions(false))
    }

    pub(super) fn of_type(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.get("description")?.as_str()
    }

    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        let own = self.0.get(name).and_then(|d| {
            d.get("properties")?
                .get(field)?
                .get("description")?
                .as_str()
        });
        own.or_else(|| {
            let list = name.ends_with("List") && !self.0.contains_key(name);
            LIST_FIELDS
                .iter()
                .find(|(f, _)| list && *f == field)
                .map(|(_, text)| *text)
        })
    }
}

/// Makes the schema of one kind known to the generator.
macro_rules! kinds {
    ($name:expr, $generator:expr; $($prefix:literal $module:ident { $($kind:ident),* $(,)? })*) => {
        match $name {
            $($(
                concat!($prefix, ".", stringify!($kind)) => {
                    $generator.subschema_for::<$module::$kind>();
                }
            )*)*
            _ => {}
        }
    };
}

fn generate(name: &str, generator: &mut SchemaGenerator) {
    kinds! { name, generator;
        "io.k8s.api.admissionregistration.v1" admissionregistration {
            MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
        }
        "io.k8s.api.apps.v1" apps { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
        "io.k8s.api.authentication.v1" authentication { SelfSubjectReview, TokenRequest, TokenReview }
        "io.k8s.api.authorization.v1" authorization {
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        }
        "io.k8s.api.autoscaling.v1" autoscaling { HorizontalPodAutoscaler, Scale }
        "io.k8s.api.autoscaling.v2" autoscaling_v2 { HorizontalPodAutoscaler }
        "io.k8s.api.batch.v1" batch { CronJob, Job }
        "io.k8s.api.certificates.v1" certificates { CertificateSigningRequest }
        "io.k8s.api.coordination.v1" coordination { Lease }
        "io.k8s.api.core.v1" core {
            Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
            PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
        }
        "io.k8s.api.discovery.v1" discovery { EndpointSlice }
        "io.k8s.api.events.v1" events { Event }
        "io.k8s.api.flowcontrol.v1" flowcontrol { FlowSchema, PriorityLevelConfiguration }
        "io.k8s.api.networking.v1" networking { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
        "io.k8s.api.node.v1" node { RuntimeClass }
        "io.k8s.api.policy.v1" policy { Eviction, PodDisruptionBudget }
        "io.k8s.api.rbac.v1" rbac { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
        "io.k8s.api.resource.v1" resource { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        "io.k8s.api.scheduling.v1" scheduling { PriorityClass }
        "io.k8s.api.storage.v1" storage {
            CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
        }
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1" apiextensions { CustomResourceDefinition }
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1" apiregistration { APIService }
        "io.k8s.apimachinery.pkg.apis.meta.v1" meta {
            APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, Status,
        }
        "io.k8s.apimachinery.pkg.version" version { Info }
    }
}
