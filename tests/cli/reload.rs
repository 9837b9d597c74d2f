//! `serve` while its mounted configuration changes.

use std::time::Instant;

use serde_json::{Value, json};

use crate::config_mount::ConfigMount;
use crate::local::{DEADLINE, Local, ask, wait_until_healthy};
use crate::{chatservice, run};

/// A server process and the file that it watches.
struct Server {
    process: Local,
    mount: ConfigMount,
    config: Value,
    api: String,
    admin: String,
}

impl Server {
    /// With what the operator would write for the smallest example.
    fn start() -> Self {
        let rendered = run(&["render", "-f", "examples/quickstart.yaml"]);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered.out).expect("YAML");
        let text = objects.iter().find_map(|object| object["data"]["config.json"].as_str());
        let text = text.expect("a configuration");
        let mount = ConfigMount::new(text);
        let mut command = chatservice();
        command.args(["serve", "--config", mount.file().to_str().expect("text")]);
        let mut process =
            Local::spawn(command.args(["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]));
        let (api, admin) = process.addresses();
        wait_until_healthy(&admin);
        let config = serde_json::from_str(text).expect("JSON");
        Self { process, mount, config, api, admin }
    }

    /// Writes the configuration with this change of it.
    fn change(&mut self, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.config);
        self.mount.write(&self.config.to_string());
    }

    /// `/status`, once it is as wanted.
    fn status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let (_, text) = ask("GET", &format!("http://{}/status", self.admin), &[], "");
            let status: Value = serde_json::from_str(&text).expect("JSON");
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status}");
            std::thread::yield_now();
        }
    }

    fn models(&self) -> String {
        ask("GET", &format!("http://{}/v1/models", self.api), &[], "").1
    }

    /// A request that the log names, when it is asked to.
    fn named(&self, id: &str) {
        let header = format!("x-request-id: {id}");
        ask("GET", &format!("http://{}/health", self.api), &[&header], "");
    }

    fn chat(&self) -> u16 {
        let url = format!("http://{}/api/v1/chat", self.api);
        ask("POST", &url, &["content-type: application/json"], r#"{"message": "Hello"}"#).0
    }
}

fn rejected(status: &Value) -> &str {
    status["rejected"]["message"].as_str().unwrap_or_default()
}

#[test]
fn a_change_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let mut server = Server::start();
    server.change(|config| {
        config["identity"]["generation"] = 2.into();
        config["dynamic"]["model"] = "echo-2".into();
        config["dynamic"]["models"] = json!([{ "name": "echo-2" }]);
        config["dynamic"]["limits"]["requests"] = json!({"requests": 1, "periodSeconds": 3600, "burst": 4});
    });
    let hash = server.status(|status| status["generation"] == 2)["configHash"].clone();
    assert!(server.models().contains("echo-2"));
    assert_eq!([server.chat(), server.chat()], [200, 200]);

    let good = server.config.clone();
    server.mount.write("{");
    server.status(|status| rejected(status).contains("is not valid"));
    server.change(|config| config["formatVersion"] = 1000.into());
    server.status(|status| rejected(status).contains("upgrade the server's image"));
    server.change(|config| {
        *config = good.clone();
        config["static"]["logFormat"] = "text".into();
        config["dynamic"]["model"] = "echo-3".into();
    });
    let status = server.status(|status| rejected(status).contains("a new pod runs it"));
    assert!(status["rejected"]["hash"].is_string() && status["rejected"]["hash"] != hash, "{status}");
    assert_eq!(
        (&status["configHash"], &status["generation"], &status["ready"]),
        (&hash, &json!(2), &json!(true))
    );
    assert!(server.models().contains("echo-2"), "the last good one stays");
    assert_eq!(server.chat(), 429, "and its limit: two lists of models and two answers");

    // A newer operator's file heals, and what it says that this version does not know is shown.
    server.change(|config| {
        *config = good;
        config["identity"]["generation"] = 3.into();
        config["dynamic"]["fromTheFuture"] = json!({"a": 1});
    });
    let status = server.status(|status| status["generation"] == 3);
    assert_eq!(status["unknownFields"], json!(["dynamic.fromTheFuture"]));
    assert_eq!(status["rejected"], Value::Null);

    let (_, metrics) = ask("GET", &format!("http://{}/metrics", server.admin), &[], "");
    for line in [
        "chat_config_generation 3",
        "chat_config_reload_total{result=\"applied\"} 2",
        "chat_config_reload_total{result=\"rejected\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn the_level_of_the_log_is_changed_without_a_restart() {
    let mut server = Server::start();
    server.named("first");
    server.process.log_until("first");
    let level = |server: &mut Server, level: &str, generation: i64| {
        server.change(|config| {
            config["identity"]["generation"] = generation.into();
            config["dynamic"]["logLevel"] = level.into();
        });
        server.status(|status| status["generation"] == generation);
    };
    level(&mut server, "error", 2);
    server.named("silent");
    level(&mut server, "info", 3);
    server.named("last");
    let log = server.process.log_until("last");
    assert!(!log.contains("silent"), "{log}");
}
