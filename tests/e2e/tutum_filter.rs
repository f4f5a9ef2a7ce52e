//! tutum-filter, and through it what every stage that reads records does.

use super::support::{Finished, PATIENCE, Running, Scratch, command, run, shell};

fn filter(args: &[&str], input: impl AsRef<[u8]>) -> Finished {
    run("tutum-filter", args, input)
}

const EVENTS: &str = concat!(
    r#"{"type":"service","action":"update","state":"Running","resource_uri":"/api/v1/service/5b0f/","n":1.10}"#,
    "\n",
    r#"{"type":"node","action":"update","state":"Unreachable","resource_uri":"/api/v1/node/9c1e/"}"#,
    "\n",
    r#"{"type":"stream","action":"open","state":"Connected","resource_uri":"/v1/events"}"#,
    "\n",
);

#[test]
fn events_that_match_pass_as_they_came() {
    let finished = filter(&["--lifecycle", "--type", "service"], EVENTS).expect_code(0);
    assert_eq!(finished.lines(), [EVENTS.lines().next().unwrap(), EVENTS.lines().last().unwrap()]);
    assert_eq!(finished.stderr, "");
}

#[test]
fn a_line_comes_out_while_the_input_is_open_and_silent() {
    let mut running = Running::start(command("tutum-filter", [""; 0]));
    running.write("{\"a\":1}\n");
    assert_eq!(running.line(), r#"{"a":1}"#);
    running.write("{\"a\":2}");
    running.end_input();
    assert_eq!(running.line(), r#"{"a":2}"#);
    running.finish().expect_code(0);
}

#[test]
fn input_as_files_and_editors_make_it() {
    let finished = filter(&[], "\u{feff}{\"a\":1}\r\n\r\n  \n {\"b\" : 2} \n{\"c\":3}").expect_code(0);
    assert_eq!(finished.stdout, "{\"a\":1}\n {\"b\" : 2} \n{\"c\":3}\n");
    assert_eq!(filter(&[], "").expect_code(0).stdout, "");
}

#[test]
fn faulty_lines_are_told_kept_and_remembered() {
    let scratch = Scratch::new();
    let rejects = scratch.path("rejects");
    let input = b"{\"a\":1}\nhunter22\r\n[1]\n{\"a\":\"\xff\"}\n{\"b\":2}\n";
    let finished = run("tutum-filter", ["--stats", "--rejects", rejects.to_str().unwrap()], input).expect_code(1);
    assert_eq!(finished.stdout, "{\"a\":1}\n{\"b\":2}\n");
    assert_eq!(std::fs::read(&rejects).unwrap(), b"hunter22\r\n[1]\n{\"a\":\"\xff\"}\n");
    assert!(
        finished.stderr.contains("tutum-filter: line 2: not JSON: expected value at column 1\n"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains(r#""in":5,"out":2,"faulty":3,"dropped":0"#), "{}", finished.stderr);
    assert!(!finished.stderr.contains("hunter22"));
}

#[test]
fn many_faulty_lines_are_not_many_diagnostics() {
    let finished = filter(&[], "x\n".repeat(5000)).expect_code(1);
    assert_eq!(finished.stderr.lines().count(), 12, "{}", finished.stderr);
    assert!(finished.stderr.lines().last().unwrap().contains("1000 faulty lines so far"));
}

#[test]
fn a_line_of_ten_megabytes_passes_and_one_beyond_the_limit_does_not() {
    let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(10 << 20));
    assert_eq!(filter(&[], &long).expect_code(0).stdout, long);
    let scratch = Scratch::new();
    let rejects = scratch.path("rejects");
    let args = ["--max-line", "1MiB", "--rejects", rejects.to_str().unwrap()];
    let finished = run("tutum-filter", args, format!("{{\"b\":1}}\n{long}{{\"c\":1}}\n")).expect_code(1);
    assert_eq!(finished.stdout, "{\"b\":1}\n{\"c\":1}\n");
    assert_eq!(finished.stderr, "tutum-filter: line 2: too long (--max-line)\n");
    assert_eq!(std::fs::read_to_string(&rejects).unwrap(), long);
}

#[test]
fn wrong_usage_is_code_2_and_names_the_flag() {
    for (args, message) in [
        (&["--frob"][..], "--frob: unknown flag"),
        (&["--where", "a/b"], "--where: a JSON pointer begins with \"/\""),
        (&["--max-events", "x"], "--max-events: expected a whole number, got \"x\""),
        (&["--type"], "--type: missing LIST"),
        (&["--except"], "--except: no predicate follows"),
        (&["file.json"], "file.json: unexpected argument"),
        (&["--debounce", "1s"], "--debounce: unknown flag"),
        (&["--rejects", "/nonexistent/x"], "--rejects: /nonexistent/x: No such file"),
    ] {
        let finished = filter(args, "").expect_code(2);
        assert!(finished.stderr.starts_with(&format!("tutum-filter: {message}")), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1);
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for trap in ["", "trap '' PIPE;"] {
        let script = format!(
            "{trap} (while echo '{{\"a\":1}}'; do :; done) 2>/dev/null | tutum-filter | head -1; echo \"${{PIPESTATUS[1]}}\""
        );
        let finished = Running::start(shell(&script)).finish();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("{\"a\":1}\n0\n", ""), "{trap}");
    }
}

#[test]
fn an_idle_stage_notices_its_readers_death() {
    // The input stays open for as long as a test waits, so only the reader's end can end it.
    let script = format!(
        "exec 3< <(exec sleep {} 2>/dev/null); sleeper=$!; tutum-filter <&3 | true; echo \"${{PIPESTATUS[0]}}\"; kill $sleeper",
        PATIENCE.as_secs()
    );
    let begun = std::time::Instant::now();
    let finished = Running::start(shell(&script)).finish();
    assert_eq!(finished.stdout, "0\n", "{}", finished.stderr);
    assert!(begun.elapsed() < PATIENCE / 2, "it took {:?}", begun.elapsed());
}

#[test]
fn a_full_disk_is_told_and_is_code_4() {
    let finished = Running::start(shell("echo '{\"a\":1}' | tutum-filter >/dev/full")).finish().expect_code(4);
    assert_eq!(finished.stderr, "tutum-filter: standard output: No space left on device (os error 28)\n");
}

#[test]
fn after_term_it_goes_on_to_the_end_of_its_input() {
    let mut running = Running::start(command("tutum-filter", ["--stats"]));
    running.write("{\"a\":1}\n");
    running.line();
    running.signal("TERM").signal("TERM").signal("USR1").until_stderr(r#""in":1"#);
    running.write("{\"a\":2}\n");
    assert_eq!(running.line(), r#"{"a":2}"#);
    let finished = running.finish().expect_code(0);
    assert!(finished.stderr.contains(r#""in":2,"out":2"#), "{}", finished.stderr);
}

#[test]
fn after_term_an_input_that_does_not_end_is_given_up() {
    let mut running = Running::start(command("tutum-filter", ["--drain", "100ms"]));
    running.write("{\"a\":1}\n");
    running.line();
    running.signal("TERM").until_stderr("standard input: had not ended");
    running.finish().expect_code(1);
}

#[test]
fn a_second_int_ends_at_once() {
    let mut running = Running::start(command("tutum-filter", [""; 0]));
    running.write("{\"a\":1}\n");
    running.line();
    running.signal("INT").signal("USR1").until_stderr("\"in\":1").signal("INT");
    let begun = std::time::Instant::now();
    while !running.has_ended() {
        assert!(begun.elapsed() < PATIENCE);
    }
    running.finish().expect_code(130);
}

#[test]
fn counts_and_limits() {
    assert_eq!(filter(&["--count", "--type", "service"], EVENTS).expect_code(0).stdout, "1\n");
    assert_eq!(filter(&["--max-events", "1"], EVENTS).expect_code(0).lines().len(), 1);
    filter(&["--exit-status", "--type", "stack"], EVENTS).expect_code(1);
    let keyed = filter(&["--key-tab", "resource_uri", "--type", "node"], EVENTS).expect_code(0).stdout;
    assert_eq!(keyed, format!("/api/v1/node/9c1e/\t{}\n", EVENTS.lines().nth(1).unwrap()));
}

/// Not a fuzzer, but the same idea with no tool: damaged records are faulty or pass unchanged, and nothing panics.
#[test]
fn every_prefix_and_every_changed_byte_of_a_record_passes_unchanged_or_is_faulty() {
    let record = EVENTS.lines().next().unwrap().as_bytes();
    let mut lines: Vec<Vec<u8>> = (0..record.len()).map(|end| record[..end].to_vec()).collect();
    for at in 0..record.len() {
        for byte in [0, b'"', b'\\', b'{', b'}', b',', b'x', 0x80, 0xff, record[at] ^ 1, record[at] ^ 0x20] {
            let mut changed = record.to_vec();
            changed[at] = byte;
            lines.push(changed);
        }
    }
    lines.retain(|line| !line.contains(&b'\n') && !line.is_empty());
    let input = lines.join(&b'\n');
    let finished = run("tutum-filter", ["--stats", "--where", "/type"], &input).expect_code(1);
    let passed: std::collections::HashSet<&[u8]> = lines.iter().map(Vec::as_slice).collect();
    assert!(finished.stdout.lines().all(|line| passed.contains(line.as_bytes())));
    assert!(finished.stdout.lines().count() > record.len(), "harmless changes pass");
    assert!(finished.stderr.contains(&format!(r#""in":{}"#, lines.len())), "{}", finished.stderr);
}

#[test]
fn lines_of_programs_that_share_a_pipe_do_not_mix() {
    let scratch = Scratch::new();
    let lines: Vec<String> = (0..5000).map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 300))).collect();
    let events = scratch.write("events", lines.join("\n"));
    let script = format!("for n in 1 2 3; do tutum-filter <{} & done | {{ sleep 0.2; cat; }}", events.display());
    let finished = Running::start(shell(&script)).finish().expect_code(0);
    let known: std::collections::HashSet<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(finished.lines().len(), 3 * lines.len());
    for line in finished.lines() {
        assert!(known.contains(line), "a torn line: {line}");
    }
}

#[test]
fn a_longest_line_of_nothing_is_a_mistake() {
    let finished = filter(&["--max-line", "0"], EVENTS).expect_code(2);
    assert_eq!(finished.stderr, "tutum-filter: --max-line: must be longer than zero\n");
}
