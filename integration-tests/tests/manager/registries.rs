//! Registries that want to know who asks, and registries in TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use croze_integration_tests::{
    Authority, Crozed, ImageLayout, LayerBuilder, Output, Registry, RegistryOptions, Scene, TokenServer,
    wait_until,
};
use serde_json::{Value, json};

/// Pushes a tiny image under a name; different content is another image.
fn push(scene: &Scene, registry: &Registry<'_>, name: &str, content: &str) -> Result<String> {
    let tar = LayerBuilder::new()
        .file("content", 0o644, content.as_bytes())?
        .finish()?;
    let directory = name.replace(['/', ':'], "-");
    let layout = ImageLayout::new(&[tar], &json!({ "Cmd": ["/content"] }))?;
    let layout = layout.write(scene, &directory, "latest")?;
    registry.push(&layout, "latest", name)?;
    Ok(registry.reference(name))
}

/// `echo SECRET | croze login --password-stdin`
fn login(scene: &Scene, daemon: &Crozed<'_>, user: &str, password: &str, server: &str) -> Result<Output> {
    let words = daemon.shell_words(&format!("login -u {user} --password-stdin {server}"))?;
    let mut command = daemon.command(&[])?;
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = std::process::Command::new("sh");
    command
        .envs(environment)
        .arg("-c")
        .arg(format!("echo {password} | {words}"));
    scene.run(command)
}

/// Looks for passwords, as they are and as they are sent, in what the daemon has logged.
fn nothing_secret(logs: &Path) -> Result<()> {
    let mut read = 0;
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        if !path.to_string_lossy().contains("crozed") {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        read += text.len();
        for secret in ["wr0ng", "alice:secret", "YWxpY2U6c2VjcmV0", "\"secret\""] {
            let line = text.lines().find(|line| line.contains(secret));
            ensure!(line.is_none(), "{}: {line:?}", path.display());
        }
    }
    ensure!(read > 100_000, "{read} bytes are no trace");
    Ok(())
}

#[test]
fn a_password_is_given_on_the_line_or_by_a_login() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start_with_password(scene)?;
        let image = push(scene, &registry, "private/a:1", "a")?;
        let server = registry.address();
        let daemon = Crozed::start_configured(scene, "log-level = \"trace\"\n")?;

        daemon.croze(&["pull", &image])?.failure(&[
            "private/a",
            &server,
            "anonymous",
            &format!("croze login {server}"),
        ])?;
        let output = daemon
            .croze(&["pull", "--creds", "alice:wr0ng", &image])?
            .failure(&["\"alice\"", &server, "log in again"])?;
        ensure!(!output.stderr.contains("wr0ng"), "{output}");
        assert_eq!(daemon.images()?, Vec::<String>::new());
        daemon.ok(&["pull", "--creds", "alice:secret", &image])?;
        daemon.ok(&["create", "--pull", "always", "--creds", "alice:secret", &image])?;
        // What one request was given is nothing that the next one has.
        daemon.croze(&["pull", &image])?.failure(&["anonymous"])?;

        let kept = scene.path("docker-config/config.json");
        fs::create_dir_all(scene.path("docker-config"))?;
        fs::write(&kept, r#"{"psFormat":"table {{.ID}}"}"#)?;
        login(scene, &daemon, "alice", "wr0ng", &server)?.failure(&["\"alice\""])?;
        let output = login(scene, &daemon, "alice", "secret", &server)?.success()?;
        ensure!(
            output.stdout.contains("Login Succeeded") && output.stderr.contains("stored unencrypted"),
            "{output}"
        );
        assert_eq!(fs::metadata(&kept)?.permissions().mode() & 0o777, 0o600);
        let file: Value = serde_json::from_str(&fs::read_to_string(&kept)?)?;
        assert_eq!(file["psFormat"], "table {{.ID}}");
        assert_eq!(file["auths"][&server]["auth"], "YWxpY2U6c2VjcmV0");
        daemon.ok(&["pull", &image])?;
        let output = daemon.ok(&["login", &server])?;
        ensure!(output.stdout.contains("existing credentials"), "{output}");

        daemon.ok(&["logout", &server])?;
        let output = daemon.ok(&["logout", &server])?;
        ensure!(output.stdout.contains("Not logged in"), "{output}");
        daemon.croze(&["pull", &image])?.failure(&["anonymous"])?;
        let output = daemon.ok(&["login", "-u", "alice", "-p", "secret", &server])?;
        ensure!(output.stderr.contains("WARNING! Using --password"), "{output}");
        daemon
            .croze(&["login", &server, "-u", "bob"])?
            .failure(&["no terminal"])?;
        daemon.finish()?;
        nothing_secret(&scene.path("log"))
    })
}

#[test]
fn logins_of_others_are_found() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start_with_password(scene)?;
        let image = push(scene, &registry, "private/a:1", "a")?;
        let server = registry.address();
        let daemon = Crozed::start(scene)?;

        // podman's and skopeo's file.
        let file = scene.path("auth.json");
        let path = file.to_string_lossy().into_owned();
        scene
            .call(&[
                "skopeo",
                "login",
                "--tls-verify=false",
                "--authfile",
                &path,
                "-u",
                "alice",
                "-p",
                "secret",
                &server,
            ])?
            .success()?;
        let mut command = daemon.command(&["pull", &image])?;
        command.env("REGISTRY_AUTH_FILE", &file);
        scene.run(command)?.success()?;

        // A helper, which keeps its secret in a file of its own.
        let (store, programs) = (scene.path("helper-store"), scene.new_directory("programs")?);
        let helper = programs.join("docker-credential-test");
        fs::write(
            &helper,
            format!(
                "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) [ -e {0} ] && cat {0} || {{ echo credentials not found in native \
                 keychain; exit 1; }} ;;\nerase) cat > /dev/null; rm {0} ;;\nesac\n",
                store.display()
            ),
        )?;
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(scene.path("docker-config"))?;
        let kept = scene.path("docker-config/config.json");
        fs::write(&kept, format!(r#"{{"credHelpers":{{"{server}":"test"}}}}"#))?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
        let call = |words: &[&str]| -> Result<Output> {
            let mut command = daemon.command(words)?;
            command.env("PATH", &path);
            scene.run(command)
        };
        call(&["pull", &image])?.failure(&["anonymous"])?;
        call(&["login", "-u", "alice", "-p", "secret", &server])?.success()?;
        ensure!(
            !fs::read_to_string(&kept)?.contains("YWxpY2U6c2VjcmV0"),
            "the file has it, too"
        );
        ensure!(fs::read_to_string(&store)?.contains(&server), "the helper has it");
        call(&["pull", &image])?.success()?;
        call(&["logout", &server])?.success()?;
        ensure!(!store.exists(), "the helper still has it");

        // One that is not there is told; what needs no password goes on.
        fs::write(&kept, r#"{"credsStore":"nowhere"}"#)?;
        call(&["pull", &image])?.failure(&["docker-credential-nowhere", "anonymous"])?;
        daemon.finish()
    })
}

#[test]
fn a_mirror_below_a_path_is_shown_what_is_kept_for_that_path() -> Result<()> {
    Scene::play(|scene| {
        // The registry itself has nothing: what is pulled comes from the mirror, which lets nobody in without a password.
        let own = Registry::start_with(scene, "own", &RegistryOptions::default())?;
        let mirror = Registry::start_with_password(scene)?;
        push(scene, &mirror, "cache/hub/library/a:1", "a")?;
        let (name, image) = (mirror.address(), own.reference("library/a:1"));
        let daemon = Crozed::start_configured(
            scene,
            &format!(
                "[registries.\"{}\"]\nmirrors = [\"{name}/cache/hub\"]\n",
                own.address()
            ),
        )?;
        fs::create_dir_all(scene.path("docker-config"))?;
        let kept = scene.path("docker-config/config.json");
        // As podman keeps them: for a part of the path. Others are another's.
        let keep = |entries: Value| fs::write(&kept, json!({ "auths": entries }).to_string());
        let good = json!({ "auth": "YWxpY2U6c2VjcmV0" });
        keep(json!({ format!("{name}/library"): good, format!("{name}/other/hub"): good }))?;
        daemon
            .croze(&["pull", &image])?
            .failure(&["2 sources", "anonymous", "has no image"])?;
        keep(json!({ format!("{name}/cache/hub"): good, name: json!({ "auth": "YWxpY2U6d3Jvbmc=" }) }))?;
        daemon.ok(&["pull", &image])?;
        daemon.finish()
    })
}

#[test]
fn tokens_are_fetched_and_fetched_again() -> Result<()> {
    Scene::play(|scene| {
        let authority = Authority::new(scene, "tokens")?;
        let tokens = TokenServer::start(&authority)?;
        let options = RegistryOptions {
            auth: tokens.configuration(&authority),
            pusher: Some("alice:secret".to_owned()),
            ..RegistryOptions::default()
        };
        let registry = Registry::start_with(scene, "registry", &options)?;
        let private = push(scene, &registry, "alice/a:1", "a")?;
        let other = push(scene, &registry, "alice/a:2", "another")?;
        let public = push(scene, &registry, "public/b:1", "b")?;
        let server = registry.address();
        let daemon = Crozed::start(scene)?;

        daemon.ok(&["pull", &public])?;
        let words = ["alice/a", &server, "anonymous"];
        daemon.croze(&["pull", &private])?.failure(&words)?;
        daemon
            .croze(&["pull", "--creds", "alice:wr0ng", &private])?
            .failure(&["\"alice\"", "wrong password"])?;
        daemon
            .croze(&["pull", "--creds", "bob:secret", &private])?
            .failure(&["denies", "\"bob\"", "alice/a"])?;
        login(scene, &daemon, "alice", "wr0ng", &server)?.failure(&["\"alice\""])?;

        // The token lasts one second for the registry, and five minutes by what the client is told.
        tokens.shorten(Duration::from_secs(1));
        let before = tokens.given();
        daemon.ok(&["pull", "--creds", "alice:secret", &private])?;
        ensure!(tokens.given() > before, "nobody asked for a token");
        let (given, begun) = (tokens.given(), Instant::now());
        wait_until("the token was over", Duration::from_secs(10), || {
            Ok((begun.elapsed() > Duration::from_secs(2)).then_some(()))
        })?;
        daemon.ok(&["pull", "--creds", "alice:secret", &other])?;
        ensure!(tokens.given() > given, "the old token was good for ever");
        daemon.finish()
    })
}

#[test]
fn tls_is_trusted_as_configured_and_never_given_up() -> Result<()> {
    Scene::play(|scene| {
        let authority = Authority::new(scene, "ca")?;
        let stranger = Authority::new(scene, "stranger")?;
        let options = RegistryOptions {
            tls: Some(authority.issue("server")?),
            ..RegistryOptions::default()
        };
        let registry = Registry::start_with(scene, "registry", &options)?;
        let image = push(scene, &registry, "a:1", "a")?;
        let server = registry.address();
        let table = |text: &str| format!("[registries.\"{server}\"]\n{text}\n");
        let ca =
            |authority: &Authority<'_>| format!("ca = {:?}", authority.certificate().display().to_string());

        let daemon = Crozed::start(scene)?;
        // On loopback plain HTTP is spoken unless it is said otherwise; the registry says that it wants TLS.
        daemon
            .croze(&["pull", &image])?
            .failure(&["400", "plain-http = false"])?;
        for (configuration, outcome) in [
            ("plain-http = false".to_owned(), Err("certificate")),
            (ca(&stranger), Err("certificate")),
            (ca(&authority), Ok(())),
            ("insecure-skip-verify = true".to_owned(), Ok(())),
        ] {
            daemon.stop()?;
            daemon.configure(&table(&configuration))?;
            daemon.launch()?;
            let output = daemon.croze(&["pull", &image])?;
            match outcome {
                Ok(()) => {
                    output.success()?;
                    daemon.ok(&["rmi", &image])?;
                }
                Err(word) => drop(output.failure(&[word, &server, "croze.toml"])?),
            }
        }

        // A registry that wants to see a certificate, too.
        let options = RegistryOptions {
            tls: Some(authority.issue("server")?),
            clients: Some(authority.certificate()),
            ..RegistryOptions::default()
        };
        let strict = Registry::start_with(scene, "strict", &options)?;
        let client = authority.issue("client")?;
        let name = strict.address();
        let known = format!(
            "[registries.\"{name}\"]\n{}\nclient-cert = {:?}\nclient-key = {:?}\n",
            ca(&authority),
            client.certificate.display().to_string(),
            client.key.display().to_string()
        );
        let unknown = format!("[registries.\"{name}\"]\n{}\n", ca(&authority));
        for (configuration, word) in [(unknown, "cannot reach"), (known, "no image a")] {
            daemon.stop()?;
            daemon.configure(&configuration)?;
            daemon.launch()?;
            daemon
                .croze(&["pull", &strict.reference("a:1")])?
                .failure(&[word])?;
        }

        // HTTPS that is asked for is not given up because the other side speaks HTTP.
        let plain = Registry::start_with(scene, "plain", &RegistryOptions::default())?;
        let image = push(scene, &plain, "b:1", "b")?;
        daemon.stop()?;
        daemon.configure(&format!(
            "[registries.\"{}\"]\nplain-http = false\n",
            plain.address()
        ))?;
        daemon.launch()?;
        daemon
            .croze(&["pull", &image])?
            .failure(&["cannot reach", "plain-http = true"])?;
        daemon.finish()
    })
}
