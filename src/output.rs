//! What a command says. In: text. Out: standard output, or standard error for what went wrong.

use std::io::{self, Write};

/// Writes `text` to standard output. A reader that has gone (`chatservice crd | head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error. There is nobody left to tell when that fails.
pub fn complain(line: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{line}");
}
