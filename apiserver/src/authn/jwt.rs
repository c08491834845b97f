//! JSON web tokens of this server: ES256 with one key and nothing else. What a token's
//! header says of its algorithm is compared, never followed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// DER of "a P-256 public key", up to the point itself.
const SPKI_HEAD: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    #[error("the signing key is no P-256 key in PKCS#8")]
    Key,
    #[error("it is not a token")]
    Malformed,
    #[error("it is signed with another algorithm or key")]
    ForeignKey,
    #[error("the signature is wrong")]
    Signature,
    #[error("signing failed")]
    Sign,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Signs and verifies.
pub struct JwtKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl JwtKey {
    pub fn from_pem(pem: &str) -> Result<JwtKey, JwtError> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| JwtError::Key)?;
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pem.contents, &random)
                .map_err(|_| JwtError::Key)?;
        let spki = [SPKI_HEAD, pair.public_key().as_ref()].concat();
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
        Ok(JwtKey { pair, random, id })
    }

    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self
            .pair
            .sign(&self.random, token.as_bytes())
            .map_err(|_| JwtError::Sign)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims of a token that this key signed.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| JwtError::Malformed)
        };
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed)?;
        if header.alg != "ES256" || !(header.kid.is_empty() || header.kid == self.id) {
            return Err(JwtError::ForeignKey);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| JwtError::Signature)?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| JwtError::Malformed)
    }

    /// The public key as a JSON web key.
    pub fn jwk(&self) -> Value {
        // Uncompressed: a byte 4, then both coordinates.
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::authn) fn key() -> JwtKey {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        JwtKey::from_pem(&pair.serialize_pem()).unwrap()
    }

    #[test]
    fn a_signed_token_is_verified_by_its_key_alone() {
        let (ours, other) = (key(), key());
        let claims = json!({"sub": "x", "n": 1});
        let token = ours.sign(&claims).unwrap();
        assert_eq!(ours.verify(&token).unwrap(), claims);
        assert_eq!(other.verify(&token), Err(JwtError::ForeignKey));
    }

    #[test]
    fn tampered_and_unsigned_tokens_are_refused() {
        let key = key();
        let token = key.sign(&json!({"sub": "x"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let check = |header: &str, claims: &str, signature: &str, error: JwtError| {
            assert_eq!(
                key.verify(&format!("{header}.{claims}.{signature}")),
                Err(error)
            );
        };
        check(
            parts[0],
            &encode(json!({"sub": "admin"})),
            parts[2],
            JwtError::Signature,
        );
        check(
            &encode(json!({"alg": "none"})),
            parts[1],
            "",
            JwtError::ForeignKey,
        );
        check(
            &encode(json!({"alg": "HS256"})),
            parts[1],
            parts[2],
            JwtError::ForeignKey,
        );
        check(
            &encode(json!({"alg": "ES256"})),
            parts[1],
            "",
            JwtError::Signature,
        );
        check("", "", "", JwtError::Malformed);
        assert_eq!(key.verify("nothing"), Err(JwtError::Malformed));
    }
}
