//! What is handed out: the version with its commit, the tour of the suite, the packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use tutum::model::exit::Exit;

use super::support::{Running, Scratch, run, shell, tool};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The programs, by what there is in `src/bin`.
fn programs() -> Vec<String> {
    let mut programs: Vec<String> = fs::read_dir(root().join("src/bin"))
        .expect("there are programs")
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    programs.sort();
    programs
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(["-c", "user.name=Jo", "-c", "user.email=jo@example.org"]).args(arguments);
    succeed(command.env("GIT_COMMITTER_DATE", "2026-11-20T12:00:00Z"))
}

/// What build.rs tells cargo about a folder.
fn told(build: &Path, folder: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(build);
    command.env_remove("TUTUM_BUILD").env("CARGO_MANIFEST_DIR", folder).envs(variables.iter().copied());
    succeed(&mut command)
}

#[test]
fn an_optimised_build_knows_its_commit_and_none_elses() {
    if !tool("git") {
        return;
    }
    let scratch = Scratch::new();
    let build = scratch.path("build");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    succeed(Command::new(rustc).args(["--edition=2024", "-o"]).arg(&build).arg(root().join("build.rs")));
    let tree = scratch.path("tree");
    fs::create_dir_all(tree.join("vendor/tutum")).expect("it can be made");
    let release = ("PROFILE", "release");
    assert!(!told(&build, &tree, &[release]).contains("rustc-env"), "there is no repository");
    git(&tree, &["init", "-q"]);
    assert!(!told(&build, &tree, &[release]).contains("rustc-env"), "there is no commit");
    git(&tree, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let commit = git(&tree, &["rev-parse", "HEAD"])[..12].to_owned();
    let of_the_commit = format!("cargo::rustc-env=TUTUM_BUILD={commit} 2026-11-20\n");
    let release_build = told(&build, &tree, &[release]);
    assert!(release_build.contains(&of_the_commit), "{release_build}");
    assert!(release_build.contains("rerun-if-changed=") && release_build.contains("logs/HEAD\n"), "{release_build}");
    assert!(!told(&build, &tree, &[("PROFILE", "debug")]).contains("rustc-env"), "a debug build");
    let inner = tree.join("vendor/tutum");
    assert!(!told(&build, &inner, &[release]).contains("rustc-env"), "somebody else's commit");
    let packaged = told(&build, &inner, &[("TUTUM_BUILD", "1234 2026-01-01"), ("PROFILE", "debug")]);
    assert!(packaged.contains("cargo::rustc-env=TUTUM_BUILD=1234 2026-01-01\n"), "{packaged}");
}

#[test]
fn the_version_is_that_of_the_package() {
    for program in programs() {
        let version = run(&program, ["--version"], "").expect_code(0).stdout;
        let plain = format!("{program} {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(version.split(" (").next().map(str::trim_end), Some(plain.as_str()));
    }
}

/// Text without the line breaks and spaces of a layout.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tour_says_what_the_programs_say() {
    if !tool("groff") {
        return;
    }
    let script = format!("groff -man -Tascii -P-cbou -rHY=0 -rLL=500n -ww '{}/man/tutum.7'", root().display());
    let finished = Running::start(shell(&script)).finish().expect_code(0);
    assert_eq!(finished.stderr, "");
    let page = flowing(&finished.stdout);
    for (exit, meaning, advice) in Exit::TABLE {
        let advice = if advice.is_empty() { String::new() } else { format!(" (a supervisor should {advice})") };
        assert!(page.contains(&format!(" {} {meaning}{advice} ", exit.code())), "{exit:?}");
    }
    let mut known = String::new();
    for program in programs() {
        let short = run(&program, ["-h"], "").expect_code(0).stdout;
        let about = short.lines().next().and_then(|line| line.split_once(": ")).expect("help begins with the name").1;
        assert!(page.contains(&format!("{program}(1) {about} ")), "the line of {program}: {about}");
        known += &run(&program, ["--help"], "").expect_code(0).stdout;
    }
    // Of the tour's flags only jq's, Docker's and systemctl's are not ours.
    let others = ["--unbuffered", "--format", "--now"];
    let words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| word.starts_with("--"));
    for flag in words {
        assert!(others.contains(&flag) || known.contains(flag), "{flag}");
    }
    for entry in fs::read_dir(root().join("scripts/systemd/pipelines")).expect("there are pipelines").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let unit = format!("tutum@{}", path.file_stem().unwrap_or_default().to_string_lossy());
            assert!(page.contains(&format!(" {unit} ")), "{unit}");
        }
    }
}
