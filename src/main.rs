//! The `chatservice` binary: every subcommand of both planes. In: the command line. Out: an exit code: 0, 1 for a
//! failure with one line on standard error, 2 for a command line that is not understood.

use std::process::ExitCode;

use chatservice::{cli, output, telemetry};

/// A request makes some hundred small allocations, on one thread and freed on another: a sixth of its time with the C
/// library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the whole process, before anything can open a connection. It fails only when there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help goes to standard output with exit code 0, a mistake to standard error with 2.
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = cli::run(cli);
    telemetry::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
