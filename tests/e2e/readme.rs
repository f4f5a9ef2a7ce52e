//! README keeps its word: every pipeline in it runs, and its tables say what the programs say.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tutum::model::exit::Exit;

use super::support::http::{Answer, FakeHttp};
use super::support::{Running, Scratch, binary, command, run, shell, tool};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README")
}

/// A directory to run in, with stand-ins before the real programs: endless sources end, and PagerDuty is here.
fn stage(server: &FakeHttp, stream: &str) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let bin = scratch.path("bin");
    fs::create_dir(&bin).expect("it can be made");
    let stand_in = |name: &str, script: String| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    };
    let real = |name: &str| binary(name).display().to_string();
    let samples = root().join("tests/data/adapters");
    stand_in("tutum-stream", format!("exec {} --url {stream} --max-events 3 \"$@\"", real("tutum-stream")));
    stand_in("tutum-enrich", format!("exec {} --url {} \"$@\"", real("tutum-enrich"), stream.replace("ws:", "http:")));
    stand_in("to-pagerduty", format!("exec {} --url {} \"$@\"", real("to-pagerduty"), server.url("/v2/enqueue")));
    stand_in("docker", format!("cat {}", samples.join("docker-events.ndjson").display()));
    symlink(root().join("scripts"), scratch.path("scripts")).expect("a link can be made");
    fs::copy(root().join("scripts/demo.d/story.ndjson"), scratch.path("audit.ndjson")).expect("the story is there");
    (scratch, bin)
}

#[test]
fn every_pipeline_runs() {
    if !tool("jq") {
        return;
    }
    let readme = readme();
    let pipelines: Vec<&str> = readme.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert_eq!(pipelines.len(), 5, "README shows five pipelines");
    for pipeline in pipelines {
        let events = root().join("scripts/demo.d/story.ndjson");
        // The events begin once somebody listens, so the server gets them at a pace and again. It takes the shell's place, so that the end
        // of the test ends it, and with it the loop.
        let serve = format!(
            "exec tutum-serve --listen 127.0.0.1:0 --rate 50/s >/dev/null < <(while cat {}; do :; done)",
            events.display()
        );
        let serve = Running::start(shell(&serve));
        serve.until_stderr("listening on http://");
        let address = serve.stderr().split("http://").nth(1).unwrap_or_default().trim().to_owned();
        let server = FakeHttp::start(|request| match request.path.as_str() {
            "/v2/enqueue" => Answer::json(r#"{"status":"success"}"#).with_status(202),
            _ => Answer::text("ok"),
        });
        let (scratch, bin) = stage(&server, &format!("ws://{address}"));
        let mut command = shell(&format!(
            "set -o pipefail; cd '{}'; PATH='{}':$PATH; {pipeline}",
            scratch.path("").display(),
            bin.display()
        ));
        command.env("SLACK_URL", server.url("/slack")).env("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef");
        let finished = Running::start(command).finish();
        assert_eq!(finished.code, 0, "{pipeline}\n{}\n{}", finished.stdout, finished.stderr);
    }
}

#[test]
fn the_table_of_programs_says_what_the_programs_say() {
    let readme = readme();
    let mut programs: Vec<String> = fs::read_dir(root().join("src/bin"))
        .expect("there are programs")
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    programs.sort();
    for program in programs {
        let help = run(&program, ["-h"], "").expect_code(0).stdout;
        let about = help.lines().next().and_then(|line| line.split_once(": ")).expect("help begins with the name").1;
        assert!(readme.contains(&format!("| `{program}` | {about} |")), "README's line for {program}: {about}");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_programs() {
    let readme = readme();
    let help = run("to-slack", ["--help"], "").expect_code(0).stdout;
    for (exit, meaning, advice) in Exit::TABLE {
        let advice = if advice.is_empty() { String::new() } else { format!(" {advice}") };
        assert!(readme.contains(&format!("| {} | {meaning} |{advice} |", exit.code())), "{exit:?}");
        assert!(help.contains(&format!("  {}  ", exit.code())));
    }
}

#[test]
fn every_program_prints_help_version_man_page_and_completions() {
    for entry in fs::read_dir(root().join("src/bin")).expect("there are programs") {
        let path = entry.expect("it can be read").path();
        let program = path.file_stem().and_then(|stem| stem.to_str()).expect("a program has a name");
        for args in [
            &["-h"][..],
            &["--help"],
            &["--version"],
            &["--generate", "bash"],
            &["--generate", "zsh"],
            &["--generate", "fish"],
        ] {
            let finished = run(program, args, "").expect_code(0);
            assert!(finished.stdout.contains(program) && finished.stderr.is_empty(), "{program} {args:?}");
        }
        let scratch = Scratch::new();
        let page = run(program, ["--generate", "man"], "").expect_code(0).stdout;
        let page = scratch.write("page.1", page);
        if tool("groff") {
            let script = format!("groff -man -Tascii -P-cbou -ww '{}'", page.display());
            let finished = Running::start(shell(&script)).finish().expect_code(0);
            assert_eq!(finished.stderr, "", "{program}");
            assert!(finished.stdout.contains("EXIT STATUS"));
        }
        let completion = run(program, ["--generate", "bash"], "").stdout;
        let completion = scratch.write("completion", completion);
        let script = format!(
            "source '{}'; COMP_WORDS=({program} --dr); COMP_CWORD=1; _{}; echo \"${{COMPREPLY[@]}}\"",
            completion.display(),
            program.replace('-', "_")
        );
        let finished = Running::start(shell(&script)).finish().expect_code(0);
        assert!(finished.stdout.contains("--drain"), "{program}: {}", finished.stdout);
    }
}

#[test]
fn a_shell_at_a_terminal_completes_flags_values_and_files_with_spaces() {
    if !tool("script") {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("my keys")).expect("it can be made");
    scratch.write("my keys/the one", "");
    let words = scratch.path("words");
    let settings = format!(
        "source <('{}' --generate bash)\nto-pagerduty() {{ printf '<%s>' \"$@\" >'{}'; }}\n",
        binary("to-pagerduty").display(),
        words.display()
    );
    scratch.write("settings", settings);
    let typed = "to-pagerduty --key-file my\tth\t--ur\tx --region=e\t--api v2 --region u\t\nexit\n";
    let terminal =
        format!("cd '{}'; exec script -qec 'bash --rcfile settings -i' /dev/null", scratch.path("").display());
    let mut terminal = shell(&terminal);
    // Where the shell leaves its history.
    terminal.env("HOME", scratch.path(""));
    let finished = Running::start(terminal).input(typed.as_bytes()).finish();
    let expected = "<--key-file><my keys/the one><--url><x><--region=eu><--api><v2><--region><us>";
    assert_eq!(scratch.read("words"), expected, "{}", finished.stdout);
}

#[test]
fn the_demo_tells_its_story() {
    let directory = binary("tutum-filter").parent().expect("a program is in a directory").to_owned();
    let mut demo = std::process::Command::new(root().join("scripts/demo"));
    demo.arg("--bin-dir").arg(directory).env_remove("SLACK_URL").env_remove("PAGERDUTY_KEY");
    let finished = Running::start(demo).finish().expect_code(0);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for expected in [
        "slack     A Service on Tutum was updated.",
        "It belonged to the shop Stack.",
        "PAGERDUTY trigger: container web-2 stopped with exit code 137",
        "PAGERDUTY trigger: node fra-2 is Unreachable",
        "PAGERDUTY resolve: /api/v1/node/608d1e35-4c17-4072-8f9a-b25e31908f65/",
        "PAGERDUTY trigger: Service Redeploy failed",
        "PAGERDUTY trigger: Tutum Stream connection closed.",
        "== done:",
    ] {
        assert!(said.contains(expected), "{expected:?} in\n{said}");
    }
    assert!(!said.contains("not-for-your-eyes"));
}

#[test]
fn a_check_needs_no_network() {
    let finished = Running::start({
        let mut check = command("to-pagerduty", ["--check"]);
        check.env("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef");
        check
    });
    let finished = finished.finish().expect_code(0);
    assert_eq!(finished.stdout, "to-pagerduty: would send each event to https://events.pagerduty.com/…\n");
}
