//! The door between the real client and an engine over real stores: calls arrive, answers and whole errors come back. The shim is a
//! program that fails, so nothing runs here. Opening the stores needs root; without it each test says so and ends.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers fail and speak as the tests do that call them"
)]

use std::path::{Path, PathBuf};

use croze_client::v1::{
    AttachStart, CreateContainerRequest, ErrorKind, ListContainersRequest, ListImagesRequest, PullRequest,
    RemoveContainerRequest, attach_request, pull_event,
};
use croze_client::{Client, Endpoint, Error, v1};
use croze_engine::{Engine, Settings};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// A daemon's inside without the daemon; ends when it is dropped.
struct Server {
    client: Client,
    _stop: oneshot::Sender<()>,
}

async fn server(dir: &Path) -> Option<Server> {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        eprintln!("skipped: needs root");
        return None;
    }
    let settings = Settings {
        root: dir.join("lib"),
        run_root: dir.join("run"),
        runtimes: croze_engine::Runtimes::single(PathBuf::from("/bin/false")),
        shim: PathBuf::from("/bin/false"),
        init: None,
        hello: Some(croze_engine::Hello {
            program: b"not a program",
            created: Some(1_700_000_000),
        }),
        registries: croze_engine::Hosts::default(),
        network: croze_engine::NetworkSettings::default(),
        snapshotter: None,
        storage_limit: croze_engine::Limit::default(),
    };
    let engine = tokio::task::spawn_blocking(|| Engine::open(settings))
        .await
        .unwrap()
        .unwrap();
    engine.recover().await.unwrap();
    let path = dir.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(croze_door_grpc::serve(engine, listener, async move {
        stopped.await.ok();
    }));
    let client = Client::connect(&Endpoint::Unix(path)).await.unwrap();
    Some(Server { client, _stop: stop })
}

fn create(name: &str) -> CreateContainerRequest {
    CreateContainerRequest {
        image: "croze/hello".to_owned(),
        name: name.to_owned(),
        ..CreateContainerRequest::default()
    }
}

#[tokio::test]
async fn versions_agree_and_the_embedded_image_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = server(dir.path()).await else {
        return;
    };
    server.client.check_version().await.unwrap();
    let images = server
        .client
        .images()
        .list_images(ListImagesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .images;
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].references, ["croze/hello:latest"]);
    assert_eq!(images[0].created, "2023-11-14T22:13:20Z", "the build's own time");
}

#[tokio::test]
async fn a_pull_ends_with_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = server(dir.path()).await else {
        return;
    };
    let request = PullRequest {
        reference: "croze/hello".to_owned(),
        ..PullRequest::default()
    };
    let mut events = server.client.images().pull(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = events.message().await.unwrap() {
        last = event.event;
    }
    let Some(pull_event::Event::Result(result)) = last else {
        panic!("the last message is {last:?}")
    };
    assert!(result.up_to_date);
    assert_eq!((result.bytes_fetched, result.layers_present), (0, 1));
    assert!(result.bytes_present > 0);
}

#[tokio::test]
async fn containers_are_created_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = server(dir.path()).await else {
        return;
    };
    let created = server
        .client
        .containers()
        .create_container(create("web"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((created.name.as_str(), created.id.len()), ("web", 64));

    let all = server
        .client
        .containers()
        .list_containers(ListContainersRequest {
            all: true,
            ..ListContainersRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .containers;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].state(), all[0].command.as_slice()),
        (v1::ContainerState::Created, &["/hello".to_owned()][..])
    );
    let running = server
        .client
        .containers()
        .list_containers(ListContainersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .containers;
    assert_eq!(running, []);

    let request = RemoveContainerRequest {
        container: created.id[..6].to_owned(),
        force: false,
    };
    let removed = server
        .client
        .containers()
        .remove_container(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(removed.id, created.id);
}

#[tokio::test]
async fn an_error_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = server(dir.path()).await else {
        return;
    };
    server
        .client
        .containers()
        .create_container(create("web"))
        .await
        .unwrap();
    let error: Error = server
        .client
        .containers()
        .create_container(create("web"))
        .await
        .unwrap_err()
        .into();
    assert_eq!(error.kind(), Some(ErrorKind::AlreadyExists));
    assert!(error.to_string().contains("web"), "{error}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("--name")),
        "{:?}",
        error.hint()
    );

    let bad = CreateContainerRequest {
        network: "nowhere".to_owned(),
        ..create("other")
    };
    let error: Error = server
        .client
        .containers()
        .create_container(bad)
        .await
        .unwrap_err()
        .into();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Some(ErrorKind::InvalidArgument), "network nowhere not found")
    );
}

#[tokio::test]
async fn an_attach_must_say_to_what_and_the_container_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = server(dir.path()).await else {
        return;
    };
    let close = attach_request::Frame::CloseStdin(v1::CloseStdin {});
    let start = attach_request::Frame::Start(AttachStart {
        container: "nobody".to_owned(),
        ..AttachStart::default()
    });
    for (frame, kind) in [(close, ErrorKind::InvalidArgument), (start, ErrorKind::NotFound)] {
        let messages = tokio_stream::once(v1::AttachRequest { frame: Some(frame) });
        let error: Error = server
            .client
            .containers()
            .attach(messages)
            .await
            .unwrap_err()
            .into();
        assert_eq!(error.kind(), Some(kind), "{error}");
    }
}
