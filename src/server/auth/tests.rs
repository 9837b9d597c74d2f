use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::token::{LEEWAY, LIFETIME};
use super::*;
use crate::server::config::{
    BackendConfig, DynamicConfig, FORMAT_VERSION, Identity, ServiceAccountsConfig, SigningKey, StaticConfig,
    TokenIssuer,
};

const NOW: i64 = 1_800_000_000;
const AUDIENCE: &str = "chatservice.dev/chat/demo";
const KEY: &str = "sk-0123456789abcdef";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of the cluster.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap())
    }

    fn public(&self, kid: &str) -> SigningKey {
        let point = self.0.public_key().as_ref();
        SigningKey {
            kid: kid.to_owned(),
            kty: "EC".to_owned(),
            alg: None,
            n: None,
            e: None,
            crv: Some("P-256".to_owned()),
            x: Some(encode(&point[1..33])),
            y: Some(encode(&point[33..])),
        }
    }

    fn token(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.as_bytes()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature.as_ref()))
    }

    /// A good token with other claims.
    fn with(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.token(&json!({"alg": "ES256", "kid": "k1"}), &claims.to_string())
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:web", "aud": [AUDIENCE],
        "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 3600,
    })
}

fn config(auth: Option<AuthConfig>) -> ServerConfig {
    ServerConfig {
        format_version: FORMAT_VERSION,
        identity: Identity { namespace: "chat".into(), name: "demo".into(), uid: "u".into(), generation: 1 },
        fixed: StaticConfig::default(),
        dynamic: DynamicConfig { auth, ..DynamicConfig::new("echo-1", BackendConfig::Echo {}) },
    }
}

/// Lets in `shop/web` by its token and `mobile`, which has a name in metrics, by its key.
fn gate(keys: Vec<SigningKey>) -> Gate {
    let url = "https://kubernetes.default.svc".to_owned();
    let service_accounts = ServiceAccountsConfig {
        audience: AUDIENCE.to_owned(),
        allowed: vec!["shop/web".to_owned(), "shop/api.v2".to_owned()],
        issuer: Some(TokenIssuer { url, keys }),
    };
    let mobile = CallerConfig { name: "mobile".to_owned(), limits: None, budget: None };
    let mut keys = ApiKeys::default();
    keys.add("mobile", KEY).unwrap();
    let auth = AuthConfig { service_accounts: Some(service_accounts), callers: vec![mobile] };
    Gate::new((auth, Some(keys)), None)
}

fn bearing(credential: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {credential}")).unwrap();
    [(header::AUTHORIZATION, value)].into_iter().collect()
}

/// Who has this credential, from an address that has not failed yet.
fn who(gate: &Gate, credential: &str) -> Result<String, Refusal> {
    let caller = gate.identify(HERE, &bearing(credential), &Failures::default(), NOW)?;
    Ok(caller.identity().unwrap().to_owned())
}

#[test]
fn keys_and_tokens_are_callers_with_the_names_that_the_configuration_gives_them() {
    let signer = Signer::new();
    let gate = gate(vec![signer.public("k1")]);
    assert_eq!(who(&gate, KEY).as_deref(), Ok("mobile"));
    assert_eq!(who(&gate, &signer.with(|_| ())).as_deref(), Ok("shop/web"));
    let dotted = signer.with(|claims| claims["sub"] = json!("system:serviceaccount:shop:api.v2"));
    assert_eq!(who(&gate, &dotted).as_deref(), Ok("shop/api.v2"));
    let one = signer.with(|claims| claims["aud"] = json!(AUDIENCE));
    assert_eq!(who(&gate, &one).as_deref(), Ok("shop/web"));
    let label = |credential: &str| {
        let caller = gate.identify(HERE, &bearing(credential), &Failures::default(), NOW).unwrap();
        caller.label().to_owned()
    };
    assert_eq!((label(KEY).as_str(), label(&one).as_str()), ("mobile", "other"));
}

#[test]
fn a_token_that_no_key_of_the_cluster_signed_is_told_nothing() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let mut without_curve = signer.public("k2");
    without_curve.crv = None;
    let mut for_another = signer.public("k3");
    for_another.alg = Some("ES384".to_owned());
    let gate = gate(vec![signer.public("k1"), without_curve, for_another]);
    let good = signer.with(|_| ());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let made = |header: Value| signer.token(&header, &claims().to_string());
    let none = encode(json!({"alg": "none", "kid": "k1"}).to_string().as_bytes());
    let hmac = encode(json!({"alg": "HS256", "kid": "k1"}).to_string().as_bytes());
    // What a verifier would accept that takes the public key for a shared secret.
    let swapped = {
        let message = format!("{hmac}.{payload}");
        let public = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.0.public_key().as_ref());
        let tag = ring::hmac::sign(&public, message.as_bytes());
        format!("{message}.{}", encode(tag.as_ref()))
    };
    let mut other_bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    other_bytes[63] ^= 1;
    let extended = encode(claims().to_string().replace("shop:web", "shop:api.v2").as_bytes());
    for (what, token) in [
        ("of a stranger", stranger.with(|_| ())),
        ("none", format!("{none}.{payload}.")),
        ("none with a signature", format!("{none}.{payload}.{signature}")),
        ("swapped to HMAC", swapped),
        ("of another algorithm", made(json!({"alg": "ES384", "kid": "k1"}))),
        ("of RSA", made(json!({"alg": "RS256", "kid": "k1"}))),
        ("an unknown key", made(json!({"alg": "ES256", "kid": "k9"}))),
        ("a key without a curve", made(json!({"alg": "ES256", "kid": "k2"}))),
        ("a key for another algorithm", made(json!({"alg": "ES256", "kid": "k3"}))),
        ("no key named", made(json!({"alg": "ES256"}))),
        ("a key brought along", made(json!({"alg": "ES256", "kid": "k9", "jwk": stranger.public("k9")}))),
        ("an extension", made(json!({"alg": "ES256", "kid": "k1", "crit": ["exp"]}))),
        (
            "a header twice",
            format!("{}.{payload}.{signature}", encode(br#"{"alg":"ES256","kid":"k1","kid":"k1"}"#)),
        ),
        ("other claims", format!("{header}.{extended}.{signature}")),
        ("a changed signature", format!("{header}.{payload}.{}", encode(&other_bytes))),
        ("padded", format!("{header}.{payload}.{signature}==")),
        ("a signature of nothing", format!("{header}.{payload}.")),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("dots", "..".to_owned()),
        ("not base64", "a.!.c".to_owned()),
        ("not JSON", format!("{}.{payload}.{signature}", encode(b"{"))),
    ] {
        assert_eq!(who(&gate, &token), Err(Refusal::Unknown), "{what}");
    }
    for end in 0..good.len() {
        assert!(who(&gate, &good[..end]).is_err(), "cut after {end}");
    }
    assert_eq!(who(&gate, &"x".repeat(CREDENTIAL_MAX + 1)), Err(Refusal::Malformed));
    assert_eq!(who(&gate, &"x".repeat(CREDENTIAL_MAX)), Err(Refusal::Unknown));
    assert_eq!(who(&gate, &good).as_deref(), Ok("shop/web"), "the whole one is good all the while");
}

#[test]
fn a_token_of_the_cluster_that_does_not_fit_is_told_why() {
    let signer = Signer::new();
    let gate = gate(vec![signer.public("k1")]);
    let audience = || Refusal::Audience { audience: AUDIENCE.to_owned() };
    let account = |account: &str| Refusal::NotAllowed { account: account.to_owned() };
    for (claim, value, refusal) in [
        ("iss", json!("https://elsewhere.example"), Refusal::Claims),
        ("iss", json!(null), Refusal::Claims),
        ("sub", json!("system:node:node1"), Refusal::Claims),
        ("sub", json!("system:serviceaccount:shop"), Refusal::Claims),
        ("sub", json!("system:serviceaccount:shop:admin"), account("shop/admin")),
        ("sub", json!("system:serviceaccount:mall:web"), account("mall/web")),
        ("aud", json!(["https://kubernetes.default.svc"]), audience()),
        ("aud", json!([]), audience()),
        ("aud", json!("chatservice.dev/chat/demo2"), audience()),
        ("aud", json!({"a": AUDIENCE}), Refusal::Claims),
        ("exp", json!(NOW - LEEWAY), Refusal::Expired),
        ("exp", json!(i64::MIN), Refusal::Expired),
        ("exp", json!("soon"), Refusal::Claims),
        ("exp", json!(null), Refusal::Claims),
        ("exp", json!(NOW - 60 + LIFETIME + 1), Refusal::Lifetime),
        ("exp", json!(i64::MAX), Refusal::Lifetime),
        ("iat", json!(NOW + LEEWAY + 1), Refusal::Claims),
        ("iat", json!(null), Refusal::Claims),
        ("iat", json!(i64::MIN), Refusal::Lifetime),
        ("nbf", json!(NOW + LEEWAY + 1), Refusal::Claims),
    ] {
        let token = signer.with(|claims| claims[claim] = value.clone());
        assert_eq!(who(&gate, &token), Err(refusal), "{claim} {value}");
    }
    for (claim, value) in [
        ("exp", json!(NOW - LEEWAY + 1)),
        ("exp", json!(NOW - 60 + LIFETIME)),
        ("iat", json!(NOW + LEEWAY)),
        ("nbf", json!(null)),
        ("aud", json!(["https://kubernetes.default.svc", AUDIENCE])),
    ] {
        let token = signer.with(|claims| claims[claim] = value.clone());
        assert_eq!(who(&gate, &token).as_deref(), Ok("shop/web"), "{claim} {value}");
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"system:serviceaccount:shop:web\",", 1);
    let twice = signer.token(&json!({"alg": "ES256", "kid": "k1"}), &twice);
    assert_eq!(who(&gate, &twice), Err(Refusal::Claims), "a claim that is there twice");
}

#[test]
fn what_was_accepted_is_remembered_until_it_expires() {
    let signer = Signer::new();
    let gate = gate(vec![signer.public("k1")]);
    let (token, failures) = (bearing(&signer.with(|_| ())), Failures::default());
    let at = |now: i64| gate.identify(HERE, &token, &failures, now);
    let first = at(NOW).unwrap();
    assert!(Arc::ptr_eq(&first, &at(NOW + 3600 + LEEWAY - 1).unwrap()));
    assert_eq!(at(NOW + 3600 + LEEWAY), Err(Refusal::Expired));
    assert_eq!(gate.accepted.count(), 0, "what is over is forgotten");
}

#[test]
fn failures_shut_an_address_for_all_but_those_it_knows() {
    let gate = gate(Vec::new());
    let failures = Failures::default();
    let try_it =
        |address: IpAddr, credential: &str| gate.identify(address, &bearing(credential), &failures, NOW);
    assert!(try_it(HERE, KEY).is_ok());
    let mut guesses = 0;
    while !matches!(try_it(HERE, "sk-a-guess-of-a-key"), Err(Refusal::Shut { .. })) {
        guesses += 1;
        assert!(guesses < 100, "it is never shut");
    }
    assert_eq!(guesses, 20);
    assert!(try_it(HERE, KEY).is_ok(), "an app behind the same address goes on");
    let elsewhere = IpAddr::from([198, 51, 100, 1]);
    assert!(try_it(elsewhere, KEY).is_ok());
    for _ in 0..100 {
        let nothing = gate.identify(elsewhere, &HeaderMap::new(), &failures, NOW);
        assert_eq!(nothing, Err(Refusal::Missing), "who says nothing tries nothing");
    }
}

/// All that may have been a guess counts, and nothing else does.
#[test]
fn only_what_may_have_been_a_guess_counts_as_one() {
    let signer = Signer::new();
    let gate = gate(vec![signer.public("k1")]);
    let bad = |claim: &str, value: Value| bearing(&signer.with(|claims| claims[claim] = value));
    let basic: HeaderMap =
        [(header::AUTHORIZATION, HeaderValue::from_static("Basic YTpi"))].into_iter().collect();
    for (what, headers, counts) in [
        ("nothing", HeaderMap::new(), false),
        ("an unknown key", bearing("sk-a-guess-of-a-key"), true),
        ("a forged token", bearing(&Signer::new().with(|_| ())), true),
        ("another scheme", basic, true),
        ("what is too long", bearing(&"x".repeat(CREDENTIAL_MAX + 1)), true),
        ("an expired token", bad("exp", json!(NOW - LEEWAY)), false),
        ("a token for somebody else", bad("aud", json!("chatservice.dev/chat/other")), false),
        ("a token that lives too long", bad("exp", json!(NOW + LIFETIME)), false),
        ("a token of another account", bad("sub", json!("system:serviceaccount:shop:admin")), false),
        ("a token of a node", bad("sub", json!("system:node:node1")), false),
    ] {
        let failures = Failures::default();
        let ask = || gate.identify(HERE, &headers, &failures, NOW).unwrap_err();
        let shut = (0..40).filter(|_| matches!(ask(), Refusal::Shut { .. })).count();
        assert_eq!(shut, if counts { 20 } else { 0 }, "{what}");
    }
}

/// A gate that is made anew, because keys rotate, still knows who is at an address that is shut; what is no key any more
/// it refuses at once, and knows no longer.
#[test]
fn who_was_let_in_before_the_keys_changed_is_let_in_after_it_from_a_shut_address() {
    let (old, new, failures) = (Signer::new(), Signer::new(), Failures::default());
    let access = |keys: &[(&str, &str)], signing: Vec<SigningKey>, previous: Option<&Access>| {
        let mut api_keys = ApiKeys::default();
        for (caller, key) in keys {
            api_keys.add(caller, key).unwrap();
        }
        let issuer = TokenIssuer { url: "https://kubernetes.default.svc".to_owned(), keys: signing };
        let service_accounts = ServiceAccountsConfig {
            audience: AUDIENCE.to_owned(),
            allowed: vec!["shop/web".to_owned()],
            issuer: Some(issuer),
        };
        let auth = AuthConfig { service_accounts: Some(service_accounts), callers: Vec::new() };
        Access::new(&config(Some(auth)), Some(&api_keys), previous)
    };
    let ask = |access: &Access, credential: &str| {
        let gate = access.gate.as_ref().unwrap();
        gate.identify(HERE, &bearing(credential), &failures, NOW)
            .map(|caller| caller.identity().unwrap().to_owned())
    };
    let (app, web, next) = ("sk-of-the-application", "sk-the-first-of-web", "sk-the-second-of-web");
    let token = old.with(|_| ());
    let before = access(&[("app", app), ("web", web)], vec![old.public("k1")], None);
    for credential in [app, web, &token] {
        ask(&before, credential).unwrap();
    }
    while !matches!(ask(&before, "sk-a-guess-of-a-key"), Err(Refusal::Shut { .. })) {}

    // Web's key and the cluster's rotate, with an overlap of the latter.
    let signing = vec![old.public("k1"), new.public("k2")];
    let after = access(&[("app", app), ("web", next)], signing, Some(&before));
    assert_eq!(ask(&after, app).as_deref(), Ok("app"));
    assert_eq!(ask(&after, &token).as_deref(), Ok("shop/web"));
    assert_eq!(ask(&after, web), Err(Refusal::Unknown), "the old key is none");
    assert!(matches!(ask(&after, web), Err(Refusal::Shut { .. })), "and not known any more");
    assert!(matches!(ask(&after, next), Err(Refusal::Shut { .. })), "nobody has used the new one from here");

    // And once more, without the old signing key. What was good twice ago is good if it still is.
    let last = access(&[("app", app), ("web", next)], vec![new.public("k2")], Some(&after));
    assert_eq!(ask(&last, app).as_deref(), Ok("app"));
    assert_eq!(ask(&last, &token), Err(Refusal::Unknown));
    // A caller that moves to another name is that one.
    let renamed = access(&[("shop", app)], Vec::new(), Some(&last));
    assert_eq!(ask(&renamed, app).as_deref(), Ok("shop"));
}

#[test]
fn a_credential_stands_once_in_the_authorization_header() {
    let of = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        bearer(&headers).map(str::to_owned)
    };
    for (values, credential) in [
        (&["Bearer abc"][..], Ok("abc")),
        (&["bearer  abc "], Ok("abc")),
        (&["BEARER abc"], Ok("abc")),
        (&[], Err(Refusal::Missing)),
        (&["Bearer"], Err(Refusal::Missing)),
        (&["Bearer "], Err(Refusal::Missing)),
        (&["abc"], Err(Refusal::Malformed)),
        (&["Basic YTpi"], Err(Refusal::Malformed)),
        (&["Bearer a b"], Err(Refusal::Malformed)),
        (&["Bearer a\tb"], Err(Refusal::Malformed)),
        (&["Bearer é"], Err(Refusal::Malformed)),
        (&["Bearer abc", "Bearer abc"], Err(Refusal::Malformed)),
        (&["Bearer abc", ""], Err(Refusal::Malformed)),
    ] {
        assert_eq!(of(values).as_deref(), credential.as_ref().map(|text| &**text), "{values:?}");
    }
}

#[test]
fn an_open_service_knows_addresses_and_a_changed_configuration_forgets_who_it_let_in() {
    let failures = Failures::default();
    let open = Access::new(&config(None), None, None);
    let caller = open.identify(HERE, &bearing("anything"), &failures).unwrap();
    assert_eq!((caller.identity(), &*caller.key().0), (None, "203.0.113.7"));

    let mut keys = ApiKeys::default();
    keys.add("mobile", KEY).unwrap();
    let closed = Access::new(&config(Some(AuthConfig::default())), Some(&keys), Some(&open));
    assert_eq!(closed.identify(HERE, &bearing(KEY), &failures).unwrap().identity(), Some("mobile"));
    let mut edited = config(Some(AuthConfig::default()));
    edited.dynamic.model = "echo-2".to_owned();
    let same = Access::new(&edited, Some(&keys), Some(&closed));
    assert!(Arc::ptr_eq(same.gate.as_ref().unwrap(), closed.gate.as_ref().unwrap()));
    let mut rotated = ApiKeys::default();
    rotated.add("mobile", "sk-another-key-of-it").unwrap();
    let now = Access::new(&edited, Some(&rotated), Some(&same));
    assert_eq!(now.identify(HERE, &bearing(KEY), &failures), Err(Refusal::Unknown));

    let mut only_secret = config(None);
    only_secret.fixed.api_keys_secret = Some("keys".to_owned());
    let nobody = Access::new(&only_secret, None, None);
    assert_eq!(
        nobody.identify(HERE, &HeaderMap::new(), &failures),
        Err(Refusal::Missing),
        "never open by mistake"
    );
}

#[test]
fn x1_ten_thousand_spoofed_addresses_are_one_caller() {
    let mut config = config(None);
    config.dynamic.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let (access, failures) = (Access::new(&config, None, None), Failures::default());
    for peer in ["203.0.113.7", "10.0.0.1"] {
        let mut callers: Vec<_> = (0..10_000_u32)
            .map(|n| {
                // What anybody may write, and what the proxy appends.
                let written = std::net::Ipv4Addr::from(0x0b00_0000 + n);
                let line = format!("{written}, 10.1.1.1, 203.0.113.7");
                let mut headers = HeaderMap::new();
                headers.append("x-forwarded-for", HeaderValue::from_str(&written.to_string()).unwrap());
                headers.append("x-forwarded-for", HeaderValue::from_str(&line).unwrap());
                access.identify(peer.parse().unwrap(), &headers, &failures).unwrap()
            })
            .collect();
        callers.dedup();
        assert_eq!(callers.len(), 1, "{peer}");
        assert_eq!(&*callers[0].key().0, "203.0.113.7");
    }
}
