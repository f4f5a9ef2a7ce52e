//! A connected socket, for HTTP and WebSockets alike: the name is looked up, its addresses race, a proxy is asked for a tunnel, all within one deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::unix::{self, Interest};
use crate::model::address::Address;

/// An address that does not answer keeps the next one waiting so long, and is not given up yet (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Connects to an address, through a proxy if there is one. The socket blocks, without timeouts.
///
/// # Errors
/// Why it did not come about, with the proxy where that is to blame, and never a URL or a credential.
pub fn dial(address: &Address, proxy: Option<&Proxy>, deadline: Instant) -> Result<TcpStream, String> {
    let Some(proxy) = proxy else { return connect(address, deadline) };
    let blame = |reason: String| format!("the proxy {proxy}: {reason}");
    let mut tcp = connect(&proxy.address, deadline).map_err(blame)?;
    tunnel(&mut tcp, address, proxy, deadline).map_err(blame)?;
    Ok(tcp)
}

fn connect(address: &Address, deadline: Instant) -> Result<TcpStream, String> {
    let tcp = race(alternating(&look_up(&address.host, address.port(), deadline)?), deadline)?;
    // Small frames and short requests should leave at once; where that cannot be had, they leave later.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// The addresses of a name. The system's look-up has no timeout, so it runs in a thread that is left alone when it takes too long.
fn look_up(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
    if let Ok(number) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(number, port)]);
    }
    let (sender, found) = sync_channel(1);
    let host = host.to_owned();
    let started = thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = sender.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
    });
    started.map_err(|error| format!("no thread can be started: {error}"))?;
    match found.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(found) => found.map_err(|error| format!("the host's name cannot be looked up: {error}")),
        Err(RecvTimeoutError::Timeout) => Err("looking up the host's name took too long".to_owned()),
        Err(RecvTimeoutError::Disconnected) => Err("looking up the host's name broke off".to_owned()),
    }
}

/// The addresses in the system's order of preference, but IPv6 and IPv4 by turns: one of the two may lead nowhere (RFC 8305, section 4).
fn alternating(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ones, mut others): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    ones.reverse();
    others.reverse();
    let mut sorted = Vec::with_capacity(addresses.len());
    while !ones.is_empty() || !others.is_empty() {
        sorted.extend(ones.pop());
        sorted.extend(others.pop());
    }
    sorted
}

/// The first address that answers. Each has a head start before the next, cut short when it fails, and all may go on until the deadline.
fn race(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, String> {
    let mut waiting = addresses.into_iter();
    let mut racing: Vec<TcpStream> = Vec::new();
    let mut failure = "the host's name has no address".to_owned();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= deadline {
            return Err("cannot connect: timed out".to_owned());
        }
        if racing.is_empty() || now >= next {
            match waiting.next().map(|address| unix::begin_connect(&address)) {
                Some(Ok(tcp)) => {
                    racing.push(tcp);
                    next = now + HEAD_START;
                }
                Some(Err(error)) => {
                    failure = format!("cannot connect: {error}");
                    continue;
                }
                None if racing.is_empty() => return Err(failure),
                None => {}
            }
        }
        let until = if waiting.len() == 0 { deadline } else { next.min(deadline) };
        let fds: Vec<_> = racing.iter().map(|tcp| (tcp.as_fd(), Interest::Write)).collect();
        let ready = unix::wait_all(&fds, Some(until.saturating_duration_since(now)));
        let ready = ready.map_err(|error| format!("poll: {error}"))?;
        for index in (0..racing.len()).rev().filter(|index| ready[*index].write || ready[*index].gone) {
            let tcp = racing.remove(index);
            match tcp.take_error().and_then(|error| error.map_or(Ok(()), Err)) {
                Ok(()) => {
                    let blocking = tcp.set_nonblocking(false);
                    return blocking.map(|()| tcp).map_err(|error| format!("the socket: {error}"));
                }
                Err(error) => {
                    failure = format!("cannot connect: {error}");
                    next = now;
                }
            }
        }
    }
}

/// Asks the proxy for a tunnel to the address (RFC 9110, section 9.3.6).
fn tunnel(tcp: &mut TcpStream, address: &Address, proxy: &Proxy, deadline: Instant) -> Result<(), String> {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let target = format!("{host}:{}", address.port());
    let agent = concat!("tutum/", env!("CARGO_PKG_VERSION"));
    let mut ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {agent}\r\n");
    if let Some(authorization) = &proxy.authorization {
        ask += &format!("Proxy-Authorization: {}\r\n", authorization.expose());
    }
    // As curl does: some proxies of old end the connection else.
    ask += "Proxy-Connection: Keep-Alive\r\n\r\n";
    let answered = within(tcp, deadline, |tcp| tcp.write_all(ask.as_bytes())).and_then(|()| read_head(tcp, deadline));
    let head = answered.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => "no answer in time".to_owned(),
        ErrorKind::UnexpectedEof => "it ended the connection instead of answering".to_owned(),
        ErrorKind::InvalidData => "its answer is not HTTP, or longer than 8 KiB".to_owned(),
        _ => error.to_string(),
    })?;
    match (status(&head), &proxy.authorization) {
        (Some(200..=299), _) => {}
        (Some(407), None) => return Err("it wants credentials (HTTP 407)".to_owned()),
        (Some(407), Some(_)) => return Err("it wants other credentials (HTTP 407)".to_owned()),
        (Some(status), _) => return Err(format!("it makes no connection to {target}: HTTP {status}{}", words(status))),
        (None, _) => return Err("its answer is not HTTP".to_owned()),
    }
    let ready = tcp.set_read_timeout(None).and_then(|()| tcp.set_write_timeout(None));
    ready.map_err(|error| format!("the socket: {error}"))
}

/// Reads byte by byte to the blank line: what follows belongs to whoever is behind the proxy.
fn read_head(tcp: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let mut head = Vec::new();
    let mut byte = [0];
    while !(head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n")) {
        within(tcp, deadline, |tcp| tcp.read_exact(&mut byte))?;
        head.extend_from_slice(&byte);
        // Something else than HTTP may never come to a blank line.
        let begun = head.len().min(BEGINNING.len());
        if head[..begun] != BEGINNING[..begun] || head.len() > MAX_HEAD {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    Ok(head)
}

/// One operation on the socket, under what is left until the deadline.
fn within<T>(
    tcp: &mut TcpStream,
    deadline: Instant,
    operation: impl FnOnce(&mut TcpStream) -> io::Result<T>,
) -> io::Result<T> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    tcp.set_read_timeout(Some(left))?;
    tcp.set_write_timeout(Some(left))?;
    // A socket's timeout shows as WouldBlock. Both operations of the standard library go on after a signal.
    operation(tcp)
        .map_err(|error| if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error })
}

/// The status of an HTTP/1 answer.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\n').next()?).ok()?;
    let status = line.split_ascii_whitespace().nth(1)?;
    status.parse().ok().filter(|status| (100..600).contains(status) && line.starts_with("HTTP/1."))
}

/// A status in words. The proxy's own words may repeat what it was sent.
fn words(status: u16) -> &'static str {
    match status {
        400 => " Bad Request",
        401 => " Unauthorized",
        403 => " Forbidden",
        404 => " Not Found",
        405 => " Method Not Allowed",
        429 => " Too Many Requests",
        500 => " Internal Server Error",
        501 => " Not Implemented",
        502 => " Bad Gateway",
        503 => " Service Unavailable",
        504 => " Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_the_systems_first_choice_stays_first() {
        let sorted = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|text| socket(text)).collect();
            alternating(&addresses).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            sorted(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]),
            ["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]
        );
        assert_eq!(sorted(&["1.0.0.1:1", "1.0.0.2:1", "[::1]:1"]), ["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"]);
        assert_eq!(sorted(&[]), [""; 0]);
    }

    #[test]
    fn the_status_of_a_proxys_answer() {
        for (head, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
            ("HTTP/1.0 407\r\nProxy-Authenticate: Basic\r\n\r\n", Some(407)),
            ("HTTP/1.1  502  Bad Gateway\n\n", Some(502)),
            ("HTTP/1.1\r\n\r\n", None),
            ("HTTP/1.1 two\r\n\r\n", None),
            ("HTTP/1.1 2000\r\n\r\n", None),
        ] {
            assert_eq!(status(head.as_bytes()), expected, "{head:?}");
        }
    }
}
