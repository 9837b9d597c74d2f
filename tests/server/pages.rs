//! The pages for people: what they are sent with, and that they go when they are not wanted.

use ::http::Method;

use crate::config_mount::ConfigMount;
use crate::http;
use crate::server::{TestServer, echo};

#[tokio::test]
async fn the_playground_and_its_files_come_from_the_binary_alone() {
    let server = TestServer::start(echo()).await;
    let page = http::get(&server.at("/playground")).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    let files: Vec<&str> = text.split(['"', '#']).filter(|part| part.starts_with("playground/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for path in files.iter().map(|file| format!("/{file}")).chain(["/playground".to_owned()]) {
        let file = http::get(&server.at(&path)).await;
        assert_eq!(file.status, 200, "{path}");
        let policy = file.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        let body = String::from_utf8(file.body.to_vec()).unwrap();
        let outside = body.replace("http://www.w3.org/", "").contains("://");
        assert!(!outside, "{path} names another host");
        let known = [("if-none-match", file.header("etag"))];
        let again = http::send(Method::GET, &server.at(&path), &known, b"").await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
    }
    let slash = http::get(&server.at("/playground/")).await;
    assert_eq!((slash.status.as_u16(), slash.header("location")), (308, "../playground"));
    assert_eq!(http::get(&server.at("/playground/no-such.js")).await.status, 404);
    assert_eq!(http::get(&server.at("/")).await.json()["playground"], "/playground");
}

#[tokio::test]
async fn the_playground_goes_and_comes_with_the_configuration() {
    let mut config = echo();
    config.dynamic.playground = false;
    let mut mount = ConfigMount::new(&config.to_text());
    let server = TestServer::start_from(config.clone(), mount.file()).await;
    for path in ["/playground", "/playground/app.js"] {
        let answer = http::get(&server.at(path)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (404, &"not_found".into()));
    }
    assert_eq!(http::get(&server.at("/")).await.json().get("playground"), None);
    config.dynamic.playground = true;
    mount.write(&config.to_text());
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    while http::get(&server.at("/playground")).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the playground did not come");
        tokio::task::yield_now().await;
    }
}

/// In requests and in answers, those as events too; and a browser that keeps the document with another model hears of it.
#[tokio::test]
async fn the_document_names_the_model_of_the_running_configuration() {
    let mut config = echo();
    let mut mount = ConfigMount::new(&config.to_text());
    let server = TestServer::start_from(config.clone(), mount.file()).await;
    let url = server.at("/openapi.json");
    let names = |answer: &http::Answer| {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        ["gpt-4o-mini", "echo-1", "house/2:b"].map(|model| text.matches(model).count())
    };
    let before = http::get(&url).await;
    let [written, running, other] = names(&before);
    assert!(written == 0 && running > 30 && other == 0, "{written} {running} {other}");
    config.dynamic.model = "house/2:b".to_owned();
    mount.write(&config.to_text());
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    let known = [("if-none-match", before.header("etag"))];
    let after = loop {
        let answer = http::send(Method::GET, &url, &known, b"").await;
        if answer.status != 304 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "the document names the old model");
        tokio::task::yield_now().await;
    };
    assert_eq!((after.status.as_u16(), names(&after)), (200, [0, 0, running]));
    assert!(after.json()["paths"].is_object());
    let known = [("if-none-match", after.header("etag"))];
    assert_eq!(http::send(Method::GET, &url, &known, b"").await.status, 304);
}

#[tokio::test]
async fn swagger_ui_and_what_leads_to_it_load_nothing_from_elsewhere() {
    let server = TestServer::start(echo()).await;
    let redoc = http::get(&server.at("/redoc")).await;
    assert_eq!((redoc.status.as_u16(), redoc.header("location")), (307, "docs"));
    let docs = http::get(&server.at("/docs")).await;
    assert_eq!((docs.status.as_u16(), docs.header("location")), (308, "docs/"));
    for (path, content_type) in [
        ("/docs/", "text/html; charset=utf-8"),
        ("/docs/docs.js", "text/javascript; charset=utf-8"),
        ("/docs/docs.css", "text/css; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/favicon-32x32.png", "image/png"),
        ("/openapi.json", "application/json"),
    ] {
        let file = http::get(&server.at(path)).await;
        assert_eq!((file.status.as_u16(), file.header("content-type")), (200, content_type), "{path}");
        assert!(!file.body.is_empty(), "{path}");
        let policy = file.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        let known = [("if-none-match", file.header("etag"))];
        let again = http::send(Method::GET, &server.at(path), &known, b"").await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
    }
    for path in ["/docs/nothing", "/docs/swagger-initializer.js", "/docs/a/b"] {
        let answer = http::get(&server.at(path)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (404, &"not_found".into()), "{path}");
    }
    let start = http::get(&server.at("/docs/docs.js")).await;
    let start = String::from_utf8(start.body.to_vec()).unwrap();
    assert!(start.contains(r#"validatorUrl: "none""#) && !start.contains("://"), "{start}");
}
