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

fn open(plain: &Arc<dyn Store>, providers: &str) -> Arc<EncryptedStore> {
    EncryptedStore::open(plain.clone(), file(providers).path()).unwrap()
}

#[tokio::test]
async fn secrets_are_ciphertext_in_the_store_and_keys_rotate() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("db"));
    let plain: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
    put(&*plain, SECRET, "old and plain").await;
    let identity = "  - identity: {}\n";
    {
        let (kind, prefix) = ("aesgcm", "k8s:enc:aesgcm:v1:one:");
        let one = provider(kind, "one", ONE);
        let store = open(&plain, &format!("{one}{identity}"));
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
        let store = open(&plain, &format!("{two}{one}"));
        assert_eq!(raw(&*store, SECRET).await, b"top secret");
        assert_eq!(store.renew().await.unwrap(), 1);
        assert_eq!(store.renew().await.unwrap(), 0);
        // Then the old one is needed no more, and is of no use.
        assert_eq!(raw(&*open(&plain, &two), SECRET).await, b"top secret");
        let error = open(&plain, &one)
            .get(SECRET)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no key of the encryption configuration fits"),
            "{error}"
        );
        let other = provider(kind, "two", ONE);
        let error = open(&plain, &other)
            .get(SECRET)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot be decrypted"), "{error}");
        // Back to plain text.
        let store = open(&plain, &format!("{identity}{two}"));
        assert_eq!(store.renew().await.unwrap(), 1);
        assert_eq!(raw(&*plain, SECRET).await, b"top secret");
    }
}

#[tokio::test]
async fn a_value_moved_to_another_object_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(directory.path().join("db"));
    let plain: Arc<dyn Store> = Arc::new(EmbeddedStore::open(options).unwrap());
    let store = open(&plain, &provider("aesgcm", "one", ONE));
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
        ("  - kms: {}\n".to_owned(), "kms is not supported"),
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
