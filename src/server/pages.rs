//! Pages for people, from the binary: the playground, Swagger UI, and what leads to them. In: the files in `playground/`,
//! the OpenAPI document. Out: routes. No page loads anything from elsewhere, and each tells the browser to see to that.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::{ApiError, Dialect};
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

/// A file of the playground.
struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
    tag: HeaderValue,
}

/// The files of the playground: the page first.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |name, content_type, text: &'static str| {
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let tag = HeaderValue::from_str(&format!("\"{}\"", &hash[..16]));
        File { name, content_type, text, tag: tag.unwrap_or_else(|_| HeaderValue::from_static("\"0\"")) }
    };
    vec![
        file("index.html", HTML, include_str!("playground/index.html")),
        file("style.css", "text/css; charset=utf-8", include_str!("playground/style.css")),
        file("icon.svg", "image/svg+xml", include_str!("playground/icon.svg")),
        file("app.js", SCRIPT, include_str!("playground/app.js")),
        file("api.js", SCRIPT, include_str!("playground/api.js")),
        file("code.js", SCRIPT, include_str!("playground/code.js")),
        file("copy.js", SCRIPT, include_str!("playground/copy.js")),
        file("dom.js", SCRIPT, include_str!("playground/dom.js")),
        file("markdown.js", SCRIPT, include_str!("playground/markdown.js")),
        file("memory.js", SCRIPT, include_str!("playground/memory.js")),
        file("panels.js", SCRIPT, include_str!("playground/panels.js")),
        file("snippets.js", SCRIPT, include_str!("playground/snippets.js")),
        file("text.js", SCRIPT, include_str!("playground/text.js")),
        file("turn.js", SCRIPT, include_str!("playground/turn.js")),
        file("words.js", SCRIPT, include_str!("playground/words.js")),
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

/// Swagger UI and the document that it shows.
pub(super) fn docs(document: OpenApi) -> Router {
    // Without this it would show every document to a validator on the internet.
    let config = Config::default().validator_url("none");
    let config = config.use_base_layout().try_it_out_enabled(true).display_request_duration(true);
    Router::from(SwaggerUi::new(path::DOCS).url(path::OPENAPI, document).config(config))
        .layer(axum::middleware::map_response(async |response: Response| guarded(DOCS_POLICY, response)))
}

async fn page(state: State<AppState>, headers: HeaderMap) -> Response {
    asset(state, Path("index.html".to_owned()), headers).await
}

async fn asset(State(state): State<AppState>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    match find(&state, &name) {
        Ok(file) => answer(file, &headers),
        Err(error) => error.into_response(Dialect::Simple),
    }
}

fn find(state: &AppState, name: &str) -> Result<&'static File, ApiError> {
    let live = state.live()?;
    let file = FILES.iter().find(|file| file.name == name);
    file.filter(|_| live.config.dynamic.playground).ok_or(ApiError::NotFound)
}

/// A file, or the word that the browser's copy is still right.
fn answer(file: &File, asked: &HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tag = file.tag.to_str().unwrap_or_default();
    let same = known.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    let mut response =
        if same { StatusCode::NOT_MODIFIED.into_response() } else { file.text.into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    headers.insert(header::ETAG, file.tag.clone());
    guarded(PLAYGROUND_POLICY, response)
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

    /// A file that no page asks for, or one that is asked for and missing, is a mistake in the list above.
    #[test]
    fn the_files_are_those_that_the_page_and_its_modules_name() {
        let mut named = vec!["index.html".to_owned()];
        for file in FILES.iter() {
            for part in file.text.split('"') {
                let name = part.strip_prefix("playground/").or_else(|| part.strip_prefix("./"));
                named.extend(name.map(str::to_owned));
            }
        }
        named.sort();
        named.dedup();
        let mut listed: Vec<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        listed.sort();
        assert_eq!(named, listed);
    }
}
