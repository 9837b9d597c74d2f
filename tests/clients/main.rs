//! The API as its clients meet it: the official SDKs, the examples, a browser. In: the real binary with a scripted OpenAI
//! behind it, and programs in Python and JavaScript that ask it. Out: their exit code, and what the backend was asked.
//!
//! A case is a function of the same name in `sdk/cases.py` and `sdk/cases.mjs`; it says nothing and ends with 0, or says
//! what was wrong. What a machine lacks (`make tools` installs it) is skipped with a word, never in CI.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail the test, and say what is skipped"
)]

#[path = "../support/http.rs"]
mod http;
#[path = "../support/mock_openai.rs"]
mod mock_openai;
#[path = "../support/process.rs"]
mod process;

#[path = "../support/tokens.rs"]
mod tokens;

use rig::Rig;

mod browser;
mod callers;
mod chat;
mod document;
mod errors;
mod examples;
mod others;
mod programs;
mod retries;
mod rig;
mod streams;

/// A test for each SDK: `python` and `node` under the name of the case, by which `tests/run.sh` leaves out what it must.
macro_rules! with_both_sdks {
    ($($(#[$note:meta])* async fn $case:ident($sdk:ident: Sdk) $body:block)*) => {$(
        $(#[$note])*
        async fn $case($sdk: $crate::programs::Sdk) $body

        mod $case {
            #[tokio::test]
            async fn python() {
                if let Some(sdk) = $crate::programs::Sdk::python(stringify!($case)) {
                    super::$case(sdk).await;
                }
            }

            #[tokio::test]
            async fn node() {
                if let Some(sdk) = $crate::programs::Sdk::node(stringify!($case)) {
                    super::$case(sdk).await;
                }
            }
        }
    )*};
}
pub(crate) use with_both_sdks;
