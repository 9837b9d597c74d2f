//! `chatservice ask`: one question to a chat API, as an app asks it. In: its URL and what a caller has, a key and the
//! authorities to trust. Out: facts of the answer, or what is wrong and what to do.
//!
//! The answer itself is not shown: `helm test` runs this in a pod, whose output is a log.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::server::auth::HASHED;
use crate::server::backend::connect::{Connector, ConnectorOptions, DialPolicy, SystemResolver};
use crate::server::backend::tls::{Authorities, AuthoritiesError};
use crate::server::secrets::mount::{Mount, text_of};

/// Longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;
/// Longest piece of an answer that is shown.
const SHOWN: usize = 300;
/// Most tokens of the answer, so that the question costs next to nothing.
const OUTPUT_TOKENS: u32 = 64;
/// From one try to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked, of whom, and as whom.
#[derive(Debug)]
pub struct AskOptions {
    /// As the OpenAI SDK takes it, such as `http://demo.chat.svc:8080/v1`.
    pub url: String,
    /// The question.
    pub message: String,
    /// What the answer must hold; None: anything.
    pub expect: Option<String>,
    /// A file with the key to send, or a mounted Secret, whose first key that is no hash is sent.
    pub keys: Option<PathBuf>,
    /// A file of certificates to trust beside the public ones, or a mounted Secret of such.
    pub authorities: Option<PathBuf>,
    /// For all tries together.
    pub patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// What cannot be a chat API's URL.
    #[error(
        "{0} is not the URL of a chat API: write it as `kubectl get chat` shows it, such as http://demo.chat.svc:8080/v1"
    )]
    Url(String),
    /// A file that was named.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nothing to send.
    #[error(
        "{} holds no key that can be sent (data keys: {found}): a value that begins with sha256: is only a key's hash. \
         Fix: name a file or Secret with a key itself",
        path.display()
    )]
    NoKey {
        /// Where it was looked for.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// No certificate to trust.
    #[error("{} cannot be used: {source}", path.display())]
    Authorities {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: AuthoritiesError,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
    /// No connection, or it broke.
    #[error("cannot reach {url}: {why}. Fix: see whether its pods are ready: {look}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// The innermost cause.
        why: String,
        /// A command.
        look: String,
    },
    /// Its certificate is not believed.
    #[error(
        "the certificate of {url} is not trusted: {why}. Fix: it must name {host}, and --authorities must hold the \
         authority that signed it"
    )]
    Untrusted {
        /// Who was asked.
        url: String,
        /// Whose name the certificate must hold.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing came, or not all of it.
    #[error("{url} did not answer within {after:?}. Fix: see what holds it up: {look}")]
    Timeout {
        /// Who was asked.
        url: String,
        /// How long it had.
        after: Duration,
        /// A command.
        look: String,
    },
    /// It answered with an error.
    #[error("{url} answered {status}: {said}. Fix: {fix}")]
    Refused {
        /// Who was asked.
        url: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        said: String,
        /// What to do.
        fix: String,
    },
    /// It answered, but not the question.
    #[error("{url} answered {what}. Fix: see whether it is a chat API's URL and what it runs: {look}")]
    NoAnswer {
        /// Who was asked.
        url: String,
        /// What came instead.
        what: String,
        /// A command.
        look: String,
    },
}

/// What is known of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The model that gave it.
    pub model: String,
    /// Length in characters.
    pub characters: usize,
}

/// Asks until there is an answer, or an error that another try does not heal, or the patience ends.
pub async fn ask(options: &AskOptions) -> Result<Answer, AskError> {
    let target = Target::of(&options.url)?;
    let request = request(&target, options)?;
    let connector = Connector::new(ConnectorOptions {
        resolver: Arc::new(SystemResolver),
        policy: DialPolicy { loopback: true },
        proxy: None,
        authorities: options.authorities.as_deref().map(authorities).transpose()?,
        timeout: options.patience,
    })
    .map_err(AskError::Tls)?;
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let end = Instant::now() + options.patience;
    let mut last = None;
    loop {
        let Ok(tried) = timeout_at(end, exchange(&client, &target, request.clone())).await else {
            let (url, look) = (target.shown(), target.look());
            return Err(last.unwrap_or(AskError::Timeout { url, after: options.patience, look }));
        };
        match tried {
            Ok(body) => return judge(&target, &body, options.expect.as_deref()),
            Err(error) if error.may_pass() && end - Instant::now() > PAUSE => {
                last = Some(error);
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl AskError {
    /// Whether it may be so only while pods start.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }
}

/// Whom to ask.
struct Target {
    uri: Uri,
    host: String,
}

impl Target {
    fn of(url: &str) -> Result<Self, AskError> {
        let wrong = || AskError::Url(url.to_owned());
        let uri: Uri =
            format!("{}/chat/completions", url.trim_end_matches('/')).parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        if !matches!(uri.scheme_str(), Some("http" | "https"))
            || uri.query().is_some()
            || uri.authority().is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(wrong());
        }
        Ok(Self { uri, host })
    }

    fn shown(&self) -> String {
        self.uri.to_string()
    }

    /// The command that tells how the ChatService is: of this one, when its name in the cluster was used.
    fn look(&self) -> String {
        let mut labels = self.host.split('.');
        match (labels.next(), labels.next(), labels.next()) {
            (Some(name), Some(namespace), Some("svc")) => {
                format!("kubectl -n {namespace} get chat {name} -o wide")
            }
            _ => "kubectl get chat -A -o wide".to_owned(),
        }
    }
}

fn request(target: &Target, options: &AskOptions) -> Result<Request<Full<Bytes>>, AskError> {
    let body = json!({
        "messages": [{"role": "user", "content": options.message}],
        "max_completion_tokens": OUTPUT_TOKENS,
    });
    let mut request = Request::new(Full::new(Bytes::from(body.to_string())));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = target.uri.clone();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(path) = &options.keys {
        headers.insert(header::AUTHORIZATION, key(path)?);
    }
    Ok(request)
}

/// The header of the first key that can be sent.
fn key(path: &Path) -> Result<HeaderValue, AskError> {
    let files = texts(path)?;
    let lines = files.iter().flat_map(|(_, text)| text.lines().map(str::trim));
    let header = lines
        .filter(|line| !line.is_empty() && !line.starts_with(HASHED))
        .find_map(|line| HeaderValue::from_str(&format!("Bearer {line}")).ok());
    let Some(mut header) = header else {
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(AskError::NoKey { path: path.to_owned(), found });
    };
    header.set_sensitive(true);
    Ok(header)
}

fn authorities(path: &Path) -> Result<Authorities, AskError> {
    let text: String = texts(path)?.into_iter().map(|(_, text)| text + "\n").collect();
    Authorities::from_pem(&text).map_err(|source| AskError::Authorities { path: path.to_owned(), source })
}

/// A file's text, or that of each data key of a mounted Secret, with their names.
fn texts(path: &Path) -> Result<Vec<(String, String)>, AskError> {
    let failed = |source| AskError::File { path: path.to_owned(), source };
    if path.is_file() {
        return Ok(vec![(path.display().to_string(), text_of(path).map_err(failed)?)]);
    }
    let mount = Mount::open(path).map_err(failed)?;
    let mut texts = Vec::new();
    for name in mount.keys() {
        if let Some(text) = mount.read(name).map_err(failed)? {
            texts.push((name.clone(), text));
        }
    }
    Ok(texts)
}

/// The body of a good answer.
async fn exchange(
    client: &Client<Connector, Full<Bytes>>,
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, AskError> {
    let has_key = request.headers().contains_key(header::AUTHORIZATION);
    let response = client.request(request).await.map_err(|error| unreachable(target, &error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| AskError::NoAnswer {
        url: target.shown(),
        what: format!("with something that cannot be read: {error}"),
        look: target.look(),
    })?;
    let body = body.to_bytes();
    if head.status.is_success() {
        return Ok(body);
    }
    let fix = match head.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_key => {
            "ask with a key of the Secret in spec.auth.apiKeysSecretRef, or as an account of spec.auth.serviceAccounts"
                .to_owned()
        }
        StatusCode::UNAUTHORIZED => "callers must log in: name a file with a key, or a mounted Secret, with --keys".to_owned(),
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let wait = wait.map_or_else(String::new, |seconds| format!("ask again in {seconds} s, or "));
            format!("{wait}raise spec.rateLimits or spec.budget")
        }
        StatusCode::NOT_FOUND => {
            "is it the URL of a chat API, with /v1 at its end, as `kubectl get chat` shows it?".to_owned()
        }
        _ => format!("see what is wrong with it: {}", target.look()),
    };
    Err(AskError::Refused { url: target.shown(), status: head.status, said: words(&body), fix })
}

fn unreachable(target: &Target, error: &hyper_util::client::legacy::Error) -> AskError {
    let causes: Vec<_> =
        std::iter::successors(Some(error as &(dyn Error + 'static)), |error| cause(*error)).collect();
    let of_tls = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>());
    if let Some(wrong @ rustls::Error::InvalidCertificate(_)) = of_tls {
        let (host, why) = (target.host.clone(), wrong.to_string());
        return AskError::Untrusted { url: target.shown(), host, why };
    }
    let why = causes.last().map(ToString::to_string).unwrap_or_default();
    AskError::Unreachable { url: target.shown(), why, look: target.look() }
}

/// What is behind an error. An `io::Error` shows what it wraps as its own words, and passes over it as its source.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
}

/// What an error says, in a line.
fn words(body: &[u8]) -> String {
    let error: Option<Value> = serde_json::from_slice(body).ok();
    let message = error.as_ref().and_then(|error| error["error"]["message"].as_str());
    let text = String::from_utf8_lossy(body);
    let line = message.or_else(|| text.lines().next()).unwrap_or_default().trim();
    let line: String = line.chars().filter(|sign| !sign.is_control()).take(SHOWN).collect();
    if line.is_empty() { "nothing".to_owned() } else { line.trim_end_matches('.').to_owned() }
}

/// Whether it is an answer to the question.
fn judge(target: &Target, body: &[u8], expect: Option<&str>) -> Result<Answer, AskError> {
    let no_answer =
        |what: &str| AskError::NoAnswer { url: target.shown(), what: what.to_owned(), look: target.look() };
    let completion: Value =
        serde_json::from_slice(body).map_err(|_| no_answer("with something that is not JSON"))?;
    let choice = &completion["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap_or_default();
    // A model that thinks first may have used up the cap.
    let cut =
        choice["finish_reason"] == "length" && completion["usage"]["completion_tokens"].as_u64() > Some(0);
    if text.is_empty() && !cut {
        return Err(no_answer("without a word of the model"));
    }
    if expect.is_some_and(|expected| !text.contains(expected)) {
        return Err(no_answer("with another text than --expect says"));
    }
    let model = completion["model"].as_str().unwrap_or_default().to_owned();
    Ok(Answer { model, characters: text.chars().count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::of(url).unwrap()
    }

    #[test]
    fn a_service_in_a_cluster_is_looked_at_by_its_name() {
        for url in ["http://demo.chat.svc:8080/v1", "https://demo.chat.svc.cluster.local/v1/"] {
            assert_eq!(target(url).look(), "kubectl -n chat get chat demo -o wide", "{url}");
        }
        assert_eq!(target("http://127.0.0.1:8080/v1").look(), "kubectl get chat -A -o wide");
        assert_eq!(target("https://demo.chat.svc/v1/").shown(), "https://demo.chat.svc/v1/chat/completions");
    }

    #[test]
    fn what_is_no_url_of_an_api_is_refused_with_an_example() {
        for url in
            ["demo:8080", "ftp://demo/v1", "http://", "http://user:pass@demo/v1", "http://demo/v1?a=b", ""]
        {
            let said = Target::of(url).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains("http://demo.chat.svc:8080/v1"), "{url}: {said}");
        }
    }

    #[test]
    fn an_answer_has_words_or_was_cut_while_the_model_thought() {
        let answer = |content: &Value, finish: &str, tokens: u32| {
            let body = json!({"model": "m", "usage": {"completion_tokens": tokens},
                "choices": [{"message": {"content": content}, "finish_reason": finish}]});
            judge(&target("http://demo/v1"), body.to_string().as_bytes(), None)
        };
        let good = |characters| Answer { model: "m".to_owned(), characters };
        assert_eq!(answer(&json!("Yes."), "stop", 2).unwrap(), good(4));
        assert_eq!(answer(&Value::Null, "length", 64).unwrap(), good(0));
        for nothing in [answer(&json!(""), "stop", 2), answer(&Value::Null, "length", 0)] {
            assert!(nothing.unwrap_err().to_string().contains("without a word"));
        }
        for (body, word) in [("<html>", "not JSON"), ("{}", "without a word"), ("[]", "without a word")] {
            let said = judge(&target("http://demo/v1"), body.as_bytes(), None).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn an_error_is_said_in_a_line() {
        let body = json!({"error": {"message": "no\nsuch model."}}).to_string();
        assert_eq!(words(body.as_bytes()), "nosuch model");
        assert_eq!(words(b"bad gateway\r\nsecond line"), "bad gateway");
        assert_eq!(words(b""), "nothing");
    }
}
