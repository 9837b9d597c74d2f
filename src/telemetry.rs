//! The log. In: a format and a level, both from the configuration. Out: lines on standard error, in every subcommand:
//! `kubectl logs` shows both streams, and what a subcommand prints for a person or a pipe stays clean.
//!
//! Fields have dotted names with the unit in them (`upstream.status`, `duration_ms`). No line ever holds a prompt, an
//! answer or a key; so a panic is logged by its place, without its text, which could quote what was being handled.

use std::panic::PanicHookInfo;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

use crate::crd::{LogFormat, LogLevel};

mod line;
mod writer;

pub use writer::flush;

/// The target of our own lines; those of dependencies begin with their names.
const OURS: &str = "chatservice";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up: `telemetry::init` is called once a process")]
pub struct AlreadyInitialized(#[from] tracing::subscriber::SetGlobalDefaultError);

/// Changes the level of the log while it is written. Clones are the same one; the default one changes nothing.
#[derive(Clone, Debug, Default)]
pub struct LevelHandle(Option<reload::Handle<Targets, Registry>>);

impl LevelHandle {
    /// From now on lines of `level` and above are written.
    pub fn set(&self, level: LogLevel) {
        if let Some(handle) = &self.0 {
            // It fails when the subscriber is gone: then there is no log.
            let _ = handle.reload(targets(level));
        }
    }
}

/// Begins to log, panics included. Once a process.
pub fn init(format: LogFormat, level: LogLevel) -> Result<LevelHandle, AlreadyInitialized> {
    let (subscriber, handle) = subscriber(format, level, writer::standard_error());
    tracing::subscriber::set_global_default(subscriber)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

fn subscriber<W>(
    format: LogFormat,
    level: LogLevel,
    writer: W,
) -> (impl Subscriber + Send + Sync, LevelHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().event_format(line::Lines::default()).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let (targets, handle) = reload::Layer::new(targets(level));
    (tracing_subscriber::registry().with(targets).with(lines), LevelHandle(Some(handle)))
}

/// Ours at `level`; dependencies (hyper, kube, redis, rustls) only when something is wrong, unless everything is asked
/// for.
fn targets(level: LogLevel) -> Targets {
    let (ours, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::DEBUG),
    };
    Targets::new().with_default(others).with_target(OURS, ours)
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let (file, line) = info.location().map_or(("unknown", 0), |location| (location.file(), location.line()));
    tracing::error!(panic.file = file, panic.line = line, "a task panicked: this is a fault of the program");
    // It may be the last thing that this process says.
    flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn logging(format: LogFormat, level: LogLevel, test: impl FnOnce(&Lines)) {
        adjusting(format, level, |lines, _| test(lines));
    }

    fn adjusting(format: LogFormat, level: LogLevel, test: impl FnOnce(&Lines, &LevelHandle)) {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, handle) = subscriber(format, level, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || test(&lines, &handle));
    }

    #[test]
    fn the_level_changes_while_the_log_is_written() {
        adjusting(LogFormat::Text, LogLevel::Info, |lines, level| {
            for (set, expected) in
                [(LogLevel::Info, false), (LogLevel::Debug, true), (LogLevel::Error, false)]
            {
                level.set(set);
                tracing::debug!(target: "chatservice::server", "detail");
                assert_eq!(lines.take().contains("detail"), expected, "{set:?}");
            }
        });
        LevelHandle::default().set(LogLevel::Debug);
    }

    #[test]
    fn a_json_line_is_one_object_with_dotted_fields_at_the_top() {
        logging(LogFormat::Json, LogLevel::Info, |lines| {
            let span = tracing::info_span!("request", request.id = "r-1");
            span.in_scope(|| tracing::info!(upstream.status = 200, duration_ms = 12, "answered"));
            let text = lines.take();
            let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
            assert_eq!(value["message"], "answered");
            assert_eq!(value["level"], "INFO");
            assert_eq!(value["upstream.status"], 200);
            assert_eq!(value["duration_ms"], 12);
            assert_eq!(value["span"]["request.id"], "r-1");
            assert!(value["timestamp"].as_str().unwrap().ends_with('Z'), "{text}");
        });
    }

    #[test]
    fn a_json_line_outside_of_a_span_is_as_the_librarys_but_for_the_time() {
        let log = |lines: &Lines| {
            tracing::info!(
                text = "with \"quotes\", a line\nbreak and \u{fc}",
                number = 7_u64,
                negative = -7,
                part = 0.5,
                flag = true,
                absent = None::<&str>,
                error.code = Some("code"),
                shown = %"displayed",
                debugged = ?vec![1, 2],
                "told {}",
                "all"
            );
            let mut line: serde_json::Value = serde_json::from_str(lines.take().trim_end()).unwrap();
            assert!(line["timestamp"].take().as_str().unwrap().ends_with('Z'));
            line
        };
        let mut ours = None;
        logging(LogFormat::Json, LogLevel::Info, |lines| ours = Some(log(lines)));
        let lines = Lines::default();
        let writer = lines.clone();
        let library = fmt::layer().with_writer(move || writer.clone());
        let library = library.json().flatten_event(true).with_span_list(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(library), || {
            assert_eq!(log(&lines), ours.unwrap());
        });
    }

    #[test]
    fn text_is_for_people_and_has_no_colour_codes() {
        logging(LogFormat::Text, LogLevel::Info, |lines| {
            tracing::warn!(port = 8080, "busy");
            let text = lines.take();
            assert!(text.ends_with("busy port=8080\n"), "{text}");
            assert!(text.contains("WARN") && !text.contains('\u{1b}'), "{text}");
        });
    }

    #[test]
    fn dependencies_are_quiet_below_warn_until_debug_is_asked_for() {
        logging(LogFormat::Text, LogLevel::Info, |lines| {
            tracing::info!(target: "hyper::proto", "noise");
            tracing::debug!(target: "chatservice::server", "detail");
            assert_eq!(lines.take(), "");
            tracing::warn!(target: "kube_client", "trouble");
            assert!(lines.take().contains("trouble"));
        });
        logging(LogFormat::Text, LogLevel::Debug, |lines| {
            tracing::debug!(target: "hyper::proto", "noise");
            tracing::debug!(target: "chatservice::server", "detail");
            let text = lines.take();
            assert!(text.contains("noise") && text.contains("detail"), "{text}");
        });
        logging(LogFormat::Text, LogLevel::Error, |lines| {
            tracing::warn!(target: "chatservice::server", "off");
            assert_eq!(lines.take(), "");
        });
    }
}
