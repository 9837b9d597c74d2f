//! Who a caller is and what is its own: API keys, tokens of ServiceAccounts, limits, conversations, cached answers.

use std::collections::BTreeMap;

use ::http::Method;
use chatservice::crd::{BudgetPeriod, CacheScope, Per};
use chatservice::server::config::{
    AuthConfig, BudgetConfig, CallerConfig, LimitsConfig, RequestLimit, ServerConfig,
};
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::mock_openai::MockOpenAi;
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, echo, openai};
use crate::tokens::{self, Signer, accepting, claims};

const MOBILE: &str = "sk-mobile-0123456789abcdef";
const WEB: &str = "sk-web-0123456789abcdefghij";

/// With keys for `mobile` and `web`.
fn closed(mut config: ServerConfig) -> ServerConfig {
    config.fixed.api_keys_secret = Some("keys".to_owned());
    config.dynamic.auth = Some(AuthConfig::default());
    config
}

fn environment() -> BTreeMap<String, String> {
    [("CHATSERVICE_API_KEYS".to_owned(), format!("mobile={MOBILE},web={WEB}"))].into()
}

async fn start(config: ServerConfig) -> TestServer {
    TestServer::start_with(config, environment()).await
}

/// One that remembers by itself, and one on Redis.
async fn on_both_stores(redis: &RedisServer) -> [TestServer; 2] {
    let mut config = closed(echo());
    config.fixed.redis_secret = Some("redis".to_owned());
    let mut variables = environment();
    variables.insert("REDIS_URL".to_owned(), redis.url());
    [start(closed(echo())).await, TestServer::start_with(config, variables).await]
}

async fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    http::send(method, url, &all, body.to_string().as_bytes()).await
}

/// With this key or token.
async fn ask(url: &str, credential: &str, body: &Value) -> Answer {
    send(Method::POST, url, &[("authorization", &format!("Bearer {credential}"))], body).await
}

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "hello"}]})
}

#[tokio::test]
async fn without_a_key_that_somebody_has_nothing_is_answered_in_the_form_that_sdks_know() {
    let server = start(closed(echo())).await;
    let url = server.at("/v1/chat/completions");
    for key in [MOBILE, WEB] {
        assert_eq!(ask(&url, key, &hello()).await.status, 200);
    }
    let in_query = format!("{url}?api_key={MOBILE}&key={MOBILE}&access_token={MOBILE}");
    for (what, url, headers) in [
        ("nothing", &url, &[][..]),
        ("an empty key", &url, &[("authorization", "Bearer ")]),
        ("a wrong key", &url, &[("authorization", "Bearer sk-mobile-0123456789abcdeg")]),
        ("a part of a key", &url, &[("authorization", "Bearer sk-mobile-0123456789abcde")]),
        ("a user and a password", &url, &[("authorization", "Basic bW9iaWxlOng=")]),
        ("two", &url, &[("authorization", "Bearer a"), ("authorization", "Bearer b")]),
        ("a key in the URL", &in_query, &[]),
        ("a key in another header", &url, &[("x-api-key", MOBILE), ("api-key", MOBILE)]),
        ("a key in a cookie", &url, &[("cookie", "authorization=Bearer sk-mobile-0123456789abcdef")]),
    ] {
        let refused = send(Method::POST, url, headers, &hello()).await;
        assert_eq!(refused.status, 401, "{what}");
        assert_eq!(refused.header("www-authenticate"), "Bearer", "{what}");
        let error = &refused.json()["error"];
        let known = (&error["type"], &error["param"], &error["code"]);
        assert_eq!(
            known,
            (&json!("invalid_request_error"), &Value::Null, &json!("invalid_api_key")),
            "{what}"
        );
        assert!(!error.to_string().contains("mobile"), "{error}");
    }
    let simple = send(Method::POST, &server.at("/api/v1/chat"), &[], &json!({"message": "hi"})).await;
    assert_eq!((simple.status.as_u16(), simple.json()["error"].as_str()), (401, Some("invalid_api_key")));
    for (method, path) in [
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/models/echo-1"),
        (Method::POST, "/api/v1/chat/stream"),
        (Method::POST, "/v1/embeddings"),
        (Method::POST, "/v1/responses"),
        (Method::GET, "/v1/responses/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69"),
        (Method::DELETE, "/v1/responses/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69"),
        (Method::GET, "/v1/responses/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69/input_items"),
        (Method::GET, "/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69"),
        (Method::DELETE, "/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69"),
    ] {
        let refused = send(method.clone(), &server.at(path), &[], &json!({})).await;
        assert_eq!(refused.status, 401, "{method} {path}");
    }
    for path in ["/", "/health", "/openapi.json", "/docs/"] {
        assert_eq!(http::get(&server.at(path)).await.status, 200, "{path} is for everybody");
    }
    let metrics = crate::metrics::text(&server).await;
    assert!(metrics.contains("chat_auth_failures_total{reason=\"missing\"} "), "{metrics}");
    assert!(metrics.contains("chat_auth_failures_total{reason=\"unknown\"} 2"), "{metrics}");
}

#[tokio::test]
async fn guesses_from_an_address_end_soon_and_known_callers_behind_it_go_on() {
    let server = start(closed(echo())).await;
    let url = server.at("/v1/chat/completions");
    assert_eq!(ask(&url, MOBILE, &hello()).await.status, 200);
    let mut refused = ask(&url, "sk-guess-of-somebody", &hello()).await;
    for _ in 0..30 {
        refused = ask(&url, "sk-guess-of-somebody", &hello()).await;
    }
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() <= 3);
    assert_eq!(ask(&url, WEB, &hello()).await.status, 429, "a right guess is one too");
    assert_eq!(ask(&url, MOBILE, &hello()).await.status, 200);
}

#[tokio::test]
async fn another_callers_conversation_is_none_on_every_verb() {
    let Some(redis) = RedisServer::start().await else { return };
    for server in on_both_stores(&redis).await {
        let chat = server.at("/api/v1/chat");
        let first = ask(&chat, MOBILE, &json!({"message": "mine"})).await;
        assert_eq!((first.status.as_u16(), &first.json()["persisted"]), (200, &json!(true)));
        let id = first.json()["conversation_id"].as_str().unwrap().to_owned();
        let place = server.at(&format!("/api/v1/conversations/{id}"));
        let with = |method: Method, key: &'static str| {
            let place = place.clone();
            async move { send(method, &place, &[("authorization", &format!("Bearer {key}"))], &json!({})).await }
        };
        let go_on = json!({"message": "and then?", "conversation_id": id});
        let unknown = "/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69";
        let of_nobody = send(
            Method::GET,
            &server.at(unknown),
            &[("authorization", &format!("Bearer {WEB}"))],
            &json!({}),
        )
        .await;
        for answer in [
            with(Method::GET, WEB).await,
            with(Method::DELETE, WEB).await,
            ask(&chat, WEB, &go_on).await,
            ask(&server.at("/api/v1/chat/stream"), WEB, &go_on).await,
        ] {
            assert_eq!(
                (answer.status.as_u16(), answer.json()),
                (404, of_nobody.json()),
                "as if there were none"
            );
        }
        assert_eq!(ask(&chat, MOBILE, &go_on).await.status, 200);
        assert_eq!(with(Method::GET, MOBILE).await.json()["messages"].as_array().unwrap().len(), 4);
        assert_eq!(with(Method::DELETE, MOBILE).await.status, 204);
        assert_eq!(with(Method::GET, MOBILE).await.status, 404);
    }
}

#[tokio::test]
async fn x3_another_callers_response_is_none_on_every_verb() {
    let Some(redis) = RedisServer::start().await else { return };
    for server in on_both_stores(&redis).await {
        let responses = server.at("/v1/responses");
        let first = ask(&responses, MOBILE, &json!({"input": "mine"})).await.json();
        assert_eq!(first["store"], true, "{first}");
        let place = format!("{responses}/{}", first["id"].as_str().unwrap());
        let items = format!("{place}/input_items");
        let with = async |method: Method, url: &str, key: &str| {
            send(method, url, &[("authorization", &format!("Bearer {key}"))], &json!({})).await
        };
        for (method, url) in [(Method::GET, &place), (Method::DELETE, &place), (Method::GET, &items)] {
            let answer = with(method.clone(), url, WEB).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["error"]["code"]),
                (404, &json!("response_not_found")),
                "{method} {url}"
            );
        }
        for stream in [false, true] {
            let go_on = json!({"input": "and then?", "previous_response_id": first["id"], "stream": stream});
            let answer = ask(&responses, WEB, &go_on).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["error"]["code"]),
                (404, &json!("previous_response_not_found"))
            );
            assert_eq!(ask(&responses, MOBILE, &go_on).await.status, 200);
        }
        let item = json!({"type": "item_reference", "id": first["output"][0]["id"]});
        let named = json!({"input": [{"role": "user", "content": "and then?"}, item]});
        let answer = ask(&responses, WEB, &named).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (404, &json!("item_not_found"))
        );
        assert_eq!(ask(&responses, MOBILE, &named).await.status, 200);
        assert_eq!(with(Method::GET, &items, MOBILE).await.status, 200);
        assert_eq!(with(Method::DELETE, &place, MOBILE).await.status, 200);
        assert_eq!(with(Method::GET, &place, MOBILE).await.status, 404);
        assert_eq!(send(Method::GET, &place, &[], &json!({})).await.status, 401);
    }
}

#[tokio::test]
async fn x2_an_answer_is_found_again_by_its_caller_and_its_service_alone() {
    let mock = MockOpenAi::fast(3).await;
    let config = || {
        let mut config = closed(openai(&mock.base_url()));
        config.dynamic.cache = Some(cache());
        config
    };
    let (one, other) = (start(config()).await, start(config()).await);
    let mut everybodys = config();
    everybodys.dynamic.cache =
        Some(chatservice::server::config::CacheConfig { scope: CacheScope::Service, ..cache() });
    let shared = start(everybodys).await;
    for (server, key, found) in [
        (&one, MOBILE, "miss"),
        (&one, MOBILE, "hit"),
        (&one, WEB, "miss"),
        (&one, WEB, "hit"),
        (&other, MOBILE, "miss"),
        (&other, WEB, "miss"),
        (&shared, MOBILE, "miss"),
        (&shared, WEB, "hit"),
    ] {
        let answer = ask(&server.at("/v1/chat/completions"), key, &hello()).await;
        assert_eq!(answer.header("x-chat-cache"), found, "{key}");
    }
    for (member, value) in
        [("temperature", json!(0.5)), ("user", json!("u")), ("seed", json!(1)), ("stop", json!("x"))]
    {
        let mut changed = hello();
        changed[member] = value;
        let answer = ask(&one.at("/v1/chat/completions"), MOBILE, &changed).await;
        assert_eq!(answer.header("x-chat-cache"), "miss", "{member}");
    }
}

#[tokio::test]
async fn a_named_caller_has_its_own_limits_and_its_name_in_metrics() {
    let limit = |requests| RequestLimit { requests, period_seconds: 3600, burst: requests };
    let mut config = closed(echo());
    config.dynamic.limits.requests = Some(limit(2));
    config.dynamic.limits.per = Per::Service;
    let own = LimitsConfig { requests: Some(limit(5)), per: Per::Caller, ..config.dynamic.limits };
    let mobile = CallerConfig { name: "mobile".to_owned(), limits: Some(own), budget: None };
    config.dynamic.auth = Some(AuthConfig { service_accounts: None, callers: vec![mobile] });
    let server = start(config).await;
    let url = server.at("/v1/chat/completions");
    let mut admitted = [0, 0];
    for (index, key) in [(0, WEB), (1, MOBILE)].repeat(7) {
        let answer = ask(&url, key, &hello()).await;
        admitted[index] += u32::from(answer.status == 200);
        let limit = if index == 1 { "5" } else { "2" };
        assert_eq!(answer.header("x-ratelimit-limit-requests"), limit);
    }
    assert_eq!(admitted, [2, 5]);
    let refused = ask(&url, MOBILE, &hello()).await;
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("5 requests per 3600 s"));
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    loop {
        let metrics = crate::metrics::text(&server).await;
        if metrics.contains("chat_tokens_total{caller=\"mobile\",kind=\"completion\",model=\"echo-1\"} 5")
            && metrics.contains("chat_tokens_total{caller=\"other\",kind=\"completion\",model=\"echo-1\"} 2")
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_budget_is_the_callers_where_it_says_so() {
    let mock = MockOpenAi::fast(3).await;
    let mut config = closed(openai(&mock.base_url()));
    config.dynamic.models[0].max_output_tokens = Some(10);
    let budget =
        |amount_nano_usd| BudgetConfig { amount_nano_usd, period: BudgetPeriod::Month, per: Per::Caller };
    config.dynamic.budget = Some(budget(1_000));
    let mobile =
        CallerConfig { name: "mobile".to_owned(), limits: None, budget: Some(budget(1_000_000_000)) };
    config.dynamic.auth = Some(AuthConfig { service_accounts: None, callers: vec![mobile] });
    let server = start(config).await;
    let url = server.at("/v1/chat/completions");
    let poor = ask(&url, WEB, &hello()).await;
    assert_eq!(
        (poor.status.as_u16(), poor.json()["error"]["code"].as_str()),
        (429, Some("insufficient_quota"))
    );
    assert_eq!(ask(&url, MOBILE, &hello()).await.status, 200);
    let metrics = crate::metrics::text(&server).await;
    assert!(metrics.contains("chat_budget_used_ratio{caller=\"mobile\"}"), "{metrics}");
    assert!(!metrics.contains("chat_budget_used_ratio{caller=\"other\"}"), "of many there is no one gauge");
}

#[tokio::test]
async fn tokens_of_the_cluster_are_callers_whatever_key_signed_them() {
    for algorithm in ["RS256", "ES256", "ES384", "ES512"] {
        let signer = Signer::new(algorithm);
        let mut config = echo();
        let accounts = accepting(&["shop/web"], vec![signer.public("k1")]);
        config.dynamic.auth = Some(AuthConfig { service_accounts: Some(accounts), callers: Vec::new() });
        let server = TestServer::start(config).await;
        let url = server.at("/v1/chat/completions");
        let good = signer.token("k1", &claims("shop", "web"));
        for _ in 0..2 {
            assert_eq!(ask(&url, &good, &hello()).await.status, 200, "{algorithm}");
        }
        let stranger = Signer::new(algorithm).token("k1", &claims("shop", "web"));
        assert_eq!(ask(&url, &stranger, &hello()).await.status, 401, "{algorithm}");
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut changed = signature.as_bytes().to_vec();
        changed[20] = if changed[20] == b'A' { b'B' } else { b'A' };
        let changed = format!("{message}.{}", String::from_utf8(changed).unwrap());
        assert_eq!(ask(&url, &changed, &hello()).await.status, 401, "{algorithm}");

        let other = ask(&url, &signer.token("k1", &claims("shop", "admin")), &hello()).await;
        assert_eq!(
            (other.status.as_u16(), other.json()["error"]["code"].as_str()),
            (403, Some("caller_not_allowed"))
        );
        let with = |claim: &str, value: Value| {
            let mut claims = claims("shop", "web");
            claims[claim] = value;
            signer.token("k1", &claims)
        };
        let now = jiff::Timestamp::now().as_second();
        for (token, says) in [
            (with("aud", json!(["https://kubernetes.default.svc"])), tokens::AUDIENCE),
            (with("exp", json!(now - 60)), "has expired"),
            (with("exp", json!(now + 90_000)), "lives longer than 24 h"),
        ] {
            let refused = ask(&url, &token, &hello()).await;
            let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
            assert_eq!(refused.status, 401);
            assert!(message.contains(says), "{algorithm}: {message}");
        }
    }
}

#[tokio::test]
async fn forged_huge_and_cut_tokens_are_told_nothing() {
    let signer = Signer::new("ES256");
    let mut config = echo();
    let accounts = accepting(&["shop/web"], vec![signer.public("k1")]);
    config.dynamic.auth = Some(AuthConfig { service_accounts: Some(accounts), callers: Vec::new() });
    let server = TestServer::start(config).await;
    let url = server.at("/v1/chat/completions");
    let good = signer.token("k1", &claims("shop", "web"));
    let parts: Vec<&str> = good.split('.').collect();
    let header = |alg: &str| tokens::encode(json!({"alg": alg, "kid": "k1"}).to_string().as_bytes());
    let hmac = {
        let message = format!("{}.{}", header("HS256"), parts[1]);
        let secret = serde_json::to_vec(&signer.public("k1")).unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        format!("{message}.{}", tokens::encode(ring::hmac::sign(&key, message.as_bytes()).as_ref()))
    };
    let mut answers = Vec::new();
    for token in [
        format!("{}.{}.", header("none"), parts[1]),
        format!("{}.{}.{}", header("None"), parts[1], parts[2]),
        hmac,
        format!("{}.{}", parts[0], parts[1]),
        good[..good.len() / 2].to_owned(),
        good[..good.len() - 1].to_owned(),
        format!("{good}.{good}"),
        "x".repeat(8000),
    ] {
        let refused = ask(&url, &token, &hello()).await;
        assert_eq!(refused.status, 401);
        answers.push(refused.json());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(ask(&url, &"x".repeat(9000), &hello()).await.status, 401);
}

#[tokio::test]
async fn x1_spoofed_addresses_are_one_caller() {
    let mut config = echo();
    config.dynamic.limits.requests = Some(RequestLimit { requests: 3, period_seconds: 86_400, burst: 3 });
    let server = TestServer::start(config.clone()).await;
    let url = server.at("/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69");
    let mut admitted = 0;
    for n in 0..500_u32 {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        let spoofed = match n % 10 {
            0 => format!("{address}"),
            1 => format!("{address}, 127.0.0.1"),
            2 => format!("127.0.0.1, {address}"),
            3 => format!("{address}:80"),
            4 => format!("[::ffff:{address}]:80"),
            5 => format!("{address},{address},{address}"),
            6 => format!("2001:db8:{n:x}::1"),
            7 => format!("for={address}"),
            8 => format!(" {address} ,"),
            _ => format!("unknown, {address}"),
        };
        let headers = [
            ("x-forwarded-for", spoofed.as_str()),
            ("forwarded", &format!("for={address}")),
            ("x-real-ip", &address.to_string()),
        ];
        admitted += u32::from(http::send(Method::GET, &url, &headers, b"").await.status == 404);
    }
    assert_eq!(admitted, 3);

    config.dynamic.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let behind_a_proxy = TestServer::start(config).await;
    let url = behind_a_proxy.at("/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69");
    for client in ["203.0.113.7", "198.51.100.9"] {
        let mut admitted = 0;
        for n in 0..20_u8 {
            // What the client wrote, and what the proxy appended.
            let line = format!("10.0.0.{n}, 127.0.0.1, {client}");
            admitted += u32::from(
                http::send(Method::GET, &url, &[("x-forwarded-for", &line)], b"").await.status == 404,
            );
        }
        assert_eq!(admitted, 3, "{client}");
    }
}
