//! `chatservice healthcheck`: what a container runtime asks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::run;

/// Gives one connection this answer.
fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).expect("a request");
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    address
}

#[test]
fn well_is_exit_code_0_and_silence() {
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n");
    let ran = run(&["healthcheck", "--address", &address.to_string()]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
}

#[test]
fn not_ready_is_exit_code_1_and_the_reason() {
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\nconnection: close\r\n\r\ndraining\n";
    let address = answering(answer);
    run(&["healthcheck", "--address", &address.to_string()]).fails_with(&["503", "draining", "/readyz"]);
}

#[test]
fn nobody_there_is_exit_code_1() {
    // Bound, so that nobody else gets the port, and not listening.
    let held = tokio::net::TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = held.local_addr().expect("bound").to_string();
    run(&["healthcheck", "--address", &address]).fails_with(&["cannot ask", &address]);
}
