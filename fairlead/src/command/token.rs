//! `fairlead token`: what lets a machine into the cluster.
//!
//! A token is a Secret of type `bootstrap.kubernetes.io/token` in `kube-system`, as kubeadm
//! makes it, so that both understand each other's.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine;
use comfy_table::{Table, presets};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Endpoints, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::client::from_kubeconfig;
use super::running::block_on;
use crate::cli::{Output, Token, TokenCreate, TokenDelete, TokenList};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group that may ask for a node's certificate.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

pub(crate) fn run(command: Token) -> anyhow::Result<ExitCode> {
    block_on(async {
        match command {
            Token::Create(options) => create(&options).await,
            Token::List(options) => list(&options).await,
            Token::Delete(options) => delete(&options).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn create(options: &TokenCreate) -> anyhow::Result<()> {
    let lifetime = parse_lifetime(&options.ttl)?;
    let client = from_kubeconfig(&options.admin.kubeconfig).await?;
    let kubeconfig = Kubeconfig::read_from(&options.admin.kubeconfig)?;
    let url = server_url(&kubeconfig, &client).await?;
    let ca = certificate_authority(&kubeconfig)?;
    let token = make(&client, lifetime, &options.description).await?;
    println!("{}", join_command(&url, &token, &ca_hash(&ca)?));
    Ok(())
}

/// The line with which a machine joins.
pub(crate) fn join_command(url: &str, token: &str, ca_hash: &str) -> String {
    format!("fairlead join {url} --token {token} --ca-cert-hash {ca_hash}")
}

/// Makes a token that is valid for so long, or for ever.
pub(crate) async fn make(
    client: &Client,
    lifetime: Option<SignedDuration>,
    description: &str,
) -> anyhow::Result<String> {
    let (id, secret) = (random(6), random(16));
    let expiry = lifetime.map(|lifetime| Timestamp::now() + lifetime);
    let object = token_secret(&id, &secret, expiry, description);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets
        .create(&PostParams::default(), &object)
        .await
        .context("cannot store the token")?;
    Ok(format!("{id}.{secret}"))
}

fn token_secret(id: &str, secret: &str, expiry: Option<Timestamp>, description: &str) -> Secret {
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), id.to_owned()),
        ("token-secret".to_owned(), secret.to_owned()),
        (
            "usage-bootstrap-authentication".to_owned(),
            "true".to_owned(),
        ),
        ("usage-bootstrap-signing".to_owned(), "true".to_owned()),
        ("auth-extra-groups".to_owned(), GROUP.to_owned()),
    ]);
    if let Some(expiry) = expiry {
        // Whole seconds, as other readers of these Secrets expect them.
        let seconds = Timestamp::from_second(expiry.as_second()).unwrap_or(expiry);
        data.insert("expiration".to_owned(), seconds.to_string());
    }
    if !description.is_empty() {
        data.insert("description".to_owned(), description.to_owned());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        string_data: Some(data),
        ..Secret::default()
    }
}

fn random(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

/// `30m`, `24h`, `90s`; 0 means for ever.
fn parse_lifetime(text: &str) -> anyhow::Result<Option<SignedDuration>> {
    if text == "0" {
        return Ok(None);
    }
    let lifetime: SignedDuration = text
        .parse()
        .with_context(|| format!("--ttl {text}: write 30m, 24h or 0"))?;
    if lifetime <= SignedDuration::ZERO {
        bail!("--ttl {text}: it has to be longer than nothing; 0 alone means for ever");
    }
    Ok(Some(lifetime))
}

/// The address in the kubeconfig; where that is this machine only, the one that the server
/// told the cluster.
async fn server_url(kubeconfig: &Kubeconfig, client: &Client) -> anyhow::Result<String> {
    let url = current_cluster(kubeconfig)?
        .server
        .clone()
        .context("the kubeconfig has no server")?;
    let local = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|name| url.contains(name));
    if !local {
        return Ok(url);
    }
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
    let endpoints = endpoints
        .get_opt("kubernetes")
        .await
        .context("cannot tell the server's address")?;
    // A server that is advertised on the loopback interface alone tells no address.
    let Some(endpoints) = endpoints else {
        return Ok(url);
    };
    let subset = endpoints.subsets.unwrap_or_default().into_iter().next();
    let subset = subset.context("the server has told no address yet; try again")?;
    let address = subset.addresses.unwrap_or_default().into_iter().next();
    let port = subset
        .ports
        .unwrap_or_default()
        .first()
        .map_or(6443, |port| port.port);
    let address = address
        .context("the server has told no address yet; try again")?
        .ip;
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address
    };
    Ok(format!("https://{host}:{port}"))
}

fn current_cluster(kubeconfig: &Kubeconfig) -> anyhow::Result<&kube::config::Cluster> {
    let current = kubeconfig
        .current_context
        .as_deref()
        .context("it has no current context")?;
    let context = kubeconfig
        .contexts
        .iter()
        .find(|context| context.name == current);
    let cluster = context
        .and_then(|context| context.context.as_ref())
        .map(|c| &c.cluster);
    let cluster = cluster.context("the kubeconfig's current context is not in it")?;
    let named = kubeconfig
        .clusters
        .iter()
        .find(|named| named.name == *cluster);
    named
        .and_then(|named| named.cluster.as_ref())
        .context("the kubeconfig's cluster is not in it")
}

fn certificate_authority(kubeconfig: &Kubeconfig) -> anyhow::Result<Vec<u8>> {
    let cluster = current_cluster(kubeconfig)?;
    match (
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    ) {
        (Some(data), _) => Ok(base64::engine::general_purpose::STANDARD.decode(data)?),
        (None, Some(file)) => std::fs::read(file).with_context(|| file.clone()),
        (None, None) => bail!("the kubeconfig names no certificate authority"),
    }
}

/// kubeadm's form: the digest of the public key, so that a renewed certificate keeps it.
pub(crate) fn ca_hash(pem: &[u8]) -> anyhow::Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).context("the CA is no PEM file")?;
    let certificate = pem.parse_x509().context("the CA is no certificate")?;
    let digest = Sha256::digest(certificate.tbs_certificate.subject_pki.raw);
    Ok(format!("sha256:{}", hex::encode(digest)))
}

/// A token without its secret, which nobody needs to see again.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    expires: Option<String>,
    description: String,
}

async fn list(options: &TokenList) -> anyhow::Result<()> {
    let client = from_kubeconfig(&options.admin.kubeconfig).await?;
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let parameters = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
    let secrets = secrets
        .list(&parameters)
        .await
        .context("cannot list the tokens")?;
    let rows: Vec<Row> = secrets.iter().map(row).collect();
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Output::Text => {
            let mut table = Table::new();
            table
                .load_style(presets::NOTHING)
                .set_header(["ID", "EXPIRES", "DESCRIPTION"]);
            for row in rows {
                let expires = row.expires.unwrap_or_else(|| "never".to_owned());
                table.add_row([row.id, expires, row.description]);
            }
            println!("{table}");
        }
    }
    Ok(())
}

fn row(secret: &Secret) -> Row {
    let field = |name: &str| {
        let ByteString(value) = secret.data.as_ref()?.get(name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Row {
        id: field("token-id").unwrap_or_default(),
        expires: field("expiration"),
        description: field("description").unwrap_or_default(),
    }
}

async fn delete(options: &TokenDelete) -> anyhow::Result<()> {
    let id = options.token.split('.').next().unwrap_or_default();
    let client = from_kubeconfig(&options.admin.kubeconfig).await?;
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let name = format!("bootstrap-token-{id}");
    match secrets.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("there is no token {id}; `fairlead token list` shows those that exist")
        }
        Err(error) => Err(error).context("cannot delete the token"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_people_write_them() {
        assert_eq!(parse_lifetime("0").unwrap(), None);
        assert_eq!(
            parse_lifetime("24h").unwrap(),
            Some(SignedDuration::from_hours(24))
        );
        assert_eq!(
            parse_lifetime("90m").unwrap(),
            Some(SignedDuration::from_mins(90))
        );
        for wrong in ["", "soon", "-1h", "0s"] {
            assert!(parse_lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_the_secret_that_the_authenticator_knows() {
        let expiry = "2030-01-02T03:04:05.678Z".parse().unwrap();
        let secret = token_secret("abcdef", "0123456789abcdef", Some(expiry), "");
        assert_eq!(
            secret.metadata.name.as_deref(),
            Some("bootstrap-token-abcdef")
        );
        let data = secret.string_data.unwrap();
        assert_eq!(data["expiration"], "2030-01-02T03:04:05Z");
        assert_eq!(data["usage-bootstrap-authentication"], "true");
        assert!(!data.contains_key("description"));
    }

    #[test]
    fn the_hash_is_that_of_the_public_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let hash = |name: &str| {
            let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            ca_hash(parameters.self_signed(&key).unwrap().pem().as_bytes()).unwrap()
        };
        assert_eq!(hash("a"), hash("b"));
        assert_eq!(hash("a").len(), "sha256:".len() + 64);
        assert!(ca_hash(b"nothing").is_err());
    }
}
