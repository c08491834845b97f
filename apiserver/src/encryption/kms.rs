//! KMS v2: keys that a plugin behind a Unix socket keeps.
//!
//! The plugin encrypts one seed; values are encrypted here, each with a key of its own that is
//! derived from the seed, and carry the encrypted seed with them. So the plugin is asked when the
//! server starts, when its key changes, and for seeds that were not seen before: never for each
//! value.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::cipher::random;

const SEED: usize = 32;
const INFO: usize = 32;
/// How often the plugin is asked whether its key has changed.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Seeds that are remembered; old ones come back from the plugin.
const KEPT: usize = 1000;
/// The seed is one for a key derivation, not the key itself.
const DERIVED: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// A value as it is stored, after the prefix.
#[derive(Clone, PartialEq, Message)]
struct Sealed {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    seed: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    seed_type: i32,
}

/// What is encrypted with now.
struct Current {
    plain: [u8; SEED],
    key_id: String,
    sealed: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
}

/// See the module's documentation.
pub(super) struct Kms {
    name: String,
    prefix: Vec<u8>,
    channel: Channel,
    timeout: Duration,
    current: RwLock<Option<Arc<Current>>>,
    seeds: Mutex<HashMap<Vec<u8>, [u8; SEED]>>,
}

impl Kms {
    pub(super) fn new(name: &str, socket: PathBuf, timeout: Duration) -> Arc<Self> {
        // The address is not used to connect; HTTP/2 needs an authority.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_: http::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }),
        );
        Arc::new(Kms {
            name: name.to_owned(),
            prefix: format!("k8s:enc:kms:v2:{name}:").into_bytes(),
            channel,
            timeout,
            current: RwLock::default(),
            seeds: Mutex::default(),
        })
    }

    /// Begins to ask the plugin whether its key has changed, until this is dropped.
    pub(super) fn follow(own: &Arc<Self>) {
        let own: Weak<Kms> = Arc::downgrade(own);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(STATUS_EVERY).await;
                let Some(kms) = own.upgrade() else { return };
                if let Err(why) = kms.refresh().await {
                    tracing::warn!(name = kms.name, why, "the KMS plugin gave no answer");
                }
            }
        });
    }

    /// Gets a new seed if the plugin's key is another one than that of the present seed.
    pub(super) async fn refresh(&self) -> Result<(), String> {
        let status: StatusResponse = self
            .call("/v2.KeyManagementService/Status", StatusRequest {})
            .await?;
        if status.version != "v2" && status.version != "v2beta1" {
            return Err(format!("the plugin speaks {:?} and not v2", status.version));
        }
        if status.healthz != "ok" {
            return Err(format!("the plugin is not well: {:?}", status.healthz));
        }
        let known = self.current.read().as_ref().map(|c| c.key_id.clone());
        if known.as_deref() == Some(status.key_id.as_str()) {
            return Ok(());
        }
        let plain: [u8; SEED] = random()?;
        let request = EncryptRequest {
            plaintext: plain.to_vec(),
            uid: uuid::Uuid::new_v4().to_string(),
        };
        let made: EncryptResponse = self
            .call("/v2.KeyManagementService/Encrypt", request)
            .await?;
        if made.key_id.is_empty() || made.ciphertext.is_empty() || made.ciphertext.len() > 1024 {
            return Err("the plugin's answer has no key or no usable ciphertext".into());
        }
        self.remember(made.ciphertext.clone(), plain);
        *self.current.write() = Some(Arc::new(Current {
            plain,
            key_id: made.key_id,
            sealed: made.ciphertext,
            annotations: made.annotations,
        }));
        Ok(())
    }

    fn remember(&self, sealed: Vec<u8>, plain: [u8; SEED]) {
        let mut seeds = self.seeds.lock();
        if seeds.len() >= KEPT {
            seeds.clear();
        }
        seeds.insert(sealed, plain);
    }

    pub(super) fn has_sealed(&self, stored: &[u8]) -> bool {
        stored.starts_with(&self.prefix)
    }

    /// Whether a value was encrypted with what would encrypt it now.
    pub(super) fn is_current(&self, stored: &[u8]) -> bool {
        let Some(sealed) = stored.strip_prefix(self.prefix.as_slice()) else {
            return false;
        };
        let current = self.current.read();
        let key = current.as_ref().map(|c| c.key_id.as_str());
        Sealed::decode(sealed).is_ok_and(|sealed| Some(sealed.key_id.as_str()) == key)
    }

    pub(super) async fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        if self.current.read().is_none() {
            self.refresh().await?;
        }
        let current = self.current.read().clone().ok_or("there is no seed")?;
        let info: [u8; INFO] = random()?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut text = plain.to_vec();
        derive(&current.plain, &info)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut text,
            )
            .map_err(|_| "it cannot be encrypted")?;
        let sealed = Sealed {
            data: [&info[..], &nonce, &text].concat(),
            key_id: current.key_id.clone(),
            seed: current.sealed.clone(),
            annotations: current.annotations.clone(),
            seed_type: DERIVED,
        };
        let mut stored = self.prefix.clone();
        stored.extend_from_slice(&sealed.encode_to_vec());
        Ok(stored)
    }

    pub(super) async fn open(&self, place: &str, stored: &[u8]) -> Result<Vec<u8>, String> {
        let broken = || "it cannot be decrypted".to_owned();
        let sealed = stored
            .strip_prefix(self.prefix.as_slice())
            .ok_or_else(broken)?;
        let sealed = Sealed::decode(sealed).map_err(|e| e.to_string())?;
        if sealed.seed_type != DERIVED {
            return Err("its key is not derived from a seed, which is not supported".into());
        }
        let seed = self.seed(&sealed).await?;
        let (info, rest) = sealed.data.split_at_checked(INFO).ok_or_else(broken)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let mut text = text.to_vec();
        let length = derive(&seed, info)?
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut text)
            .map_err(|_| broken())?
            .len();
        text.truncate(length);
        Ok(text)
    }

    async fn seed(&self, sealed: &Sealed) -> Result<[u8; SEED], String> {
        if let Some(known) = self.seeds.lock().get(&sealed.seed) {
            return Ok(*known);
        }
        let request = DecryptRequest {
            ciphertext: sealed.seed.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: sealed.key_id.clone(),
            annotations: sealed.annotations.clone(),
        };
        let answer: DecryptResponse = self
            .call("/v2.KeyManagementService/Decrypt", request)
            .await?;
        let plain: [u8; SEED] = answer
            .plaintext
            .try_into()
            .map_err(|_| "the plugin's answer is no seed")?;
        self.remember(sealed.seed.clone(), plain);
        Ok(plain)
    }

    async fn call<Q, R>(&self, method: &'static str, request: Q) -> Result<R, String>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let failed = |why: &dyn std::fmt::Display| format!("KMS plugin {:?}: {why}", self.name);
        let calling = async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.map_err(|e| failed(&e))?;
            let codec = tonic_prost::ProstCodec::<Q, R>::default();
            let path = http::uri::PathAndQuery::from_static(method);
            let answer = client.unary(tonic::Request::new(request), path, codec);
            let answer = answer.await.map_err(|e| failed(&e.message()))?;
            Ok(answer.into_inner())
        };
        match tokio::time::timeout(self.timeout, calling).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(&"no answer in time")),
        }
    }
}

fn derive(seed: &[u8; SEED], info: &[u8]) -> Result<LessSafeKey, String> {
    let failed = "a key cannot be derived";
    let mut key = [0; 32];
    let info = [info];
    Prk::new_less_safe(HKDF_SHA256, seed)
        .expand(&info, HKDF_SHA256)
        .and_then(|made| made.fill(&mut key))
        .map_err(|_| failed)?;
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| failed)?;
    Ok(LessSafeKey::new(key))
}
