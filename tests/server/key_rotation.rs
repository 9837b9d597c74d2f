//! API keys that change while the server runs, as the kubelet brings the changes: the real binary, a mounted Secret, and
//! callers that ask all the while.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ::http::Method;
use chatservice::server::config::AuthConfig;
use serde_json::json;

use crate::http::{self, DEADLINE};
use crate::process_support::Process;
use crate::server::echo;

/// A mounted Secret: files in a directory of their own, reached through the links `..data` and those of the data keys.
struct Mount {
    directory: PathBuf,
    version: u32,
}

impl Mount {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        Self { directory, version: 0 }
    }

    /// Replaces all data keys at once.
    fn write(&mut self, data: &[(&str, &str)]) {
        self.version += 1;
        let name = format!("..2026_11_26.{}", self.version);
        let place = self.directory.join(&name);
        fs::create_dir(&place).unwrap();
        for (key, value) in data {
            fs::write(place.join(key), value).unwrap();
            if !self.directory.join(key).is_symlink() {
                symlink(Path::new("..data").join(key), self.directory.join(key)).unwrap();
            }
        }
        let link = self.directory.join("..data_tmp");
        symlink(&name, &link).unwrap();
        fs::rename(link, self.directory.join("..data")).unwrap();
        // What is gone loses its link last, and then the old version goes.
        let kept: BTreeSet<&str> = data.iter().map(|(key, _)| *key).collect();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            let found = entry.file_name().into_string().unwrap();
            let stale = found.starts_with("..2026") && found != name;
            if stale {
                fs::remove_dir_all(entry.path()).unwrap();
            } else if !found.starts_with("..") && !kept.contains(found.as_str()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

/// The binary with a mounted Secret of keys.
struct Pod {
    keys: Mount,
    server: Process,
    asked: AtomicU32,
    _root: tempfile::TempDir,
}

impl Pod {
    async fn start(data: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut keys = Mount::new(root.path().join("secrets/api-keys"));
        keys.write(data);
        let mut config = echo();
        config.fixed.api_keys_secret = Some("demo-keys".to_owned());
        config.dynamic.auth = Some(AuthConfig::default());
        // Each request from an address of its own: this is about keys, not about who tries too many.
        config.dynamic.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        let file = root.path().join("config.json");
        fs::write(&file, config.to_text()).unwrap();
        let server = Process::mounted(&file, root.path()).await;
        Self { keys, server, asked: AtomicU32::new(0), _root: root }
    }

    /// The status for this key.
    async fn ask(&self, key: &str) -> u16 {
        let from = std::net::Ipv4Addr::from(0xcb00_7100 + self.asked.fetch_add(1, Ordering::Relaxed));
        let (bearer, from) = (format!("Bearer {key}"), from.to_string());
        let headers = [
            ("content-type", "application/json"),
            ("authorization", bearer.as_str()),
            ("x-forwarded-for", from.as_str()),
        ];
        let body = json!({"messages": [{"role": "user", "content": "hello"}]}).to_string();
        let url = format!("{}/v1/chat/completions", self.server.url);
        http::send(Method::POST, &url, &headers, body.as_bytes()).await.status.as_u16()
    }

    /// Waits until this key is answered so, and sees to it that these are let in all the while.
    async fn until(&self, key: &str, status: u16, meanwhile: &[&str]) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.ask(key).await != status {
            assert!(tokio::time::Instant::now() < deadline, "{key} is not answered with {status}");
            for good in meanwhile {
                assert_eq!(self.ask(good).await, 200, "{good} while {key} changes");
            }
        }
        for good in meanwhile {
            assert_eq!(self.ask(good).await, 200, "{good} after {key} has changed");
        }
    }

    /// Waits until `/status` reports a problem with these words, or none for "".
    async fn reports(&self, words: &str) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let status = http::get(&format!("{}/status", self.server.admin)).await.json();
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let said = problems.iter().any(|problem| problem["message"].as_str().unwrap().contains(words));
            let expected = !words.is_empty();
            if said == expected && problems.is_empty() != expected {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{words:?}: {status}");
            tokio::task::yield_now().await;
        }
    }
}

const FIRST: &str = "sk-the-first-key-of-web";
const SECOND: &str = "sk-the-second-key-of-web";
/// `printf %s sk-the-second-key-of-web | sha256sum`
const SECOND_HASH: &str = "sha256:c7b4b8b9420ef38844ace4bee8e72d972918d1a7c5b593cfbba2de932cdcf560";
const APP: &str = "sk-the-key-of-the-app";

#[tokio::test]
async fn a_key_is_replaced_with_an_overlap_and_without_a_gap() {
    let mut pod = Pod::start(&[("app", APP), ("web", FIRST)]).await;
    assert_eq!((pod.ask(FIRST).await, pod.ask(APP).await, pod.ask(SECOND).await), (200, 200, 401));
    pod.keys.write(&[("app", APP), ("web", &format!("{FIRST}\n{SECOND}\n"))]);
    pod.until(SECOND, 200, &[FIRST, APP]).await;
    // The new one alone, as a hash: it is no key itself.
    pod.keys.write(&[("app", APP), ("web", SECOND_HASH)]);
    pod.until(FIRST, 401, &[SECOND, APP]).await;
    assert_eq!(pod.ask(SECOND_HASH).await, 401);
    pod.reports("").await;
}

#[tokio::test]
async fn an_emptied_entry_revokes_what_is_broken_does_not_and_a_secret_that_is_gone_does_not() {
    let mut pod = Pod::start(&[("app", APP), ("web", FIRST)]).await;
    pod.keys.write(&[("app", APP), ("web", "")]);
    pod.until(FIRST, 401, &[APP]).await;
    pod.reports("").await;
    // Broken: the app goes on with the key it had, and what was revoked stays so.
    pod.keys.write(&[("app", "short"), ("web", "\n")]);
    pod.reports("shorter than 16 characters").await;
    assert_eq!((pod.ask(APP).await, pod.ask(FIRST).await), (200, 401));
    // Nobody is left: the pod serves on and lets nobody in.
    pod.keys.write(&[("app", ""), ("web", "")]);
    pod.until(APP, 401, &[]).await;
    pod.reports("every entry of Secret \"demo-keys\"").await;
    pod.server.wait_readyz(200).await;
    pod.keys.write(&[]);
    pod.reports("does not exist or is empty").await;
    assert_eq!(pod.ask(APP).await, 401, "a Secret that is gone brings nothing back");
    pod.keys.write(&[("app", APP)]);
    pod.until(APP, 200, &[]).await;
    pod.reports("").await;
    // Gone as a whole: the last good keys stay.
    pod.keys.write(&[]);
    pod.reports("does not exist or is empty").await;
    assert_eq!(pod.ask(APP).await, 200);
}

/// What a pod says that starts after everything was revoked is what the others say.
#[tokio::test]
async fn a_pod_that_starts_with_emptied_entries_alone_lets_nobody_in() {
    let mut pod = Pod::start(&[("web", "")]).await;
    assert_eq!(pod.ask(FIRST).await, 401);
    pod.reports("nobody is let in").await;
    pod.keys.write(&[("web", FIRST)]);
    pod.until(FIRST, 200, &[]).await;
}
