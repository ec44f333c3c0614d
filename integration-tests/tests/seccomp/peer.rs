//! libseccomp, through a small program in C that is compiled for the test.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use croze_integration_tests::Scene;
use libc::sock_filter;

use crate::profile::Profile;

/// The compiled helper.
pub(crate) struct Peer<'scene> {
    scene: &'scene Scene,
    program: PathBuf,
}

impl<'scene> Peer<'scene> {
    pub(crate) fn build(scene: &'scene Scene) -> Result<Self> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/peer.c");
        let program = scene.compile(source, "peer")?;
        Ok(Self { scene, program })
    }

    fn call(&self, mode: &str, input: &str) -> Result<Vec<u8>> {
        let number = fs::read_dir(self.scene.directory())?.count();
        let (from, to) = (
            self.scene.path(&format!("peer-{number}.in")),
            self.scene.path(&format!("peer-{number}.out")),
        );
        fs::write(&from, input)?;
        let words = [
            self.program.as_os_str(),
            mode.as_ref(),
            from.as_os_str(),
            to.as_os_str(),
        ];
        self.scene.call(&words)?.success()?;
        Ok(fs::read(&to)?)
    }

    /// libseccomp's programs for these profiles.
    pub(crate) fn compile(&self, profiles: &[&Profile]) -> Result<Vec<Vec<sock_filter>>> {
        let input: String = profiles.iter().map(|profile| profile.for_peer()).collect();
        let bytes = self.call("programs", &input)?;
        let mut rest = bytes.as_slice();
        let mut programs = Vec::new();
        while let Some((count, after)) = rest.split_first_chunk() {
            let length = 8 * u32::from_ne_bytes(*count) as usize;
            let (own, after) = after.split_at_checked(length).context("the program is whole")?;
            rest = after;
            programs.push(own.chunks_exact(8).map(instruction).collect());
        }
        anyhow::ensure!(programs.len() == profiles.len(), "a program for each profile");
        Ok(programs)
    }

    /// The names that libseccomp has for an architecture's numbers from one to another.
    pub(crate) fn names(&self, token: u32, first: u32, last: u32) -> Result<Vec<(String, u32)>> {
        let bytes = self.call("names", &format!("{token:x} {first:x} {last:x}\n"))?;
        let text = String::from_utf8(bytes)?;
        let lines = text.lines().map(|line| {
            let mut words = line.split(' ').skip(1);
            let name = words.next().context("a line has a name")?;
            Ok((
                name.to_owned(),
                words.next().context("a line has a number")?.parse()?,
            ))
        });
        lines.collect()
    }

    /// libseccomp's numbers of these names, by architecture (libseccomp's token); `None` where there is none.
    pub(crate) fn numbers(&self, wanted: &[(u32, &str)]) -> Result<Vec<Option<u32>>> {
        let input: String = wanted
            .iter()
            .map(|(token, name)| format!("{token:x} {name}\n"))
            .collect();
        let bytes = self.call("numbers", &input)?;
        String::from_utf8(bytes)?
            .lines()
            .map(|line| {
                let number: i64 = line.rsplit(' ').next().context("a line has a number")?.parse()?;
                // Those below zero are libseccomp's names for calls that an architecture does not have.
                Ok(u32::try_from(number).ok())
            })
            .collect()
    }
}

fn instruction(bytes: &[u8]) -> sock_filter {
    sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}
