//! A fake HTTP proxy: makes tunnels to one port whatever it is asked for, or misbehaves as told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{PATIENCE, until};

/// What the proxy does with a connection.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Leads to the port on this machine, whatever name it was asked for: so only the proxy can have looked it up.
    Tunnel(u16),
    /// As `Tunnel`, for who shows this `Proxy-Authorization`; else 407.
    Needs(&'static str, u16),
    /// Answers with these bytes and ends the connection.
    Says(String),
    /// Answers with these bytes and waits for the other side to end the connection.
    SaysAndHangs(String),
    /// Reads the request and ends the connection.
    Closes,
    /// Reads the request and says nothing until the other side ends the connection.
    Hangs,
}

impl Manner {
    /// A status, with a body such as proxies send that echoes what it was asked.
    pub fn status(status: &str) -> Manner {
        Manner::Says(format!(
            "HTTP/1.1 {status}\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 13\r\n\r\n<html></html>"
        ))
    }
}

/// The proxy. It listens on a port of its own until the test drops it.
pub struct FakeProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl FakeProxy {
    /// A proxy that behaves in these manners, a connection each, and then in the last one again and again.
    pub fn start(manners: impl IntoIterator<Item = Manner>) -> FakeProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port can be had");
        let address = listener.local_addr().expect("it is bound");
        let manners: Vec<Manner> = manners.into_iter().collect();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (log, over) = (Arc::clone(&heads), Arc::clone(&stopped));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (manner, log) = (manners[number.min(manners.len() - 1)].clone(), Arc::clone(&log));
                thread::spawn(move || stream.map(|stream| serve(stream, manner, &log)));
            }
        });
        FakeProxy { address, heads, stopped }
    }

    /// The proxy's URL, with credentials before an `@` or without.
    pub fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}{}", self.address)
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many requests were made, and gives their heads.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<String> {
        until(&format!("the proxy is asked {count} times"), || self.heads().len() >= count);
        self.heads()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, manner: Manner, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let manner = match manner {
        Manner::Needs(value, port) if head.contains(&format!("\r\nProxy-Authorization: {value}\r\n")) => {
            Manner::Tunnel(port)
        }
        Manner::Needs(..) => Manner::status("407 Proxy Authentication Required"),
        manner => manner,
    };
    match manner {
        Manner::Tunnel(port) => {
            let Ok(behind) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 fake\r\n\r\n");
            let (Ok(from), Ok(to)) = (stream.try_clone(), behind.try_clone()) else { return };
            let forth = thread::spawn(move || copy(from, to));
            copy(behind, stream);
            let _ = forth.join();
        }
        Manner::Says(text) => {
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            wait(stream);
        }
        Manner::SaysAndHangs(text) => {
            let _ = stream.write_all(text.as_bytes());
            wait(stream);
        }
        Manner::Hangs => wait(stream),
        Manner::Closes | Manner::Needs(..) => {}
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// Until the other side ends the connection.
fn wait(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(2 * PATIENCE));
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest), Ok(1..)) {}
}
