//! What docker's documents do not say of themselves.
//!
//! Which of their objects are maps: their keys are free, so that a missing one is no error, and they are printed as maps. And which fields are left
//! out where they are empty: docker runs templates on its own structures, which have them, so that `{{if .State.Health}}` is no error.

use crate::template::{Shape, Zero};

/// What the object (or null) of this key is, inside of the object of another key.
pub(super) fn of(around: &str, key: &str) -> Shape {
    match (around, key) {
        (_, "Labels" | "Annotations" | "Sysctls" | "Tmpfs" | "StorageOpt" | "DriverOpts" | "Options")
        | ("LogConfig", "Config")
        | ("GraphDriver", "Data") => Shape::Map(Zero::Text),
        (_, "Ports" | "PortBindings") => Shape::Map(Zero::List),
        (_, "Networks" | "Containers" | "Volumes" | "ExposedPorts") => Shape::Map(Zero::Pointer),
        (
            _,
            "IPAMConfig" | "Health" | "Healthcheck" | "Init" | "MemorySwappiness" | "OomKillDisable"
            | "PidsLimit" | "StopTimeout",
        ) => Shape::Struct,
        _ => Shape::List,
    }
}

/// The fields that the object of this key leaves out where they are empty, and what they are then.
pub(super) fn omitted(around: &str, key: &str) -> &'static [(&'static str, Zero)] {
    match (around, key) {
        // Containers and images.
        ("", "") => &[
            ("SizeRw", Zero::Pointer),
            ("SizeRootFs", Zero::Pointer),
            ("Variant", Zero::Text),
            ("OsVersion", Zero::Text),
        ],
        ("", "State") => &[("Health", Zero::Pointer)],
        ("", "Config") => &[
            ("ExposedPorts", Zero::Map),
            ("Healthcheck", Zero::Pointer),
            ("ArgsEscaped", Zero::Bool),
            ("NetworkDisabled", Zero::Bool),
            ("MacAddress", Zero::Text),
            ("StopSignal", Zero::Text),
            ("StopTimeout", Zero::Pointer),
            ("Shell", Zero::List),
        ],
        ("", "HostConfig") => &[
            ("Init", Zero::Pointer),
            ("Tmpfs", Zero::Map),
            ("Sysctls", Zero::Map),
            ("StorageOpt", Zero::Map),
            ("Annotations", Zero::Map),
            ("Mounts", Zero::List),
        ],
        // One mount of the list.
        ("", "Mounts") => &[("Name", Zero::Text), ("Driver", Zero::Text)],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template::{Functions, Template, Value};

    #[test]
    fn what_docker_leaves_out_is_found_by_name_and_shown_nowhere() {
        let document = json!({
            "State": {"Running": true},
            "Config": {"Cmd": null, "ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"Init": true, "LogConfig": {"Config": {}}},
            "Mounts": [{"Type": "bind"}],
        });
        let value = Value::from_document(&document, of, omitted);
        let run = |template: &str| {
            Template::parse(template)
                .and_then(|template| template.execute(&value, Functions::Values))
                .map_err(|error| error.to_string())
        };
        for (template, printed) in [
            (
                "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
                "none",
            ),
            ("{{.State.Health}} {{json .State.Health}}", "<nil> null"),
            ("{{.Config.Healthcheck}} {{.Config.StopTimeout}}", "<nil> <nil>"),
            ("{{range $p, $_ := .Config.ExposedPorts}}{{$p}}{{end}}", "80/tcp"),
            (
                "{{.HostConfig.Init}} {{.HostConfig.Tmpfs}} {{json .HostConfig.Sysctls}}",
                "true map[] null",
            ),
            (
                "{{len .HostConfig.Tmpfs}} {{range .HostConfig.Mounts}}x{{end}}",
                "0 ",
            ),
            (
                "[{{.Config.MacAddress}}] {{.Config.Shell}} {{.Config.NetworkDisabled}}",
                "[] [] false",
            ),
            ("{{range .Mounts}}{{.Type}} [{{.Name}}]{{end}}", "bind []"),
            (
                "{{.SizeRw}} {{json .State}} {{.State}}",
                "<nil> {\"Running\":true} {true}",
            ),
            (
                "{{range $name, $_ := .State}}{{$name}}{{end}} {{len .State}}",
                "Running 1",
            ),
            ("{{index .State \"Health\"}}", "<nil>"),
        ] {
            assert_eq!(run(template).as_deref(), Ok(printed), "{template}");
        }
        assert_eq!(value.json(), document);
        for wrong in ["{{.State.Health.Status}}", "{{.State.Helth}}", "{{.Health}}"] {
            assert!(run(wrong).is_err(), "{wrong}");
        }
    }
}
