//! The environment of a container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service,
};

use super::containers;
use super::downward::{self, DownwardError, Surroundings};
use super::expansion::expand;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error("{kind} {name}: the value of {key} is not text")]
    NotText {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

/// The objects that the pod refers to, as far as they exist.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, std::sync::Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, std::sync::Arc<Secret>>,
}

/// Variables by name, in the order in which the process gets them.
pub type Environment = Vec<(String, String)>;

/// What a container's environment is made from.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub objects: &'a Objects,
    pub around: Surroundings<'a>,
    /// The variables of Services that the pod gets; see [`of_services`].
    pub services: &'a BTreeMap<String, String>,
}

/// The environment: what the container sets, what it takes over from ConfigMaps and
/// Secrets, and the Services' variables below both.
pub fn environment(inputs: &Inputs<'_>) -> Result<Environment, EnvError> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for (name, value) in taken_over(inputs)? {
        if variables.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    }
    for env in inputs.container.env.iter().flatten() {
        let Some(value) = value_of(inputs, env, &variables)? else {
            continue;
        };
        if variables.insert(env.name.clone(), value).is_none() {
            order.push(env.name.clone());
        }
    }
    let mut environment: Environment = order
        .into_iter()
        .filter_map(|name| variables.get(&name).cloned().map(|value| (name, value)))
        .collect();
    let services = inputs
        .services
        .iter()
        .filter(|(name, _)| !variables.contains_key(*name));
    environment.extend(services.map(|(name, value)| (name.clone(), value.clone())));
    Ok(environment)
}

/// Replaces `$(NAME)` in a command or its arguments.
pub fn expand_all(words: Option<&Vec<String>>, environment: &Environment) -> Vec<String> {
    let map: BTreeMap<&str, &str> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    words
        .into_iter()
        .flatten()
        .map(|word| expand(word, |name| map.get(name).copied()))
        .collect()
}

fn value_of(
    inputs: &Inputs<'_>,
    env: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, EnvError> {
    match (&env.value, &env.value_from) {
        (Some(value), _) if !value.is_empty() => Ok(Some(expand(value, |name| {
            known
                .get(name)
                .or_else(|| inputs.services.get(name))
                .map(String::as_str)
        }))),
        (_, Some(source)) => referred(inputs, source),
        _ => Ok(Some(String::new())),
    }
}

fn referred(inputs: &Inputs<'_>, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
    if let Some(selector) = &source.field_ref {
        return Ok(Some(downward::field(inputs.pod, selector, &inputs.around)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        let own = Some(inputs.container);
        return Ok(Some(downward::resource(
            inputs.pod,
            own,
            selector,
            &inputs.around,
        )?));
    }
    if let Some(selector) = &source.config_map_key_ref {
        let found = inputs.objects.config_maps.get(&selector.name);
        let optional = selector.optional == Some(true);
        let value = found.map(|map| map.data.as_ref().and_then(|data| data.get(&selector.key)));
        return key_result(
            inputs,
            "configmap",
            &selector.name,
            &selector.key,
            optional,
            value.map(|v| v.cloned()),
        );
    }
    if let Some(selector) = &source.secret_key_ref {
        let found = inputs.objects.secrets.get(&selector.name);
        let optional = selector.optional == Some(true);
        let value = match found {
            None => None,
            Some(secret) => Some(
                match secret.data.as_ref().and_then(|d| d.get(&selector.key)) {
                    None => None,
                    Some(bytes) => Some(text("secret", &selector.name, &selector.key, &bytes.0)?),
                },
            ),
        };
        return key_result(
            inputs,
            "secret",
            &selector.name,
            &selector.key,
            optional,
            value,
        );
    }
    Ok(Some(String::new()))
}

/// The value of a key: the object may be missing (outer), or the key in it (inner).
fn key_result(
    inputs: &Inputs<'_>,
    kind: &'static str,
    name: &str,
    key: &str,
    optional: bool,
    value: Option<Option<String>>,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional => Ok(None),
        None => Err(EnvError::Missing {
            kind,
            name: name.to_owned(),
        }),
        Some(None) => Err(EnvError::MissingKey {
            kind: if kind == "secret" {
                "Secret"
            } else {
                "ConfigMap"
            },
            namespace: inputs.pod.metadata.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
            key: key.to_owned(),
        }),
    }
}

fn text(kind: &'static str, name: &str, key: &str, bytes: &[u8]) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText {
        kind,
        name: name.to_owned(),
        key: key.to_owned(),
    })
}

/// The variables of `envFrom`, in order, later ones over earlier ones.
fn taken_over(inputs: &Inputs<'_>) -> Result<Environment, EnvError> {
    let mut variables = Environment::new();
    for source in inputs.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                variables.push((name, value));
            }
        };
        if let Some(reference) = &source.config_map_ref {
            match inputs.objects.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        add(key, value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => {
                    let name = reference.name.clone();
                    return Err(EnvError::Missing {
                        kind: "configmap",
                        name,
                    });
                }
            }
        }
        if let Some(reference) = &source.secret_ref {
            match inputs.objects.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        add(key, text("secret", &reference.name, key, &value.0)?);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => {
                    let name = reference.name.clone();
                    return Err(EnvError::Missing {
                        kind: "secret",
                        name,
                    });
                }
            }
        }
    }
    Ok(variables)
}

/// Any printable ASCII but `=`, as the API allows.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

/// The variables that tell a pod of the Services in its namespace, and of the API server.
pub fn of_services<'a>(
    pod: &Pod,
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = containers::spec(pod).enable_service_links != Some(false);
    let mut variables = BTreeMap::new();
    let mut master = None;
    for service in services {
        let own = service.metadata.namespace.as_deref() == Some(namespace);
        let is_master = service.metadata.namespace.as_deref() == Some("default")
            && service.metadata.name.as_deref() == Some("kubernetes");
        if is_master {
            master = Some(service);
        } else if own && links {
            add_service(service, &mut variables);
        }
    }
    if let Some(master) = master {
        // A Service of the same name in the pod's own namespace goes before.
        let mut own = std::mem::take(&mut variables);
        add_service(master, &mut variables);
        variables.append(&mut own);
    }
    variables
}

fn add_service(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(address) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !matches!(*ip, "" | "None"))
    else {
        return;
    };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let name = name.to_uppercase().replace('-', "_");
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port.to_string();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            variables.insert(format!("{name}_SERVICE_HOST"), address.to_owned());
            variables.insert(format!("{name}_SERVICE_PORT"), number.clone());
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            variables.insert(format!("{name}_SERVICE_PORT_{port_name}"), number.clone());
        }
        let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
        variables.insert(format!("{prefix}_PROTO"), lower);
        variables.insert(format!("{prefix}_PORT"), number);
        variables.insert(format!("{prefix}_ADDR"), address.to_owned());
        variables.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests;
