//! Brings a server up, step by step, and says clearly at which one it does not.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::{
    EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Expect, Mutation, Range, Store,
    StoreError, Transaction,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::address::{advertise, local_addresses};
use super::handler::Handler;
use super::health::Health;
use super::limits::Limits;
use super::listener::Listener;
use super::nodes::Connector;
use super::{StartError, tls};
use crate::aggregation;
use crate::audit::Auditor;
use crate::authn::static_tokens::StaticTokens;
use crate::authn::x509::CertificateAuthenticator;
use crate::authn::{Authenticator, External, ServiceAccountTokens, UserInfo, group};
use crate::authz::Authorization;
use crate::bootstrap::{self, Facts};
use crate::config::{Config, EtcdConfig, StorageKind};
use crate::encryption::EncryptedStore;
use crate::flowcontrol::FlowControl;
use crate::metrics::{self, SharedMetrics};
use crate::pki::{Pki, ServingNames};
use crate::registry::cache::PREFIX;
use crate::{ApiServer, Registry, event_expiry, identity};

/// The key under which the store says whose cluster it holds.
const CLUSTER_KEY: &str = "/fairlead/cluster";
/// History is kept for at least five minutes, as etcd users expect.
const COMPACT_EVERY: Duration = Duration::from_secs(300);

/// What a new node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinInfo {
    pub url: String,
    pub token: String,
    /// `sha256:HEX` of the authority's public key.
    pub ca_hash: String,
}

/// A server that answers.
pub struct RunningServer {
    pub address: SocketAddr,
    pub url: String,
    pub admin_kubeconfig: PathBuf,
    pub join: JoinInfo,
    pub pki: Pki,
    pub tokens: Arc<ServiceAccountTokens>,
    /// What `/metrics` shows: whatever runs beside the server adds its own.
    pub metrics: SharedMetrics,
    api: ApiServer,
    listener: JoinHandle<()>,
}

impl RunningServer {
    /// A client in this process whose requests are made by `user`.
    pub fn client_for(&self, mut user: UserInfo) -> kube::Client {
        if !user.is_in(group::AUTHENTICATED) {
            user.groups.push(group::AUTHENTICATED.to_owned());
        }
        self.api.client(user)
    }

    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Returns when the server was shut down and its connections have ended.
    pub async fn wait(self) {
        // Its task ends by itself; a panic there was reported already.
        let _ = self.listener.await;
    }
}

/// Starts the API server; it runs until `shutdown`.
pub async fn start(
    mut config: Config,
    shutdown: CancellationToken,
) -> Result<RunningServer, StartError> {
    let (socket, address) = listen(&config).await?;
    config.secure_port = address.port();
    let advertised = advertise(&config);
    config.advertise_address = Some(advertised);
    let url = format!("https://{}", SocketAddr::new(advertised, address.port()));
    make_data_directory(&config.data_dir)?;

    let store = encrypted(open_store(&config).await?, &config, &shutdown).await?;
    let pki = open_pki(&config, advertised, &*store).await?;
    let authorization = Arc::new(Authorization::open(&config.authorization).await?);
    let registry = Registry::start(
        config.clone(),
        store.clone(),
        authorization.clone(),
        shutdown.clone(),
    )
    .await?;
    authorization.attach(&registry.cacher, &shutdown);
    let authenticator = Arc::new(authenticator(&config, &pki, &registry).await?);
    registry.set_tokens(authenticator.clone());
    let connector = Connector::new(&pki, registry.cacher.clone())?;
    registry.set_nodes(Arc::new(connector));
    let api = ApiServer::new(registry);

    let health = Health {
        store,
        bootstrapped: AtomicBool::new(false),
        shutdown: shutdown.clone(),
    };
    let facts = Facts {
        config: &config,
        pki: &pki,
        advertise: advertised,
        port: address.port(),
        url: &url,
    };
    bootstrap::run(&api, &facts).await?;
    aggregation::controller::start(&api);
    health.bootstrapped.store(true, Ordering::Release);
    let admin_kubeconfig = config.data_dir.join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&admin_kubeconfig, &url)?;
    let join = join_info(&config, &api, &authenticator, &pki, &url).await?;

    let certificates = certificates(&pki)?;
    let tls = tls::config(&pki, certificates.handshake_verifier())?;
    let tokens = authenticator.tokens.clone();
    let cacher = &api.registry().cacher;
    let limits = Limits {
        flow: FlowControl::new(cacher, config.max_in_flight),
        auditor: Auditor::open(&config.audit)?,
    };
    tokio::spawn(event_expiry::run(
        cacher.clone(),
        config.event_ttl,
        shutdown.clone(),
    ));
    let host = nix::unistd::gethostname().unwrap_or_default();
    tokio::spawn(identity::run(
        api.clone(),
        host.to_string_lossy().into_owned(),
        shutdown.clone(),
    ));
    let metrics = metrics::of_server(&api);
    let handler = Handler {
        metrics: metrics.clone(),
        limits,
        api: api.clone(),
        authenticator,
        health,
        url: url.clone(),
    };
    let listener = Listener {
        socket,
        tls: TlsAcceptor::from(tls),
        certificates,
        handler: Arc::new(handler),
        shutdown,
    };
    let listener = tokio::spawn(listener.run());
    tracing::info!(%address, %url, "the API server answers");
    Ok(RunningServer {
        address,
        url,
        admin_kubeconfig,
        join,
        pki,
        tokens,
        metrics,
        api,
        listener,
    })
}

async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(config.bind_address, config.secure_port);
    let fault = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => StartError::PortInUse { address },
        _ => StartError::Listen { address, source },
    };
    let socket = TcpListener::bind(address).await.map_err(fault)?;
    let bound = socket.local_addr().map_err(fault)?;
    Ok((socket, bound))
}

fn make_data_directory(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => StartError::NotPermitted {
            path: path.to_path_buf(),
        },
        _ => StartError::DataDirectory {
            path: path.to_path_buf(),
            source,
        },
    })
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    match &config.storage {
        StorageKind::Embedded => {
            let options = EmbeddedOptions {
                compact_every: Some(COMPACT_EVERY),
                ..EmbeddedOptions::new(config.data_dir.join("db"))
            };
            Ok(Arc::new(EmbeddedStore::open(options)?))
        }
        StorageKind::Etcd(etcd) => Ok(Arc::new(EtcdStore::connect(etcd_options(etcd)?).await?)),
    }
}

/// The store with its secrets encrypted, where the operator wants that.
async fn encrypted(
    store: Arc<dyn Store>,
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<Arc<dyn Store>, StartError> {
    let Some(path) = &config.encryption_config_file else {
        return Ok(store);
    };
    let store = EncryptedStore::open(store, path).await?;
    let (renewing, shutdown) = (store.clone(), shutdown.clone());
    tokio::spawn(async move {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = renewing.renew() => outcome,
        };
        match outcome {
            Ok(0) => {}
            Ok(renewed) => tracing::info!(renewed, "values were encrypted anew"),
            Err(error) => tracing::error!(%error, "values could not be encrypted anew"),
        }
    });
    Ok(store)
}

fn etcd_options(etcd: &EtcdConfig) -> Result<EtcdOptions, StartError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| StartError::DataDirectory {
            path: path.to_path_buf(),
            source,
        })
    };
    let identity = match (&etcd.cert_file, &etcd.key_file) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    Ok(EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        ca: etcd.ca_file.as_deref().map(read).transpose()?,
        identity,
        compact_every: Some(COMPACT_EVERY),
    })
}

/// Opens the keys and sees that they and the store are of one cluster.
async fn open_pki(
    config: &Config,
    advertised: IpAddr,
    store: &dyn Store,
) -> Result<Pki, StartError> {
    let recorded = store.get(CLUSTER_KEY).await?;
    let probe = Range {
        prefix: PREFIX.to_owned(),
        limit: 1,
        ..Range::default()
    };
    let fresh = recorded.is_none() && store.list(probe).await?.entries.is_empty();
    let directory = config.data_dir.join("pki");
    let pki = Pki::open(&directory, &serving_names(config, advertised), fresh)?;
    let keys = pki.authority.public_key_hash();
    let Some(recorded) = recorded else {
        record_cluster(store, &keys).await?;
        return Ok(pki);
    };
    let recorded = String::from_utf8_lossy(&recorded.value).into_owned();
    if recorded == keys {
        return Ok(pki);
    }
    Err(StartError::OtherCluster {
        path: directory,
        keys,
        store: recorded,
    })
}

async fn record_cluster(store: &dyn Store, keys: &str) -> Result<(), StoreError> {
    let key: Arc<str> = CLUSTER_KEY.into();
    let value = keys.to_owned().into();
    let transaction = Transaction {
        expect: vec![(key.clone(), Expect::Absent)],
        mutations: vec![Mutation::Put { key, value }],
    };
    store.commit(transaction).await.map(drop)
}

fn serving_names(config: &Config, advertised: IpAddr) -> ServingNames {
    let domain = &config.cluster_domain;
    let mut names = ServingNames {
        dns: [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
        ]
        .map(str::to_owned)
        .to_vec(),
        addresses: vec![
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            advertised,
        ],
    };
    names.dns.push(format!("kubernetes.default.svc.{domain}"));
    if let Ok(host) = nix::unistd::gethostname().unwrap_or_default().into_string()
        && !host.is_empty()
    {
        names.dns.push(host.to_ascii_lowercase());
    }
    for range in &config.service_cidrs {
        names.addresses.push(bootstrap::nth_address(range, 1));
    }
    for san in &config.extra_sans {
        match san.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns.push(san.clone()),
        }
    }
    if config.bind_address.is_unspecified() {
        names.addresses.extend(local_addresses());
    }
    names.addresses.sort();
    names.addresses.dedup();
    names
}

async fn authenticator(
    config: &Config,
    pki: &Pki,
    registry: &Registry,
) -> Result<Authenticator, StartError> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let tokens =
        ServiceAccountTokens::new(&pki.service_account_key, &issuer).map_err(|source| {
            StartError::ServiceAccountKey {
                path: pki.directory().join("sa.key"),
                source,
            }
        })?;
    let (external, anonymity) = External::open(&config.authentication, &issuer).await?;
    let static_tokens = match &config.authentication.token_file {
        Some(path) => StaticTokens::read(path)?,
        None => StaticTokens::default(),
    };
    Ok(Authenticator {
        tokens: Arc::new(tokens),
        static_tokens,
        anonymity,
        external,
        cacher: registry.cacher.clone(),
    })
}

fn certificates(pki: &Pki) -> Result<Arc<CertificateAuthenticator>, StartError> {
    let made = CertificateAuthenticator::new(
        pki.authority.certificate_der(),
        pki.front_proxy_authority.certificate_der(),
    );
    let reason = "the authority's certificate cannot be used for clients".to_owned();
    made.map(Arc::new).ok_or(StartError::Tls { reason })
}

async fn join_info(
    config: &Config,
    api: &ApiServer,
    authenticator: &Authenticator,
    pki: &Pki,
    url: &str,
) -> Result<JoinInfo, StartError> {
    let path = config.data_dir.join("node-token");
    let kept = std::fs::read_to_string(&path).ok();
    let works = |token: &str| authenticator.token_user(token, &[]).is_ok();
    let token = bootstrap::join_token(api, kept.as_deref(), works).await?;
    if kept.as_deref() != Some(&token) {
        crate::pki::write_private(&path, token.as_bytes())?;
    }
    Ok(JoinInfo {
        url: url.to_owned(),
        token,
        ca_hash: pki.authority.public_key_hash(),
    })
}
