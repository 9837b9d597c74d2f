//! Whom a call believes: public authorities and the configured ones, for the name that is called.

use chatservice::server::backend::BackendError;
use chatservice::server::backend::openai::{OpenAi, OpenAiOptions};

use crate::dial::Fixed;
use crate::front::{Authority, Front};
use crate::mock_openai::{MockOpenAi, Script};
use crate::{KEY, options, plain};

/// Options for a call to this host, whose addresses the test decides, on the port of a front.
fn to(mock: &MockOpenAi, front: &Front, host: &str, trusted: Option<&Authority>) -> OpenAiOptions {
    OpenAiOptions {
        base_url: format!("https://{host}:{}/v1", front.address.port()),
        allowed_hosts: vec![host.to_owned()],
        authorities: trusted.map(Authority::trusted),
        ..options(mock)
    }
}

async fn call(options: OpenAiOptions) -> Result<(), BackendError> {
    let backend = OpenAi::with_resolver(options, Fixed::new(&["127.0.0.1"])).unwrap();
    plain(&backend).await.map(drop)
}

fn assert_not_believed(result: Result<(), BackendError>, why: &str) {
    let Err(BackendError::Unavailable(message)) = result else { panic!("{result:?}") };
    assert!(message.contains("cannot connect") && message.contains(why), "{message}");
}

#[tokio::test]
async fn a_backend_of_a_configured_authority_is_believed() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(1));
    let authority = Authority::new();
    let front = Front::tls(&authority, "llm.test", mock.address()).await;
    call(to(&mock, &front, "llm.test", Some(&authority))).await.unwrap();
    let sent = &mock.requests()[0];
    assert!(sent.headers.contains(&("authorization".to_owned(), format!("Bearer {KEY}"))));
}

#[tokio::test]
async fn a_backend_of_an_unknown_authority_gets_nothing() {
    let mock = MockOpenAi::start().await;
    let front = Front::tls(&Authority::new(), "llm.test", mock.address()).await;
    assert_not_believed(call(to(&mock, &front, "llm.test", None)).await, "UnknownIssuer");
    let another = Authority::new();
    assert!(call(to(&mock, &front, "llm.test", Some(&another))).await.is_err());
    assert_eq!(mock.connections(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let mock = MockOpenAi::start().await;
    let authority = Authority::new();
    let front = Front::tls(&authority, "llm.test", mock.address()).await;
    let result = call(to(&mock, &front, "other.test", Some(&authority))).await;
    assert_not_believed(result, "not valid for name");
    assert_eq!(mock.connections(), 0);
}

#[tokio::test]
async fn plain_text_where_tls_is_expected_is_not_believed() {
    let mock = MockOpenAi::start().await;
    let mut options = options(&mock);
    options.base_url = options.base_url.replace("http://", "https://");
    assert!(matches!(call(options).await, Err(BackendError::Unavailable(_) | BackendError::Timeout(_))));
    assert!(mock.requests().is_empty());
}
