//! What end-to-end tests stand on: running programs with deadlines, scratch directories, and fakes.

#![allow(dead_code, reason = "each module of tests uses its own part")]

pub mod apic;
pub mod bulk;
pub mod frame;
pub mod http;
pub mod proxy;
pub mod websocket;
pub mod websocket_client;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The longest a test waits for anything that must happen. Generous, since machines are shared; nothing waits for it in vain when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where a program of the suite was built.
pub fn binary(name: &str) -> PathBuf {
    // Every program of the package is built beside this one before the tests run.
    Path::new(env!("CARGO_BIN_EXE_tutum-filter")).with_file_name(name)
}

/// Waits until `done`, or fails the test saying `what` did not happen.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in {PATIENCE:?} this did not happen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that goes away with the test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(tempfile::tempdir().expect("a scratch directory can be made"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a scratch file can be written");
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// A command for a program of the suite, with an environment that holds nothing of ours or the user's.
pub fn command<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary(name));
    command.args(args);
    clean(&mut command);
    command
}

/// A shell script, with the suite's programs on its PATH.
pub fn shell(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    clean(&mut command);
    command
}

/// Gives a command the environment of the suite's programs: nothing of ours or the user's but the PATH.
pub fn clean(command: &mut Command) {
    let directory = binary("tutum-filter").parent().expect("a program is in a directory").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", format!("{}:{path}", directory.display()))
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8");
}

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; 128 and the signal's number if it died of one.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Fails the test with everything that is known if the code is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.code, code, "exit code\n-- stdout:\n{}\n-- stderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// Runs a program over an input to its end.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>, input: impl AsRef<[u8]>) -> Finished {
    Running::start(command(name, args)).input(input.as_ref()).finish()
}

/// A program under way. It is killed if the test ends before it does.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
    shown: String,
    leads: bool,
}

impl Running {
    /// Starts it with all three streams as pipes.
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped());
        Running::start_as_it_is(command)
    }

    /// As [`Running::start`], as the leader of a process group: the end of the test ends all of it.
    #[track_caller]
    pub fn start_group(mut command: Command) -> Running {
        command.process_group(0);
        let mut running = Running::start(command);
        running.leads = true;
        running
    }

    /// As [`Running::start`], with the standard input the command has already.
    #[track_caller]
    pub fn start_as_it_is(mut command: Command) -> Running {
        let shown = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let (send, lines) = channel();
        let (stdout, stderr) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
        let mut readers = Vec::new();
        let (mut out, kept) = (BufReader::new(child.stdout.take().expect("it is a pipe")), Arc::clone(&stdout));
        readers.push(thread::spawn(move || {
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                kept.lock().expect("no reader panics").push_str(&text);
                let _ = send.send(text.trim_end_matches('\n').to_owned());
                line.clear();
            }
        }));
        let (mut err, kept) = (child.stderr.take().expect("it is a pipe"), Arc::clone(&stderr));
        readers.push(thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = err.read(&mut bytes) {
                kept.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }));
        let stdin = child.stdin.take();
        Running { child, stdin, lines, stdout, stderr, readers, shown, leads: false }
    }

    /// Writes to its standard input, from a thread so that nothing deadlocks, and ends the input.
    pub fn input(mut self, input: &[u8]) -> Running {
        let (mut stdin, input) = (self.stdin.take().expect("the input is open"), input.to_vec());
        self.readers.push(thread::spawn(move || drop(stdin.write_all(&input))));
        self
    }

    /// Writes to its standard input, which stays open.
    pub fn write(&mut self, text: &str) -> &mut Running {
        let _ = self.stdin.as_mut().expect("the input is open").write_all(text.as_bytes());
        self
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) -> &mut Running {
        self.stdin = None;
        self
    }

    /// The next line of its standard output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{}: no line came\n-- stderr:\n{}", self.shown, self.stderr()),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{}: output ended\n-- stderr:\n{}", self.shown, self.stderr())
            }
        }
    }

    /// What it said on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no reader panics").clone()
    }

    /// What it wrote to standard output so far, whatever was taken of it by [`Running::line`].
    pub fn stdout(&self) -> String {
        self.stdout.lock().expect("no reader panics").clone()
    }

    /// Waits until standard output holds `text`.
    #[track_caller]
    pub fn until_stdout(&self, text: &str) -> &Running {
        until("standard output holds it", || self.stdout().contains(text));
        self
    }

    /// Waits until standard error holds `text`.
    #[track_caller]
    pub fn until_stderr(&self, text: &str) -> &Running {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "{}: never said {text:?}\n-- stderr:\n{}", self.shown, self.stderr());
            thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// Sends a signal by its name without SIG.
    #[track_caller]
    pub fn signal(&self, name: &str) -> &Running {
        send_signal(self.child.id(), name);
        self
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        self.stdin = None;
        let deadline = Instant::now() + 2 * PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    panic!("{}: does not end\n-- stderr:\n{}", self.shown, self.stderr())
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.join();
        }
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        let stdout = self.stdout.lock().expect("no reader panics").clone();
        Finished { code, stdout, stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.leads {
            signal_group(self.child.id(), "KILL");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a tool that is not part of the suite is there. Without it a test is skipped, loudly; in CI that is a failure.
#[track_caller]
pub fn tool(name: &str) -> bool {
    let found =
        std::env::var("PATH").unwrap_or_default().split(':').any(|directory| Path::new(directory).join(name).exists());
    if !found {
        eprintln!("skipped: {name} is not installed");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is not installed, and CI must not skip");
    }
    found
}

/// Sends a signal, by its name without SIG, to a process that may be gone already.
#[track_caller]
pub fn send_signal(process: u32, name: &str) {
    let _ = rustix::process::kill_process(process_id(process), signal(name));
}

/// Sends a signal to every process of a group, which may be gone already.
#[track_caller]
pub fn signal_group(leader: u32, name: &str) {
    let _ = rustix::process::kill_process_group(process_id(leader), signal(name));
}

#[track_caller]
fn process_id(process: u32) -> rustix::process::Pid {
    i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).expect("it is a process id")
}

#[track_caller]
fn signal(name: &str) -> rustix::process::Signal {
    use rustix::process::Signal;
    match name {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        other => panic!("no test has sent {other} before"),
    }
}

/// The processes a process has started and that still run: id and name.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("there is /proc").flatten() {
        // "id (name) state parent …", proc_pid_stat(5); the name may hold anything but is cut at the last parenthesis.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let Some((id, name)) = head.split_once(" (") else { continue };
        if tail.split(' ').nth(1) == Some(&parent.to_string()) {
            found.extend(id.parse().ok().map(|id| (id, name.to_owned())));
        }
    }
    found
}

/// The process of this name somewhere below another.
pub fn descendant(parent: u32, name: &str) -> Option<u32> {
    children(parent).into_iter().find_map(|(id, own)| if own == name { Some(id) } else { descendant(id, name) })
}
