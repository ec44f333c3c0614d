//! Workloads: small programs that use memory, processes, CPU or a terminal, so that a limit can be seen to hold.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

use crate::{Outcome, say};

/// Allocates `size` bytes and writes to every page of them, so that the kernel has to give real memory.
pub(crate) fn allocate(size: &str) -> Outcome {
    const STEP: usize = 1 << 20;
    let wanted = parse_size(size)?;
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut got = 0;
    while got < wanted {
        let mut block = vec![0_u8; STEP.min(wanted - got)];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
        }
        got += block.len();
        held.push(std::hint::black_box(block));
    }
    say(&format!("allocated {size}"))?;
    drop(held);
    Ok(0)
}

/// Starts children that wait until the kernel refuses one more, or until `most` are there.
pub(crate) fn forkbomb(most: &str) -> Outcome {
    let most: usize = parse(most)?;
    let mut children: Vec<Child> = Vec::new();
    let refused = loop {
        if children.len() >= most {
            break "no".to_owned();
        }
        match own_child("stubborn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
        {
            Ok(child) => children.push(child),
            Err(error) => break error.to_string(),
        }
    };
    let line = format!("forked {} refused {refused}", children.len());
    for child in &mut children {
        // A child that is gone already needs no killing; it is waited for either way.
        drop(child.kill());
        drop(child.wait());
    }
    say(&line)?;
    Ok(0)
}

/// Burns CPU for so many seconds of wall time; prints the CPU time used as a percentage of it.
pub(crate) fn spin(seconds: &str) -> Outcome {
    let wall: f64 = parse(seconds)?;
    let begin = Instant::now();
    let mut state = 0x9e37_79b9_u64;
    while begin.elapsed().as_secs_f64() < wall {
        for _ in 0..10_000 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_err(|errno| format!("reading the CPU clock: {errno}"))?;
    let used = Duration::from(used).as_secs_f64();
    let elapsed = begin.elapsed().as_secs_f64();
    say(
        &json!({ "cpu_seconds": used, "wall_seconds": elapsed, "percent": 100.0 * used / elapsed })
            .to_string(),
    )?;
    Ok(0)
}

/// Prints `line 1` … `line N`, with a pause after each where one is asked for.
pub(crate) fn print_lines(count: &str, interval: &str) -> Outcome {
    let count: u64 = parse(count)?;
    let interval: u64 = parse(interval)?;
    for number in 1..=count {
        say(&format!("line {number}"))?;
        if interval > 0 {
            pause(Duration::from_millis(interval));
        }
    }
    Ok(0)
}

/// Waits for a signal that never comes: this program's only clock, used to give its output a rhythm.
fn pause(time: Duration) {
    let timeout = rustix::fs::Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    };
    // An interruption only shortens a pause.
    drop(rustix::thread::clock_nanosleep_relative(
        rustix::thread::ClockId::Monotonic,
        &timeout,
    ));
}

/// Sends itself a signal; still being here afterwards is an exit code of its own.
pub(crate) fn raise(signal: &str) -> Outcome {
    let number: i32 = parse(signal)?;
    let signal = Signal::try_from(number).map_err(|_| format!("raise: no signal has the number {number}"))?;
    nix::sys::signal::raise(signal).map_err(|errno| format!("raise {signal}: {errno}"))?;
    Ok(3)
}

/// Prints `ready` and ends with 0 when told to.
pub(crate) fn wait_for_signal() -> Outcome {
    let awaited = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    awaited
        .thread_block()
        .map_err(|errno| format!("blocking signals: {errno}"))?;
    say("ready")?;
    let came = awaited
        .wait()
        .map_err(|errno| format!("waiting for a signal: {errno}"))?;
    say(&format!("got {came}"))?;
    Ok(0)
}

/// Prints `ready` and stays until it is killed by a signal that cannot be blocked.
pub(crate) fn ignore_term() -> Outcome {
    let mut blocked = SigSet::all();
    blocked.remove(Signal::SIGCHLD);
    blocked
        .thread_block()
        .map_err(|errno| format!("blocking signals: {errno}"))?;
    say("ready")?;
    let awaited = SigSet::from_iter([Signal::SIGURG]);
    loop {
        // Whatever ends the wait changes nothing.
        awaited.wait().ok();
    }
}

/// Starts children that only SIGKILL ends, says their pids, and stays with them.
pub(crate) fn children(count: &str) -> Outcome {
    let count: usize = parse(count)?;
    let mut pids = Vec::new();
    let mut held = Vec::new();
    for _ in 0..count {
        let child = own_child("stubborn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting a child: {error}"))?;
        pids.push(child.id());
        held.push(child);
    }
    say(&format!("children {}", json!(pids)))?;
    ignore_term()
}

/// Writes a file and says so.
pub(crate) fn write_file(path: &str, text: &str) -> Outcome {
    match std::fs::write(path, format!("{text}\n")) {
        Ok(()) => say(&format!("wrote {path}")).map(|()| 0),
        Err(error) => Err(format!("writing {path}: {error}")),
    }
}

/// Tells the service manager something, as `sd_notify(3)` does.
pub(crate) fn notify(text: &str) -> Outcome {
    let path = std::env::var("NOTIFY_SOCKET").map_err(|error| format!("NOTIFY_SOCKET: {error}"))?;
    UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(text.as_bytes(), &path))
        .map_err(|error| format!("sending to {path}: {error}"))?;
    say(&format!("told {path}")).map(|()| 0)
}

/// Which of the three streams are terminals, and the size of the first that is one.
pub(crate) fn terminal() -> Outcome {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let size = [input.as_fd(), output.as_fd(), error.as_fd()]
        .into_iter()
        .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok());
    let described = size.map_or(
        Value::Null,
        |size| json!({ "rows": size.ws_row, "columns": size.ws_col }),
    );
    say(&json!({
        "stdin": input.is_terminal(),
        "stdout": output.is_terminal(),
        "stderr": error.is_terminal(),
        "size": described,
    })
    .to_string())?;
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    Ok(0)
}

/// This program again, with one argument. `/proc/self/exe` works even where its path is not known.
fn own_child(verb: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(verb);
    command
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// `12`, `64k`, `64m`, `1g` in bytes.
fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, factor) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1 << 10),
        Some('m') => (&text[..text.len() - 1], 1 << 20),
        Some('g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    parse::<usize>(digits)?
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?}: too large"))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_powers_of_two() {
        let table = [
            ("7", 7),
            ("64k", 65_536),
            ("2m", 2_097_152),
            ("1g", 1_073_741_824),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1m", "12q", "99999999999999999999g"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
