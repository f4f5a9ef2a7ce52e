//! systemd, told how we are: the datagrams of sd_notify(3), by hand. Without a manager, or with one that does not listen, nothing happens.

use std::collections::VecDeque;
use std::env;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::unix;

/// So many messages wait for a manager that is busy; then the oldest goes.
const MAX_UNSENT: usize = 16;

/// A status is cut to so many characters.
const MAX_STATUS: usize = 300;

/// Whoever started us, if it wants to be told.
#[derive(Default)]
pub struct ServiceManager {
    channel: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    unsent: VecDeque<String>,
}

impl ServiceManager {
    /// The one named by `NOTIFY_SOCKET`, with the watchdog of `WATCHDOG_USEC`.
    ///
    /// `WATCHDOG_PID` is not looked at: in a pipeline it is the shell's, and the source speaks for all.
    pub fn from_environment() -> ServiceManager {
        let variable = |name| env::var(name).ok();
        ServiceManager::new(variable("NOTIFY_SOCKET").as_deref(), variable("WATCHDOG_USEC").as_deref())
    }

    fn new(address: Option<&str>, watchdog_usec: Option<&str>) -> ServiceManager {
        let channel = address.and_then(open);
        let watchdog = watchdog_usec
            .filter(|_| channel.is_some())
            .and_then(|text| text.trim().parse().ok())
            .filter(|usec| *usec > 0)
            // Half of it, as sd_watchdog_enabled(3) advises.
            .map(|usec| Duration::from_micros(usec) / 2);
        ServiceManager { channel, watchdog, unsent: VecDeque::new() }
    }

    /// Whether there is anyone to tell.
    pub fn is_listening(&self) -> bool {
        self.channel.is_some()
    }

    /// How often [`ServiceManager::alive`] is expected, if it is.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Whether something could not be told yet; [`ServiceManager::retry`] tries again.
    pub fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The start, or a reload, is over.
    pub fn ready(&mut self) {
        self.tell("READY=1".to_owned());
    }

    /// A sentence for `systemctl status`. It must hold no secret.
    pub fn status(&mut self, text: &str) {
        self.tell(format!("STATUS={}", one_line(text)));
    }

    /// The loop goes round.
    pub fn alive(&mut self) {
        self.tell("WATCHDOG=1".to_owned());
    }

    /// The configuration is being read again.
    pub fn reloading(&mut self) {
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={}", unix::monotonic().as_micros()));
    }

    /// The end has begun.
    pub fn stopping(&mut self) {
        self.tell("STOPPING=1".to_owned());
    }

    fn tell(&mut self, message: String) {
        if self.channel.is_none() {
            return;
        }
        if self.unsent.len() >= MAX_UNSENT {
            self.unsent.pop_front();
        }
        self.unsent.push_back(message);
        self.retry();
    }

    /// Sends what could not be sent before, in order, as far as it goes without waiting.
    pub fn retry(&mut self) {
        let Some((socket, address)) = &self.channel else { return };
        while let Some(message) = self.unsent.front() {
            match socket.send_to_addr(message.as_bytes(), address) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A manager that is not there must not hurt.
                Ok(_) | Err(_) => self.unsent.pop_front(),
            };
        }
    }
}

/// A path, or a name in the abstract name space after `@`; any other form (`vsock:`) is not ours to speak.
fn open(address: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if address.starts_with('/') => SocketAddr::from_pathname(address),
        None => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().take(MAX_STATUS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut room = [0; 1000];
        let next = std::iter::from_fn(|| {
            socket.recv(&mut room).ok().map(|n| String::from_utf8_lossy(&room[..n]).into_owned())
        });
        next.collect()
    }

    #[test]
    fn tells_on_a_path_and_on_an_abstract_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        let name = format!("tutum-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ] {
            let mut manager = ServiceManager::new(Some(&address), Some("3000000"));
            assert_eq!(manager.watchdog(), Some(Duration::from_millis(1500)));
            manager.ready();
            manager.status("open\nREADY=0");
            manager.alive();
            manager.stopping();
            assert_eq!(received(&socket), ["READY=1", "STATUS=open READY=0", "WATCHDOG=1", "STOPPING=1"]);
            manager.reloading();
            let reloading = received(&socket).remove(0);
            let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(usec.parse::<u64>().unwrap() > 0);
        }
    }

    #[test]
    fn nobody_and_nonsense_do_not_hurt() {
        for (address, watchdog) in [
            (None, Some("1000000")),
            (Some(""), None),
            (Some("@"), Some("0")),
            (Some("vsock:2:1"), Some("x")),
            (Some("/nonexistent/notify"), Some("-1")),
            (Some(&*format!("/{}", "x".repeat(200))), None),
        ] {
            let mut manager = ServiceManager::new(address, watchdog);
            assert_eq!(manager.watchdog(), None, "{address:?}");
            manager.ready();
            manager.alive();
            assert!(!manager.is_behind());
        }
    }

    #[test]
    fn a_busy_manager_is_told_later_and_never_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::new(path.to_str(), None);
        while !manager.is_behind() {
            manager.alive();
        }
        for _ in 0..100 {
            manager.alive();
        }
        manager.ready();
        assert_eq!(manager.unsent.len(), MAX_UNSENT);
        received(&socket);
        while manager.is_behind() {
            manager.retry();
            received(&socket);
        }
    }
}
