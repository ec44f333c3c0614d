//! docker's own command line beside croze: the same image, the same containers, the same words; what is printed must be the same.
//!
//! ```text
//!   stage ──▶ docker ARGUMENTS ──▶ text ─┐
//!        └──▶ croze  ARGUMENTS ──▶ text ─┴─▶ ids and times made anonymous ──▶ equal
//! ```
//!
//! Templates that one of them refuses, the other must refuse too. What differs on purpose stands in a list with its reason; an entry that no longer
//! differs for any container fails the test.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Dockerd, Ended, ImageLayout, Output, Registry, Scene, digest};
use serde_json::json;

/// Both engines with one image of one name, and three containers: `one` runs, `two` has exited with code 3, `three` was never started.
struct Stage<'scene> {
    docker: Dockerd<'scene>,
    croze: Crozed<'scene>,
    image: String,
    /// Ids of each engine, and what stands for them.
    docker_ids: Vec<(String, String)>,
    croze_ids: Vec<(String, String)>,
}

impl<'scene> Stage<'scene> {
    fn set(scene: &'scene Scene) -> Result<Self> {
        let registry = Registry::start(scene)?;
        let tar = ImageLayout::small_tar(scene)?;
        let config = json!({
            "Cmd": ["/bin/sh"],
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"],
            "Labels": {"maker": "us"},
            "WorkingDir": "/tmp",
        });
        let mut image = ImageLayout::new(&[tar], &config)?;
        image.config["created"] = json!("2020-01-02T03:04:05.678Z");
        let config = serde_json::to_vec(&image.config)?;
        image.manifest["config"]["digest"] = json!(digest(&config));
        image.manifest["config"]["size"] = json!(config.len());
        let layout = image.write(scene, "small", "latest")?;
        registry.push(&layout, "latest", "small:latest")?;
        let image = registry.reference("small:latest");
        let croze = Crozed::start(scene)?;
        croze.ok(&["pull", &image])?;
        let docker = Dockerd::start(scene)?;
        let archive = scene.path("same.tar");
        scene
            .run({
                let mut skopeo = std::process::Command::new("skopeo");
                skopeo
                    .args(["copy", "--quiet"])
                    .arg(format!("oci:{}:latest", layout.display()));
                skopeo.arg(format!("docker-archive:{}:{image}", archive.display()));
                skopeo
            })?
            .success()?;
        docker
            .docker(&["load", "-i", &archive.to_string_lossy()])?
            .success()?;
        // What the harness imports for other tests.
        docker.docker(&["rmi", "small"])?.success()?;
        croze.croze(&["rmi", "croze/hello"])?;
        let mut stage = Self {
            docker,
            croze,
            image,
            docker_ids: Vec::new(),
            croze_ids: Vec::new(),
        };
        stage.populate(scene)?;
        Ok(stage)
    }

    fn populate(&mut self, scene: &Scene) -> Result<()> {
        let shared = scene.new_directory("shared")?;
        let mount = format!("{}:/data:ro", shared.display());
        let image = self.image.clone();
        for arguments in [
            &[
                "run",
                "-d",
                "--name",
                "one",
                "-l",
                "tier=front",
                "-m",
                "64m",
                &image,
                "/probe",
                "wait",
            ][..],
            &[
                "run", "--name", "two", "-e", "A=b c", &image, "/bin/sh", "-c", "exit 3",
            ],
            &[
                "create",
                "--name",
                "three",
                "-v",
                &mount,
                "--entrypoint",
                "/bin/echo",
                &image,
                "two words",
                "\"quoted\"",
            ],
        ] {
            let (verb, rest) = arguments.split_first().context("a verb")?;
            let docker = self
                .docker
                .docker(&[&[*verb, "--runtime", "croze", "--network", "none"], rest].concat())?;
            let croze = self
                .croze
                .croze(&[&[*verb, "--network", "none"], rest].concat())?;
            ensure!(docker.ended == croze.ended, "{docker}\n{croze}");
        }
        for name in ["one", "two", "three"] {
            let stands_for = format!("<{name}>");
            let id = self
                .docker
                .docker(&["inspect", "-f", "{{.Id}}", name])?
                .success()?;
            self.docker_ids.push((id.text().to_owned(), stands_for.clone()));
            let id = self.croze.ok(&["inspect", "-f", "{{.Id}}", name])?;
            self.croze_ids.push((id.text().to_owned(), stands_for));
        }
        Ok(())
    }

    /// What both print for these arguments, made anonymous; both must end alike.
    fn both(&self, arguments: &[&str]) -> Result<(String, String)> {
        let (docker, croze) = self.outputs(arguments)?;
        ensure!(
            docker.ended == croze.ended,
            "they end otherwise:\n{docker}\n{croze}"
        );
        Ok((
            anonymous(&docker.stdout, &self.docker_ids),
            anonymous(&croze.stdout, &self.croze_ids),
        ))
    }

    fn outputs(&self, arguments: &[&str]) -> Result<(Output, Output)> {
        Ok((self.docker.docker(arguments)?, self.croze.croze(arguments)?))
    }

    /// Every one of these command lines prints the same.
    fn same(&self, lines: &[&[&str]]) -> Result<()> {
        let mut wrong = Vec::new();
        for arguments in lines {
            let (docker, croze) = self.both(arguments)?;
            if docker != croze {
                wrong.push(format!(
                    "{}\n--- docker\n{docker}\n--- croze\n{croze}",
                    arguments.join(" ")
                ));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} differ:\n{}",
            wrong.len(),
            lines.len(),
            wrong.join("\n")
        );
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.docker
            .docker(&["rm", "-f", "one", "two", "three"])?
            .success()?;
        self.croze.finish()
    }
}

/// Ids become names, durations `TIME`, and columns as wide as what they hold asks for are parted by three spaces.
fn anonymous(text: &str, ids: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (id, name) in ids {
        text = text.replace(id, name).replace(&id[..12], name);
    }
    let lines: Vec<String> = text.lines().map(without_time).collect();
    lines.join("\n")
}

fn without_time(line: &str) -> String {
    let cells: Vec<String> = line
        .split("   ")
        .filter(|cell| !cell.trim().is_empty())
        .map(str::trim_start)
        .map(|cell| {
            for opening in ["Up ", "Exited (3) ", "Exited (0) ", ""] {
                if let Some(rest) = cell.strip_prefix(opening)
                    && is_duration(rest.strip_suffix(" ago").unwrap_or(rest))
                {
                    return format!("{opening}TIME");
                }
            }
            cell.to_owned()
        })
        .collect();
    cells.join("   ")
}

fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = [
        "second", "seconds", "minutes", "hours", "days", "weeks", "months", "years",
    ];
    match text.split_once(' ') {
        Some((number, unit)) if UNITS.contains(&unit) => number.bytes().all(|b| b.is_ascii_digit()),
        _ => ["Less than a second", "About a minute", "About an hour"].contains(&text),
    }
}

const LISTS: &[&[&str]] = &[
    &["ps"],
    &["ps", "-a"],
    &["ps", "-a", "--no-trunc"],
    &["ps", "-q"],
    &["ps", "-aq"],
    &["ps", "-aq", "--no-trunc"],
    &["ps", "-l"],
    &["ps", "-n", "2"],
    &["ps", "-n", "2", "-q"],
    &["container", "ls", "-a"],
    &["ps", "-a", "--filter", "name=^t"],
    &["ps", "--filter", "name=t"],
    &["ps", "--filter", "status=exited"],
    &[
        "ps",
        "-a",
        "--filter",
        "status=created",
        "--filter",
        "status=running",
    ],
    &["ps", "-a", "--filter", "exited=3"],
    &["ps", "-a", "--filter", "label=tier=front"],
    &["ps", "-a", "--filter", "label=maker"],
    &["ps", "-a", "--filter", "label=tier=back"],
    &["ps", "-a", "--filter", "before=two"],
    &["ps", "-a", "--filter", "since=two"],
    &["ps", "-a", "--filter", "volume=/data"],
    &["ps", "-a", "--filter", "network=none"],
    &["ps", "-a", "--filter", "health=none"],
    &["images"],
    &["images", "-a"],
    &["images", "-q"],
    &["images", "-q", "--no-trunc"],
    &["image", "ls", "--no-trunc"],
    &["images", "nothing"],
    &["images", "--filter", "reference=*/small"],
    &["images", "--filter", "reference=*"],
    &["images", "--filter", "dangling=true"],
    &["images", "--filter", "label=maker=us"],
];

const PS_TEMPLATES: &[&str] = &[
    "{{.ID}}",
    "{{.Names}}",
    "{{.Image}}",
    "{{.Command}}",
    "{{.State}}",
    "{{.Status}}",
    "{{.RunningFor}}",
    "{{.Ports}}|{{.Networks}}|{{.LocalVolumes}}",
    "{{.Label \"tier\"}}|{{.Label \"nope\"}}",
    "{{.Names | upper}}",
    "{{json .Names}}",
    "{{if eq .State \"running\"}}up{{else}}down{{end}}",
    "{{range split .Names \"n\"}}<{{.}}>{{end}}",
    "{{printf \"%-10s|%q\" .Names .State}}",
    "{{truncate .Names 2}}{{pad .Names 1 2}}|{{title .Names}}",
    "{{len .Names}}",
    "{{.Names}}\\t{{.State}}\\n",
    "table {{.Names}}\\t{{.State}}\\t{{.Image}}",
    "table {{.Names}}\\t{{.Label \"com.some-tier\"}}\\t{{.LocalVolumes}}\\t{{.Networks}}",
    "table {{upper .Names}}\\t{{truncate .State 3}}\\t{{json .Names}}",
    "table {{.Names}}",
    "table",
];

const IMAGE_TEMPLATES: &[&str] = &[
    "{{.ID}}",
    "{{.Repository}}:{{.Tag}}",
    "{{.Containers}} {{.SharedSize}} {{.UniqueSize}}",
    "{{.CreatedAt}}",
    "{{.CreatedSince}}",
    "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}",
];

const INSPECT_TEMPLATES: &[&str] = &[
    "{{.Id}}",
    "{{.Name}} {{.Name | upper | printf \"%s!\"}}",
    "{{.Path}} {{.Args}} {{len .Args}}",
    "{{json .Args}}",
    "{{.Image}}",
    "{{.Config.Image}}",
    "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}} {{.State.Paused}} {{.State.OOMKilled}}",
    "{{.State.Dead}} {{.State.Restarting}} [{{.State.Error}}]",
    "{{eq .State.ExitCode 3}} {{ne .State.Status \"running\"}} {{lt .State.ExitCode 1}}",
    "{{if .State.Running}}up{{else if eq .State.ExitCode 0}}fine{{else}}bad{{end}}",
    "{{.Config.Cmd}} {{json .Config.Cmd}}",
    "{{.Config.Entrypoint}} {{json .Config.Entrypoint}}",
    "{{.Config.Labels}} {{json .Config.Labels}}",
    "{{.Config.Env}} {{len .Config.Env}} {{range .Config.Env}}{{println .}}{{end}}{{join .Config.Env \",\"}}",
    // What docker's JSON leaves out where it is empty.
    "{{.State.Health}} {{json .State.Health}} {{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
    "{{.Config.Healthcheck}} {{with .Config.Healthcheck}}{{.Test}}{{end}}",
    "{{.Config.ExposedPorts}} {{range $port, $_ := .Config.ExposedPorts}}{{$port}}{{end}}",
    "{{.HostConfig.Init}} {{.HostConfig.Tmpfs}} {{.HostConfig.Sysctls}} {{.HostConfig.StorageOpt}} {{.HostConfig.Mounts}}",
    "{{json .HostConfig.Init}} {{json .HostConfig.Tmpfs}} {{len .HostConfig.Sysctls}}",
    "{{.Config.StopTimeout}} {{.Config.Shell}} {{.Config.NetworkDisabled}} [{{.Config.MacAddress}}]",
    "{{.SizeRw}} {{.SizeRootFs}} {{.HostConfig.CgroupnsMode}}",
    "{{range .Mounts}}{{.Type}} [{{.Name}}] [{{.Driver}}]{{end}}",
    "{{json .State.Running}} {{printf \"%s|%5v|%q\" .Config.Labels .Args .Config.Labels}}",
    "{{printf \"%v|%s|%d\" .HostConfig.Binds .Config.OnBuild .Args}}",
    "{{.Config.Labels.maker}} {{.Config.Labels.nope}}",
    "{{index .Config.Labels \"maker\"}}|{{index .Config.Labels \"nope\"}}|",
    "{{range $key, $value := .Config.Labels}}{{$key}}={{$value}};{{end}}",
    "{{.Config.WorkingDir}} {{.Config.Tty}} {{.Config.OpenStdin}}",
    "{{with .Config.User}}{{.}}{{else}}nobody in particular{{end}}",
    "{{.Config.Volumes}} {{json .Config.Volumes}} {{.Config.OnBuild}}",
    "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.CpusetCpus}}",
    "{{.HostConfig.NetworkMode}} {{.HostConfig.AutoRemove}} {{.HostConfig.Privileged}}",
    "{{.HostConfig.PidsLimit}} {{json .HostConfig.PidsLimit}}",
    "{{.HostConfig.RestartPolicy.Name}} {{json .HostConfig.RestartPolicy}}",
    "{{.HostConfig.Binds}} {{json .HostConfig.Binds}}",
    "{{.HostConfig.CapAdd}} {{.HostConfig.PortBindings}}",
    "{{.HostConfig.Dns}}",
    "{{range .Args}}{{println .}}{{end}}|{{join .Args \",\"}}",
    "{{json .HostConfig.LogConfig}} {{.HostConfig.LogConfig.Config}}",
    "{{.HostConfig.Ulimits}} {{.HostConfig.Devices}} {{.HostConfig.ReadonlyRootfs}}",
    "{{range .Mounts}}{{.Type}} {{.Source}}:{{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}}{{end}}",
    "{{json .Mounts}} {{len .Mounts}}",
    "{{.NetworkSettings.Ports}} {{json .NetworkSettings.Ports}}",
    "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} [{{$network.IPAddress}}]{{end}}",
    "[{{.NetworkSettings.IPAddress}}] [{{.NetworkSettings.Gateway}}]",
    "{{.RestartCount}} {{.Platform}} {{.Driver}}",
    "{{.NetworkSettings.Networks.nope}}",
    "{{slice .Name 1}} {{printf \"%05d\" .State.ExitCode}} {{$.Name}}",
    "{{and .State.Running .Name}} {{or .Config.User \"root\"}} {{not .State.Running}}",
    "{{- .Name -}} {{/* nothing */}}",
    "{{$x := .Name}}{{with .State}}{{$x}} {{.Status}}{{end}}",
];

/// A template whose outputs differ, and why they may.
struct Accepted {
    template: &'static str,
    reason: &'static str,
}

const RAW: &str = "where a template does not fit its Go types, docker's client tries again on plain JSON, in which what is empty has no type";

const ACCEPTED: &[Accepted] = &[
    Accepted {
        template: "{{index .NetworkSettings.Ports \"80/tcp\"}}",
        reason: RAW,
    },
    Accepted {
        template: "{{.HostConfig.CapAdd}} {{.HostConfig.PortBindings}} {{.HostConfig.Dns}}",
        reason: RAW,
    },
];

/// Both refuse them.
const BAD: &[&str] = &[
    "{{",
    "{{.Name",
    "{{if .Name}}",
    "{{end}}",
    "{{.Bogus}}",
    "{{.State.Bogus}}",
    "{{.State.Health.Status}}",
    "{{bogus .Name}}",
    "{{range .Name}}{{end}}",
    "{{index .Args 99}}",
    "{{upper .State}}",
    "{{$x}}",
    "{{\"open}}",
    "{{1 | 2}}",
];

#[test]
fn lists_look_like_dockers() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let ancestor = format!("ancestor={}", stage.image);
        let with_ancestor: &[&str] = &["ps", "-a", "--filter", &ancestor];
        stage.same(LISTS)?;
        stage.same(&[with_ancestor])?;
        let of_ps: Vec<Vec<&str>> = PS_TEMPLATES
            .iter()
            .map(|t| vec!["ps", "-a", "--format", t])
            .collect();
        let of_images = IMAGE_TEMPLATES.iter().map(|t| vec!["images", "--format", t]);
        let lines: Vec<Vec<&str>> = of_ps.into_iter().chain(of_images).collect();
        stage.same(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        for bad in [
            &["ps", "--filter", "bogus=1"][..],
            &["ps", "--filter", "status=asleep"],
            &["ps", "--filter", "name"],
            &["ps", "--filter", "before=nobody"],
            &["images", "--filter", "bogus=1"],
            &["images", "--filter", "dangling=perhaps"],
            &["ps", "-a", "--format", "{{.Bogus}}"],
            &["ps", "-a", "--format", "{{.Names"],
            &["ps", "-a", "--format", "{{.Label}}"],
            &["ps", "-a", "--format", "{{bogus .Names}}"],
            &["images", "--format", "{{.Bogus}}"],
            &["events", "--filter", "bogus", "--until", "1s"],
        ] {
            refused_by_both(&stage, bad)?;
        }
        stage.finish()
    })
}

#[test]
fn templates_over_inspect_print_the_same() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let mut lines = Vec::new();
        for template in INSPECT_TEMPLATES {
            lines.extend(["one", "two", "three"].map(|name| vec!["inspect", "-f", template, name]));
        }
        for template in [
            "{{.Id}} {{.RepoTags}}",
            "{{.Config.Env}} {{.Config.Labels.maker}}",
            "{{.Os}}/{{.Architecture}}",
        ] {
            lines.push(vec!["inspect", "--type", "image", "-f", template, &stage.image]);
        }
        stage.same(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        for Accepted { template, reason } in ACCEPTED {
            let (docker, croze) = stage.both(&["inspect", "-f", template, "one"])?;
            ensure!(
                docker != croze,
                "no longer different: {template} ({reason}): {docker}"
            );
        }
        for bad in BAD {
            refused_by_both(&stage, &["inspect", "-f", bad, "one"])?;
        }
        refused_by_both(&stage, &["inspect", "nobody"])?;
        refused_by_both(&stage, &["inspect", "--type", "image", "one"])?;
        // What is found is shown all the same.
        stage.same(&[&["inspect", "-f", "{{.Name}}", "one", "nobody", "two"]])?;
        stage.finish()
    })
}

fn refused_by_both(stage: &Stage<'_>, arguments: &[&str]) -> Result<()> {
    let (docker, croze) = stage.outputs(arguments)?;
    for output in [&docker, &croze] {
        ensure!(
            matches!(output.ended, Ended::Code(code) if code != 0),
            "it is taken: {output}"
        );
    }
    ensure!(
        !croze.stderr.contains("panicked") && !croze.stderr.is_empty(),
        "{croze}"
    );
    Ok(())
}
