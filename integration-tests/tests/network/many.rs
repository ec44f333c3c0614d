//! Many containers, one after the other and side by side: nothing of them stays.

use anyhow::Result;
use croze_integration_tests::{Scene, wait_until};

use crate::Stage;

/// How many; `CROZE_TEST_BRIDGE_CONTAINERS` says otherwise, 200 for a torture.
const FEW: usize = 20;
/// So many at once.
const SIDE_BY_SIDE: usize = 5;

#[test]
fn many_containers_come_and_go_and_nothing_stays() -> Result<()> {
    let count = std::env::var("CROZE_TEST_BRIDGE_CONTAINERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FEW);
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let before = stage.host.traces()?;
        let mut made = 0;
        while made < count {
            let some = SIDE_BY_SIDE.min(count - made);
            let names: Vec<String> = (0..some).map(|n| format!("c{}", made + n)).collect();
            let started: Vec<_> = names
                .iter()
                .map(|name| {
                    let words = [
                        "run",
                        "-d",
                        "--name",
                        name,
                        "-p",
                        "80",
                        &stage.image,
                        "/probe",
                        "wait",
                    ];
                    scene.start(stage.daemon.command(&words)?)
                })
                .collect::<Result<_>>()?;
            for process in started {
                process.wait(std::time::Duration::from_secs(60))?.success()?;
            }
            let words: Vec<&str> = ["rm", "-f"]
                .into_iter()
                .chain(names.iter().map(String::as_str))
                .collect();
            stage.daemon.ok(&words)?;
            made += some;
        }
        // Interfaces go right after the containers.
        wait_until(
            "all interfaces are gone",
            std::time::Duration::from_secs(10),
            || {
                let rules = stage.host.sh("nft list ruleset; ip -o link")?.stdout;
                Ok((!rules.contains("elements") && !rules.contains("cz")).then_some(()))
            },
        )?;
        stage.daemon.stop()?;
        assert_eq!(stage.host.traces()?, before);
        for directory in ["netns", "network/endpoints"] {
            let left = std::fs::read_dir(scene.path("run").join(directory))?.count();
            assert_eq!(left, 0, "{directory}");
        }
        stage.daemon.launch()?;
        Ok(())
    })
}
