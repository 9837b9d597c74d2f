//! Plain responses.

use ::http::Method;
use chatservice::server::config::RequestDefaults;
use serde_json::json;

use super::{answered, respond, streamed, text};
use crate::http;
use crate::mock_openai::{MockOpenAi, Script};
use crate::server::{TestServer, cache, echo, openai};

#[tokio::test]
async fn a_plain_response_is_what_the_sdks_parse() {
    let server = TestServer::start(echo()).await;
    let body = json!({"input": "Hello there", "instructions": "be kind", "metadata": {"a": "b"}, "temperature": 0.5});
    let answer = respond(&server, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    for header in
        ["x-request-id", "openai-processing-ms", "x-process-time", "x-chat-cost-usd", "x-upstream-request-id"]
    {
        assert!(!answer.header(header).is_empty(), "{header}");
    }
    assert_eq!(answer.header("x-chat-cache"), "bypass");
    let response = answer.json();
    let id = response["id"].as_str().unwrap();
    assert!(id.starts_with("resp_") && id.len() == 37, "{id}");
    assert!(response["created_at"].as_i64() <= response["completed_at"].as_i64());
    let output = &response["output"][0];
    assert!(output["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        (&output["type"], &output["role"], &output["status"], &output["content"]),
        (
            &json!("message"),
            &json!("assistant"),
            &json!("completed"),
            &json!([{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}])
        )
    );
    for (member, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("error", json!(null)),
        ("incomplete_details", json!(null)),
        ("instructions", json!("be kind")),
        ("model", json!("echo-1")),
        ("metadata", json!({"a": "b"})),
        ("temperature", json!(0.5)),
        ("top_p", json!(null)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", json!(null)),
        ("store", json!(true)),
        ("text", json!({"format": {"type": "text"}})),
        ("truncation", json!("disabled")),
        ("reasoning", json!({"effort": null, "summary": null})),
    ] {
        assert_eq!(response[member], value, "{member}");
    }
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 4, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 6})
    );
}

#[tokio::test]
async fn an_answer_that_was_stopped_is_incomplete_and_says_why() {
    let server = TestServer::start(echo()).await;
    let body = json!({"input": "one two three", "max_output_tokens": 2});
    let response = answered(&server, &body).await;
    assert_eq!(
        (&response["status"], &response["incomplete_details"]),
        (&json!("incomplete"), &json!({"reason": "max_output_tokens"}))
    );
    assert_eq!(
        (&response["output"][0]["status"], text(&response)),
        (&json!("incomplete"), "one two".to_owned())
    );
    assert_eq!(response["completed_at"], json!(null));
    let events = streamed(&server, body).await;
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    let stored = http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await;
    assert_eq!(stored.json()["status"], "incomplete");
}

#[tokio::test]
async fn pictures_schemas_and_caps_reach_the_backend_as_a_chat_completion_has_them() {
    let mock = crate::answering(1).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.defaults =
        RequestDefaults { system_prompt: Some("the service's".to_owned()), ..RequestDefaults::default() };
    let server = TestServer::start(config).await;
    let body = r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"what?"},{"type":"input_image","image_url":"data:image/png;base64,AA=="}]}],
        "text":{"format":{"type":"json_schema","name":"n","schema":{"z":1,"a":{"y":1,"b":2}}}},"max_output_tokens":7,"reasoning":{"effort":"low"}}"#;
    let headers = [("content-type", "application/json")];
    let answer = http::send(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let request = mock.requests().remove(0);
    assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
    let text = String::from_utf8(request.body.to_vec()).unwrap();
    for part in [
        r#"{"role":"system","content":"the service's"}"#,
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"z":1,"a":{"y":1,"b":2}}}}"#,
        r#""max_tokens":7"#,
        r#""reasoning_effort":"low""#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn faults_before_the_first_piece_are_real_statuses() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let error = json!({"error": {"message": "no", "type": "invalid_request_error", "param": "messages[0].content", "code": "c"}});
    let mut told = error.clone();
    told["error"]["param"] = json!("input");
    for stream in [false, true] {
        mock.script(Script::Status(400, vec![], error.to_string()));
        let answer = respond(&server, &json!({"input": "a", "stream": stream})).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (400, told.clone()));
        mock.script(Script::Status(401, vec![], String::new()));
        let answer = respond(&server, &json!({"input": "a", "stream": stream})).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-should-retry")), (502, "false"));
        let unknown = respond(&server, &json!({"input": "a", "model": "gpt-9", "stream": stream})).await;
        assert_eq!(
            (unknown.status.as_u16(), &unknown.json()["error"]["code"]),
            (404, &json!("model_not_found"))
        );
        let unsupported =
            respond(&server, &json!({"input": "a", "background": true, "stream": stream})).await;
        assert_eq!(
            (unsupported.status.as_u16(), &unsupported.json()["error"]["code"]),
            (400, &json!("unsupported_parameter"))
        );
    }
}

/// A backend speaks of the chat completion that it was asked; the caller has sent no such thing.
#[tokio::test]
async fn a_refusal_names_what_the_caller_has_sent_or_nothing() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.defaults.system_prompt = Some("the service's".to_owned());
    let server = TestServer::start(config).await;
    mock.script(Script::Words(1));
    let first = answered(&server, &json!({"input": "first"})).await["id"].clone();
    let items = json!([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_text", "text": "b"}]}]);
    for (body, param, told) in [
        (json!({"input": items}), "messages[0].content", json!(null)),
        (json!({"input": items}), "messages[2].content[0].text", json!("input[1]")),
        (json!({"input": items, "instructions": "own"}), "messages[0]", json!("instructions")),
        (
            json!({"input": items, "previous_response_id": first}),
            "messages[2]",
            json!("previous_response_id"),
        ),
        (json!({"input": items, "previous_response_id": first}), "messages[3]", json!("input[0]")),
        (json!({"input": "a", "max_output_tokens": 5}), "max_tokens", json!("max_output_tokens")),
        (json!({"input": "a"}), "max_tokens", json!(null)),
        (json!({"input": "a"}), "a_field_of_tomorrow", json!(null)),
    ] {
        let error =
            json!({"error": {"message": "no", "type": "invalid_request_error", "param": param, "code": "c"}});
        mock.script(Script::Status(400, vec![], error.to_string()));
        let answer = respond(&server, &body).await;
        let found = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &found["code"]), (400, &json!("c")), "{body}");
        assert_eq!(found["param"], told, "{param}: {body}");
    }
}

#[tokio::test]
async fn equal_requests_share_an_answer_with_each_other_and_with_chat_completions() {
    let mock = crate::answering(1).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    let body = json!({"input": "same"});
    let (miss, hit) = (respond(&server, &body).await, respond(&server, &body).await);
    assert_eq!((miss.header("x-chat-cache"), hit.header("x-chat-cache")), ("miss", "hit"));
    assert_eq!(text(&miss.json()), text(&hit.json()));
    assert_ne!(miss.json()["id"], hit.json()["id"], "each is a response of its own");
    let events = streamed(&server, body).await;
    assert_eq!(text(&events.last().unwrap()["response"]), "word0 word1 word2");
    let chat = r#"{"messages":[{"role":"user","content":"same"}]}"#;
    let headers = [("content-type", "application/json")];
    let chat = http::send(Method::POST, &server.at("/v1/chat/completions"), &headers, chat.as_bytes()).await;
    assert_eq!(chat.header("x-chat-cache"), "hit");
    assert_eq!(mock.count(), 1);
}
