//! The distribution API, as far as pulling needs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::archive::{Catalog, MANIFEST_TYPE, RegistryError};

/// Who may pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// An address to answer on, and who may ask there.
#[derive(Debug, Clone)]
pub struct Listener {
    pub address: SocketAddr,
    pub credentials: Option<Credentials>,
}

#[derive(Clone)]
struct Registry {
    directory: Arc<PathBuf>,
    /// The whole `Authorization` header that is asked for.
    authorization: Option<Arc<str>>,
}

/// Serves the archives of the directory until shutdown. Archives may come and go meanwhile.
pub async fn run(
    directory: PathBuf,
    listeners: Vec<Listener>,
    shutdown: CancellationToken,
) -> Result<(), RegistryError> {
    let directory = Arc::new(directory);
    let mut servers = tokio::task::JoinSet::new();
    for Listener {
        address,
        credentials,
    } in listeners
    {
        let socket = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| RegistryError::Listen { address, source })?;
        let authorization = credentials
            .as_ref()
            .map(|credentials| basic(credentials).into());
        let registry = Registry {
            directory: directory.clone(),
            authorization,
        };
        let router = Router::new()
            .route("/v2/", get(root))
            .route("/v2/{*path}", get(object))
            .with_state(registry);
        let ended = shutdown.clone().cancelled_owned();
        servers.spawn(async move {
            axum::serve(socket, router)
                .with_graceful_shutdown(ended)
                .await
        });
    }
    while servers.join_next().await.is_some() {}
    Ok(())
}

fn basic(credentials: &Credentials) -> String {
    use base64::Engine;
    let plain = format!("{}:{}", credentials.user, credentials.password);
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(plain)
    )
}

async fn root(State(registry): State<Registry>, headers: HeaderMap) -> Response {
    registry
        .refusal(&headers)
        .unwrap_or_else(|| StatusCode::OK.into_response())
}

async fn object(
    State(registry): State<Registry>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = registry.refusal(&headers) {
        return refusal;
    }
    // Reading the catalog anew for each request keeps it true; archives are few.
    let directory = registry.directory.clone();
    let catalog = tokio::task::spawn_blocking(move || Catalog::read(&directory)).await;
    let Ok(Ok(catalog)) = catalog else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match target(&path) {
        Some(Target::Manifest {
            repository,
            reference,
        }) => match catalog.manifest(repository, reference) {
            Some(manifest) => {
                let length = manifest.content.len();
                let body = send(&method, Body::from(manifest.content.clone()));
                answer(MANIFEST_TYPE, &manifest.digest, length as u64, body)
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        Some(Target::Blob { digest }) => match catalog.blob(digest).map(|blob| (blob, blob.open()))
        {
            Some((blob, Ok(content))) => {
                let size = blob.size;
                let content = tokio::fs::File::from_std(content.into_inner());
                let content = tokio::io::AsyncReadExt::take(content, size);
                let body = send(&method, Body::from_stream(ReaderStream::new(content)));
                answer("application/octet-stream", digest, size, body)
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        },
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn send(method: &Method, body: Body) -> Body {
    if method == Method::HEAD {
        Body::empty()
    } else {
        body
    }
}

fn answer(kind: &'static str, digest: &str, length: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), kind.to_owned()),
        (header::CONTENT_LENGTH.as_str(), length.to_string()),
        ("docker-content-digest", digest.to_owned()),
    ];
    (headers, body).into_response()
}

impl Registry {
    /// The refusal of a request that may not be made.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let wanted = self.authorization.as_ref()?;
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        if given == Some(wanted.as_ref()) {
            return None;
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"lab\"")];
        Some((StatusCode::UNAUTHORIZED, challenge).into_response())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Manifest {
        repository: &'a str,
        reference: &'a str,
    },
    Blob {
        digest: &'a str,
    },
}

/// Repositories have slashes, so the path is read from its end.
fn target(path: &str) -> Option<Target<'_>> {
    let (rest, last) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    match kind {
        "manifests" => Some(Target::Manifest {
            repository,
            reference: last,
        }),
        "blobs" => Some(Target::Blob { digest: last }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let manifest = Target::Manifest {
            repository: "library/nginx",
            reference: "latest",
        };
        assert_eq!(target("library/nginx/manifests/latest"), Some(manifest));
        assert_eq!(
            target("a/b/c/blobs/sha256:00"),
            Some(Target::Blob {
                digest: "sha256:00"
            })
        );
        assert_eq!(target("a/tags/list"), None);
        assert_eq!(target("a"), None);
    }

    #[test]
    fn credentials_become_the_header_that_clients_send() {
        let credentials = Credentials {
            user: "lab".into(),
            password: "pass".into(),
        };
        assert_eq!(basic(&credentials), "Basic bGFiOnBhc3M=");
    }
}
