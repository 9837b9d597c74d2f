//! `chatservice ask`: a question to a real server, and what a person learns when it is not answered.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;

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

#[test]
fn plain_text_where_tls_is_spoken_is_not_taken_for_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}/v1", listener.local_addr().expect("bound"));
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    run(&["ask", &url, "--timeout", "1"]).fails_with(&["cannot reach", "Fix: "]);
    server.join().expect("it answered");
}
