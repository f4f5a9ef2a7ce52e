//! The adapters, over recorded output of real engines.

use super::support::{Running, run, tool};

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
