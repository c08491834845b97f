//! A pod that speaks TLS: nginx in front of the test image, with a certificate of this suite's own
//! authority.

use anyhow::Context;
use base64::Engine;
use cluster_tests::site::{Space, pod, server_spec};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// What clients trust the server by, ready for a `caBundle`.
pub(crate) struct Served {
    pub(crate) ca_bundle: String,
}

/// An authority, and a key pair for a Service signed by it, as PEM.
fn certificates(host: &str) -> anyhow::Result<(String, String, String)> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&own, &issuer)?;
    Ok((authority_pem, certificate.pem(), own.serialize_pem()))
}

const SITE: &str = "\
server {
    listen 8443 ssl;
    ssl_certificate /tls/tls.crt;
    ssl_certificate_key /tls/tls.key;
    client_max_body_size 8m;
    location / { proxy_pass http://127.0.0.1:8080; proxy_pass_request_headers on; }
}
";

/// Starts the pod and its Service, which leads from port 443 to it.
pub(crate) fn serve(space: &Space<'_>, name: &str) -> anyhow::Result<Served> {
    let host = format!("{name}.{}.svc", space.name);
    let (authority, certificate, key) = certificates(&host)?;
    let secret = json!({"metadata": {"name": name}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key}});
    space.create("secrets", &secret)?;
    let map = json!({"metadata": {"name": name}, "data": {"site.conf": SITE}});
    space.create("configmaps", &map)?;
    let mut spec = server_spec();
    spec["volumes"] = json!([{ "name": "tls", "secret": { "secretName": name } },
        { "name": "site", "configMap": { "name": name } }]);
    let front = json!({
        "name": "tls",
        "image": "nginx:latest",
        "imagePullPolicy": "IfNotPresent",
        "readinessProbe": { "tcpSocket": { "port": 8443 }, "periodSeconds": 1 },
        "volumeMounts": [{ "name": "tls", "mountPath": "/tls" },
            { "name": "site", "mountPath": "/etc/nginx/conf.d" }],
    });
    spec["containers"]
        .as_array_mut()
        .context("no containers")?
        .push(front);
    space.start(&pod(name, spec))?;
    let service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name},
        "ports": [{"port": 443, "targetPort": 8443}]}});
    space.create("services", &service)?;
    let slices = format!("endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}");
    space.until(&slices, "served", |list| {
        list["items"][0]["endpoints"][0]["conditions"]["ready"] == true
    })?;
    let engine = base64::engine::general_purpose::STANDARD;
    Ok(Served {
        ca_bundle: engine.encode(authority),
    })
}
