//! Tells `--version` which commit an optimised build is of: `TUTUM_BUILD`, from the environment of whoever packages, else from git. Without either,
//! as from a source tarball, the version stands alone; and in debug builds, which else each commit would have compiled anew.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=TUTUM_BUILD");
    println!("cargo::rerun-if-changed=build.rs");
    let given = env::var("TUTUM_BUILD").ok().filter(|build| !build.trim().is_empty());
    let optimised = env::var("PROFILE").as_deref() == Ok("release");
    if let Some(build) = given.or_else(|| if optimised { from_git() } else { None }) {
        println!("cargo::rustc-env=TUTUM_BUILD={}", build.trim());
    }
}

/// Commit and day, if this folder is the root of a work tree: an unpacked crate may lie within somebody's own.
fn from_git() -> Option<String> {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from)?;
    let root = git(&here, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    // What moves with every commit and checkout.
    let log = here.join(git(&here, &["rev-parse", "--git-path", "logs/HEAD"])?);
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    git(&here, &["show", "--no-patch", "--abbrev=12", "--date=short", "--format=%h %cd", "HEAD"])
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
