//! From the engine's answers to the wire's messages.

use croze_engine::{
    BindMount, Container, DiskUse, ExitStatus, Image, ImageDetails, ImageLayer, Inspection, ListedContainer,
    LogEntry, Output, Propagation, ReadOnlyBelow, Resources, State,
};
use croze_proto::v1;

use crate::networks;

use crate::options;

/// One container as a list shows it.
pub(crate) fn summary(container: &Container, args: Vec<String>) -> v1::ContainerSummary {
    let (state, exit, dead) = match &container.state {
        State::Created => (v1::ContainerState::Created, None, None),
        State::Running { .. } => (v1::ContainerState::Running, None, None),
        State::Exited { status } => (v1::ContainerState::Exited, Some(exit_status(status)), None),
        State::Dead { reason } => (v1::ContainerState::Dead, None, Some(reason.clone())),
    };
    v1::ContainerSummary {
        id: container.id.as_str().to_owned(),
        name: container.name.as_str().to_owned(),
        image: container.request.image.clone(),
        image_id: container.image.id.clone(),
        command: args,
        created_at: container.created_at.clone(),
        state: state.into(),
        started_at: container.started_at.clone().unwrap_or_default(),
        exit,
        error: dead.or_else(|| container.error.clone()).unwrap_or_default(),
        labels: container
            .image
            .labels
            .iter()
            .chain(&container.request.labels)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        mounts: container.request.mounts.iter().map(mount).collect(),
        network: container.request.network.name(),
        // The door adds them: they are the engine's to know.
        ports: Vec::new(),
        exposed_ports: Vec::new(),
        endpoint: None,
        disk_use: None,
    }
}

/// A container of a list.
pub(crate) fn listed(listed: &ListedContainer) -> v1::ContainerSummary {
    let container = &listed.container;
    v1::ContainerSummary {
        disk_use: listed.disk_use.map(disk_use),
        ..summary(container, arguments(container))
    }
}

/// What a container takes on disk.
pub(crate) fn disk_use(sizes: DiskUse) -> v1::DiskUse {
    v1::DiskUse {
        written_bytes: sizes.written,
        whole_bytes: sizes.whole,
    }
}

/// The arguments of a container's process: the entrypoint, then the command. An own entrypoint makes the image's command void.
fn arguments(container: &Container) -> Vec<String> {
    let (entrypoint, command) = entrypoint_and_command(container);
    entrypoint.iter().chain(command).cloned().collect()
}

fn entrypoint_and_command(container: &Container) -> (&[String], &[String]) {
    let (request, image) = (&container.request, &container.image);
    let entrypoint = request.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let command = match (&request.entrypoint, request.command.is_empty()) {
        (None, true) => &image.cmd,
        _ => &request.command,
    };
    (entrypoint, command)
}

/// How a process ended.
pub(crate) fn exit_status(status: &ExitStatus) -> v1::ExitStatus {
    v1::ExitStatus {
        code: i32::try_from(status.code).unwrap_or(i32::MAX),
        oom_killed: status.oom_killed,
        finished_at: status.finished_at.clone(),
    }
}

/// Everything about one container.
pub(crate) fn inspection(inspection: Inspection) -> v1::InspectContainerResponse {
    let request = inspection.container.request.clone();
    let (entrypoint, cmd) = entrypoint_and_command(&inspection.container);
    let (entrypoint, cmd) = (entrypoint.to_vec(), cmd.to_vec());
    // They stand beside the log, from the first start on.
    let etc = |name: &str| match &inspection.container.started_at {
        Some(_) => inspection.log_path.with_file_name(name).display().to_string(),
        None => String::new(),
    };
    let (hosts_path, hostname_path, resolv_conf_path) = (etc("hosts"), etc("hostname"), etc("resolv.conf"));
    v1::InspectContainerResponse {
        summary: Some(summary(&inspection.container, inspection.args)),
        pid: inspection.pid.unwrap_or(0),
        shim_pid: inspection.shim_pid.unwrap_or(0),
        env: inspection.env,
        working_dir: inspection.working_dir,
        user: inspection.user,
        hostname: inspection.hostname,
        tty: request.io.tty,
        open_stdin: request.io.open_stdin,
        mounts: request.mounts.iter().map(mount).collect(),
        network: request.network.name(),
        network_options: Some(networks::encode_options(&request.network_options)),
        resources: Some(resources(&request.resources)),
        auto_remove: request.auto_remove,
        stop_signal: inspection.stop_signal,
        log_path: inspection.log_path.display().to_string(),
        bundle_path: inspection.bundle_path.display().to_string(),
        runtime: inspection.runtime,
        log_lines_dropped: inspection.log_lines_dropped,
        entrypoint,
        cmd,
        options: Some(v1::ContainerOptions {
            cgroupns_mode: inspection.cgroup_view.as_str().to_owned(),
            ..options::encode(&request.options)
        }),
        cap_add: request.cap_add,
        cap_drop: request.cap_drop,
        read_only: request.read_only,
        image_volumes: inspection.container.image.volumes,
        stdin_once: request.io.stdin_once,
        stop_timeout_seconds: request
            .stop_timeout
            .map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)),
        hosts_path,
        hostname_path,
        resolv_conf_path,
    }
}

fn mount(mount: &BindMount) -> v1::Mount {
    let propagation = match mount.propagation {
        Propagation::Rprivate => String::new(),
        other => other.as_str().to_owned(),
    };
    v1::Mount {
        source: mount.source.display().to_string(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        propagation,
        non_recursive: !mount.recursive,
        create_source: mount.create_source,
        read_only_below: match mount.read_only_below {
            ReadOnlyBelow::WherePossible => v1::ReadOnlyBelow::Unspecified,
            ReadOnlyBelow::Never => v1::ReadOnlyBelow::Never,
            ReadOnlyBelow::Always => v1::ReadOnlyBelow::Always,
        }
        .into(),
    }
}

/// The limits as they are in effect: with a limit of memory and none of swap, as much swap again may be used.
fn resources(resources: &Resources) -> v1::Resources {
    let default_swap = || {
        let twice = resources.memory_bytes?.saturating_mul(2);
        Some(i64::try_from(twice).unwrap_or(i64::MAX))
    };
    v1::Resources {
        memory_bytes: resources.memory_bytes.unwrap_or(0),
        memory_swap_bytes: resources.memory_swap_bytes.or_else(default_swap).unwrap_or(0),
        nano_cpus: resources.nano_cpus.unwrap_or(0),
        pids_limit: resources.pids_limit.unwrap_or(0),
        cpu_shares: resources.cpu_shares.unwrap_or(0),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        memory_reservation_bytes: resources.memory_reservation_bytes.unwrap_or(0),
        cpu_quota_micros: resources.cpu_quota_micros.unwrap_or(0),
        cpu_period_micros: resources.cpu_period_micros.unwrap_or(0),
        oom_kill_disable: resources.oom_kill_disable,
    }
}

/// One line of a log.
pub(crate) fn log_entry(entry: LogEntry) -> v1::LogEntry {
    let stream = if entry.stderr {
        v1::StdStream::Stderr
    } else {
        v1::StdStream::Stdout
    };
    v1::LogEntry {
        stream: stream.into(),
        time: entry.time,
        data: entry.data,
    }
}

/// What comes from a process.
pub(crate) fn frame(output: Output) -> v1::StreamFrame {
    use v1::stream_frame::Frame;
    let frame = match output {
        Output::Stdout(bytes) => Frame::Stdout(bytes),
        Output::Stderr(bytes) => Frame::Stderr(bytes),
        Output::Notice(text) => Frame::Notice(text),
        Output::Exit(status) => Frame::Exit(exit_status(&status)),
    };
    v1::StreamFrame { frame: Some(frame) }
}

/// One image as a list shows it; references as people write them.
pub(crate) fn image(image: &Image) -> v1::ImageSummary {
    v1::ImageSummary {
        id: image.id.to_string(),
        references: image
            .references
            .iter()
            .map(croze_model::Reference::familiar)
            .collect(),
        digest: image.manifest.to_string(),
        created: image.created.clone().unwrap_or_default(),
        size_bytes: image.size,
        os: image.os.clone(),
        architecture: image.architecture.clone(),
        repo_digests: image
            .repo_digests
            .iter()
            .map(croze_model::Reference::familiar)
            .collect(),
    }
}

fn image_layer(layer: &ImageLayer, size_bytes: u64) -> v1::ImageLayer {
    v1::ImageLayer {
        diff_id: layer.diff_id.to_string(),
        blob: layer.blob.to_string(),
        blob_bytes: layer.blob_size,
        size_bytes,
        media_type: layer.media_type.clone(),
    }
}

/// Everything about one image.
pub(crate) fn image_details(details: &ImageDetails, layer_sizes: &[u64]) -> v1::InspectImageResponse {
    let layers = details.image.layers.iter().zip(layer_sizes);
    v1::InspectImageResponse {
        summary: Some(image(&details.image)),
        diff_ids: details.image.diff_ids().iter().map(ToString::to_string).collect(),
        config_json: details.raw.to_string().into(),
        layers: layers.map(|(layer, size)| image_layer(layer, *size)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_swap_is_the_one_in_effect() {
        for (memory, swap, shown) in [
            (None, None, 0),
            (Some(64), None, 128),
            (Some(64), Some(64), 64),
            (Some(64), Some(-1), -1),
        ] {
            let limits = Resources {
                memory_bytes: memory,
                memory_swap_bytes: swap,
                ..Resources::default()
            };
            assert_eq!(resources(&limits).memory_swap_bytes, shown, "{memory:?} {swap:?}");
        }
    }
}
