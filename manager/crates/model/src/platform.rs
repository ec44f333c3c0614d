//! Platforms: `os/architecture[/variant]` (OCI image-spec, image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: expected os/architecture[/variant], such as linux/amd64")]
pub struct PlatformError {
    /// The text as given.
    pub text: String,
}

/// An operating system, an architecture in Go's words, and perhaps its variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, such as `linux`.
    pub os: String,
    /// The architecture in Go's words, such as `amd64` or `arm64`.
    pub architecture: String,
    /// The variant, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// The platform of this machine, with the level of its processor where that has one.
    #[must_use]
    pub fn detected() -> Self {
        Self {
            variant: detected_variant(),
            ..Self::host()
        }
    }

    /// The platforms that do where `self` is asked for, the best first: each processor runs what was made for earlier ones, a 64-bit one what
    /// was made for its 32-bit forerunner. This is docker's order.
    fn accepted(&self) -> Vec<Platform> {
        let wanted = self.normalized();
        let level =
            |prefix: &str| -> Option<u32> { wanted.variant.as_deref()?.strip_prefix(prefix)?.parse().ok() };
        let with = |architecture: &str, variant: Option<String>| Platform {
            os: wanted.os.clone(),
            architecture: architecture.to_owned(),
            variant,
        };
        let down = |architecture: &str, from: u32, to: u32| -> Vec<Platform> {
            (to..=from)
                .rev()
                .map(|level| with(architecture, Some(format!("v{level}"))).normalized())
                .collect()
        };
        let mut accepted = vec![wanted.clone()];
        match wanted.architecture.as_str() {
            "amd64" => {
                accepted.extend(down("amd64", level("v").unwrap_or(1).min(9), 1));
                accepted.push(with("386", None));
            }
            "arm64" => {
                accepted.extend(down("arm64", level("v").unwrap_or(8).min(9), 8));
                accepted.extend(down("arm", 8, 5));
            }
            "arm" => accepted.extend(down("arm", level("v").unwrap_or(7).min(8), 5)),
            _ => {}
        }
        accepted
    }

    /// How well an image for `self` does where `wanted` is asked for: 0 is best; `None`: not at all.
    #[must_use]
    pub fn rank(&self, wanted: &Platform) -> Option<usize> {
        let own = self.normalized();
        wanted.accepted().iter().position(|accepted| *accepted == own)
    }

    /// Whether an image for `self` runs where `wanted` is asked for.
    #[must_use]
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        self.rank(wanted).is_some()
    }

    /// The same platform in the one form that is compared: the variant that everybody means is left out.
    fn normalized(&self) -> Self {
        let variant = self.variant.as_deref().map(str::to_ascii_lowercase);
        let variant = variant.filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (self.architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7".to_owned())),
            ("armel", _) => ("arm", Some("v6".to_owned())),
            ("arm", Some(number @ ("5" | "6" | "8"))) => ("arm", Some(format!("v{number}"))),
            ("x86_64", _) => ("amd64", variant),
            ("i386" | "386", _) => ("386", None),
            (other, _) => (other, variant),
        };
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// What docker says of an image for `self` that nobody asked for by name, on a machine that is something else.
    #[must_use]
    pub fn mismatch(&self, host: &Platform) -> Option<String> {
        (!self.satisfies(host)).then(|| {
            format!(
                "The requested image's platform ({self}) does not match the detected host platform ({host}) and no \
                 specific platform was requested"
            )
        })
    }
}

/// The level of an x86-64 processor (System V ABI, "micro-architecture levels").
#[cfg(target_arch = "x86_64")]
fn detected_variant() -> Option<String> {
    let two = is_x86_feature_detected!("sse3")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("cmpxchg16b");
    let three = two
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe");
    let four = three
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let level = match (two, three, four) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => return None,
    };
    Some(level.to_owned())
}

/// Other processors' levels are not told apart.
#[cfg(not(target_arch = "x86_64"))]
fn detected_variant() -> Option<String> {
    None
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| word(part)) {
            return Err(PlatformError {
                text: text.to_owned(),
            });
        }
        let architecture = match parts[1] {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: architecture.to_owned(),
            variant: parts.get(2).map(|&part| part.to_owned()),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_parse_and_print() {
        for (text, printed) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), printed);
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_processor_runs_what_was_made_for_earlier_ones_the_latest_first() {
        let parse = |text: &str| text.parse::<Platform>().unwrap();
        for (wanted, best_first, never) in [
            (
                "linux/amd64/v3",
                vec!["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"],
                vec!["linux/amd64/v4", "linux/arm64", "windows/amd64"],
            ),
            (
                "linux/amd64",
                vec!["linux/amd64/v1", "linux/386"],
                vec!["linux/amd64/v2"],
            ),
            (
                "linux/arm64",
                vec![
                    "linux/arm64/v8",
                    "linux/arm/v8",
                    "linux/arm",
                    "linux/arm/v6",
                    "linux/arm/v5",
                ],
                vec!["linux/amd64"],
            ),
            (
                "linux/arm/v7",
                vec!["linux/arm", "linux/arm/v6", "linux/arm/v5"],
                vec!["linux/arm/v8", "linux/arm64"],
            ),
            (
                "linux/arm/v6",
                vec!["linux/arm/v6", "linux/arm/v5"],
                vec!["linux/arm"],
            ),
            ("linux/riscv64", vec!["linux/riscv64"], vec!["linux/amd64"]),
        ] {
            let ranks: Vec<_> = best_first
                .iter()
                .map(|offered| parse(offered).rank(&parse(wanted)).expect(offered))
                .collect();
            assert!(ranks.is_sorted(), "{wanted}: {ranks:?}");
            for offered in never {
                assert_eq!(
                    parse(offered).rank(&parse(wanted)),
                    None,
                    "{offered} for {wanted}"
                );
            }
        }
        let host = Platform::detected();
        assert!(Platform::host().satisfies(&host) && Platform::host().mismatch(&host).is_none());
        assert!(parse("linux/s390x").mismatch(&parse("linux/amd64")).is_some());
    }
}
