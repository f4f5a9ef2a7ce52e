//! tutum-stream against a server that the test plays: what comes out, what it survives, how it ends.

use super::support::websocket::Server;
use super::support::{Running, command};

fn start(server: &Server, args: &[&str]) -> Running {
    let mut command = command("tutum-stream", ["--url", &server.url()]);
    command.args(args).env("TUTUM_USER", "jo").env("TUTUM_APIKEY", "hunter22-key");
    Running::start(command)
}

#[test]
fn a_first_event() {
    let server = Server::start();
    let mut running = start(&server, &["-v"]);
    let mut peer = server.accept().welcome();
    peer.text(r#"{"type":"service","n":1.10}"#);
    println!("{}", running.line());
    println!("{}", running.line());
    println!("{}", running.line());
    running.signal("TERM");
    println!("{:?}", peer.receive_other_than_ping());
    drop(peer);
    println!("{:?}", running.finish().expect_code(0));
}
