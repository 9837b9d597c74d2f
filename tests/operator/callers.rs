//! Callers without a key: tokens that the real API server makes, checked by the real server with what the operator told it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;

use crate::rig::{self, Rig, until, until_some};

/// Where `with-api-server.sh` keeps the API server's files.
fn directory() -> PathBuf {
    let kubeconfig = std::env::var("CHATSERVICE_TEST_KUBECONFIG").unwrap();
    Path::new(&kubeconfig).parent().unwrap().to_owned()
}

async fn output(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).output().await.unwrap();
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

/// The way to an API server, which can lead to another one from now on, as when one is restarted.
struct Way {
    address: String,
    target: Arc<Mutex<String>>,
    tasks: JoinSet<()>,
}

impl Way {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut way = Self { address, target: Arc::new(Mutex::new(target)), tasks: JoinSet::new() };
        let target = Arc::clone(&way.target);
        way.tasks.spawn(async move {
            let mut open = JoinSet::new();
            let mut led = target.lock().unwrap().clone();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let now = target.lock().unwrap().clone();
                if now != led {
                    // Connections to the one that is gone end.
                    open.abort_all();
                    led.clone_from(&now);
                }
                open.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(now).await {
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        way
    }

    /// Leads elsewhere.
    async fn lead(&self, target: String) {
        *self.target.lock().unwrap() = target;
        // A first connection, by which the open ones end.
        drop(TcpStream::connect(&self.address).await.unwrap());
    }
}

/// The chat server with the configuration that the operator wrote.
struct Server {
    url: String,
    _child: Child,
    _log: Lines<BufReader<ChildStderr>>,
}

impl Server {
    async fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chatservice"))
            .args(["serve", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--config"])
            .arg(config)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = log.next_line().await.unwrap().unwrap();
            if line.contains("\"listening\"") {
                let line: Value = serde_json::from_str(&line).unwrap();
                let url = format!("http://{}/v1/chat/completions", line["api.address"].as_str().unwrap());
                return Self { url, _child: child, _log: log };
            }
        }
    }

    /// Status and body of the answer to who has this token.
    async fn ask(&self, token: &str) -> (String, String) {
        let bearer = format!("authorization: Bearer {token}");
        let body = r#"{"messages": [{"role": "user", "content": "hello"}]}"#;
        let json = "content-type: application/json";
        let arguments = ["-s", "-H", &bearer, "-H", json, "-d", body, "-w", "\n%{http_code}", &self.url];
        let said = output("curl", &arguments).await;
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }
}

/// The servers' configuration, and the names of the keys in it.
async fn told(rig: &Rig) -> Option<(String, Vec<String>)> {
    let map = rig.find::<ConfigMap>("demo-config").await?;
    let text = map.data?.remove("config.json")?;
    let config: Value = serde_json::from_str(&text).unwrap();
    let keys = config.pointer("/dynamic/auth/serviceAccounts/issuer/keys")?.as_array()?;
    let names = keys.iter().map(|key| format!("{} {}", key["alg"], key["kid"])).collect();
    Some((text, names))
}

#[tokio::test]
async fn tokens_of_the_api_server_are_accepted_for_their_audience_and_a_new_signing_key_is_picked_up() {
    let Some(mut rig) = Rig::without_operator().await else { return };
    let kubeconfig = std::fs::read_to_string(directory().join("kubeconfig")).unwrap();
    let server = kubeconfig.split_once("https://").unwrap().1.split('\'').next().unwrap().to_owned();
    let way = Way::to(server.clone()).await;
    rig.server = Some(format!("https://{}", way.address));
    rig.run_operator(None).await;
    for name in ["web", "admin"] {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
        rig.make::<ServiceAccount>(&account).await;
    }
    let allowed = json!([{ "namespace": rig.namespace, "name": "web" }]);
    let spec = json!({ "model": "m", "backend": { "echo": {} }, "auth": { "serviceAccounts": { "allowed": allowed } } });
    rig.create("demo", &spec).await;
    let (text, before) = until("keys in the configuration", async || told(&rig).await).await;
    assert_eq!(before.len(), 1, "{before:?}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let chat = Server::start(file.path()).await;
    let audience = format!("chatservice.dev/{}/demo", rig.namespace);
    let (namespace, way_to) = (rig.namespace.clone(), rig.server.clone().unwrap());
    let token = async |account: &str, audience: &str| {
        let arguments =
            ["--server", &way_to, "-n", &namespace, "create", "token", account, "--audience", audience];
        output("kubectl", &arguments).await
    };
    let web = token("web", &audience).await;
    let (status, body) = chat.ask(&web).await;
    assert_eq!(status, "200", "{body}");
    let (status, body) = chat.ask(&token("web", "https://kubernetes.default.svc").await).await;
    assert!(status == "401" && body.contains(&audience), "{status} {body}");
    let (status, body) = chat.ask(&token("web", "chatservice.dev/other/demo").await).await;
    assert!(status == "401" && body.contains(&audience), "{status} {body}");
    let (status, body) = chat.ask(&token("admin", &audience).await).await;
    assert!(status == "403" && body.contains(&format!("{namespace}/admin")), "{status} {body}");
    let (status, body) = chat.ask(web.rsplit_once('.').unwrap().0).await;
    assert!(status == "401" && body.contains("invalid_api_key"), "{status} {body}");

    // Another API server of the same cluster signs with a new key, on P-521, and shows the old one still.
    let directory = directory();
    let key = directory.join("rotated.key").display().to_string();
    output("openssl", &["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", &key]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = std::fs::File::create(directory.join("second-api-server.log")).unwrap();
    let second = Command::new(directory.join("api-server.sh"))
        .args([&port.to_string(), &key, "sa.key"])
        .current_dir(&directory)
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ready = format!("https://127.0.0.1:{port}/readyz");
    let file_of = |name: &str| directory.join(name).display().to_string();
    let (ca, certificate, private) = (file_of("ca.crt"), file_of("admin.crt"), file_of("admin.key"));
    until("the second API server", async || {
        let asked = ["-sf", "--cacert", &ca, "--cert", &certificate, "--key", &private, &ready];
        let answered = Command::new("curl").args(asked).stdout(Stdio::null()).status().await.unwrap();
        answered.success().then_some(())
    })
    .await;
    way.lead(format!("127.0.0.1:{port}")).await;
    let (text, _) = until_some("the new key in the configuration", async || match told(&rig).await {
        Some((text, keys)) if keys.iter().any(|key| key.contains("ES512")) && keys.len() == 2 => {
            Ok((text, keys))
        }
        other => Err(format!("{:?}", other.map(|(_, keys)| keys))),
    })
    .await;
    let rotated = token("web", &audience).await;
    std::fs::write(file.path(), &text).unwrap();
    until_some("the new key in use", async || match chat.ask(&rotated).await {
        (status, _) if status == "200" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let (status, _) = chat.ask(&web).await;
    assert_eq!(status, "200", "the old key is good as long as it is shown");
    assert!(rig.metrics().contains("chat_jwks_age_seconds "), "{}", rig.metrics());
    drop(second);
    way.lead(server).await;
    rig.stop().await;
}

/// `examples/clients/keyless.yaml` as it stands but for its namespace, which is this test's own.
#[tokio::test]
async fn the_pod_of_the_examples_is_let_in_with_the_token_that_its_volume_asks_for() {
    let Some(rig) = rig::start().await else { return };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/clients/keyless.yaml");
    let mut pod: Value = serde_saphyr::from_str(&std::fs::read_to_string(example).unwrap()).unwrap();
    pod["metadata"]["namespace"] = json!(rig.namespace);
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account } });
    rig.make::<ServiceAccount>(&object).await;
    let written = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(written.path(), pod.to_string()).unwrap();
    let path = written.path().to_str().unwrap();
    let uid =
        output("kubectl", &["create", "--validate=strict", "-f", path, "-o", "jsonpath={.metadata.uid}"])
            .await;

    let source = pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"].clone();
    let audience = source["audience"].as_str().unwrap();
    let allowed = json!([{ "namespace": rig.namespace, "name": account }]);
    let accounts = json!({ "allowed": allowed, "audience": audience });
    let spec = json!({ "model": "m", "backend": { "echo": {} }, "auth": { "serviceAccounts": accounts } });
    rig.create("demo", &spec).await;
    let (text, _) = until("keys in the configuration", async || told(&rig).await).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let chat = Server::start(file.path()).await;

    // What the kubelet asks for: a token of the account, bound to the pod.
    let name = pod["metadata"]["name"].as_str().unwrap();
    let duration = format!("{}s", source["expirationSeconds"]);
    let namespace = rig.namespace.clone();
    let token = async |audience: &str| {
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", name, "--bound-object-uid", &uid];
        let asked =
            ["-n", &namespace, "create", "token", &account, "--audience", audience, "--duration", &duration];
        output("kubectl", &[asked.as_slice(), &bound].concat()).await
    };
    let (status, body) = chat.ask(&token(audience).await).await;
    assert_eq!(status, "200", "{body}");
    let (status, body) = chat.ask(&token("chatservice.dev/chat/other").await).await;
    assert!(status == "401" && body.contains(audience), "{status} {body}");
    rig.stop().await;
}
