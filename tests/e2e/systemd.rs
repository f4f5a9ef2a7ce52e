//! The shipped units and pipelines: what systemd-analyze says of the units, and the scripts run as a service manager runs them, with fakes at both ends.
//! `scripts/test-systemd` does the same under a real systemd.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};

use super::support::http::{Answer, FakeHttp};
use super::support::{Running, Scratch, binary, children, send_signal, shell, tool, until};

/// The most that `systemd-analyze security` may say, in tenths.
const EXPOSURE: &str = "15";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pipelines that are shipped, each an instance of the template unit.
fn pipelines() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("scripts/systemd/pipelines"))
        .expect("there are pipelines")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "sh").then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
        })
        .collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    names
}

#[test]
fn the_units_are_valid_and_hardened() {
    if !tool("systemd-analyze") {
        return;
    }
    for name in pipelines().iter().map(String::as_str).chain(["of-yours"]) {
        let unit = root().join(format!("scripts/systemd/tutum@{name}.service"));
        let verify = shell(&format!("systemd-analyze verify --man=no '{}'", unit.display()));
        let finished = Running::start(verify).finish().expect_code(0);
        // An unknown key is only told, with status 0.
        assert_eq!(format!("{}{}", finished.stdout, finished.stderr), "", "{name}");
        let security =
            format!("systemd-analyze security --no-pager --offline=true --threshold={EXPOSURE} '{}'", unit.display());
        Running::start(shell(&security)).finish().expect_code(0);
    }
}

#[test]
fn each_pipeline_has_settings_and_the_secrets_its_programs_look_for() {
    // Other names are not looked for: src/world/credentials.rs.
    let known = ["tutum-apikey", "pagerduty-key", "slack-url", "apic-password", "elasticsearch-api-key"];
    for name in pipelines() {
        let folder = root().join("scripts/systemd");
        assert!(folder.join(format!("pipelines/{name}.env")).exists(), "{name}");
        let drop_in = fs::read_to_string(folder.join(format!("tutum@{name}.service.d/pipeline.conf")));
        let drop_in = drop_in.unwrap_or_else(|error| panic!("{name}: {error}"));
        let script = fs::read_to_string(folder.join(format!("pipelines/{name}.sh"))).expect("it is there");
        let loaded: Vec<&str> = drop_in
            .lines()
            .filter_map(|line| line.strip_prefix("LoadCredential=")?.split_once(":/etc/tutum/credentials/"))
            .map(|(name, file)| {
                assert_eq!(name, file);
                name
            })
            .collect();
        for secret in &loaded {
            assert!(known.contains(secret), "{name}: {secret}");
            assert!(script.contains(secret), "{name}.sh does not tell of {secret}");
        }
        for (program, secret) in [
            ("to-slack", "slack-url"),
            ("to-pagerduty", "pagerduty-key"),
            ("to-elasticsearch", "elasticsearch-api-key"),
        ] {
            assert_eq!(script.contains(&format!("{program} ")), loaded.contains(&secret), "{name}: {program}");
        }
    }
}

/// Everything a pipeline finds on a host: the shared files, a state directory, stand-ins for what is not here.
struct Host {
    scratch: Scratch,
    slack: FakeHttp,
}

impl Host {
    fn new() -> Host {
        let scratch = Scratch::new();
        for directory in ["share", "state", "bin"] {
            fs::create_dir(scratch.path(directory)).expect("it can be made");
        }
        let link = |from: &str, to: &str| symlink(root().join(from), scratch.path(to)).expect("a link can be made");
        link("scripts/systemd/pipeline.sh", "share/pipeline.sh");
        link("scripts/adapters", "share/adapters");
        let slack = FakeHttp::start(|request| match request.path.as_str() {
            "/v2/enqueue" => Answer::json(r#"{"status":"success"}"#).with_status(202),
            _ => Answer::text("ok"),
        });
        Host { scratch, slack }
    }

    /// Puts a program before all others.
    fn stand_in(&self, name: &str, script: &str) -> PathBuf {
        let path = self.scratch.write(&format!("bin/{name}"), format!("#!/usr/bin/env bash\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
        path
    }

    /// Runs a shipped pipeline as the unit does, in a process group of its own.
    fn pipeline(&self, name: &str) -> Running {
        self.pipeline_with(name, &[])
    }

    fn pipeline_with(&self, name: &str, settings: &[(&str, &str)]) -> Running {
        let mut command = Command::new("env");
        command.args(settings.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(["bash", "-o", "pipefail", "-o", "errexit"]);
        command.arg(root().join(format!("scripts/systemd/pipelines/{name}.sh")));
        self.run(command)
    }

    fn script(&self, script: &Path) -> Running {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-o", "errexit"]).arg(script);
        self.run(command)
    }

    fn run(&self, mut command: Command) -> Running {
        command.env_clear();
        let own = binary("tutum-filter").parent().expect("a program is in a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{own}:{path}", self.scratch.path("bin").display()))
            .env("HOME", "/nonexistent")
            .env("TUTUM_SHARE", self.scratch.path("share"))
            .env("STATE_DIRECTORY", self.scratch.path("state"))
            .env("SLACK_URL", self.slack.url("/slack"))
            .env("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef");
        for (name, value) in [("STREAM", "ws"), ("REST", "http")] {
            command.env(format!("TUTUM_{name}_HOST"), format!("{value}://{}", self.scratch.read("address")));
        }
        // As the unit's end takes all processes with it, so does the test's.
        Running::start_group(command)
    }

    /// A Stream API that the stream pipeline is led to, with events again and again at a pace, or none.
    fn serve(&self, rate: Option<&str>) -> Running {
        let story = root().join("scripts/demo.d/story.ndjson");
        let serve = Running::start(shell(&match rate {
            Some(rate) => format!(
                "exec tutum-serve --listen 127.0.0.1:0 --rate {rate} >/dev/null < <(while cat '{}'; do :; done)",
                story.display()
            ),
            None => "exec tutum-serve --listen 127.0.0.1:0 >/dev/null </dev/null".to_owned(),
        }));
        serve.until_stderr("listening on http://");
        let address = serve.stderr().split("http://").nth(1).unwrap_or_default().trim().to_owned();
        self.scratch.write("address", address);
        self.lead_to_the_pager();
        serve
    }

    /// PagerDuty is where Slack is.
    fn lead_to_the_pager(&self) {
        let pager = binary("to-pagerduty");
        self.stand_in(
            "to-pagerduty",
            &format!("exec -a to-pagerduty '{}' --url '{}' \"$@\"", pager.display(), self.slack.url("/v2/enqueue")),
        );
    }

    /// Docker's client with an engine of one file, which remembers and goes on.
    fn engine(&self) {
        self.scratch.write("engine", "");
        let engine = self.scratch.path("engine");
        self.stand_in(
            "docker",
            &format!(
                r#"[ "$1 $2 $4 $5" = 'events --since --format {{{{json .}}}}' ] || exit 64
since=$(date -d "$3" +%s%N)
exec jq --unbuffered -c --argjson since "$since" 'select(.timeNano >= $since)' < <(exec tail --pid=$$ -n +1 -f '{}')"#,
                engine.display()
            ),
        );
    }

    /// The engine's next events: containers that fail, each in a millisecond of its own, but for the last two.
    fn containers_die(&self, numbers: std::ops::Range<u64>) {
        use std::io::Write as _;
        let mut engine = fs::OpenOptions::new().append(true).open(self.scratch.path("engine")).expect("it is there");
        for number in numbers.clone() {
            let nanoseconds = 4_102_444_800_000_000_000 + number.min(numbers.end - 2) * 1_000_000;
            let event = format!(
                r#"{{"Type":"container","Action":"die","Actor":{{"ID":"c{number}","Attributes":{{"exitCode":"3","name":"web-{number}."}}}},"time":{},"timeNano":{nanoseconds}}}"#,
                nanoseconds / 1_000_000_000,
            );
            writeln!(engine, "{event}").expect("it can be written");
        }
    }

    /// How often the chat was told of a container.
    fn told(&self, number: u64) -> usize {
        let name = format!("web-{number}. stopped with exit code 3");
        self.slack.requests().iter().map(|request| request.text().matches(&name).count()).sum()
    }
}

/// All processes below one, with their names.
fn descendants(process: u32) -> Vec<(u32, String)> {
    let mut found = children(process);
    let below: Vec<_> = found.iter().flat_map(|(id, _)| descendants(*id)).collect();
    found.extend(below);
    found
}

fn stop(running: &Running) {
    let group = i32::try_from(running.id()).ok().and_then(Pid::from_raw).expect("it is a process id");
    // As systemd does: to all of the group, and twice.
    for _ in 0..2 {
        kill_process_group(group, Signal::TERM).expect("it runs");
    }
}

/// Stops a pipeline with jq in the middle of a busy stream, and compares what its ends count.
fn nothing_is_lost(start: fn(&Host, &Path) -> Running, stop: fn(&Running)) {
    let host = Host::new();
    let _serve = host.serve(Some("500/s"));
    let out = host.scratch.path("out");
    let script = host.scratch.write(
        "script",
        format!(
            ". \"$TUTUM_SHARE/pipeline.sh\"\ntutum-stream --stats | foreign_stage jq --unbuffered -c . | tutum-filter --stats >'{}'\n",
            out.display()
        ),
    );
    let running = start(&host, &script);
    until("events flow", || host.scratch.read("out").lines().count() > 300);
    stop(&running);
    let finished = running.finish().expect_code(0);
    let lines = host.scratch.read("out").lines().count();
    for program in ["tutum-stream", "tutum-filter"] {
        let accounts = finished.stderr.lines().find(|line| line.contains(&format!("{{\"program\":\"{program}\"")));
        let accounts: serde_json::Value = serde_json::from_str(accounts.expect("it tells its accounts")).unwrap();
        assert_eq!(accounts["out"].as_u64(), Some(lines as u64), "{program}");
    }
    assert!(host.scratch.read("out").lines().last().unwrap().contains(r#""state":"Stopped""#));
}

#[test]
fn term_to_the_group_loses_nothing_with_jq_in_the_middle() {
    if tool("jq") {
        nothing_is_lost(Host::script, stop);
    }
}

#[test]
fn term_to_a_container_reaches_every_stage() {
    if tool("jq") {
        // An engine tells only process 1, and only once.
        let in_a_container = |host: &Host, script: &Path| {
            let mut command = Command::new(root().join("scripts/image/entrypoint"));
            command.arg(script);
            host.run(command)
        };
        nothing_is_lost(in_a_container, |running| send_signal(running.id(), "TERM"));
    }
}

#[test]
fn the_stream_pipeline_pages_and_chats_and_stops_in_good_order() {
    let host = Host::new();
    let _serve = host.serve(Some("20/s"));
    let running = host.pipeline("stream");
    let reached = |path: &str| host.slack.requests().iter().any(|request| request.path == path);
    until("the pager and the chat are told", || reached("/v2/enqueue") && reached("/slack"));
    stop(&running);
    let finished = running.finish();
    // What the drain's time left over is in the spools, and 1.
    assert!(matches!(finished.code, 0 | 1), "{finished:?}");
    assert_eq!(finished.stdout, "");
}

/// Kills one stage of a pipeline whose source has nothing to say; the script must end, and ask for a restart or none.
fn a_killed_stage_ends_it(pipeline: &str, stage: &str, prepare: fn(&Host) -> Option<Running>) {
    let host = Host::new();
    let _server = prepare(&host);
    let running = host.pipeline(pipeline);
    let find = || descendants(running.id()).into_iter().find(|(_, name)| name == stage);
    until("the stages run", || {
        let names: Vec<String> = descendants(running.id()).into_iter().map(|(_, name)| name).collect();
        ["to-slack", "tutum-filter", stage].iter().all(|stage| names.iter().any(|name| name == stage))
            && (pipeline != "docker" || names.iter().filter(|name| *name == "jq").count() >= 3)
            && (pipeline != "stream"
                || running.stderr().contains("connected")
                || host.scratch.path("state/seen").exists())
    });
    send_signal(find().expect("it runs").0, "KILL");
    let finished = running.finish();
    assert!(!matches!(finished.code, 2 | 3), "{pipeline} without {stage}: {finished:?}");
}

#[test]
fn a_killed_stage_of_the_stream_pipeline_ends_it() {
    for stage in ["tutum-stream", "tutum-enrich", "to-pagerduty", "tutum-filter", "to-slack"] {
        a_killed_stage_ends_it("stream", stage, |host| Some(host.serve(None)));
    }
}

#[test]
fn a_killed_stage_of_the_docker_pipeline_ends_it() {
    if !tool("jq") {
        return;
    }
    for stage in ["jq", "tutum-filter", "to-slack"] {
        a_killed_stage_ends_it("docker", stage, |host| {
            host.engine();
            None
        });
    }
}

#[test]
fn a_restart_of_the_docker_pipeline_misses_and_repeats_nothing() {
    if !tool("jq") {
        return;
    }
    let host = Host::new();
    host.engine();
    for round in 0..3 {
        // Some before it runs (but for the first start, which begins with now), some while it runs.
        host.containers_die(round * 10..round * 10 + 5);
        let running = host.pipeline("docker");
        until("the chat is told what was missed", || host.told(round * 10 + 4) == 1);
        host.containers_die(round * 10 + 5..round * 10 + 10);
        until("the pipeline came so far", || {
            host.scratch.read("state/passed").contains(&format!("web-{}.", round * 10 + 9))
        });
        stop(&running);
        running.finish().expect_code(0);
    }
    for number in 0..30 {
        assert_eq!(host.told(number), 1, "web-{number}");
    }
}

#[test]
fn three_then_two_win_over_every_other_status() {
    let host = Host::new();
    for (stages, expected) in [
        ("true | true", 0),
        ("(exit 1) | true", 1),
        ("(exit 1) | (exit 4)", 4),
        ("(exit 4) | (exit 1)", 1),
        ("(exit 3) | (exit 2) | (exit 4)", 3),
        ("(exit 4) | (exit 2) | (exit 3)", 3),
        ("(exit 137) | (exit 2) | (exit 1) | true", 2),
        ("true | no-such-program | (exit 1)", 2),
        // What a foreign program means by 2 and 3 is not what we mean.
        ("foreign_source bash -c 'exit 3' | cat", 4),
        ("foreign_source printf '{' | foreign_stage jq .", 4),
        ("foreign_source no-such-program | cat", 2),
        ("foreign_source true | foreign_stage cat", 0),
        ("required PATH NOT_SET", 2),
    ] {
        let script = host.scratch.write("script", format!(". \"$TUTUM_SHARE/pipeline.sh\"\n{stages}\n"));
        let finished = host.script(&script).finish();
        assert_eq!(finished.code, expected, "{stages}: {finished:?}");
    }
}

#[test]
fn the_pager_goes_on_when_the_chat_refuses_its_webhook() {
    let mut host = Host::new();
    let _serve = host.serve(Some("20/s"));
    let dead = Arc::new(AtomicBool::new(true));
    let chat = Arc::clone(&dead);
    host.slack = FakeHttp::start(move |request| match request.path.as_str() {
        "/v2/enqueue" => Answer::json(r#"{"status":"success"}"#).with_status(202),
        _ if chat.load(Ordering::Relaxed) => Answer::text("invalid_token").with_status(403),
        _ => Answer::text("ok"),
    });
    host.lead_to_the_pager();
    let count = |path: &str| host.slack.requests().iter().filter(|request| request.path == path).count();
    let running = host.pipeline_with("stream", &[("OPTIONAL_SINK_PAUSE", "1")]);
    let told = "/stream.sh: to-slack ended with 3: the rest goes on without it, and it is tried again in 1 seconds\n";
    // Told each time that it is tried, while the pager gets more and more.
    for _ in 0..2 {
        let (refusals, pages) = (running.stderr().matches(told).count(), count("/v2/enqueue"));
        until("it is told, and people are paged", || {
            running.stderr().matches(told).count() > refusals && count("/v2/enqueue") > pages
        });
    }
    // The chat comes back by itself.
    dead.store(false, Ordering::Relaxed);
    let refused = count("/slack");
    until("it chats", || count("/slack") > refused + 1);
    stop(&running);
    // Neither 0, for the chat missed something, nor 3, with which it would stay down.
    running.finish().expect_code(1);
}

#[test]
fn the_pager_goes_on_without_a_webhook_and_is_read_to_the_end() {
    let host = Host::new();
    let _serve = host.serve(Some("500/s"));
    let script = host.scratch.write(
        "script",
        ". \"$TUTUM_SHARE/pipeline.sh\"\nSLACK_URL=none\ntutum-stream --stats | tutum-filter --stats | optional_sink to-slack >/dev/null\n",
    );
    let running = host.script(&script);
    // Before it listens, it has not learned yet that TERM is meant for it.
    running.until_stderr("to-slack ended with 2: the rest goes on without it").until_stderr(": open\n");
    stop(&running);
    let finished = running.finish().expect_code(1);
    let accounts: Vec<serde_json::Value> = ["tutum-stream", "tutum-filter"]
        .map(|program| {
            let start = format!("{{\"program\":\"{program}\"");
            let line = finished.stderr.lines().rfind(|line| line.contains(&start)).expect("it tells its accounts");
            serde_json::from_str(line).expect("accounts are JSON")
        })
        .into();
    assert!(accounts[0]["out"].as_u64() > Some(0));
    assert_eq!(accounts[0]["out"], accounts[1]["out"], "{}", finished.stderr);
}

#[test]
fn a_refused_credential_of_what_cannot_be_left_out_ends_the_pipeline_with_3() {
    let mut host = Host::new();
    let _serve = host.serve(Some("20/s"));
    host.slack = FakeHttp::start(|request| match request.path.as_str() {
        "/v2/enqueue" => Answer::text("").with_status(401),
        _ => Answer::text("ok"),
    });
    host.lead_to_the_pager();
    host.pipeline("stream").finish().expect_code(3);
    if tool("jq") {
        host.slack = FakeHttp::start(|_| Answer::text("invalid_token").with_status(403));
        host.engine();
        host.containers_die(0..5);
        host.pipeline("docker").finish().expect_code(3);
    }
}

#[test]
fn the_aci_pipeline_hands_its_settings_on() {
    let host = Host::new();
    host.stand_in("aci-stream", "printf '%s\\n' \"$*\" >&2");
    host.stand_in("to-elasticsearch", "cat >/dev/null; printf '%s\\n' \"$*\" >&2");
    let script = host.scratch.write(
        "script",
        format!(
            "export APIC_URL=https://a APIC_USER=jo APIC_TARGETS='fvTenant uni/tn-x' ELASTICSEARCH_URL=https://e\n. '{}'\n",
            root().join("scripts/systemd/pipelines/aci.sh").display()
        ),
    );
    let finished = host.script(&script).finish().expect_code(0);
    assert!(finished.stderr.contains("--resync fvTenant uni/tn-x\n"), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("--url https://e --index aci-{{ received_at[:10] }} --spool "),
        "{}",
        finished.stderr
    );
    host.pipeline("aci").finish().expect_code(2);
}
