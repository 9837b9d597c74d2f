//! What is decided of a file and of Secrets, and the watch on a directory that changes as the kubelet changes it.

use std::fs;
use std::path::Path;

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::*;
use crate::admin::Readiness;
use crate::constants::readiness;
use crate::server::auth::ApiKeys;
use crate::server::backend::tls::Authorities;
use crate::server::config::{DynamicConfig, FORMAT_VERSION, Identity, StaticConfig};
use crate::server::edge::ServerCertificate;
use crate::server::secrets::Credentials;
use crate::server::state::LiveHandle;
use crate::server::store::redis::RedisAddress;
use crate::shutdown::Shutdown;

const OPENAI: &str = "https://api.openai.com/v1";

fn config() -> ServerConfig {
    let backend = BackendConfig::OpenAi { base_url: OPENAI.to_owned(), proxy_url: None };
    ServerConfig {
        format_version: FORMAT_VERSION,
        identity: Identity {
            namespace: "chat".into(),
            name: "demo".into(),
            uid: "u-1".into(),
            generation: 3,
        },
        fixed: StaticConfig { credentials_secret: Some("openai".to_owned()), ..StaticConfig::default() },
        dynamic: DynamicConfig::new("gpt-4o-mini", backend),
    }
}

type Edit = fn(&mut ServerConfig);

fn edited(edit: impl Fn(&mut ServerConfig)) -> String {
    let mut config = config();
    edit(&mut config);
    config.to_text()
}

#[test]
fn a_file_runs_when_it_is_one_of_this_pod() {
    let current = ConfigFile::from(config());
    let verdict = |text: &str| decide(&current, text, "config.json");
    assert_eq!(verdict(&config().to_text()), Verdict::Same(Box::new(current.clone())));
    let cases: [(&str, Edit); 3] = [
        ("behaviour", |config| config.dynamic.defaults.max_tokens = 7),
        ("a model", |config| config.dynamic.model = "gpt-5".to_owned()),
        ("the generation alone", |config| config.identity.generation = 4),
    ];
    for (what, edit) in cases {
        assert!(matches!(verdict(&edited(edit)), Verdict::Run(_)), "{what}");
    }
    let cases: [(&str, Edit, &str); 4] = [
        ("a mount", |config| config.fixed.redis_secret = Some("r".to_owned()), "a new pod runs it"),
        ("traces", |config| config.fixed.otlp_endpoint = Some("http://o".to_owned()), "a new pod runs it"),
        ("the form", |config| config.format_version = FORMAT_VERSION + 1, "upgrade the server's image"),
        ("another", |config| config.identity.uid = "u-2".to_owned(), "of another ChatService"),
    ];
    for (what, edit, why) in cases {
        let text = edited(edit);
        let Verdict::Reject(rejected) = verdict(&text) else { panic!("{what} is taken") };
        assert!(rejected.message.contains(why), "{what}: {}", rejected.message);
        assert_eq!(rejected.hash, config_file::hash_of_text(&text), "{what}");
    }
    for text in ["", "{", "{\"formatVersion\": 1}"] {
        let Verdict::Reject(rejected) = verdict(text) else { panic!("{text} is taken") };
        assert!(rejected.message.starts_with("the configuration config.json is not valid"), "{text}");
    }
}

fn loaded(key: Option<&str>, redis: Option<&str>, reason: Option<&str>) -> Loaded {
    Loaded {
        credentials: key
            .map(|key| Credentials { api_key: key.into(), allowed_hosts: vec!["api.openai.com".into()] }),
        redis: redis.map(|url| RedisAddress::from_url(url).unwrap()),
        authorities: None,
        api_keys: None,
        certificate: None,
        problems: reason
            .map(|reason| StatusProblem { reason: reason.into(), message: "m".into() })
            .into_iter()
            .collect(),
    }
}

#[test]
fn a_caller_that_an_edit_takes_out_is_out_although_the_rest_of_it_is_wrong() {
    let with = |entries: &[(&str, &str)]| {
        let mut keys = ApiKeys::default();
        for (caller, key) in entries {
            let _ = keys.add(caller, key);
        }
        Loaded { api_keys: Some(keys), ..loaded(None, None, None) }
    };
    let callers = |loaded: &Loaded| {
        let keys = loaded.api_keys.as_ref().unwrap();
        keys.by_caller().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let both = with(&[("app", "sk-0123456789abcdef"), ("web", "sk-fedcba9876543210")]);
    assert_eq!(callers(&merge(Some(&both), with(&[("app", "short")]), &config())), ["app"]);
    let web = with(&[("web", "sk-fedcba9876543210")]);
    assert!(callers(&merge(Some(&web), with(&[("app", "short")]), &config())).is_empty());
    assert!(merge(None, with(&[("app", "short")]), &config()).api_keys.is_none(), "nobody could ask");
    let emptied = || {
        let mut keys = ApiKeys::default();
        keys.revoke("web");
        Loaded { api_keys: Some(keys), ..loaded(None, None, None) }
    };
    for before in [None, Some(&web)] {
        let merged = merge(before, emptied(), &config());
        assert!(
            merged.api_keys.is_some_and(|keys| keys.is_empty()),
            "nobody is to be let in, also from a start"
        );
    }
    let vanished = loaded(None, None, Some(reason::SECRET_NOT_FOUND));
    let still = merge(Some(&merge(Some(&web), emptied(), &config())), vanished, &config());
    assert!(still.api_keys.is_some_and(|keys| keys.is_empty()), "what was revoked does not come back");
}

#[test]
fn the_last_good_secret_stays_in_use_unless_its_host_is_no_longer_allowed() {
    let good = loaded(Some("k1"), Some("redis://a"), None);
    let rotated = loaded(Some("k2"), Some("redis://b"), None);
    assert!(merge(Some(&good), rotated.clone(), &config()) == rotated);

    for reason in [reason::SECRET_NOT_FOUND, reason::SECRET_KEY_MISSING] {
        let found = loaded(None, None, Some(reason));
        let kept = merge(Some(&good), found.clone(), &config());
        assert!(kept == loaded(Some("k1"), Some("redis://a"), Some(reason)), "{reason}");
        let mut elsewhere = config();
        let base_url = "https://elsewhere.example/v1".to_owned();
        elsewhere.dynamic.backend = BackendConfig::OpenAi { base_url, proxy_url: None };
        let kept = merge(Some(&good), found, &elsewhere);
        assert!(kept == loaded(None, Some("redis://a"), Some(reason)), "a host that it was not checked for");
    }
    let pem = rcgen::generate_simple_self_signed(["llm.test".to_owned()]).unwrap().cert.pem();
    let trusting = Loaded { authorities: Authorities::from_pem(&pem).ok(), ..good.clone() };
    let kept =
        merge(Some(&trusting), loaded(Some("k1"), None, Some(reason::CONFIG_MAP_NOT_FOUND)), &config());
    assert!(kept.authorities.is_some() && kept.authorities == trusting.authorities);
    let pair = rcgen::generate_simple_self_signed(["demo".to_owned()]).unwrap();
    let pair = ServerCertificate::from_pem(&pair.cert.pem(), &pair.signing_key.serialize_pem());
    let encrypting = Loaded { certificate: pair.ok(), ..good.clone() };
    let kept = merge(Some(&encrypting), loaded(Some("k1"), None, Some(reason::SECRET_NOT_FOUND)), &config());
    assert!(kept.certificate.is_some() && kept.certificate == encrypting.certificate);

    let found = loaded(None, Some("redis://a"), Some(reason::CREDENTIAL_HOST_MISMATCH));
    assert!(merge(Some(&good), found.clone(), &config()) == found);
}

/// A pod's files.
struct Pod {
    root: tempfile::TempDir,
}

impl Pod {
    fn new() -> Self {
        let pod = Self { root: tempfile::tempdir().unwrap() };
        for directory in ["config", "credentials", "redis"] {
            fs::create_dir(pod.root.path().join(directory)).unwrap();
        }
        pod.config(&config().to_text());
        pod
    }

    fn config(&self, text: &str) {
        mount(&self.root.path().join("config"), &[("config.json", text)]);
    }

    fn key(&self, key: &str, hosts: &str) {
        mount(&self.root.path().join("credentials"), &[("api-key", key), ("allowed-hosts", hosts)]);
    }

    async fn start(&self) -> Server {
        let sources = Sources {
            file: Some(self.root.path().join("config/config.json")),
            secrets: SecretSource::Mounted {
                credentials: self.root.path().join("credentials"),
                redis: self.root.path().join("redis"),
                ca: self.root.path().join("ca"),
                api_keys: self.root.path().join("api-keys"),
                tls: self.root.path().join("tls"),
            },
        };
        let live = LiveHandle::default();
        let ready = Readiness::new(Shutdown::new(), &[readiness::CREDENTIALS]);
        let metrics = ServerMetrics::new().unwrap();
        let assembler = Assembler::new(live.clone(), ready, true, TaskTracker::new());
        let (reloader, report) = Reloader::start(config(), sources, assembler, metrics.clone()).await;
        let (mut task, end) = (JoinSet::new(), CancellationToken::new());
        task.spawn(reloader.run(end.clone()));
        Server { live, report, metrics, task, end }
    }
}

/// Replaces what a mount holds, all at once, as the kubelet does.
fn mount(directory: &Path, data: &[(&str, &str)]) {
    let version = directory.join(format!("..{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(&version).unwrap();
    for (key, value) in data {
        fs::write(version.join(key), value).unwrap();
        if !directory.join(key).is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(key), directory.join(key)).unwrap();
        }
    }
    let link = directory.join("..data_tmp");
    std::os::unix::fs::symlink(version.file_name().unwrap(), &link).unwrap();
    fs::rename(link, directory.join("..data")).unwrap();
}

struct Server {
    live: LiveHandle,
    report: watch::Receiver<Report>,
    metrics: ServerMetrics,
    task: JoinSet<()>,
    end: CancellationToken,
}

impl Server {
    async fn until(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        let wait = self.report.wait_for(|report| wanted(report));
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap().clone()
    }

    fn max_tokens(&self) -> Option<u32> {
        self.live.load().as_ref().map(|live| live.config.dynamic.defaults.max_tokens)
    }

    fn reloads(&self, result: &str) -> u64 {
        self.metrics.config_reloads.with_label_values(&[result]).get()
    }

    async fn stop(mut self) {
        self.end.cancel();
        self.task.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_leaves_the_last_good_one_and_a_good_one_heals() {
    let pod = Pod::new();
    pod.key("sk-1", "api.openai.com");
    let mut server = pod.start().await;
    assert_eq!(server.max_tokens(), Some(1000));
    assert_eq!(server.report.borrow().config_hash, config().hash());

    pod.config(&edited(|config| config.dynamic.defaults.max_tokens = 7));
    server.until(|report| report.config_hash != config().hash()).await;
    assert_eq!((server.max_tokens(), server.reloads("applied")), (Some(7), 1));

    pod.config("{");
    let report = server.until(|report| report.rejected.is_some()).await;
    assert_eq!(report.rejected.unwrap().hash, None);
    assert_eq!((server.max_tokens(), server.reloads("rejected")), (Some(7), 1));

    let good = edited(|config| {
        config.dynamic.defaults.max_tokens = 8;
        config.identity.generation = 9;
    });
    pod.config(&good);
    let report = server.until(|report| report.rejected.is_none()).await;
    assert_eq!((server.max_tokens(), report.generation), (Some(8), 9));
    assert_eq!(server.metrics.config_generation.get(), 9);

    // And back to a file that says what runs: nothing to apply.
    pod.config("");
    server.until(|report| report.rejected.is_some()).await;
    pod.config(&good);
    server.until(|report| report.rejected.is_none()).await;
    assert_eq!((server.reloads("applied"), server.reloads("rejected")), (2, 2));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_its_secrets_do_not_fit_waits_for_them() {
    let pod = Pod::new();
    pod.key("sk-1", "api.openai.com");
    let mut server = pod.start().await;
    let elsewhere = edited(|config| {
        let base_url = "https://elsewhere.example/v1".to_owned();
        config.dynamic.backend = BackendConfig::OpenAi { base_url, proxy_url: None };
        config.dynamic.defaults.max_tokens = 7;
    });
    pod.config(&elsewhere);
    let report = server.until(|report| report.rejected.is_some()).await;
    let rejected = report.rejected.unwrap();
    assert_eq!(rejected.hash, config_file::hash_of_text(&elsewhere));
    assert!(rejected.message.contains("elsewhere.example"), "{}", rejected.message);
    assert_eq!(report.problems, [], "what runs has its Secret");
    assert_eq!(server.max_tokens(), Some(1000));

    pod.key("sk-1", "api.openai.com,elsewhere.example");
    server.until(|report| report.rejected.is_none()).await;
    assert_eq!(server.max_tokens(), Some(7));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn secrets_that_come_late_vanish_or_are_revoked_are_noticed() {
    let pod = Pod::new();
    let mut server = pod.start().await;
    let report = server.report.borrow().clone();
    assert_eq!(report.problems[0].reason, reason::SECRET_NOT_FOUND);
    assert_eq!(server.max_tokens(), None);

    // As long as nothing runs, the newest configuration is the one that is waited for.
    pod.config(&edited(|config| config.dynamic.defaults.max_tokens = 7));
    let report = server.until(|report| report.config_hash != config().hash()).await;
    assert_eq!((report.rejected, report.problems.len()), (None, 1));

    pod.key("sk-1", "api.openai.com");
    server.until(|report| report.problems.is_empty()).await;
    assert_eq!(server.max_tokens(), Some(7));

    // The Secret vanishes: its key stays in use, and changes of the configuration go on.
    mount(&pod.root.path().join("credentials"), &[]);
    server.until(|report| !report.problems.is_empty()).await;
    pod.config(&edited(|config| config.dynamic.defaults.max_tokens = 8));
    let hash = ConfigFile::parse(&edited(|config| config.dynamic.defaults.max_tokens = 8), "f").unwrap().hash;
    server.until(|report| report.config_hash == hash).await;
    assert_eq!(server.max_tokens(), Some(8));

    pod.key("sk-1", "other.example");
    server.until(|report| report.problems.iter().any(|p| p.reason == reason::CREDENTIAL_HOST_MISMATCH)).await;
    assert_eq!(server.max_tokens(), None, "a revoked key is not used");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_operators_file_runs_and_its_unknown_fields_are_shown() {
    let pod = Pod::new();
    pod.key("sk-1", "api.openai.com");
    let mut server = pod.start().await;
    let mut newer: serde_json::Value = serde_json::from_str(&config().to_text()).unwrap();
    newer["dynamic"]["fromTheFuture"] = true.into();
    newer["dynamic"]["defaults"]["maxTokens"] = 9.into();
    pod.config(&newer.to_string());
    let report = server.until(|report| !report.unknown_fields.is_empty()).await;
    assert_eq!(report.unknown_fields, ["dynamic.fromTheFuture"]);
    assert_eq!(server.max_tokens(), Some(9));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_change_is_read_once() {
    let variables = [("OPENAI_API_KEY".to_owned(), "sk-1".to_owned())].into();
    let sources = Sources { file: None, secrets: SecretSource::Environment(variables) };
    let ready = Readiness::new(Shutdown::new(), &[readiness::CREDENTIALS]);
    let live = LiveHandle::default();
    let assembler = Assembler::new(live.clone(), ready, false, TaskTracker::new());
    let metrics = ServerMetrics::new().unwrap();
    let (reloader, _) = Reloader::start(config(), sources, assembler, metrics).await;
    assert!(live.load().is_some());
    reloader.run(CancellationToken::new()).await;
}
