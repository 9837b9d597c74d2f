//! A cluster that makes ServiceAccount tokens. In: an algorithm and claims. Out: signed tokens, and the public keys as a
//! server is told of them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chatservice::server::config::{ServiceAccountsConfig, SigningKey, TokenIssuer};
use p521::ecdsa::signature::Signer as _;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

/// Claim `iss`.
const ISSUER: &str = "https://kubernetes.default.svc";
/// What tokens are made for.
pub const AUDIENCE: &str = "chatservice.dev/test/demo";

pub fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of the cluster.
pub enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(&'static str, usize, Box<EcdsaKeyPair>),
    P521(Box<p521::ecdsa::SigningKey>),
}

impl Signer {
    /// A new key for this algorithm.
    pub fn new(algorithm: &str) -> Self {
        let random = SystemRandom::new();
        let ecdsa = |name: &'static str, size, signing| {
            let document = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
            Self::Ecdsa(
                name,
                size,
                Box::new(EcdsaKeyPair::from_pkcs8(signing, document.as_ref(), &random).unwrap()),
            )
        };
        match algorithm {
            "RS256" => {
                // ring makes no RSA keys.
                let made = std::process::Command::new("openssl")
                    .args([
                        "genpkey",
                        "-algorithm",
                        "RSA",
                        "-pkeyopt",
                        "rsa_keygen_bits:2048",
                        "-outform",
                        "DER",
                    ])
                    .output()
                    .unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                Self::Rsa(Box::new(RsaKeyPair::from_der(&made.stdout).unwrap()))
            }
            "ES256" => ecdsa("P-256", 32, &ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ecdsa("P-384", 48, &ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => loop {
                let mut bytes: [u8; 66] = std::array::from_fn(|_| rand::random());
                bytes[0] &= 1;
                if let Ok(key) = p521::ecdsa::SigningKey::from_slice(&bytes) {
                    return Self::P521(Box::new(key));
                }
            },
            other => panic!("no key for {other}"),
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ecdsa("P-256", ..) => "ES256",
            Self::Ecdsa(..) => "ES384",
            Self::P521(_) => "ES512",
        }
    }

    /// As the API server shows it.
    pub fn public(&self, kid: &str) -> SigningKey {
        let members = match self {
            Self::Rsa(key) => {
                let public = ring::signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Self::Ecdsa(curve, size, key) => point(curve, *size, key.public_key().as_ref()),
            Self::P521(key) => point("P-521", 66, key.verifying_key().to_sec1_point(false).as_bytes()),
        };
        let mut key = json!({"kid": kid, "alg": self.algorithm()});
        key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(key).unwrap()
    }

    /// A token with these claims, signed by this key.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "kid": kid}).to_string();
        let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.to_string().as_bytes()));
        let (random, bytes) = (SystemRandom::new(), message.as_bytes());
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).unwrap();
                signature
            }
            Self::Ecdsa(_, _, key) => key.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(bytes);
                signature.to_bytes().to_vec()
            }
        };
        format!("{message}.{}", encode(&signature))
    }
}

fn point(curve: &str, size: usize, point: &[u8]) -> Value {
    json!({"kty": "EC", "crv": curve, "x": encode(&point[1..=size]), "y": encode(&point[size + 1..])})
}

/// What Kubernetes writes into the token of this ServiceAccount.
pub fn claims(namespace: &str, name: &str) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "iat": now, "nbf": now, "exp": now + 3600,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "u"}},
    })
}

/// Tokens of these ServiceAccounts, signed by these keys, are accepted.
pub fn accepting(allowed: &[&str], keys: Vec<SigningKey>) -> ServiceAccountsConfig {
    ServiceAccountsConfig {
        audience: AUDIENCE.to_owned(),
        allowed: allowed.iter().map(|&account| account.to_owned()).collect(),
        issuer: Some(TokenIssuer { url: ISSUER.to_owned(), keys }),
    }
}
