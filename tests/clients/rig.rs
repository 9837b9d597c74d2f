//! The real binary with a scripted OpenAI behind it. In: what a ChatService says beside its model and backend. Out: both.

use std::path::Path;

use crate::http;
use crate::mock_openai::MockOpenAi;
use crate::process::Process;

/// The model that is served.
pub const MODEL: &str = "gpt-4o-mini";

/// A server and its backend.
pub struct Rig {
    pub mock: MockOpenAi,
    pub server: Process,
}

impl Rig {
    /// Without limits and cache.
    pub async fn start() -> Self {
        Self::with("retries: {maxAttempts: 1}").await
    }

    /// With more fields of the spec, as YAML on one line.
    pub async fn with(fields: &str) -> Self {
        Self::with_secrets(fields, &[]).await
    }

    /// With secrets too, by the variables that stand for them.
    pub async fn with_secrets(fields: &str, variables: &[(&str, &str)]) -> Self {
        let mock = MockOpenAi::start().await;
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("service.yaml");
        write(&file, &mock.base_url(), fields);
        let server = Process::local(&file, variables).await;
        Self { mock, server }
    }

    /// Where an SDK asks.
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// How many requests with this status the server has answered on its chat completions.
    pub async fn answered(&self, status: u16) -> usize {
        self.counted("POST", "/v1/chat/completions", status).await
    }

    /// How many requests with this method it has answered with 200 on this route.
    pub async fn succeeded(&self, method: &str, route: &str) -> usize {
        self.counted(method, route, 200).await
    }

    async fn counted(&self, method: &str, route: &str, status: u16) -> usize {
        let metrics = http::get(&format!("{}/metrics", self.server.admin)).await;
        let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
        let line =
            format!("http_requests_total{{endpoint=\"{route}\",method=\"{method}\",status=\"{status}\"}} ");
        metrics.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

fn write(file: &Path, base_url: &str, fields: &str) {
    let text = format!(
        "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {{name: demo}}\nspec: {{model: {MODEL}, \
         logging: {{format: json}}, backend: {{openai: {{baseURL: \"{base_url}\"}}}}, {fields}}}\n"
    );
    std::fs::write(file, text).unwrap();
}
