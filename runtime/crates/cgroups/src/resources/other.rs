//! The smaller controllers: processes, huge pages, network classes, RDMA; and `unified`, the files of version 2
//! by name.

use super::{Assignment, Place, Step, or_max};
use crate::error::Error;
use crate::observe::Kind;
use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxResources};
use std::collections::{BTreeMap, HashMap};

const UNIFIED: &str = "linux.resources.unified";

pub(super) fn plan(place: &mut Place<'_>, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        // Zero is a real limit; only a negative number lifts it, and to lift it no controller is needed.
        if limit >= 0 || place.kind("pids").is_some() {
            place.set("pids", "linux.resources.pids.limit", "pids.max", or_max(limit))?;
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        huge_pages(place, limit)?;
    }
    if let Some(network) = resources.network() {
        network_classes(place, network)?;
    }
    for (device, limits) in resources.rdma().iter().flatten() {
        let mut line = device.clone();
        for (key, value) in [
            ("hca_handle", limits.hca_handles()),
            ("hca_object", limits.hca_objects()),
        ] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        place.set("rdma", "linux.resources.rdma", "rdma.max", line)?;
    }
    match resources.unified() {
        Some(files) if !files.is_empty() => unified(place, files),
        _ => Ok(()),
    }
}

fn huge_pages(place: &mut Place<'_>, limit: &LinuxHugepageLimit) -> Result<(), Error> {
    let field = "linux.resources.hugepageLimits";
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let why = "a page size is a number and a unit, like 2MB";
        return Err(Error::Value {
            field,
            value: size.clone(),
            why,
        });
    }
    let (end, value) = match place.need("hugetlb", field)? {
        Kind::V1 => ("limit_in_bytes", limit.limit().to_string()),
        Kind::V2 => ("max", or_max(limit.limit())),
    };
    place.push(
        "hugetlb",
        Step::write(field, &format!("hugetlb.{size}.{end}"), &value),
    );
    // The limit on reservations came later (Linux 5.7).
    let reserved = Assignment::new(field, format!("hugetlb.{size}.rsvd.{end}"), value);
    place.push("hugetlb", Step::Write(reserved.optional()));
    Ok(())
}

/// Version 2 has neither of them: packets are told apart by the cgroup itself there, so the fields are ignored.
fn network_classes(place: &mut Place<'_>, network: &LinuxNetwork) -> Result<(), Error> {
    if place.directories.iter().all(|d| d.kind == Kind::V2) {
        return Ok(());
    }
    if let Some(class) = network.class_id().filter(|id| *id != 0) {
        place.set(
            "net_cls",
            "linux.resources.network.classID",
            "net_cls.classid",
            class,
        )?;
    }
    for priority in network.priorities().iter().flatten() {
        let line = format!("{} {}", priority.name(), priority.priority());
        place.set(
            "net_prio",
            "linux.resources.network.priorities",
            "net_prio.ifpriomap",
            line,
        )?;
    }
    Ok(())
}

fn unified(place: &mut Place<'_>, files: &HashMap<String, String>) -> Result<(), Error> {
    let Some(directory) = place.unified() else {
        let why = "it is for cgroup version 2, which this host does not have";
        return Err(Error::Value {
            field: UNIFIED,
            value: format!("{} files", files.len()),
            why,
        });
    };
    // In the order of their names: the same spec does the same thing every time.
    for (file, value) in files.iter().collect::<BTreeMap<_, _>>() {
        let Some((controller, _)) = file.split_once('.').filter(|_| !file.contains('/')) else {
            let why = "a key is the name of one file, like memory.high";
            return Err(Error::Value {
                field: UNIFIED,
                value: file.clone(),
                why,
            });
        };
        if controller != "cgroup" && !directory.controllers.iter().any(|c| c == controller) {
            return Err(Error::MissingController {
                controller: controller.to_owned(),
                field: UNIFIED,
            });
        }
        directory.steps.push(Step::write(UNIFIED, file, value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::observe::tests::{hybrid, v1, v2};
    use crate::resources::tests::{refusal, writes};

    #[test]
    fn a_limit_of_zero_processes_is_a_limit() {
        for (json, want) in [
            (r#"{"pids":{"limit":0}}"#, "pids.max 0"),
            (r#"{"pids":{"limit":64}}"#, "pids.max 64"),
            (r#"{"pids":{"limit":-1}}"#, "pids.max max"),
        ] {
            for host in [v1(), hybrid(), v2()] {
                assert_eq!(writes(&host, json), [want], "{json}");
            }
        }
    }

    #[test]
    fn huge_pages_go_where_the_controller_is() {
        let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#;
        let unified = ["hugetlb.2MB.max 4194304", "hugetlb.2MB.rsvd.max 4194304 ?"];
        assert_eq!(writes(&v2(), json), unified);
        assert_eq!(writes(&hybrid(), json), unified);
        assert!(refusal(&v1(), json).contains("\"hugetlb\" is not available"));
        assert!(
            refusal(&v2(), r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#).contains("page size")
        );
    }

    #[test]
    fn network_classes_are_for_version_1() {
        let json = r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#;
        let mut host = v1();
        host.trees[0].controllers = vec!["net_cls".to_owned(), "net_prio".to_owned()];
        assert_eq!(
            writes(&host, json),
            ["net_cls.classid 1048577", "net_prio.ifpriomap eth0 5"]
        );
        assert!(writes(&v2(), json).is_empty());
        assert!(refusal(&v1(), json).contains("net_cls"));
    }

    #[test]
    fn unified_files_are_checked() {
        assert_eq!(
            writes(
                &v2(),
                r#"{"unified":{"memory.high":"100","cgroup.max.depth":"3"}}"#
            ),
            ["cgroup.max.depth 3", "memory.high 100"]
        );
        assert!(refusal(&v2(), r#"{"unified":{"../memory.high":"1"}}"#).contains("one file"));
        assert!(refusal(&v2(), r#"{"unified":{"nodot":"1"}}"#).contains("one file"));
        assert!(refusal(&hybrid(), r#"{"unified":{"memory.high":"1"}}"#).contains("\"memory\""));
        assert!(refusal(&v1(), r#"{"unified":{"memory.high":"1"}}"#).contains("version 2"));
        assert!(writes(&v1(), r#"{"unified":{}}"#).is_empty());
    }
}
