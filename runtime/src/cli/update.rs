//! `update`: limits on the command line as OCI resources.

use std::path::PathBuf;

use clap::Args;
use croze_container::ops::Source;
use serde_json::{Map, Value, json};

/// The arguments of `update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// File with an OCI resources object, or - for standard input; the other options are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = whole)]
    blkio_weight: Option<i64>,
    /// Period of the CPU quota, in microseconds
    #[arg(long, value_name = "US", value_parser = whole)]
    cpu_period: Option<i64>,
    /// CPU time in one period, in microseconds; -1 for no limit
    #[arg(long, value_name = "US", value_parser = whole, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up beyond the quota, in microseconds
    #[arg(long, value_name = "US", value_parser = whole)]
    cpu_burst: Option<i64>,
    /// Share of the CPU, beside other containers
    #[arg(long, value_name = "SHARES", value_parser = whole)]
    cpu_share: Option<i64>,
    /// Period of the realtime budget, in microseconds
    #[arg(long, value_name = "US", value_parser = whole)]
    cpu_rt_period: Option<i64>,
    /// Realtime budget in one period, in microseconds
    #[arg(long, value_name = "US", value_parser = whole, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 to run only when nobody else wants the CPU, 0 to run normally
    #[arg(long, value_name = "0|1", value_parser = whole)]
    cpu_idle: Option<i64>,
    /// CPUs that may be used, like 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Obsolete and ignored: the kernel has no limit on its own memory any more
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Obsolete and ignored
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory limit, like 64m; -1 for none
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Memory that is kept for the container when memory is short
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Most processes and threads; -1 for any number
    #[arg(long, value_name = "N", value_parser = whole, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    pub(crate) id: String,
}

impl UpdateArgs {
    /// Where the limits come from.
    pub(crate) fn source(&self) -> Source {
        match &self.resources {
            Some(file) if file.as_os_str() == "-" => Source::Stdin,
            Some(file) => Source::File(file.clone()),
            None => Source::Text(self.json().to_string()),
        }
    }

    /// The schemata for resctrl: those of the caches, and those of the memory bandwidth.
    pub(crate) fn schemata(&self) -> Vec<&str> {
        let given = [&self.l3_cache_schema, &self.mem_bw_schema];
        given
            .into_iter()
            .flatten()
            .map(String::as_str)
            .filter(|schema| !schema.is_empty())
            .collect()
    }

    fn json(&self) -> Value {
        let mut all = Map::new();
        let mut group = |name: &str, fields: &[(&str, Option<Value>)]| {
            let given: Map<String, Value> = fields
                .iter()
                .filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)))
                .collect();
            if !given.is_empty() {
                all.insert(name.to_owned(), Value::Object(given));
            }
        };
        let number = |value: Option<i64>| value.map(|value| json!(value));
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        group("blockIO", &[("weight", number(self.blkio_weight))]);
        group(
            "cpu",
            &[
                ("period", number(self.cpu_period)),
                ("quota", number(self.cpu_quota)),
                ("burst", number(self.cpu_burst)),
                ("shares", number(self.cpu_share)),
                ("realtimePeriod", number(self.cpu_rt_period)),
                ("realtimeRuntime", number(self.cpu_rt_runtime)),
                ("idle", number(self.cpu_idle)),
                ("cpus", text(&self.cpuset_cpus)),
                ("mems", text(&self.cpuset_mems)),
            ],
        );
        group(
            "memory",
            &[
                ("limit", number(self.memory)),
                ("reservation", number(self.memory_reservation)),
                ("swap", number(self.memory_swap)),
            ],
        );
        // On the command line zero is "not given", as runc has it; a file can say zero.
        group(
            "pids",
            &[("limit", number(self.pids_limit.filter(|limit| *limit != 0)))],
        );
        Value::Object(all)
    }
}

/// A whole number, in the range of all the numbers of this command.
fn whole(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a whole number"))
}

/// Bytes, with a unit of powers of 1024 (`b`, `k`, `m`, `g`, `t`, `p`, then perhaps `b` or `ib`); -1 for no limit.
fn bytes(text: &str) -> Result<i64, String> {
    let malformed = || format!("{text:?} is not a number of bytes like 1048576, 512k or 1.5g");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = lower[digits.len()..].trim();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(malformed()),
    };
    let number: f64 = digits.parse().map_err(|_| malformed())?;
    let size = number * 1024_f64.powi(power);
    // 2^63 is the first that does not fit.
    if (0.0..9.223_372_036_854_776e18).contains(&size) {
        Ok(size as i64)
    } else {
        Err(malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        update: UpdateArgs,
    }

    fn parsed(line: &str) -> Result<UpdateArgs, clap::Error> {
        let words = std::iter::once("update").chain(line.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.update)
    }

    #[test]
    fn flags_become_resources() {
        for (line, want) in [
            ("c", json!({})),
            (
                "c --memory 64m --memory-swap=-1 --memory-reservation 1k",
                json!({ "memory": { "limit": 64 << 20, "swap": -1, "reservation": 1024 } }),
            ),
            (
                "--cpu-quota -1 --cpu-period 100000 --cpu-share 512 c --cpu-idle 1 --cpu-burst 5",
                json!({ "cpu": { "quota": -1, "period": 100_000, "shares": 512, "idle": 1, "burst": 5 } }),
            ),
            (
                "--cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 7 --blkio-weight 100 c",
                json!({ "cpu": { "cpus": "0-1", "mems": "0" }, "pids": { "limit": 7 }, "blockIO": { "weight": 100 } }),
            ),
            ("--pids-limit 0 --kernel-memory 1g c", json!({})),
        ] {
            assert_eq!(parsed(line).unwrap().json(), want, "{line}");
        }
        for line in ["", "c --memory lots", "c --cpu-quota 1.5", "c --memory -2"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        let args = parsed("--l3-cache-schema L3:0=f c").unwrap();
        assert_eq!(args.schemata(), ["L3:0=f"]);
        assert_eq!(parsed("-r - c").unwrap().source(), Source::Stdin);
    }

    #[test]
    fn sizes_have_units() {
        for (text, want) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("10", Some(10)),
            ("1k", Some(1024)),
            ("1.5M", Some(3 << 19)),
            ("2GB", Some(2 << 30)),
            ("2 gib", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("-2", None),
            ("", None),
            ("k", None),
            ("1x", None),
            ("9999p", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text:?}");
        }
    }
}
