//! The API without TLS, authentication and authorization, on loopback: for trying things out.
//!
//! `cargo run -p apiserver --example plain -- PORT DIRECTORY`

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::authn::{SharedUser, UserInfo};
use apiserver::authz::{Attributes, Authorizer, Decision};
use apiserver::response::BoxError;
use apiserver::{ApiServer, Config, Registry};
use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use storage::{EmbeddedOptions, EmbeddedStore};
use tokio_util::sync::CancellationToken;

struct Anything;

#[async_trait]
impl Authorizer for Anything {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow {
            reason: String::new(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().unwrap_or_else(|| "8001".into()).parse()?;
    let directory = arguments
        .next()
        .unwrap_or_else(|| "/tmp/fairlead-plain".into());
    let store = Arc::new(EmbeddedStore::open(EmbeddedOptions::new(directory))?);
    let config = Config {
        secure_port: port,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let registry = Registry::start(config, store, Arc::new(Anything), shutdown).await?;
    let api = ApiServer::new(registry);
    let user: SharedUser = Arc::new(UserInfo::api_server());
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    println!("http://127.0.0.1:{port}");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (api, user) = (api.clone(), user.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (api, user) = (api.clone(), user.clone());
                async move {
                    let mut request = request
                        .map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync());
                    request.extensions_mut().insert(user);
                    Ok::<_, std::convert::Infallible>(api.handle(request).await)
                }
            });
            let connection = Builder::new(TokioExecutor::new());
            let _ = connection
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}
