//! Server processes that share a Redis. In: a ChatService's spec. Out: the processes, and what they say of themselves.

use futures::future::join_all;
use tempfile::TempDir;

use crate::http;
use crate::load::Client;
use crate::process_support::Process;

/// Processes of one ChatService.
pub struct Servers {
    pub processes: Vec<Process>,
    _directory: TempDir,
}

impl Servers {
    /// So many, with this spec (its lines indented by two blanks) and a backend at this URL.
    pub async fn start(count: usize, redis_url: &str, base_url: &str, spec: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chat.yaml");
        let text = format!(
            "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {{ name: demo, namespace: chat }}\nspec:\n\
             \x20 backend: {{ openai: {{ baseURL: \"{base_url}\" }} }}\n\
             \x20 redis: {{ secretRef: {{ name: demo-redis }} }}\n  logging: {{ format: json }}\n{spec}"
        );
        std::fs::write(&file, text).unwrap();
        let processes = join_all((0..count).map(|_| Process::of(&file, redis_url))).await;
        Self { processes, _directory: directory }
    }

    /// The URL of one, turn by turn.
    pub fn url(&self, number: usize) -> &str {
        &self.processes[number % self.processes.len()].url
    }

    /// A client of one, from an address of its own.
    pub async fn client(&self, number: usize, from: [u8; 4]) -> Client {
        Client::connect(self.url(number), from).await.unwrap()
    }

    /// The sum of all series that begin so, over all processes.
    pub async fn sum(&self, series: &str) -> f64 {
        let texts = join_all(
            self.processes
                .iter()
                .map(|process| async { http::get(&format!("{}/metrics", process.admin)).await.body }),
        );
        let texts = texts.await;
        let lines = texts.iter().flat_map(|text| std::str::from_utf8(text).unwrap().lines());
        lines
            .filter(|line| line.starts_with(series))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
