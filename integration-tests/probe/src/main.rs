//! `croze-probe`: a static program that runs inside a container and says what it sees there.
//!
//! ```text
//! croze-probe report [SYSCTL…] [-- ANY…]   one JSON object: identity, privileges, namespaces, mounts, limits …
//! croze-probe alloc SIZE                   allocates and touches SIZE (k, m, g), then prints "allocated SIZE"
//! croze-probe forkbomb [MAX]               starts children until refused, prints "forked N refused ERROR"
//! croze-probe spin SECONDS                 burns one CPU for that long, prints the share it got
//! croze-probe print N [INTERVAL_MS]        prints "line 1" … "line N"
//! croze-probe exit CODE                    ends with that code
//! croze-probe raise SIGNAL                 sends itself a signal by number
//! croze-probe wait                         prints "ready", ends with 0 on SIGTERM, SIGINT or SIGHUP
//! croze-probe stubborn                     prints "ready", never minds SIGTERM
//! croze-probe children N                   starts N stubborn children, prints their pids and "ready"
//! croze-probe write PATH TEXT              writes a file
//! croze-probe notify TEXT                  sends a datagram to $NOTIFY_SOCKET
//! croze-probe tty                          says whether stdin, stdout and stderr are terminals, and how large
//! croze-probe serve PORT…                  answers TCP and UDP with the client's address, prints "ready"
//! croze-probe ask tcp|udp ADDRESS:PORT     prints what such a server answers
//! croze-probe serve-traffic PORT           serves the three below over TCP, prints "ready"
//! croze-probe throughput ADDRESS:PORT MS   lets itself be flooded for that long, prints bytes per second
//! croze-probe round-trips ADDRESS:PORT N   sends one byte and waits for it, N times, prints the median in ns
//! croze-probe connections ADDRESS:PORT N   connects, asks and closes, N times, prints how many in a second
//! croze-probe attempt NAME…                tries privileged calls, prints {"NAME": "ok" or the errno's name}
//! ```
//!
//! Invariants: it needs no library, no file and no `/proc` to start; what it cannot read is reported as an error beside
//! what it could. It decides nothing: the test that started it judges the report.

#![forbid(unsafe_code)]

mod attempts;
mod network;
mod report;
mod traffic;
mod workloads;

use std::io::Write;
use std::process::ExitCode;

/// What a sub-command ends with: an exit code, or a sentence for stderr.
type Outcome = Result<u8, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match dispatch(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(reason) => {
            // With stderr gone there is nobody left to tell; the exit code still says it.
            drop(writeln!(std::io::stderr(), "croze-probe: {reason}"));
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: &[String]) -> Outcome {
    let mut words = arguments.iter().map(String::as_str);
    let verb = words.next().unwrap_or("report");
    let rest: Vec<&str> = words.collect();
    match (verb, rest.as_slice()) {
        ("report", sysctls) => report::print(sysctls),
        ("alloc", [size]) => workloads::allocate(size),
        ("forkbomb", []) => workloads::forkbomb("4096"),
        ("forkbomb", [most]) => workloads::forkbomb(most),
        ("spin", [seconds]) => workloads::spin(seconds),
        ("print", [count]) => workloads::print_lines(count, "0"),
        ("print", [count, interval]) => workloads::print_lines(count, interval),
        ("exit", [code]) => code.parse().map_err(|error| format!("exit: {code:?}: {error}")),
        ("raise", [signal]) => workloads::raise(signal),
        ("wait", []) => workloads::wait_for_signal(),
        ("stubborn", []) => workloads::ignore_term(),
        ("children", [count]) => workloads::children(count),
        ("notify", [text]) => workloads::notify(text),
        ("write", [path, text]) => workloads::write_file(path, text),
        ("tty", []) => workloads::terminal(),
        ("attempt", names) => attempts::print(names),
        ("serve", ports) => network::serve(ports),
        ("ask", [protocol, address]) => network::ask(protocol, address),
        ("serve-traffic", [port]) => traffic::serve(port),
        ("throughput", [address, milliseconds]) => traffic::throughput(address, milliseconds),
        ("round-trips", [address, count]) => traffic::round_trips(address, count),
        ("connections", [address, count]) => traffic::connections(address, count),
        (other, rest) => Err(format!(
            "{other:?} with {} arguments is not known; see the source's head",
            rest.len()
        )),
    }
}

/// Prints one line on stdout and flushes it, so that a reader can wait for it.
fn say(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("writing to stdout: {error}"))
}
