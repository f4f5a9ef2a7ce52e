//! The adapters, over recorded output of real engines.

use super::support::{Running, tool};

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
