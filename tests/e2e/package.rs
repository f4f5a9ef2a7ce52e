//! What is handed out: the version with its commit, the tour of the suite, the packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tutum::model::exit::Exit;

use super::support::{Running, Scratch, binary, run, shell, tool};

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

/// Runs scripts/package over stand-ins that start the built programs: these have symbols, and would take a minute to compress.
fn package(scratch: &Scratch, out: &str) -> PathBuf {
    let bin = scratch.path("bin");
    fs::create_dir_all(&bin).expect("it can be made");
    for program in programs() {
        let stand_in = format!("#!/bin/sh\nexec '{}' \"$@\"\n", binary(&program).display());
        let path = scratch.write(&format!("bin/{program}"), stand_in);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    }
    // The one that tells whether the programs are static.
    succeed(Command::new("strip").arg("-o").arg(bin.join("aci-stream")).arg(binary("aci-stream")));
    let mut command = Command::new(root().join("scripts/package"));
    command.env("PACKAGE_LEVEL", "1").env("SOURCE_DATE_EPOCH", "1790000000");
    let out = scratch.path(out);
    succeed(command.arg("--bin-dir").arg(&bin).arg("--out").arg(&out));
    out
}

/// The paths in a listing, those of folders with a slash at the end.
fn paths(listing: &str) -> Vec<String> {
    listing.lines().map(|line| line.split_whitespace().nth(5).unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_packages_hold_everything_and_are_the_same_each_time() {
    if !tool("dpkg-deb") {
        return;
    }
    let scratch = Scratch::new();
    let (out, again) = (package(&scratch, "out"), package(&scratch, "again"));
    let mut files: Vec<PathBuf> =
        fs::read_dir(&out).expect("it is there").flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        let other = again.join(file.file_name().expect("a file has a name"));
        assert!(fs::read(file).unwrap() == fs::read(other).unwrap(), "{}", file.display());
        if file.extension().is_some_and(|extension| extension == "sha256") {
            succeed(Command::new("sha256sum").arg("--check").arg(file).current_dir(&out));
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let find = |end: &str| files.iter().find(|file| file.to_string_lossy().ends_with(end)).expect("it was made");
    let tar = succeed(Command::new("tar").arg("-tvf").arg(find(".tar.gz")));
    let deb = succeed(Command::new("dpkg-deb").arg("--contents").arg(find(".deb")));
    assert!(tar.lines().all(|line| line.contains(" 0/0 ")) && deb.lines().all(|line| line.contains(" root/root ")));
    let name = find(".tar.gz").file_name().unwrap().to_string_lossy().replace(".tar.gz", "");
    assert!(name.starts_with(&format!("tutum-{version}-")), "{name}");
    let (listing_of_tar, listing_of_deb) = (tar, deb);
    let (tar, deb) = (paths(&listing_of_tar), paths(&listing_of_deb));
    for program in programs() {
        for file in [
            format!("bin/{program}"),
            format!("share/man/man1/{program}.1"),
            format!("share/bash-completion/completions/{program}"),
            format!("share/fish/vendor_completions.d/{program}.fish"),
            format!("share/zsh/site-functions/_{program}"),
        ] {
            assert!(tar.contains(&format!("{name}/{file}")), "{file}");
            let packed = file.replace(".1", ".1.gz").replace("site-functions", "vendor-completions");
            assert!(deb.contains(&format!("./usr/{packed}")), "{packed}");
        }
    }
    for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "share/man/man7/tutum.7"] {
        assert!(tar.contains(&format!("{name}/{file}")), "{file}");
    }
    for file in ["lib/systemd/system/tutum@.service", "share/tutum/pipeline.sh", "share/tutum/adapters/docker.jq"] {
        assert!(tar.contains(&format!("{name}/{file}")) && deb.contains(&format!("./usr/{file}")), "{file}");
    }
    for file in ["etc/tutum/stream.sh", "etc/tutum/stream.env", "etc/tutum/credentials/"] {
        assert!(tar.contains(&format!("{name}/{file}")) && deb.contains(&format!("./{file}")), "{file}");
    }
    for file in ["share/tutum/adapters/follow", "share/tutum/recipes/fallback", "share/tutum/bus/kafka-partition"] {
        let modes = |listing: &str| listing.lines().any(|line| line.ends_with(file) && line.starts_with("-rwxr-xr-x"));
        assert!(modes(&listing_of_tar) && modes(&listing_of_deb), "{file} can be run");
    }
    let depends = succeed(Command::new("dpkg-deb").arg("--field").arg(find(".deb")).arg("Depends"));
    assert_eq!(depends, "libc6 (>= 2.34)\n", "the programs of a test are dynamic");
    let unpacked = scratch.path("unpacked");
    fs::create_dir(&unpacked).expect("it can be made");
    succeed(Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(find(".tar.gz")));
    let version_of = unpacked.join(&name).join("bin/to-slack");
    assert!(succeed(Command::new(version_of).arg("--version")).starts_with(&format!("to-slack {version}")));
    let script = fs::read_to_string(unpacked.join(&name).join("etc/tutum/stream.sh")).expect("it is there");
    assert!(script.contains("/usr/local/share/tutum}/pipeline.sh"), "a tarball goes to /usr/local");
}

#[test]
fn it_packages_in_a_folder_with_spaces_and_says_how_it_is_used() {
    let script = root().join("scripts/package");
    let scratch = Scratch::new();
    let tree = scratch.path("a folder with spaces");
    for folder in ["scripts", "src/bin", "bin"] {
        fs::create_dir_all(tree.join(folder)).expect("it can be made");
    }
    fs::copy(&script, tree.join("scripts/package")).expect("it can be copied");
    fs::write(tree.join("Cargo.toml"), "version = \"0.0.0\"\n").expect("it can be written");
    fs::write(tree.join("src/bin/to-nowhere.rs"), "").expect("it can be written");
    let cargo = tree.join("bin/cargo");
    fs::write(&cargo, "#!/bin/sh\nprintf %s \"$CARGO_ENCODED_RUSTFLAGS\"\nexit 101\n").expect("it can be written");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    let package =
        format!("PATH='{}':$PATH '{}' --target x", tree.join("bin").display(), tree.join("scripts/package").display());
    let finished = Running::start(shell(&package)).finish().expect_code(101);
    let flags: Vec<&str> = finished.stdout.split('\x1f').collect();
    assert!(flags.contains(&format!("--remap-path-prefix={}=.", tree.display()).as_str()), "{flags:?}");
    assert_eq!(flags[..2], ["-C", "target-feature=+crt-static"]);
    for (wrong, said) in
        [("--bin-dir", "usage: "), ("--help", "usage: "), ("--target x --bin-dir /nonexistent", "/aci-stream: no such")]
    {
        let finished = Running::start(shell(&format!("'{}' {wrong}", script.display()))).finish().expect_code(2);
        assert!(finished.stderr.contains(said), "{wrong}: {}", finished.stderr);
    }
}
