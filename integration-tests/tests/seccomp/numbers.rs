//! The numbers of all calls on all architectures, beside libseccomp's.

use anyhow::Result;
use croze_integration_tests::Scene;
use croze_seccomp::arch::Arch;
use croze_seccomp::table::{self, ARM_PRIVATE};

use crate::peer::Peer;
use crate::profile::token;

pub(crate) const ALL: [Arch; 6] = [
    Arch::X86_64,
    Arch::X86,
    Arch::X32,
    Arch::Aarch64,
    Arch::Arm,
    Arch::Riscv64,
];

/// Our names that libseccomp knows on some architecture; those of later kernels it cannot know.
pub(crate) fn shared_names(peer: &Peer<'_>) -> Result<Vec<&'static str>> {
    let all: Vec<&str> = table::names().collect();
    let mut known = vec![false; all.len()];
    for arch in ALL {
        let asked: Vec<(u32, &str)> = all.iter().map(|name| (token(arch), *name)).collect();
        for (known, number) in known.iter_mut().zip(peer.numbers(&asked)?) {
            *known |= number.is_some();
        }
    }
    Ok(all
        .into_iter()
        .zip(known)
        .filter_map(|(name, known)| known.then_some(name))
        .collect())
}

#[test]
fn calls_have_libseccomps_numbers() -> Result<()> {
    Scene::play(|scene| {
        let peer = Peer::build(scene)?;
        let names = shared_names(&peer)?;
        assert!(names.len() > 450, "{} names", names.len());
        let mut differences = Vec::new();
        for arch in ALL {
            let asked: Vec<(u32, &str)> = names.iter().map(|name| (token(arch), *name)).collect();
            for (name, theirs) in names.iter().zip(peer.numbers(&asked)?) {
                let Some(call) = table::find(name) else { continue };
                // libseccomp's own way to name the calls that i386 has twice.
                let is_twice = call.multiplexed(arch).is_some();
                if !is_twice && call.number(arch) != theirs {
                    let ours = call.number(arch);
                    differences.push(format!("{arch:?} {name}: ours {ours:?}, libseccomp's {theirs:?}"));
                }
            }
            // And the other way round: no number has a name that we do not know.
            let bit = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
            let mut theirs = peer.names(token(arch), bit, bit + 600)?;
            if arch == Arch::Arm {
                theirs.extend(peer.names(token(arch), ARM_PRIVATE, ARM_PRIVATE + 16)?);
            }
            for (name, number) in theirs {
                let ours = table::find(&name).and_then(|call| call.number(arch));
                if ours != Some(number) {
                    differences.push(format!("{arch:?} {number:#x}: {name}, ours {ours:?}"));
                }
            }
        }
        assert_eq!(
            differences,
            Vec::<String>::new(),
            "{} differences",
            differences.len()
        );
        Ok(())
    })
}
