//! The ciphers, and the form in which values are stored.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use cbc::{Decryptor, Encryptor};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// One key, ready for use.
pub(super) struct Key {
    /// What its values begin with; empty for those that are stored as they are.
    prefix: Vec<u8>,
    made: Made,
}

enum Made {
    Identity,
    AesGcm(Box<LessSafeKey>),
    AesCbc(Box<[u8]>),
    Secretbox(Box<XSalsa20Poly1305>),
}

/// The bytes before a text in blocks.
const BLOCK: usize = 16;
/// The bytes before a secretbox's text.
const SECRETBOX_NONCE: usize = 24;

impl Key {
    pub(super) fn identity() -> Self {
        Key {
            prefix: Vec::new(),
            made: Made::Identity,
        }
    }

    /// A key for AES-GCM.
    pub(super) fn aes_gcm(name: &str, secret: &[u8]) -> Result<Self, String> {
        let wrong = || {
            format!(
                "the secret of key {name:?} has {} bytes instead of 16 or 32",
                secret.len()
            )
        };
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return Err(wrong()),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| wrong())?;
        Ok(Key {
            prefix: format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(),
            made: Made::AesGcm(Box::new(LessSafeKey::new(key))),
        })
    }

    /// A key for AES in CBC mode with PKCS #7 padding, which proves nothing about who wrote the
    /// text: for values that another server left.
    pub(super) fn aes_cbc(name: &str, secret: &[u8]) -> Result<Self, String> {
        if !matches!(secret.len(), 16 | 24 | 32) {
            let length = secret.len();
            return Err(format!(
                "the secret of key {name:?} has {length} bytes instead of 16, 24 or 32"
            ));
        }
        Ok(Key {
            prefix: format!("k8s:enc:aescbc:v1:{name}:").into_bytes(),
            made: Made::AesCbc(secret.into()),
        })
    }

    /// A key for NaCl's secretbox.
    pub(super) fn secretbox(name: &str, secret: &[u8]) -> Result<Self, String> {
        let key = XSalsa20Poly1305::new_from_slice(secret).map_err(|_| {
            let length = secret.len();
            format!("the secret of key {name:?} has {length} bytes instead of 32")
        })?;
        Ok(Key {
            prefix: format!("k8s:enc:secretbox:v1:{name}:").into_bytes(),
            made: Made::Secretbox(Box::new(key)),
        })
    }

    /// Whether a stored value is this key's.
    pub(super) fn has_sealed(&self, stored: &[u8]) -> bool {
        match self.made {
            Made::Identity => !stored.starts_with(MARK),
            _ => stored.starts_with(&self.prefix),
        }
    }

    /// Encrypts, bound to the place where the value is stored.
    pub(super) fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut sealed = self.prefix.clone();
        match &self.made {
            Made::Identity => sealed.extend_from_slice(plain),
            Made::AesGcm(key) => {
                let nonce: [u8; NONCE_LEN] = random()?;
                sealed.extend_from_slice(&nonce);
                let mut text = plain.to_vec();
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(place.as_bytes()),
                    &mut text,
                )
                .map_err(|_| "it cannot be encrypted")?;
                sealed.extend_from_slice(&text);
            }
            Made::AesCbc(secret) => {
                let start: [u8; BLOCK] = random()?;
                sealed.extend_from_slice(&start);
                let text = seal_blocks(secret, &start, plain);
                sealed.extend_from_slice(&text.ok_or("it cannot be encrypted")?);
            }
            // The format has no place to bind the text to.
            Made::Secretbox(key) => {
                let nonce: [u8; SECRETBOX_NONCE] = random()?;
                let text = key.encrypt(&nonce.into(), plain);
                sealed.extend_from_slice(&nonce);
                sealed.extend_from_slice(&text.map_err(|_| "it cannot be encrypted")?);
            }
        }
        Ok(sealed)
    }

    /// Decrypts; `None` for what is stored as it is.
    pub(super) fn open(&self, place: &str, stored: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let short = || "it is too short".to_owned();
        let broken = "it cannot be decrypted with the configured key";
        let sealed = stored
            .strip_prefix(self.prefix.as_slice())
            .ok_or_else(short)?;
        match &self.made {
            Made::Identity => Ok(None),
            Made::AesGcm(key) => {
                let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or_else(short)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| short())?;
                let mut text = text.to_vec();
                let length = key
                    .open_in_place(nonce, Aad::from(place.as_bytes()), &mut text)
                    .map_err(|_| broken)?
                    .len();
                text.truncate(length);
                Ok(Some(text))
            }
            Made::AesCbc(secret) => {
                let (start, text) = sealed.split_at_checked(BLOCK).ok_or_else(short)?;
                Ok(Some(open_blocks(secret, start, text).ok_or(broken)?))
            }
            Made::Secretbox(key) => {
                let (nonce, text) = sealed.split_at_checked(SECRETBOX_NONCE).ok_or_else(short)?;
                let nonce: [u8; SECRETBOX_NONCE] = nonce.try_into().map_err(|_| short())?;
                let opened = key.decrypt(&nonce.into(), text);
                Ok(Some(opened.map_err(|_| broken)?))
            }
        }
    }
}

fn seal_blocks(secret: &[u8], start: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    fn with<C: KeyIvInit + BlockEncryptMut>(
        secret: &[u8],
        start: &[u8],
        plain: &[u8],
    ) -> Option<Vec<u8>> {
        let cipher = C::new_from_slices(secret, start).ok()?;
        Some(cipher.encrypt_padded_vec_mut::<Pkcs7>(plain))
    }
    match secret.len() {
        16 => with::<Encryptor<Aes128>>(secret, start, plain),
        24 => with::<Encryptor<Aes192>>(secret, start, plain),
        _ => with::<Encryptor<Aes256>>(secret, start, plain),
    }
}

fn open_blocks(secret: &[u8], start: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    fn with<C: KeyIvInit + BlockDecryptMut>(
        secret: &[u8],
        start: &[u8],
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let cipher = C::new_from_slices(secret, start).ok()?;
        cipher.decrypt_padded_vec_mut::<Pkcs7>(text).ok()
    }
    match secret.len() {
        16 => with::<Decryptor<Aes128>>(secret, start, text),
        24 => with::<Decryptor<Aes192>>(secret, start, text),
        _ => with::<Decryptor<Aes256>>(secret, start, text),
    }
}

/// Bytes that nobody can foretell.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system gives no random numbers")?;
    Ok(bytes)
}
