//! croze-hello: the program of the embedded image `croze/hello`.
//!
//! It says hello, then what isolation it sees from inside: process, user, hostname, namespaces, limits, capabilities, seccomp, root file
//! system, network. With `--json` the same as one JSON object; with `serve` the same as a small page over HTTP.
//!
//! ```text
//!   /proc, /sys ──observe──▶ Facts ──▶ text (80 columns, colour only on a terminal) | JSON | HTML
//! ```
//!
//! It never fails for want of a fact: what cannot be seen is shown as not visible. It uses nothing but files, so that it runs in an image with
//! nothing else in it.
#![forbid(unsafe_code)]

mod addresses;
mod facts;
mod fetch;
mod html;
mod serve;
mod text;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use facts::Facts;
use text::Style;

const USAGE: &str = "usage: croze-hello [--json]\n       croze-hello serve [--port PORT]\n       croze-hello fetch URL\n\n\
    Prints what isolation this process sees; --json as one JSON object.\n\
    serve shows the same as a page over HTTP, on port 8080 unless --port says otherwise;\n\
    fetch prints what is at an http:// URL.\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let colour = io::stdout().is_terminal();
    let (output, code) = match words.as_slice() {
        [] => {
            let style = if colour { Style::Colour } else { Style::Plain };
            (text::render(&Facts::observe(), style), ExitCode::SUCCESS)
        }
        ["--json"] => (format!("{:#}\n", Facts::observe().to_json()), ExitCode::SUCCESS),
        ["--version"] => (
            format!("croze-hello version {}\n", env!("CARGO_PKG_VERSION")),
            ExitCode::SUCCESS,
        ),
        ["serve"] => return serve(serve::DEFAULT_PORT),
        ["serve", "--port", port] if port.parse::<u16>().is_ok() => {
            return serve(port.parse().unwrap_or(serve::DEFAULT_PORT));
        }
        ["fetch", url] => return fetch(url),
        ["--help" | "-h"] => (USAGE.to_owned(), ExitCode::SUCCESS),
        _ => (USAGE.to_owned(), ExitCode::from(2)),
    };
    let mut stdout = io::stdout().lock();
    // A reader that has gone away is no failure of ours.
    let _gone = stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush());
    code
}

fn serve(port: u16) -> ExitCode {
    match serve::serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = io::stderr().lock();
            let _gone = writeln!(stderr, "croze-hello: cannot serve on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fetch(url: &str) -> ExitCode {
    let fetched =
        fetch::fetch(url).and_then(|body| io::stdout().lock().write_all(&body).map(|()| ExitCode::SUCCESS));
    fetched.unwrap_or_else(|error| {
        let mut stderr = io::stderr().lock();
        let _gone = writeln!(stderr, "croze-hello: cannot fetch {url}: {error}");
        ExitCode::FAILURE
    })
}
