//! Pages for people, from the binary: the playground, the reference of the API, and what leads to them. In: the files in
//! `playground/` and `docs/`, Swagger UI, the OpenAPI document. Out: routes. No page loads anything from elsewhere, and each
//! tells the browser to see to that.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use super::error::{ApiError, Dialect};
use super::openapi;
use super::state::AppState;
use crate::constants::path;

/// The playground makes elements and text nodes and nothing from markup, so the browser is told to refuse the latter.
const PLAYGROUND_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Swagger UI as it is vendored needs nothing inline either; its icons are `data:` URLs.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of a page.
struct File {
    name: &'static str,
    content_type: &'static str,
    content: Bytes,
    tag: HeaderValue,
}

impl File {
    fn new(name: &'static str, content_type: &'static str, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let hash = blake3::hash(&content).to_hex();
        let tag = HeaderValue::from_str(&format!("\"{}\"", &hash[..16]));
        Self { name, content_type, content, tag: tag.unwrap_or_else(|_| HeaderValue::from_static("\"0\"")) }
    }

    /// One of Swagger UI's own. It is one that there is: a test asks for each.
    fn of_swagger_ui(name: &'static str, content_type: &'static str) -> Self {
        let file = utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok().flatten();
        let content = file.map_or(Bytes::new(), |file| match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        });
        Self::new(name, content_type, content)
    }
}

/// The OpenAPI document, whose examples name a model that is served.
struct Document {
    text: String,
    /// The model that was named last, and the document with it.
    latest: ArcSwapOption<(Arc<str>, File)>,
}

impl Document {
    fn new(document: &OpenApi) -> Self {
        Self { text: document.to_json().unwrap_or_default(), latest: ArcSwapOption::empty() }
    }

    /// With the model that the running configuration gives to who names none; before there is one, as it is written.
    fn served(&self, state: &AppState) -> Arc<(Arc<str>, File)> {
        let model = state
            .live()
            .map_or_else(|_| Arc::from(openapi::MODEL), |live| live.models.default().name.clone());
        if let Some(latest) = self.latest.load_full().filter(|latest| latest.0 == model) {
            return latest;
        }
        let text = openapi::naming(&self.text, &model).into_owned();
        let named = Arc::new((model, File::new("openapi.json", "application/json", text)));
        self.latest.store(Some(named.clone()));
        named
    }
}

/// The files of the playground: the page first.
static PLAYGROUND: LazyLock<Vec<File>> = LazyLock::new(|| {
    vec![
        File::new("index.html", HTML, include_str!("playground/index.html").as_bytes()),
        File::new("style.css", STYLE, include_str!("playground/style.css").as_bytes()),
        File::new("icon.svg", "image/svg+xml", include_str!("playground/icon.svg").as_bytes()),
        File::new("app.js", SCRIPT, include_str!("playground/app.js").as_bytes()),
        File::new("api.js", SCRIPT, include_str!("playground/api.js").as_bytes()),
        File::new("code.js", SCRIPT, include_str!("playground/code.js").as_bytes()),
        File::new("copy.js", SCRIPT, include_str!("playground/copy.js").as_bytes()),
        File::new("dom.js", SCRIPT, include_str!("playground/dom.js").as_bytes()),
        File::new("markdown.js", SCRIPT, include_str!("playground/markdown.js").as_bytes()),
        File::new("memory.js", SCRIPT, include_str!("playground/memory.js").as_bytes()),
        File::new("panels.js", SCRIPT, include_str!("playground/panels.js").as_bytes()),
        File::new("snippets.js", SCRIPT, include_str!("playground/snippets.js").as_bytes()),
        File::new("text.js", SCRIPT, include_str!("playground/text.js").as_bytes()),
        File::new("turn.js", SCRIPT, include_str!("playground/turn.js").as_bytes()),
        File::new("words.js", SCRIPT, include_str!("playground/words.js").as_bytes()),
    ]
});

/// The files of the reference: the page first.
static DOCS: LazyLock<Vec<File>> = LazyLock::new(|| {
    vec![
        File::new("index.html", HTML, include_str!("docs/index.html").as_bytes()),
        File::new("docs.css", STYLE, include_str!("docs/docs.css").as_bytes()),
        File::new("docs.js", SCRIPT, include_str!("docs/docs.js").as_bytes()),
        File::of_swagger_ui("swagger-ui.css", STYLE),
        File::of_swagger_ui("swagger-ui-bundle.js", SCRIPT),
        File::of_swagger_ui("favicon-32x32.png", "image/png"),
    ]
});

/// The playground, and what leads to a page.
pub(super) fn playground() -> Router<AppState> {
    let slash = format!("{}/", path::PLAYGROUND);
    let file = format!("{}/{{file}}", path::PLAYGROUND);
    Router::new()
        .route(path::PLAYGROUND, get(page))
        // The page's links are relative, so that it works behind any prefix; and so is the way back from here.
        .route(&slash, get(async || Redirect::permanent("../playground")))
        .route(&file, get(asset))
        // No crate brings ReDoc without a network of content; Swagger UI shows the same document.
        .route(path::REDOC, get(async || Redirect::temporary("docs")))
}

/// The reference, and the document that it shows.
pub(super) fn docs(document: &OpenApi) -> Router<AppState> {
    let document = Arc::new(Document::new(document));
    let slash = format!("{}/", path::DOCS);
    let file = format!("{}/{{file}}", path::DOCS);
    Router::new()
        // Relative, so that it works behind any prefix.
        .route(path::DOCS, get(async || Redirect::permanent("docs/")))
        .route(&slash, get(async |headers: HeaderMap| reference("index.html", &headers)))
        .route(&file, get(async |Path(name): Path<String>, headers: HeaderMap| reference(&name, &headers)))
        .route(
            path::OPENAPI,
            get(async move |State(state): State<AppState>, headers: HeaderMap| {
                answer(&document.served(&state).1, &headers)
            }),
        )
        .layer(axum::middleware::map_response(async |response: Response| guarded(DOCS_POLICY, response)))
}

fn reference(name: &str, headers: &HeaderMap) -> Response {
    match DOCS.iter().find(|file| file.name == name) {
        Some(file) => answer(file, headers),
        None => ApiError::NotFound.into_response(Dialect::Simple),
    }
}

async fn page(state: State<AppState>, headers: HeaderMap) -> Response {
    asset(state, Path("index.html".to_owned()), headers).await
}

async fn asset(State(state): State<AppState>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    match find(&state, &name) {
        Ok(file) => guarded(PLAYGROUND_POLICY, answer(file, &headers)),
        Err(error) => error.into_response(Dialect::Simple),
    }
}

fn find(state: &AppState, name: &str) -> Result<&'static File, ApiError> {
    let live = state.live()?;
    let file = PLAYGROUND.iter().find(|file| file.name == name);
    file.filter(|_| live.config.dynamic.playground).ok_or(ApiError::NotFound)
}

/// A file, or the word that the browser's copy is still right.
fn answer(file: &File, asked: &HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tag = file.tag.to_str().unwrap_or_default();
    let same = known.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    let mut response =
        if same { StatusCode::NOT_MODIFIED.into_response() } else { file.content.clone().into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    headers.insert(header::ETAG, file.tag.clone());
    response
}

/// With what a browser must see to. Files may be kept but are asked after: another version of the server has others.
fn guarded(policy: &'static str, mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that no page asks for, or one that is asked for and missing, is a mistake in the lists above.
    #[test]
    fn the_files_are_those_that_the_pages_and_their_modules_name() {
        let playground = |part: &str| {
            let name = part.strip_prefix("playground/").or_else(|| part.strip_prefix("./"));
            name.map(str::to_owned)
        };
        let docs = |part: &str| {
            let (name, extension) = part.rsplit_once('.')?;
            let own = ["css", "js", "png"].contains(&extension) && !name.contains(['/', ' ']);
            own.then(|| part.to_owned())
        };
        let named_in = |files: &[File], name: &dyn Fn(&str) -> Option<String>| {
            let texts = files.iter().filter_map(|file| std::str::from_utf8(&file.content).ok());
            let mut named: Vec<String> = texts.flat_map(|text| text.split('"').filter_map(name)).collect();
            named.push("index.html".to_owned());
            named.sort();
            named.dedup();
            named
        };
        let listed = |files: &[File]| {
            let mut listed: Vec<_> = files.iter().map(|file| file.name.to_owned()).collect();
            listed.sort();
            listed
        };
        assert_eq!(named_in(&PLAYGROUND, &playground), listed(&PLAYGROUND));
        assert_eq!(named_in(&DOCS[..1], &docs), listed(&DOCS));
        assert!(
            DOCS.iter().all(|file| !file.content.is_empty()),
            "a file of Swagger UI has another name now"
        );
    }
}
