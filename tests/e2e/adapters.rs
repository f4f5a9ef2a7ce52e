//! The adapters, over recorded output of real engines.

use super::support::{Running, Scratch, run, shell, tool, until};

#[test]
fn every_sample_gives_what_is_expected() {
    if !tool("jq") {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/adapters.sh");
    let finished = Running::start(std::process::Command::new(script)).finish();
    assert_eq!(finished.code, 0, "{}{}", finished.stdout, finished.stderr);
}

#[test]
fn what_engines_print_goes_through_filter_and_slack() {
    if !tool("jq") {
        return;
    }
    for (adapter, sample) in
        [("docker", "docker-events"), ("docker", "docker-podman-events"), ("podman", "podman-events")]
    {
        let script = format!(
            "cd '{}'; jq --unbuffered -c -f scripts/adapters/{adapter}.jq tests/data/adapters/{sample}.ndjson \
             | tutum-filter --type container --state Stopped --where /exit_code=3 \
             | to-slack --dry-run --text '{{{{ name }}}} stopped with exit code {{{{ exit_code }}}}'",
            env!("CARGO_MANIFEST_DIR")
        );
        let finished = Running::start(super::support::shell(&script)).finish().expect_code(0);
        assert!(finished.stdout.contains("stopped with exit code 3"), "{sample}: {}", finished.stdout);
    }
}

/// Every recorded sample, as it is expected of the adapters: each message names the object and never Tutum.
#[test]
fn messages_about_what_engines_print_name_the_object_in_plain_words() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adapters");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the samples are there").flatten() {
        let path = entry.path();
        if !path.to_string_lossy().ends_with(".expected.ndjson") {
            continue;
        }
        let sample = std::fs::read_to_string(&path).expect("a sample can be read");
        let slack = run("to-slack", ["--dry-run"], &sample).expect_code(0);
        let pagerduty = run("to-pagerduty", ["--dry-run", "--event", "trigger"], &sample).expect_code(0);
        assert_eq!(slack.lines().len(), sample.lines().count(), "{path:?}");
        for ((record, message), alert) in sample.lines().zip(slack.lines()).zip(pagerduty.lines()) {
            let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON");
            let (record, message, alert) = (read(record), read(message), read(alert));
            for said in [&message["text"], &alert["payload"]["summary"]] {
                let said = said.as_str().unwrap_or_else(|| panic!("no text for {record}"));
                assert!(said.contains(record["name"].as_str().expect("it has a name")), "{said} for {record}");
                assert!(!said.contains("Tutum"), "{said} for {record}");
                texts.push(said.to_owned());
            }
        }
    }
    for expected in [
        "Container crash stopped with exit code 3\nImage local/busybox, service web, stack shop, node node-1",
        "Pod report-hq8cd stopped with exit code 137 (SIGKILL): OOMKilled\nImage busybox:1.28, job report, namespace shop, node node-1",
        "pod web-7d9f5b8c6-pm4tz is not running: ImagePullBackOff (image registry.example/web:typo, deployment web, namespace shop, node node-1)",
        "Service shop_web was rolled back",
    ] {
        assert!(texts.iter().any(|text| text == expected), "nobody said {expected}");
    }
}
/// An engine that ends after a few events, and repeats from its beginning whatever it is asked for.
#[test]
fn events_are_followed_over_restarts_without_a_gap_or_a_repetition() {
    for (engine, sample) in [
        ("docker", "docker-events"),
        ("podman", "podman-events"),
        ("podman", "podman-5-documented"),
        ("podman", "podman-offset-documented"),
    ] {
        let scratch = Scratch::new();
        let recorded = format!("{}/tests/data/adapters/{sample}.ndjson", env!("CARGO_MANIFEST_DIR"));
        let lines = std::fs::read_to_string(&recorded).expect("it is there").lines().count();
        let (asked, runs) = (scratch.path("asked"), scratch.path("runs"));
        let stand_in = format!(
            "#!/bin/bash\necho \"$*\" >>'{}'; echo >>'{}'\nhead -n $(($(wc -l <'{}') * {lines} / 4)) '{recorded}'\n[ $(wc -l <'{}') -lt 5 ] || exec sleep 600\n",
            asked.display(),
            runs.display(),
            runs.display(),
            runs.display()
        );
        std::fs::create_dir(scratch.path("bin")).expect("it can be made");
        let program = scratch.write(&format!("bin/{engine}"), stand_in);
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let script = format!(
            "PATH='{}':$PATH; exec '{}/scripts/adapters/follow' {engine} '{}' --filter type=container",
            scratch.path("bin").display(),
            env!("CARGO_MANIFEST_DIR"),
            scratch.path("events").display()
        );
        let mut printed = String::new();
        // Killed between two events, and started again.
        let first = Running::start(shell(&script));
        until("the engine ended once", || first.stderr().contains("again in"));
        first.signal("KILL");
        printed += &first.finish().stdout;
        let second = Running::start(shell(&script));
        until("everything is printed", || (printed.clone() + &second.stdout()).lines().count() >= lines);
        second.signal("TERM");
        printed += &second.finish().expect_code(0).stdout;
        assert_eq!(printed, std::fs::read_to_string(&recorded).expect("it is there"), "{sample}");
        let asked = scratch.read("asked");
        let since: Vec<&str> = asked.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        assert!(since.len() > 2 && asked.lines().all(|line| line.contains(" --filter type=container")), "{asked}");
        assert!(since.iter().all(|at| at.len() == 30 && at.ends_with('Z')), "RFC 3339 with nanoseconds: {asked}");
    }
}

/// The loop that README has for Kubernetes: what each round lists again is no news.
#[test]
fn the_loop_around_kubectl_tells_nothing_twice() {
    if !tool("jq") {
        return;
    }
    let readme = include_str!("../../README.md");
    let watch = "while :; do kubectl get pods -A -w -o json --output-watch-events; sleep 1; done";
    assert!(readme.contains(&format!("`{watch}`")));
    let scratch = Scratch::new();
    let root = env!("CARGO_MANIFEST_DIR");
    let sample = format!("{root}/tests/data/adapters/kubernetes-nodes.ndjson");
    let rounds = scratch.path("rounds");
    std::fs::create_dir(scratch.path("bin")).expect("it can be made");
    // A node that stays, and in the third round one that is new.
    let stand_in = format!(
        "#!/bin/bash\necho >>'{0}'\nhead -n 1 '{sample}'\n[ $(wc -l <'{0}') -lt 3 ] || head -n 1 '{sample}' | sed 's/\"uid\":\"/&9/; s/\"name\":\"/&new-/'\n",
        rounds.display()
    );
    let program = scratch.write("bin/kubectl", stand_in);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let script = format!(
        "PATH='{}':$PATH; ({watch}) | jq --unbuffered -c -f '{root}/scripts/adapters/kubernetes.jq' | head -n 2",
        scratch.path("bin").display()
    );
    // The loop has no end of its own.
    let running = Running::start_group(shell(&script));
    until("both are told", || running.stdout().lines().count() == 2);
    let told = running.stdout();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0] != lines[1] && lines[1].contains("new-") && !lines[0].contains("new-"), "{told}");
}
