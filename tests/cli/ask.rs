//! `chatservice ask`: a question to a real server, and what a person learns when it is not answered.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::local::Local;
use crate::run;

/// A server of the echo backend for callers with a key, and its URL.
fn for_callers(directory: &Path) -> (Local, String) {
    let file = directory.join("chat.yaml");
    let text = "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {name: demo}\n\
        spec: {model: echo-1, backend: {echo: {}}, auth: {apiKeysSecretRef: {name: keys}}}\n";
    fs::write(&file, text).expect("written");
    let file = file.to_str().expect("text");
    let local = Local::start(&["-f", file], &[("CHATSERVICE_API_KEYS", "web=a-key-of-web-0123456789")]);
    let url = local.base_url();
    (local, url)
}

#[test]
fn an_open_api_is_asked_and_the_facts_of_its_answer_are_told() {
    let local = Local::start(&["-f", "examples/quickstart.yaml"], &[]);
    let url = local.base_url();
    let said = run(&["ask", &url, "--message", "Are you there?", "--expect", "Are you there?"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{}", said.err);
    assert_eq!(said.out, format!("{url} answered: 14 characters of echo-1\n"));
    run(&["ask", &url, "--expect", "something else"])
        .fails_with(&["another text than --expect says", "Fix: "]);
}

#[test]
fn where_callers_log_in_the_first_key_that_is_no_hash_is_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_local, url) = for_callers(directory.path());
    run(&["ask", &url]).fails_with(&["answered 401", "Fix: callers must log in", "--keys"]);

    let keys = directory.path().join("keys");
    fs::create_dir(&keys).expect("made");
    let path = keys.to_str().expect("text");
    run(&["ask", &url, "--keys", path]).fails_with(&["no key that can be sent (data keys: none)"]);
    let write = |name: &str, text: &str| fs::write(keys.join(name), text).expect("written");
    write("hashed", "sha256:0123\n");
    run(&["ask", &url, "--keys", path]).fails_with(&["data keys: hashed", "only a key's hash", "Fix: "]);
    write("other", "sha256:4567\na-key-of-web-0123456789\n");
    let said = run(&["ask", &url, "--keys", path]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!said.out.contains("a-key-of-web"), "{}", said.out);

    write("first", "not-the-key-of-anybody\n");
    let first = keys.join("first");
    for path in [keys.as_path(), &first] {
        let refused = run(&["ask", &url, "--keys", path.to_str().expect("text")]);
        refused.fails_with(&["answered 401", "spec.auth.apiKeysSecretRef"]);
        assert!(!refused.err.contains("not-the-key"), "{}", refused.err);
    }
}

#[test]
fn nobody_there_and_nobody_who_answers_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("bound"));
    run(&["ask", &url, "--timeout", "1"]).fails_with(&["did not answer within 1s", "kubectl get chat"]);
    drop(listener);
    // Nobody ever listens on it.
    run(&["ask", "http://127.0.0.1:1/v1", "--timeout", "1"]).fails_with(&[
        "cannot reach",
        "refused",
        "kubectl get chat",
    ]);
}

/// Answers each caller in TLS, with a certificate for localhost that signed itself. Out: its URL, and the certificate in PEM.
fn in_tls() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they fit");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://localhost:{}/v1", listener.local_addr().expect("bound").port());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(config.clone()).expect("set up");
            let mut stream = StreamOwned::new(connection, stream);
            if stream.read(&mut [0; 4096]).is_ok() {
                let body = r#"{"model": "m", "choices": [{"message": {"content": "Yes."}}]}"#;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
            }
        }
    });
    (url, made.cert.pem())
}

#[test]
fn tls_is_believed_only_with_its_authority() {
    let (url, certificate) = in_tls();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("text");
    run(&["ask", &url]).fails_with(&["is not trusted", "must name localhost", "--authorities"]);
    run(&["ask", &url, "--authorities", path]).fails_with(&["cannot be used", "no certificate"]);
    fs::write(directory.path().join("tls.crt"), certificate).expect("written");
    let said = run(&["ask", &url, "--authorities", path]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.out, format!("{url} answered: 4 characters of m\n"));
    let other_name = url.replace("localhost", "127.0.0.1");
    run(&["ask", &other_name, "--authorities", path]).fails_with(&["is not trusted", "must name 127.0.0.1"]);
}
