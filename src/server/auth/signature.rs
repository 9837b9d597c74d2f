//! Signatures of tokens. In: the public half of a key as a JSON Web Key; a message and a signature. Out: whether the key
//! signed it. The key decides the algorithm, never the token: a token that names another one is refused, so that nothing
//! can be passed off as a shared secret.
//!
//! Three of the four algorithms are ring's; P-521, which ring does not have, is RustCrypto's.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p521::ecdsa::signature::Verifier;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::server::config::SigningKey;

/// The public half of a key.
pub(super) struct VerifyingKey {
    /// Its name.
    pub(super) kid: String,
    /// `RS256`, `ES256`, `ES384` or `ES512`.
    pub(super) algorithm: &'static str,
    key: Key,
}

enum Key {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ecdsa(&'static EcdsaVerificationAlgorithm, Vec<u8>),
    P521(Box<p521::ecdsa::VerifyingKey>),
}

impl VerifyingKey {
    /// None for a key of another kind, for another algorithm, or that is none.
    pub(super) fn new(key: &SigningKey) -> Option<Self> {
        let bytes = |member: &Option<String>| decode(member.as_deref()?);
        let (algorithm, verifying) = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => {
                // Some write the byte that a sign would need; ring takes none.
                let modulus: Vec<u8> = bytes(&key.n)?.into_iter().skip_while(|byte| *byte == 0).collect();
                let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
                ((2048..=8192).contains(&bits)).then_some(())?;
                ("RS256", Key::Rsa { modulus, exponent: bytes(&key.e)? })
            }
            ("EC", Some("P-256")) => ("ES256", Key::Ecdsa(&ECDSA_P256_SHA256_FIXED, point(key, 32)?)),
            ("EC", Some("P-384")) => ("ES384", Key::Ecdsa(&ECDSA_P384_SHA384_FIXED, point(key, 48)?)),
            ("EC", Some("P-521")) => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&point(key, 66)?).ok()?;
                ("ES512", Key::P521(Box::new(key)))
            }
            _ => return None,
        };
        let fits = key.alg.as_deref().is_none_or(|alg| alg == algorithm) && !key.kid.is_empty();
        fits.then(|| Self { kid: key.kid.clone(), algorithm, key: verifying })
    }

    /// Whether this key signed the message.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Key::Ecdsa(algorithm, point) => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, signature).is_ok()
            }
            Key::P521(key) => p521::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

/// The uncompressed form of a point, whose coordinates have `length` bytes each.
fn point(key: &SigningKey, length: usize) -> Option<Vec<u8>> {
    let coordinate =
        |member: &Option<String>| decode(member.as_deref()?).filter(|bytes| bytes.len() == length);
    Some([&[4], &coordinate(&key.x)?[..], &coordinate(&key.y)?[..]].concat())
}

/// base64url without padding, and nothing else.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}
