//! What a server says and uses for every state of its Secrets.

use super::*;
use crate::server::config::{AuthConfig, DynamicConfig, Identity, ServiceAccountsConfig, StaticConfig};
use std::fs;

fn config(base_url: &str, redis: bool) -> ServerConfig {
    ServerConfig {
        format_version: 1,
        identity: Identity {
            namespace: "chat".into(),
            name: "demo".into(),
            uid: "u-1".into(),
            generation: 1,
        },
        fixed: StaticConfig {
            credentials_secret: Some("openai".into()),
            redis_secret: redis.then(|| "demo-redis".into()),
            ..StaticConfig::default()
        },
        dynamic: DynamicConfig::new(
            "gpt-4o-mini",
            BackendConfig::OpenAi { base_url: base_url.into(), proxy_url: None },
        ),
    }
}

const OPENAI: &str = "https://api.openai.com/v1";

/// Writes a Secret as the kubelet does: files in a new directory, reached through the links `..data` and `<key>`.
fn mount(directory: &Path, data: &[(&str, &str)]) {
    let version = directory.join(format!("..{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(&version).unwrap();
    let link = directory.join("..data_tmp");
    std::os::unix::fs::symlink(version.file_name().unwrap(), &link).unwrap();
    for (key, value) in data {
        fs::write(version.join(key), value).unwrap();
        let user_visible = directory.join(key);
        if !user_visible.exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(key), user_visible).unwrap();
        }
    }
    fs::rename(link, directory.join("..data")).unwrap();
}

/// Keys and values of a Secret.
type Data<'a> = &'a [(&'a str, &'a str)];

struct Pod {
    root: tempfile::TempDir,
}

impl Pod {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("credentials")).unwrap();
        fs::create_dir(root.path().join("redis")).unwrap();
        Self { root }
    }

    fn credentials(self, data: &[(&str, &str)]) -> Self {
        mount(&self.root.path().join("credentials"), data);
        self
    }

    fn redis(self, data: &[(&str, &str)]) -> Self {
        mount(&self.root.path().join("redis"), data);
        self
    }

    fn ca(self, data: &[(&str, &str)]) -> Self {
        mount(&self.root.path().join("ca"), data);
        self
    }

    fn api_keys(self, data: &[(&str, &str)]) -> Self {
        mount(&self.root.path().join("api-keys"), data);
        self
    }

    fn tls(self, data: &[(&str, &str)]) -> Self {
        mount(&self.root.path().join("tls"), data);
        self
    }

    fn source(&self) -> SecretSource {
        SecretSource::Mounted {
            credentials: self.root.path().join("credentials"),
            redis: self.root.path().join("redis"),
            ca: self.root.path().join("ca"),
            api_keys: self.root.path().join("api-keys"),
            tls: self.root.path().join("tls"),
        }
    }

    fn load(&self, config: &ServerConfig) -> Loaded {
        load(config, &self.source())
    }
}

fn only_problem(loaded: &Loaded) -> (&str, &str) {
    let [problem] = loaded.problems.as_slice() else { panic!("one problem expected: {loaded:?}") };
    (&problem.reason, &problem.message)
}

fn key(loaded: &Loaded) -> Option<&str> {
    loaded.credentials.as_ref().map(|credentials| credentials.api_key.expose_secret())
}

fn redis_of(data: &[(&str, &str)]) -> Option<RedisAddress> {
    Pod::new().credentials(&[("api-key", "k")]).redis(data).load(&config(OPENAI, true)).redis
}

fn address(url: &str) -> RedisAddress {
    RedisAddress::from_url(url).unwrap()
}

#[test]
fn a_mounted_key_is_read_without_its_line_break_for_openai_alone() {
    let loaded = Pod::new().credentials(&[("api-key", "sk-1\n")]).load(&config(OPENAI, false));
    assert_eq!(loaded.problems, []);
    assert_eq!(key(&loaded), Some("sk-1"));
    assert_eq!(loaded.credentials.unwrap().allowed_hosts, ["api.openai.com"]);
    assert!(loaded.redis.is_none());
}

#[test]
fn an_empty_or_absent_mount_is_a_secret_that_does_not_exist() {
    let expected = "Secret \"openai\" in namespace \"chat\" does not exist or is empty. Fix: kubectl -n chat create \
                    secret generic openai --from-literal=api-key=...";
    let pod = Pod::new();
    for _ in 0..2 {
        assert_eq!(only_problem(&pod.load(&config(OPENAI, false))), (reason::SECRET_NOT_FOUND, expected));
        let _ = fs::remove_dir(pod.root.path().join("credentials"));
    }
}

#[test]
fn a_secret_without_the_key_is_told_with_the_keys_it_has_and_no_value() {
    let pod = Pod::new().credentials(&[("token", "sk-canary"), ("other", "sk-canary")]);
    let loaded = pod.load(&config(OPENAI, false));
    let expected = "Secret \"openai\" in namespace \"chat\" has no key \"api-key\" (found: other, token). Fix: kubectl \
                    -n chat create secret generic openai --from-literal=api-key=... --dry-run=client -o yaml | kubectl \
                    apply -f -";
    assert_eq!(only_problem(&loaded), (reason::SECRET_KEY_MISSING, expected));
    assert!(!format!("{loaded:?}").contains("canary"));
}

#[test]
fn a_key_goes_only_to_hosts_that_its_secret_allows() {
    let cases: [(&str, Option<&str>, bool); 14] = [
        ("https://api.openai.com/v1", None, true),
        ("https://API.OpenAI.com:443/v1", None, true),
        ("https://api.openai.com.evil.example/v1", None, false),
        ("https://evil.example/api.openai.com", None, false),
        ("https://api.openai.com@evil.example/v1", None, false),
        ("https://sub.api.openai.com/v1", None, false),
        ("https://api.openai.com./v1", None, false),
        ("http://vllm.models.svc:8000/v1", Some("vllm.models.svc"), true),
        ("http://vllm.models.svc:8000/v1", Some(" a.example , VLLM.models.svc\n"), true),
        ("http://[::1]:8000/v1", Some("::1"), true),
        ("http://[::1]:8000/v1", Some("[::1]"), true),
        ("https://api.openai.com/v1", Some("other.example"), false),
        ("https://api.openai.com/v1", Some(""), false),
        ("https://a.example/v1", Some("*.example"), false),
    ];
    for (base_url, allowed, expected) in cases {
        let mut data = vec![("api-key", "sk-1")];
        data.extend(allowed.map(|hosts| ("allowed-hosts", hosts)));
        let loaded = Pod::new().credentials(&data).load(&config(base_url, false));
        assert_eq!(key(&loaded).is_some(), expected, "{base_url} {allowed:?}");
        if !expected {
            assert_eq!(only_problem(&loaded).0, reason::CREDENTIAL_HOST_MISMATCH, "{base_url} {allowed:?}");
        }
    }
}

#[test]
fn a_host_that_is_not_allowed_is_told_with_the_command_that_allows_it() {
    let pod = Pod::new().credentials(&[("api-key", "sk-1"), ("allowed-hosts", "a.example")]);
    let loaded = pod.load(&config("https://llm.example/v1", false));
    let expected = "Secret \"openai\" in namespace \"chat\" does not allow its key to be sent to \"llm.example\", the \
                    host of spec.backend.openai.baseURL (allowed: a.example). Fix, if that host may have the key: \
                    kubectl -n chat patch secret openai -p \
                    '{\"stringData\":{\"allowed-hosts\":\"a.example,llm.example\"}}'";
    assert_eq!(only_problem(&loaded), (reason::CREDENTIAL_HOST_MISMATCH, expected));
}

#[test]
fn a_key_that_cannot_be_a_header_is_refused_without_being_quoted() {
    for value in ["", "\n", "sk canary", "sk-canary\nsecond", "sk-canär"] {
        let loaded = Pod::new().credentials(&[("api-key", value)]).load(&config(OPENAI, false));
        let (reason, message) = only_problem(&loaded);
        assert_eq!(reason, reason::SECRET_KEY_MISSING, "{value:?}");
        assert!(message.starts_with("key \"api-key\" of Secret \"openai\""), "{message}");
        assert!(!message.contains("canar") && !message.contains("canär"), "{message}");
    }
}

#[test]
fn files_over_1_mib_are_not_read() {
    let loaded =
        Pod::new().credentials(&[("api-key", &"k".repeat((1 << 20) + 1))]).load(&config(OPENAI, false));
    assert!(only_problem(&loaded).1.contains("larger than 1 MiB"), "{loaded:?}");
}

#[test]
fn no_key_is_needed_where_none_is_referenced_and_none_by_the_echo_backend() {
    let pod = Pod::new();
    let mut config = config(OPENAI, false);
    config.fixed.credentials_secret = None;
    assert_eq!(pod.load(&config), Loaded::default());
    config.dynamic.backend = BackendConfig::Echo {};
    assert_eq!(pod.load(&config), Loaded::default());
}

#[test]
fn redis_is_a_url_or_is_made_from_its_parts() {
    assert_eq!(redis_of(&[("url", "rediss://u:p@r:6380/2\n")]), Some(address("rediss://u:p@r:6380/2")));
    assert_eq!(redis_of(&[("host", "r.svc")]), Some(address("redis://r.svc")));
    assert_eq!(
        redis_of(&[("host", "r"), ("port", "6380"), ("username", "u"), ("password", "p@/:# %ü\n")]),
        Some(address("redis://u:p%40%2F%3A%23%20%25%C3%BC@r:6380"))
    );
}

#[test]
fn a_bad_redis_secret_is_told_without_quoting_it() {
    let cases: [(Data, &str, &str); 12] = [
        (&[], reason::SECRET_NOT_FOUND, "--from-literal=url=..."),
        (&[("token", "canary")], reason::SECRET_KEY_MISSING, "has no key \"url\" (found: token)"),
        (&[("url", "canary")], reason::SECRET_KEY_MISSING, "key \"url\" of Secret"),
        (&[("url", "http://:canary@r")], reason::SECRET_KEY_MISSING, "write redis://"),
        (&[("url", "redis://:canary@r:0")], reason::SECRET_KEY_MISSING, "from 1 to 65535"),
        (&[("url", "redis://canary@r")], reason::SECRET_KEY_MISSING, "a user and no password"),
        (&[("url", "redis://:canary@r/70000")], reason::SECRET_KEY_MISSING, "from 0 to 65535"),
        (&[("url", "redis://:canary@r?x=1")], reason::SECRET_KEY_MISSING, "options after `?`"),
        (
            &[("host", "r"), ("port", "canary")],
            reason::SECRET_KEY_MISSING,
            "key \"port\" of Secret \"demo-redis\" in namespace \"chat\" cannot be used: the Redis `port` must be a \
             number from 1 to 65535, or be left out for 6379. Fix: kubectl -n chat patch secret demo-redis -p \
             '{\"stringData\":{\"port\":\"...\"}}'",
        ),
        (&[("host", "r"), ("username", "canary")], reason::SECRET_KEY_MISSING, "key \"password\" of Secret"),
        (&[("host", "r"), ("ca.crt", "canary")], reason::SECRET_KEY_MISSING, "key \"ca.crt\" of Secret"),
        (
            &[("url", "redis://r"), ("tls.crt", "canary")],
            reason::SECRET_KEY_MISSING,
            "write rediss for redis",
        ),
    ];
    for (data, reason, part) in cases {
        let pod = Pod::new().credentials(&[("api-key", "k")]).redis(data);
        let loaded = pod.load(&config(OPENAI, true));
        let (found, message) = only_problem(&loaded);
        assert_eq!(found, reason, "{data:?}");
        assert!(message.contains(part) && message.contains("\"demo-redis\""), "{message}");
        assert!(!message.contains("canary"), "{message}");
        assert!(loaded.redis.is_none() && key(&loaded) == Some("k"), "{data:?}");
    }
}

#[test]
fn outside_a_cluster_secrets_are_variables_and_only_redis_may_be_absent() {
    let environment = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(&config("http://localhost:1234/v1", true), &SecretSource::Environment(variables.collect()))
    };
    let loaded = environment(&[("OPENAI_API_KEY", "sk-1"), ("REDIS_URL", "redis://localhost")]);
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.credentials.unwrap().allowed_hosts, ["localhost"]);
    assert_eq!(loaded.redis, Some(address("redis://localhost")));

    let loaded = environment(&[("OPENAI_API_KEY", "sk-1")]);
    assert_eq!((loaded.problems.as_slice(), loaded.redis), (&[][..], None));
    assert!(only_problem(&environment(&[])).1.starts_with("OPENAI_API_KEY is not set"));
    let loaded = environment(&[("OPENAI_API_KEY", "sk-1"), ("REDIS_URL", "localhost")]);
    assert!(only_problem(&loaded).1.starts_with("REDIS_URL cannot be used: the Redis URL is not one that"));
}

#[test]
fn the_backends_authority_is_read_from_its_config_map_or_what_is_wrong_with_that_is_told() {
    let certificate = rcgen::generate_simple_self_signed(["llm.test".to_owned()]).unwrap().cert.pem();
    let two = format!("# ours\n{certificate}\n{certificate}");
    let broken = certificate.replace("MII", "AAA");
    let (missing, unusable) = (reason::CONFIG_MAP_NOT_FOUND, reason::CONFIG_MAP_KEY_MISSING);
    let cases: [(Data, Option<(&str, &str)>); 7] = [
        (&[("ca.crt", &certificate)], None),
        (&[("ca.crt", &two)], None),
        (&[], Some((missing, "create configmap private-ca --from-file=ca.crt=ca.crt"))),
        (
            &[("ca.pem", &certificate)],
            Some((unusable, "has no key \"ca.crt\" (found: ca.pem). Fix: kubectl -n chat")),
        ),
        (&[("ca.crt", "")], Some((unusable, "it has no certificate"))),
        (
            &[("ca.crt", "-----BEGIN CERTIFICATE-----\n")],
            Some((unusable, "its certificate 1 cannot be read")),
        ),
        (&[("ca.crt", &broken)], Some((unusable, "its certificate 1 cannot be read"))),
    ];
    for (data, expected) in cases {
        let mut config = config(OPENAI, false);
        config.fixed.ca_config_map = Some("private-ca".to_owned());
        let loaded = Pod::new().credentials(&[("api-key", "k")]).ca(data).load(&config);
        assert_eq!(loaded.authorities.is_some(), expected.is_none(), "{expected:?}");
        assert_eq!(key(&loaded), Some("k"), "one does not hide the other");
        if let Some((reason, words)) = expected {
            let (found, message) = only_problem(&loaded);
            assert_eq!(found, reason, "{message}");
            assert!(message.contains(words), "{message}");
            assert!(message.contains("ConfigMap \"private-ca\" in namespace \"chat\""), "{message}");
        }
    }
}

fn with_api_keys() -> ServerConfig {
    let mut config = config(OPENAI, false);
    config.fixed.credentials_secret = None;
    config.fixed.api_keys_secret = Some("demo-keys".to_owned());
    config
}

#[test]
fn api_keys_are_the_data_keys_of_their_secret_and_a_bad_one_costs_no_other_caller() {
    let good = ("mobile", "sk-0123456789abcdef\n");
    let loaded = Pod::new().api_keys(&[good, ("web", "two\nshort")]).load(&with_api_keys());
    let mut mobile = ApiKeys::default();
    mobile.add("mobile", "sk-0123456789abcdef").unwrap();
    mobile.refuse("web");
    assert_eq!(loaded.api_keys, Some(mobile));
    let (reason, message) = only_problem(&loaded);
    assert_eq!(reason, reason::SECRET_KEY_MISSING);
    assert!(
        message.starts_with("key \"web\" of Secret \"demo-keys\" in namespace \"chat\" lets nobody in"),
        "{message}"
    );
    assert!(
        message.contains("Fix: kubectl -n chat patch secret demo-keys") && !message.contains("two"),
        "{message}"
    );
}

#[test]
fn an_entry_that_is_emptied_revokes_and_is_a_problem_only_where_nobody_is_left() {
    let only = |data: Data| Pod::new().api_keys(data).load(&with_api_keys());
    for empty in ["", "\n", " \r\n\t"] {
        let loaded = only(&[("mobile", "sk-0123456789abcdef"), ("web", empty)]);
        let mut keys = ApiKeys::default();
        keys.add("mobile", "sk-0123456789abcdef").unwrap();
        keys.revoke("web");
        assert_eq!((loaded.api_keys, loaded.problems), (Some(keys), vec![]), "{empty:?}");

        let loaded = only(&[("web", empty)]);
        let expected = "every entry of Secret \"demo-keys\" in namespace \"chat\" is empty, so nobody is let in. Fix, if \
                        somebody is to be: kubectl -n chat patch secret demo-keys -p '{\"stringData\":{\"web\":\"...\"}}'";
        assert_eq!(only_problem(&loaded), (reason::SECRET_KEY_MISSING, expected));
        assert!(loaded.api_keys.is_some_and(|keys| keys.revokes_all()));
    }
    let mut config = with_api_keys();
    let accounts =
        ServiceAccountsConfig { audience: "a".into(), allowed: vec!["shop/web".into()], issuer: None };
    config.dynamic.auth = Some(AuthConfig { service_accounts: Some(accounts), callers: Vec::new() });
    assert_eq!(Pod::new().api_keys(&[("web", "")]).load(&config).problems, [], "others are let in by tokens");
}

#[test]
fn a_secret_of_api_keys_that_is_missing_is_told_with_the_command_that_makes_it() {
    for pod in [Pod::new(), Pod::new().api_keys(&[])] {
        let loaded = pod.load(&with_api_keys());
        assert_eq!(loaded.api_keys, None);
        let (reason, message) = only_problem(&loaded);
        assert_eq!(reason, reason::SECRET_NOT_FOUND);
        assert!(
            message.contains("kubectl -n chat create secret generic demo-keys --from-literal=my-app=..."),
            "{message}"
        );
    }
}

#[test]
fn outside_a_cluster_api_keys_are_a_variable_that_has_to_be_there() {
    let of = |value: Option<&str>| {
        let variables = value.map(|value| ("CHATSERVICE_API_KEYS".to_owned(), value.to_owned()));
        load(&with_api_keys(), &SecretSource::Environment(variables.into_iter().collect()))
    };
    let mut keys = ApiKeys::default();
    keys.add("web", "sk-0123456789=bcdef").unwrap();
    keys.add("app", "sk-of-the-application").unwrap();
    keys.add("web", "sk-of-web-the-second").unwrap();
    let loaded = of(Some("web=sk-0123456789=bcdef,app=sk-of-the-application,web=sk-of-web-the-second"));
    assert_eq!((loaded.api_keys, loaded.problems), (Some(keys), vec![]));
    for (value, says) in [
        (None, "CHATSERVICE_API_KEYS is not set"),
        (Some("sk-0123456789abcdef"), "its entry 1 is not name=key"),
        (Some("web=sk-0123456789abcdef,"), "its entry 2 is not name=key"),
        (Some("a b=sk-0123456789abcdef"), "the name of its entry 1 is not letters"),
        (Some("web=short"), "cannot be used for web: a key in it is shorter than 16 characters"),
    ] {
        let loaded = of(value);
        assert_eq!(loaded.api_keys, None, "{value:?}");
        let (_, message) = only_problem(&loaded);
        assert!(message.contains(says) && message.contains("Fix: export CHATSERVICE_API_KEYS="), "{message}");
        assert!(!message.contains("0123456789"), "{message}");
    }
}

#[test]
fn a_certificate_is_taken_as_cert_manager_writes_it_and_what_is_wrong_with_it_is_said() {
    let mut config = config(OPENAI, false);
    config.fixed.credentials_secret = None;
    config.fixed.tls_secret = Some("demo-tls".to_owned());
    let pair = || {
        let made = rcgen::generate_simple_self_signed(["demo".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let ((certificate, key), (_, other)) = (pair(), pair());
    let loaded = Pod::new().tls(&[("tls.crt", &certificate), ("tls.key", &key)]).load(&config);
    assert_eq!(loaded.problems, []);
    assert!(loaded.certificate.is_some());
    let create = "kubectl -n chat create secret tls demo-tls --cert=tls.crt --key=tls.key";
    for (data, reason, part) in [
        (&[][..], reason::SECRET_NOT_FOUND, "does not exist or is empty"),
        (
            &[("tls.crt", certificate.as_str())],
            reason::SECRET_KEY_MISSING,
            "no key \"tls.key\" (found: tls.crt)",
        ),
        (
            &[("tls.crt", "x"), ("tls.key", key.as_str())],
            reason::SECRET_KEY_MISSING,
            "key \"tls.crt\" of Secret \"demo-tls\" in namespace \"chat\" cannot be used: it must be certificates",
        ),
        (
            &[("tls.crt", certificate.as_str()), ("tls.key", other.as_str())],
            reason::SECRET_KEY_MISSING,
            "it must be the key of the first certificate",
        ),
    ] {
        let loaded = Pod::new().tls(data).load(&config);
        let (found, message) = only_problem(&loaded);
        assert_eq!(found, reason);
        assert!(message.contains(part) && message.contains(create), "{message}");
        assert!(loaded.certificate.is_none() && !message.contains("PRIVATE"), "{message}");
    }
}
