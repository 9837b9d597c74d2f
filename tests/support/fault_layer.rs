//! A tower layer under kube's client, in front of a real API server, that numbers the requests that change something of a
//! ChatService and does to the k-th of them what a test asks for; it also disturbs watches and lists.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as Answer;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before it is sent.
    CrashBefore,
    /// The process dies when it was carried out, without its answer.
    CrashAfter,
    /// It is refused with this status, and not carried out.
    Refused(u16),
    /// It is carried out, and answered with this status.
    Misreported(u16),
    /// It is carried out, and never answered.
    Unanswered,
    /// It is carried out this much later.
    Delayed(Duration),
}

/// What happens to watches.
#[derive(Clone, Copy, Debug, Default)]
struct Watches {
    /// Rises when those that run are ended.
    epoch: u64,
    /// No event arrives, and no end.
    frozen: bool,
}

/// How a watch that runs is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection is gone.
    Cut,
    /// 410: its version is too old to go on from.
    Gone,
}

#[derive(Default)]
struct Script {
    /// By ChatService: which of its changing requests, counted down from now, meets what.
    plan: HashMap<String, (usize, Fault)>,
    /// Changing requests so far, as `METHOD path`.
    changes: Vec<String>,
    /// Answers to lists, by path.
    lists: Lists,
    /// Lists that are answered once as they were before.
    stale: Lists,
    end: Option<End>,
}

/// Answers to lists, by path.
pub type Lists = HashMap<String, Bytes>;

struct State {
    script: Mutex<Script>,
    watches: watch::Sender<Watches>,
    dead: watch::Sender<bool>,
    /// Reads of paths that contain this wait.
    held: watch::Sender<Option<&'static str>>,
}

/// The faults of one process. Clones are the same ones.
#[derive(Clone)]
pub struct Faults(Arc<State>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(State {
            script: Mutex::default(),
            watches: watch::channel(Watches::default()).0,
            dead: watch::channel(false).0,
            held: watch::channel(None).0,
        }))
    }
}

impl Faults {
    /// Does this to the `number`th request from now that changes something of this ChatService, counted from 1.
    pub fn at(&self, service: &str, number: usize, fault: Fault) {
        self.script().plan.insert(service.to_owned(), (number, fault));
    }

    /// Whether what [`Self::at`] planned for this ChatService has happened.
    pub fn happened(&self, service: &str) -> bool {
        !self.script().plan.contains_key(service)
    }

    /// Changing requests so far, as `METHOD path`.
    pub fn changes(&self) -> Vec<String> {
        self.script().changes.clone()
    }

    /// Resolves when a planned crash has happened: no request is answered any more.
    pub async fn crashed(&self) {
        let mut dead = self.0.dead.subscribe();
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// No watch hears anything until [`Self::thaw`].
    pub fn freeze_watches(&self) {
        self.0.watches.send_modify(|watches| watches.frozen = true);
    }

    /// Frozen watches hear what they missed.
    pub fn thaw_watches(&self) {
        self.0.watches.send_modify(|watches| watches.frozen = false);
    }

    /// Ends all watches that run.
    pub fn end_watches(&self, end: End) {
        self.script().end = Some(end);
        self.0.watches.send_modify(|watches| watches.epoch += 1);
    }

    /// The last answer to each list.
    pub fn lists(&self) -> Lists {
        self.script().lists.clone()
    }

    /// Answers each of these lists once, as it was then.
    pub fn replay(&self, lists: Lists) {
        self.script().stale = lists;
    }

    /// Whether all of [`Self::replay`] was asked for.
    pub fn all_replayed(&self) -> bool {
        self.script().stale.is_empty()
    }

    /// Lets reads of paths that contain `part` wait, or no more.
    pub fn hold(&self, part: Option<&'static str>) {
        self.0.held.send_replace(part);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap()
    }

    /// Numbers a changing request; what is planned for it.
    fn next(&self, request: &Request<Body>) -> Option<Fault> {
        let mut script = self.script();
        let path = request.uri().path();
        script.changes.push(format!("{} {path}", request.method()));
        let regards = regards(request);
        let is_about = |service: &str| regards.as_deref() == Some(service) || concerns(path, service);
        let service = script.plan.keys().find(|service| is_about(service))?.clone();
        let (left, fault) = script.plan.remove(&service)?;
        if left == 1 {
            return Some(fault);
        }
        script.plan.insert(service, (left - 1, fault));
        None
    }
}

/// Whether a path names this ChatService, a child, a pod or an event of it.
pub fn concerns(path: &str, service: &str) -> bool {
    path.split(['/', '?']).any(|part| {
        let rest = part.strip_prefix(service);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    })
}

/// What an event is about that is made with this request.
fn regards(request: &Request<Body>) -> Option<String> {
    if request.method() != Method::POST || !request.uri().path().ends_with("/events") {
        return None;
    }
    // It is there already, so nothing is waited for.
    let body = request.body().try_clone()?.collect_bytes().now_or_never()?.ok()?;
    let event: Value = serde_json::from_slice(&body).ok()?;
    event.pointer("/regarding/name")?.as_str().map(str::to_owned)
}

/// Puts [`Faults`] under a client.
#[derive(Clone)]
pub struct FaultLayer(pub Faults);

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, faults: self.0.clone() }
    }
}

pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Answer>, BoxError>> + Send>>;

impl<S, B> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let faults = self.faults.clone();
        let mut dead = faults.0.dead.subscribe();
        if *dead.borrow() {
            return Box::pin(std::future::pending());
        }
        let answering: Answering = if request.method() == Method::GET {
            self.read(request)
        } else {
            let fault = faults.next(&request);
            if let Some(Fault::Refused(code)) = fault {
                return Box::pin(async move { Ok(refusal(code)) });
            }
            if fault == Some(Fault::CrashBefore) {
                faults.0.dead.send_replace(true);
                return Box::pin(std::future::pending());
            }
            let sending = self.inner.call(request);
            Box::pin(async move {
                if let Some(Fault::Delayed(delay)) = fault {
                    tokio::time::sleep(delay).await;
                }
                let response = sending.await.map_err(Into::into)?;
                match fault {
                    Some(Fault::CrashAfter) => {
                        faults.0.dead.send_replace(true);
                        std::future::pending().await
                    }
                    Some(Fault::Unanswered) => std::future::pending().await,
                    Some(Fault::Misreported(code)) => Ok(refusal(code)),
                    _ => Ok(response.map(Answer::new)),
                }
            })
        };
        // Who is dead hears nothing more, not even what was on its way.
        Box::pin(async move {
            let death = async move {
                let _ = dead.wait_for(|dead| *dead).await;
            };
            tokio::select! {
                biased;
                () = death => std::future::pending().await,
                answer = answering => answer,
            }
        })
    }
}

impl<S> Faulty<S> {
    fn read<B>(&mut self, request: Request<Body>) -> Answering
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let faults = self.faults.clone();
        let query = request.uri().query().unwrap_or_default().to_owned();
        // Lists are told by their page size: objects are read without.
        let lists = query.contains("limit=500");
        let watches = query.contains("watch=true");
        let key = request.uri().path().to_owned();
        let stale = if lists { faults.script().stale.remove(&key) } else { None };
        if let Some(stale) = stale {
            let response = Response::builder().header("content-type", "application/json");
            let response = response.body(Answer::from(stale)).unwrap();
            return Box::pin(async move { Ok(response) });
        }
        let mut held = faults.0.held.subscribe();
        let epoch = faults.0.watches.borrow().epoch;
        let sending = self.inner.call(request);
        Box::pin(async move {
            let _ = held.wait_for(|part| !part.is_some_and(|part| key.contains(part))).await.map(|_| ());
            let response = sending.await.map_err(Into::into)?;
            if watches && response.status() == StatusCode::OK {
                return Ok(response.map(|body| disturbed(Answer::new(body), faults, epoch)));
            }
            if !lists || response.status() != StatusCode::OK {
                return Ok(response.map(Answer::new));
            }
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            faults.script().lists.insert(key, body.clone());
            Ok(Response::from_parts(parts, Answer::from(body)))
        })
    }
}

/// The events of a watch that was asked for in this epoch, as long as nothing disturbs it.
fn disturbed(body: Answer, faults: Faults, epoch: u64) -> Answer {
    let watches = faults.0.watches.subscribe();
    let events = stream::unfold(Some((body.into_data_stream(), watches)), move |state| {
        let faults = faults.clone();
        async move {
            let (mut events, mut watches) = state?;
            loop {
                let now = *watches.borrow_and_update();
                if now.epoch != epoch {
                    let end = faults.script().end;
                    return (end == Some(End::Gone)).then(|| (Ok(Bytes::from(gone())), None));
                }
                tokio::select! {
                    biased;
                    changed = watches.changed() => changed.ok()?,
                    event = events.next(), if !now.frozen => {
                        return Some((Ok::<_, Infallible>(event?.ok()?), Some((events, watches))));
                    }
                }
            }
        }
    });
    Answer::from_stream(events)
}

fn gone() -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version",
    });
    format!("{}\n", json!({ "type": "ERROR", "object": status }))
}

fn refusal(code: u16) -> Response<Answer> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": "a fault that a test made",
    });
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Answer::from(status.to_string())).unwrap()
}
