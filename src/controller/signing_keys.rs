//! The keys that this cluster signs ServiceAccount tokens with. In: what the API server publishes about them, which every
//! ServiceAccount may read. Out: a [`TokenIssuer`] that servers check tokens with, shared by all ChatServices.
//!
//! What was read is good for a while, then it is read again by whoever needs it next. Once there are keys there always are:
//! while they cannot be read the last ones stay.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::Error;
use super::metrics::ControllerMetrics;
use crate::server::auth::can_verify;
use crate::server::config::{SigningKey, TokenIssuer};

/// Where the API server says who it is to others.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where it shows its keys.
const KEYS: &str = "/openid/v1/jwks";
/// For both.
const DEADLINE: Duration = Duration::from_secs(5);
/// Of each.
const BYTES: usize = 256 << 10;
/// Keys that are taken: a ConfigMap has to hold them.
const KEYS_MAX: usize = 64;

/// Reads them, and remembers what it read.
pub struct SigningKeys {
    client: Client,
    /// How long what was read is good.
    fresh: Duration,
    known: Mutex<Option<Known>>,
    metrics: ControllerMetrics,
}

struct Known {
    issuer: Arc<TokenIssuer>,
    /// When they are looked at again.
    due: Instant,
}

/// Why they could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The API server did not answer.
    #[error("{0}")]
    Request(#[from] Box<kube::Error>),
    /// It answered with this.
    #[error("the API server answers with status {0}")]
    Status(u16),
    /// Its answer is too long or ended early.
    #[error("the answer cannot be read: {0}")]
    Body(String),
    /// It is something else.
    #[error("the answer is not what OpenID Connect Discovery describes")]
    Form,
    /// There is nothing that servers could check with.
    #[error("there is no key for RS256, ES256, ES384 or ES512")]
    NoKey,
    /// It took too long.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl SigningKeys {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(client: Client, fresh: Duration, metrics: ControllerMetrics) -> Self {
        Self { client, fresh, known: Mutex::new(None), metrics }
    }

    /// The keys, which are read unless that was done a moment ago. One reads for all.
    ///
    /// # Errors
    /// They were never read and cannot be.
    pub async fn current(&self) -> Result<Arc<TokenIssuer>, Error> {
        let mut known = self.known.lock().await;
        let now = Instant::now();
        if let Some(known) = known.as_ref().filter(|known| now < known.due) {
            return Ok(Arc::clone(&known.issuer));
        }
        let read =
            tokio::time::timeout(DEADLINE, self.read()).await.unwrap_or(Err((KEYS, Unreadable::Deadline)));
        let issuer = match (read, known.take()) {
            (Ok(issuer), before) => {
                self.metrics.signing_keys_read();
                match before {
                    Some(before) if *before.issuer == issuer => before.issuer,
                    before => {
                        let keys = issuer.keys.len();
                        tracing::info!(
                            keys,
                            first = before.is_none(),
                            "the keys of ServiceAccount tokens are new"
                        );
                        Arc::new(issuer)
                    }
                }
            }
            (Err((path, source)), Some(before)) => {
                tracing::warn!(path, error = %source, "the keys of ServiceAccount tokens cannot be read: the last ones stay");
                before.issuer
            }
            (Err((path, source)), None) => return Err(Error::SigningKeys { path, source }),
        };
        *known = Some(Known { issuer: Arc::clone(&issuer), due: now + self.fresh });
        Ok(issuer)
    }

    async fn read(&self) -> Result<TokenIssuer, (&'static str, Unreadable)> {
        let of = |path: &'static str| move |error: Unreadable| (path, error);
        let Discovery { issuer: url } = self.get(DISCOVERY).await.map_err(of(DISCOVERY))?;
        let set: KeySet = self.get(KEYS).await.map_err(of(KEYS))?;
        let keys = usable(set.keys);
        if keys.is_empty() || url.is_empty() {
            return Err((KEYS, Unreadable::NoKey));
        }
        Ok(TokenIssuer { url, keys })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Unreadable> {
        let request = http::Request::get(path).body(Body::empty()).map_err(|_| Unreadable::Form)?;
        let response = self.client.send(request).await.map_err(Box::new)?;
        if response.status() != http::StatusCode::OK {
            return Err(Unreadable::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), BYTES).collect().await;
        let body = body.map_err(|error| Unreadable::Body(error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| Unreadable::Form)
    }
}

/// Those that servers can check with, sorted, so that the same keys are the same bytes.
fn usable(keys: Vec<serde_json::Value>) -> Vec<SigningKey> {
    let for_signatures = |key: &serde_json::Value| key.get("use").is_none_or(|uses| uses == "sig");
    let keys = keys.into_iter().filter(for_signatures);
    let mut keys: Vec<SigningKey> =
        keys.filter_map(|key| serde_json::from_value(key).ok()).filter(can_verify).collect();
    keys.sort_by(|one, other| one.kid.cmp(&other.kid));
    keys.truncate(KEYS_MAX);
    keys
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use prometheus::Registry;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    fn key(kid: &str) -> Value {
        let coordinate = "A".repeat(43);
        json!({ "use": "sig", "kty": "EC", "kid": kid, "alg": "ES256", "crv": "P-256", "x": coordinate, "y": coordinate })
    }

    /// An API server that shows these keys, until it is given others; None: it is away.
    fn reader(keys: &Arc<StdMutex<Option<Value>>>) -> SigningKeys {
        let keys = Arc::clone(keys);
        let service = service_fn(move |request: http::Request<Body>| {
            let keys = keys.lock().unwrap().clone();
            async move {
                let answer = match (request.uri().path(), keys) {
                    (_, None) => {
                        return Ok(http::Response::builder().status(503).body(Body::empty()).unwrap());
                    }
                    (DISCOVERY, _) => json!({ "issuer": "https://kubernetes.default.svc" }),
                    (_, Some(keys)) => json!({ "keys": keys }),
                };
                Ok::<_, std::io::Error>(http::Response::new(Body::from(answer.to_string().into_bytes())))
            }
        });
        let metrics = ControllerMetrics::new(&Registry::new()).unwrap();
        SigningKeys::new(Client::new(service, "default"), Duration::from_mins(1), metrics)
    }

    fn names(issuer: &TokenIssuer) -> Vec<&str> {
        issuer.keys.iter().map(|key| key.kid.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_read_again_after_a_while_and_never_given_up() {
        let shown = Arc::new(StdMutex::new(None));
        let keys = reader(&shown);
        assert!(keys.current().await.is_err(), "there never were any");
        *shown.lock().unwrap() = Some(json!([key("b"), key("a")]));
        assert_eq!(names(&keys.current().await.unwrap()), ["a", "b"]);
        *shown.lock().unwrap() = Some(json!([key("c"), key("b")]));
        assert_eq!(names(&keys.current().await.unwrap()), ["a", "b"], "a moment ago");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(names(&keys.current().await.unwrap()), ["b", "c"]);
        for nothing in
            [None, Some(json!([])), Some(json!("keys")), Some(json!([{ "kty": "OKP", "kid": "d" }]))]
        {
            *shown.lock().unwrap() = nothing;
            tokio::time::advance(Duration::from_secs(61)).await;
            assert_eq!(names(&keys.current().await.unwrap()), ["b", "c"]);
        }
    }

    #[test]
    fn only_keys_that_servers_can_check_with_are_taken_and_of_those_the_public_members() {
        let mut for_encryption = key("e");
        for_encryption["use"] = json!("enc");
        let mut private = key("p");
        private["d"] = json!("secret");
        let mut short = key("s");
        short["x"] = json!("AAAA");
        let taken = usable(vec![for_encryption, private, short, json!({}), json!(null)]);
        assert_eq!(taken.len(), 1);
        assert_eq!(
            (taken[0].kid.as_str(), serde_json::to_string(&taken).unwrap().contains("secret")),
            ("p", false)
        );
    }
}
