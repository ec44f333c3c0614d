//! From the wire's messages to the engine's requests. An empty text or a zero means "not given", as the messages' comments say.

use std::path::PathBuf;
use std::time::Duration;

use croze_engine::{
    BindMount, CreateRequest, ExecContainerRequest, ExecRequest, Filter, IoConfig, Network, NetworkOptions,
    Propagation, ReadOnlyBelow, Resources, TerminalSize,
};
use croze_model::{Credentials, Secret};
use croze_proto::v1;
use tonic::Status;

use crate::options;
use crate::status::invalid;

/// A create.
pub(crate) fn create(message: v1::CreateContainerRequest) -> Result<CreateRequest, Status> {
    let name = given(message.name)
        .map(|name| name.parse())
        .transpose()
        .map_err(|error: croze_model::IdError| invalid(error.to_string()))?;
    Ok(CreateRequest {
        name,
        image: message.image,
        command: message.command,
        entrypoint: message.entrypoint.map(|entrypoint| entrypoint.words),
        env: message.env,
        working_dir: given(message.working_dir),
        user: given(message.user),
        hostname: given(message.hostname),
        io: IoConfig {
            tty: message.tty,
            open_stdin: message.open_stdin,
            stdin_once: message.stdin_once,
        },
        mounts: message.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        // The door completes it: the default is the engine's to know.
        network: Network::default(),
        network_options: NetworkOptions::default(),
        resources: resources(message.resources.unwrap_or_default()),
        cap_add: message.cap_add,
        cap_drop: message.cap_drop,
        read_only: message.read_only,
        auto_remove: message.auto_remove,
        start_follows: message.start_follows,
        labels: message.labels.into_iter().collect(),
        stop_signal: given(message.stop_signal),
        stop_timeout: message
            .stop_timeout_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        platform: given(message.platform)
            .map(|platform| platform.parse())
            .transpose()
            .map_err(|error: croze_model::PlatformError| invalid(error.to_string()))?,
        options: options::decode(message.options.unwrap_or_default())?,
    })
}

/// An exec's first message.
pub(crate) fn exec(message: v1::ExecStart) -> ExecContainerRequest {
    ExecContainerRequest {
        container: message.container,
        exec: ExecRequest {
            command: message.command,
            env: message.env,
            working_dir: given(message.working_dir),
            user: given(message.user),
            privileged: message.privileged,
            tty: message.tty,
            stdin: message.stdin,
            detach: message.detach,
            size: message.size.map(size),
        },
    }
}

/// A terminal's size; what does not fit is as large as can be.
pub(crate) fn size(message: v1::TerminalSize) -> TerminalSize {
    let fit = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    TerminalSize {
        rows: fit(message.rows),
        columns: fit(message.columns),
    }
}

/// Who asks at a registry.
pub(crate) fn credentials(message: Option<v1::RegistryCredentials>) -> Credentials {
    let Some(message) = message else {
        return Credentials::Anonymous;
    };
    let username = message.username;
    if let Some(token) = given(message.registry_token).map(Secret::new) {
        Credentials::Registry { token }
    } else if let Some(token) = given(message.identity_token).map(Secret::new) {
        Credentials::Identity { username, token }
    } else if username.is_empty() && message.password.is_empty() {
        Credentials::Anonymous
    } else {
        Credentials::Password {
            username,
            password: Secret::new(message.password),
        }
    }
}

/// Conditions.
pub(crate) fn filters(messages: Vec<v1::Filter>) -> Vec<Filter> {
    let filter = |message: v1::Filter| Filter {
        key: message.key,
        value: message.value,
    };
    messages.into_iter().map(filter).collect()
}

/// A moment that was given.
pub(crate) fn moment(text: &str) -> Result<Option<jiff::Timestamp>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|error: jiff::Error| invalid(format!("invalid time {text:?}: {error}")))
}

/// A text that was given.
pub(crate) fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn mount(message: v1::Mount) -> Result<BindMount, Status> {
    let propagation = match message.propagation.as_str() {
        "" => Propagation::default(),
        name => Propagation::from_name(name)
            .ok_or_else(|| invalid(format!("unknown mount propagation {name:?}")))?,
    };
    let read_only_below = match message.read_only_below() {
        v1::ReadOnlyBelow::Unspecified => ReadOnlyBelow::WherePossible,
        v1::ReadOnlyBelow::Never => ReadOnlyBelow::Never,
        v1::ReadOnlyBelow::Always => ReadOnlyBelow::Always,
    };
    Ok(BindMount {
        read_only_below,
        source: PathBuf::from(message.source),
        target: message.target,
        read_only: message.read_only,
        propagation,
        recursive: !message.non_recursive,
        create_source: message.create_source,
    })
}

fn resources(message: v1::Resources) -> Resources {
    let limit = |number: u64| Some(number).filter(|&number| number != 0);
    Resources {
        memory_bytes: limit(message.memory_bytes),
        memory_swap_bytes: Some(message.memory_swap_bytes).filter(|&bytes| bytes != 0),
        nano_cpus: limit(message.nano_cpus),
        pids_limit: limit(message.pids_limit),
        cpu_shares: limit(message.cpu_shares),
        cpuset_cpus: given(message.cpuset_cpus),
        cpuset_mems: given(message.cpuset_mems),
        memory_reservation_bytes: limit(message.memory_reservation_bytes),
        cpu_quota_micros: Some(message.cpu_quota_micros).filter(|&micros| micros != 0),
        cpu_period_micros: limit(message.cpu_period_micros),
        oom_kill_disable: message.oom_kill_disable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_unset() {
        let request = create(v1::CreateContainerRequest {
            image: "i".to_owned(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(
            request,
            CreateRequest {
                image: "i".to_owned(),
                ..CreateRequest::default()
            }
        );
    }

    #[test]
    fn what_is_given_arrives() {
        let request = create(v1::CreateContainerRequest {
            image: "i".to_owned(),
            name: "web".to_owned(),
            entrypoint: Some(v1::Entrypoint { words: Vec::new() }),
            mounts: vec![v1::Mount {
                source: "/a".to_owned(),
                target: "/b".to_owned(),
                read_only: true,
                propagation: "rshared".to_owned(),
                ..Default::default()
            }],
            resources: Some(v1::Resources {
                memory_bytes: 7,
                memory_swap_bytes: -1,
                ..Default::default()
            }),
            stop_timeout_seconds: Some(0),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(request.name.unwrap().as_str(), "web");
        assert_eq!(request.entrypoint, Some(Vec::new()));
        assert_eq!(request.mounts[0].propagation, Propagation::Rshared);
        assert!(request.mounts[0].read_only && request.mounts[0].recursive);
        assert_eq!(
            (
                request.resources.memory_bytes,
                request.resources.memory_swap_bytes
            ),
            (Some(7), Some(-1))
        );
        assert_eq!(request.stop_timeout, Some(Duration::ZERO));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        let message = |name: &str, propagation: &str| v1::CreateContainerRequest {
            name: name.to_owned(),
            mounts: vec![v1::Mount {
                propagation: propagation.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert!(create(message("", "")).is_ok());
        for bad in [message("-x", ""), message("", "sideways")] {
            assert_eq!(create(bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
        assert_eq!(
            size(v1::TerminalSize {
                rows: 24,
                columns: 100_000
            }),
            TerminalSize {
                rows: 24,
                columns: u16::MAX
            }
        );
    }
}
