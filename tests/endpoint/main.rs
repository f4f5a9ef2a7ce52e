//! The other side for scripts/bench.
//!
//! - without arguments: an HTTP endpoint that answers every request at once, `_bulk` as if every document were stored; prints its port and serves
//!   until it is killed
//! - `silent`: the same, but it reads and never answers
//! - `pace COUNT RATE`: prints so many events at so many a second, each with the time it was printed
//! - `apic COUNT`: a fake APIC; prints its URL, and once somebody has subscribed pushes so many events about tenants
//! - `latency`: reads such events and prints how long they were on their way

#[path = "../e2e/support/apic.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod apic;
#[path = "../e2e/support/frame.rs"]
mod frame;

use flate2::read::GzDecoder;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ANSWER: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";

/// What Elasticsearch says of so many documents it has taken. Its official clients want to see the product's name.
fn bulk_answer(documents: usize) -> Vec<u8> {
    let items = vec![r#"{"create":{"status":201}}"#; documents].join(",");
    let body = format!(r#"{{"took":1,"errors":false,"items":[{items}]}}"#);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Elastic-Product: Elasticsearch\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// How many documents are in a `_bulk` request: half as many as lines.
fn documents(body: &[u8], gzip: bool) -> usize {
    let mut text = Vec::new();
    let text = if gzip {
        GzDecoder::new(body).read_to_end(&mut text).expect("it is gzip");
        &text
    } else {
        body
    };
    text.iter().filter(|byte| **byte == b'\n').count() / 2
}

fn serve(stream: &TcpStream, silent: bool) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut writer, mut line, mut body) = (stream, String::new(), Vec::new());
    loop {
        let (mut length, mut is_bulk, mut gzip) = (0, false, false);
        loop {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            // Only the request line has it.
            is_bulk |= line.contains("/_bulk");
            gzip |= line.to_ascii_lowercase().starts_with("content-encoding: gzip");
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        if is_bulk && !silent {
            writer.write_all(&bulk_answer(documents(&body, gzip))).ok()?;
        } else if !silent {
            writer.write_all(ANSWER).ok()?;
        }
    }
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}

fn pace(count: u32, rate: u32) {
    let begun = Instant::now();
    let mut output = std::io::stdout();
    for number in 0..count {
        let due = begun + Duration::from_secs(1) * number / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let event = format!("{{\"type\":\"service\",\"action\":\"update\",\"sent\":\"{}\"}}\n", micros());
        if output.write_all(event.as_bytes()).is_err() {
            return;
        }
    }
}

fn latency() {
    let mut waits: Vec<u128> = Vec::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let sent =
            line.split("\"sent\":\"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|sent| sent.parse().ok());
        waits.extend(sent.map(|sent: u128| micros().saturating_sub(sent)));
    }
    waits.sort_unstable();
    let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
    println!(
        "{} events: p50 {} µs, p99 {} µs, max {} µs",
        waits.len(),
        at(50),
        at(99),
        waits.last().copied().unwrap_or_default()
    );
}

/// Creates, modifies and deletes one tenant after the other.
fn serve_apic(count: u64) {
    let apic = apic::FakeApic::start();
    println!("{}", apic.url());
    while apic.subscribed() == 0 {
        thread::sleep(Duration::from_millis(20));
    }
    // Whoever has subscribed may still be busy with it.
    thread::sleep(Duration::from_millis(500));
    for number in 0..count {
        let (dn, name) = (format!("uni/tn-{}", number / 3), number / 3);
        match number % 3 {
            0 => apic.create("fvTenant", &dn, &format!(r#""name":"{name}","descr":"","lcOwn":"local","modTs":"2025-03-04T05:06:07.{:03}+00:00","monPolDn":"uni/tn-common/monepg-default","nameAlias":"","ownerKey":"","ownerTag":"","uid":"15374""#, number % 1000)),
            1 => apic.modify("fvTenant", &dn, &format!(r#""descr":"changed","modTs":"2025-03-04T05:06:08.{:03}+00:00""#, number % 1000)),
            _ => apic.delete("fvTenant", &dn),
        }
    }
    loop {
        thread::park();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).expect("a number");
    match arguments.first().map(String::as_str) {
        Some("pace") => return pace(number(1), number(2)),
        Some("apic") => return serve_apic(number(1) as u64),
        Some("latency") => return latency(),
        _ => {}
    }
    let silent = arguments.first().is_some_and(|argument| argument == "silent");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be had");
    println!("{}", listener.local_addr().expect("it is bound").port());
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve(&stream, silent));
    }
}
