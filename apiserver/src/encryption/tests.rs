use storage::{EmbeddedOptions, EmbeddedStore};

use super::*;

const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const TWO: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
const SECRET: &str = "/registry/core/secrets/default/a";
const MAP: &str = "/registry/core/configmaps/default/a";

fn file(providers: &str) -> tempfile::NamedTempFile {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, widgets.example.com]\n  providers:\n{providers}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn provider(kind: &str, name: &str, secret: &str) -> String {
    format!("  - {kind}: {{keys: [{{name: {name}, secret: {secret}}}]}}\n")
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    let transaction = Transaction {
        expect: Vec::new(),
        mutations: vec![Mutation::Put {
            key: key.into(),
            value: value.to_owned().into(),
        }],
    };
    store.commit(transaction).await.unwrap();
}

async fn raw(store: &dyn Store, key: &str) -> Vec<u8> {
    store.get(key).await.unwrap().unwrap().value.to_vec()
}

async fn open(plain: &Arc<dyn Store>, providers: &str) -> Arc<EncryptedStore> {
    EncryptedStore::open(plain.clone(), file(providers).path())
        .await
        .unwrap()
}

#[tokio::test]
async fn secrets_are_ciphertext_in_the_store_and_keys_rotate() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("db"));
    let plain: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
    put(&*plain, SECRET, "old and plain").await;
    let identity = "  - identity: {}\n";
    for (kind, prefix) in [
        ("aesgcm", "k8s:enc:aesgcm:v1:one:"),
        ("secretbox", "k8s:enc:secretbox:v1:one:"),
        ("aescbc", "k8s:enc:aescbc:v1:one:"),
    ] {
        let one = provider(kind, "one", ONE);
        let store = open(&plain, &format!("{one}{identity}")).await;
        put(&*store, SECRET, "top secret").await;
        put(&*store, MAP, "no secret").await;
        let stored = raw(&*plain, SECRET).await;
        assert!(stored.starts_with(prefix.as_bytes()), "{stored:?}");
        assert!(!stored.windows(10).any(|w| w == b"top secret"));
        assert_eq!(raw(&*plain, MAP).await, b"no secret");
        assert_eq!(raw(&*store, SECRET).await, b"top secret");
        let page = store
            .list(Range {
                prefix: "/registry/".into(),
                ..Range::default()
            })
            .await
            .unwrap();
        assert!(page.entries.iter().any(|e| &e.value[..] == b"top secret"));

        // A new key before the old one: everything is readable, and is renewed with it.
        let two = provider(kind, "two", TWO);
        let store = open(&plain, &format!("{two}{one}")).await;
        assert_eq!(raw(&*store, SECRET).await, b"top secret");
        assert_eq!(store.renew().await.unwrap(), 1);
        assert_eq!(store.renew().await.unwrap(), 0);
        // Then the old one is needed no more, and is of no use.
        assert_eq!(raw(&*open(&plain, &two).await, SECRET).await, b"top secret");
        let error = open(&plain, &one)
            .await
            .get(SECRET)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no key of the encryption configuration fits"),
            "{error}"
        );
        // Padding is all that CBC can find wrong: the wrong key may give nonsense.
        if kind == "aescbc" {
            let store = open(&plain, &format!("{identity}{two}")).await;
            assert_eq!(store.renew().await.unwrap(), 1);
            continue;
        }
        let other = provider(kind, "two", ONE);
        let error = open(&plain, &other)
            .await
            .get(SECRET)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot be decrypted"), "{error}");
        // Back to plain text.
        let store = open(&plain, &format!("{identity}{two}")).await;
        assert_eq!(store.renew().await.unwrap(), 1);
        assert_eq!(raw(&*plain, SECRET).await, b"top secret");
    }
}

#[tokio::test]
async fn a_value_moved_to_another_object_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("db"));
    let plain: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
    let store = open(&plain, &provider("aesgcm", "one", ONE)).await;
    put(&*store, SECRET, "mine").await;
    let moved = raw(&*plain, SECRET).await;
    let transaction = Transaction {
        expect: Vec::new(),
        mutations: vec![Mutation::Put {
            key: "/registry/core/secrets/default/b".into(),
            value: moved.into(),
        }],
    };
    plain.commit(transaction).await.unwrap();
    assert!(store.get("/registry/core/secrets/default/b").await.is_err());
}

#[test]
fn wrong_configurations_are_told() {
    for (providers, expect) in [
        (
            provider("aesgcm", "one", "c2hvcnQ="),
            "has 5 bytes instead of 16 or 32",
        ),
        (provider("aesgcm", "one", "'%%'"), "is not base64"),
        (
            "  - kms: {apiVersion: v1, name: k, endpoint: 'unix:///s'}\n".to_owned(),
            "apiVersion has to be v2",
        ),
        (
            "  - kms: {apiVersion: v2, name: k, endpoint: 'https://x'}\n".to_owned(),
            "has to be unix:///PATH",
        ),
        (
            provider("secretbox", "one", "c2hvcnQ="),
            "has 5 bytes instead of 32",
        ),
        (
            provider("aescbc", "one", "c2hvcnQ="),
            "has 5 bytes instead of 16, 24 or 32",
        ),
        ("  - aesgcm: {keys: []}\n".to_owned(), "has no keys"),
        ("  - {}\n".to_owned(), "is one of aesgcm"),
        (provider("rot13", "one", ONE), "rot13"),
    ] {
        let error =
            Configuration::parse(&std::fs::read_to_string(file(&providers).path()).unwrap());
        let error = error.err().unwrap();
        assert!(error.contains(expect), "{expect} / {error}");
    }
}

/// A plugin whose key is its own name and whose cipher turns every bit.
fn plugin(socket: &Path, key: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(move |request| kms_answer(request, key));
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service),
            );
        }
    })
}

/// One call, by hand: five bytes before each message, the status in the trailers.
async fn kms_answer(
    request: http::Request<hyper::body::Incoming>,
    key: &'static str,
) -> Result<http::Response<BoxedBody>, std::convert::Infallible> {
    use http_body_util::{BodyExt, StreamBody};
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = match path.rsplit('/').next().unwrap() {
        "Status" => fields(&[(1, b"v2"), (2, b"ok"), (3, key.as_bytes())]),
        // The first field of both requests is what is to be turned.
        "Encrypt" => fields(&[(1, &turned(&first_field(&body[5..]))), (2, key.as_bytes())]),
        _ => fields(&[(1, &turned(&first_field(&body[5..])))]),
    };
    let mut data = vec![0];
    data.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    data.extend_from_slice(&message);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [
        hyper::body::Frame::data(Bytes::from(data)),
        hyper::body::Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, std::convert::Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    Ok(http::Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap())
}

type BoxedBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

fn fields(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, value) in fields {
        message.push((number << 3) | 2);
        message.push(u8::try_from(value.len()).unwrap());
        message.extend_from_slice(value);
    }
    message
}

fn first_field(message: &[u8]) -> Vec<u8> {
    assert_eq!(message[0], (1 << 3) | 2);
    message[2..2 + usize::from(message[1])].to_vec()
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

fn kms(name: &str, socket: &Path) -> String {
    let endpoint = format!("unix://{}", socket.display());
    format!("  - kms: {{apiVersion: v2, name: {name}, endpoint: '{endpoint}', timeout: 10s}}\n")
}

#[tokio::test]
async fn a_plugin_keeps_the_key_and_is_needed_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("db"));
    let plain: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
    let socket = directory.path().join("one.sock");
    let serving = plugin(&socket, "key-1");
    let one = kms("one", &socket);
    let store = open(&plain, &one).await;
    put(&*store, SECRET, "top secret").await;
    let stored = raw(&*plain, SECRET).await;
    assert!(stored.starts_with(b"k8s:enc:kms:v2:one:"), "{stored:?}");
    assert!(!stored.windows(10).any(|w| w == b"top secret"));
    assert_eq!(raw(&*store, SECRET).await, b"top secret");
    // A server that starts knows no seed: the plugin tells.
    assert_eq!(raw(&*open(&plain, &one).await, SECRET).await, b"top secret");
    // What another key sealed is renewed with the present one.
    let next = directory.path().join("two.sock");
    let _serving = plugin(&next, "key-2");
    let two = kms("one", &next);
    let store = open(&plain, &two).await;
    assert_eq!(store.renew().await.unwrap(), 1);
    assert_eq!(store.renew().await.unwrap(), 0);
    // Without its plugin a server does not start.
    serving.abort();
    std::fs::remove_file(&socket).unwrap();
    let file = file(&one);
    let refused = EncryptedStore::open(plain.clone(), file.path()).await;
    assert!(matches!(refused, Err(EncryptionError::Plugin { .. })));
}
