//! What was last seen, kept in a file across restarts: a head, then one object a line, replaced as a whole.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::known::{KINDS, Known, Seen};
use crate::model::exit::Failure;
use crate::model::json::{self, quote};
use crate::model::time::Timestamp;

/// Whose file it is, and how its lines are to be read.
const FORMAT: &str = "tutum-stream state 1";

/// What a run leaves to the next.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The server it was seen on.
    pub source: String,
    /// The last proof of life.
    pub at: Option<Timestamp>,
    /// The types all of whose objects are known.
    pub learned: BTreeSet<&'static str>,
    /// What was last seen.
    pub known: Known,
}

/// Why there is no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It cannot be read at all: someone has to look.
    Unreadable(String),
    /// It was read and is of no use.
    Damaged(String),
}

/// The state as it is written.
pub fn write(state: &State) -> Vec<u8> {
    let learned: Vec<String> = state.learned.iter().map(|kind| quote(kind)).collect();
    let at = state.at.map(|at| format!(r#","at":"{}""#, at.rfc3339())).unwrap_or_default();
    let objects: Vec<String> = state
        .known
        .all()
        .map(|(uri, seen)| {
            let told = seen.state.as_ref().map(|state| format!(r#","state":{}"#, quote(state))).unwrap_or_default();
            let parents: Vec<String> = seen.parents.iter().map(|parent| quote(parent)).collect();
            format!("{{\"uri\":{}{told},\"parents\":[{}]}}\n", quote(uri), parents.join(","))
        })
        .collect();
    let head = format!(
        "{{\"format\":{},\"source\":{}{at},\"learned\":[{}],\"objects\":{}}}\n",
        quote(FORMAT),
        quote(&state.source),
        learned.join(","),
        objects.len()
    );
    [head, objects.concat()].concat().into_bytes()
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// What is wrong with it, without its content.
pub fn read(bytes: &[u8]) -> Result<State, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    let mut lines = text.lines();
    let mut state = State::default();
    let (mut format, mut count) = (None, None);
    let head = lines.next().ok_or("empty")?;
    json::object(head, |key, raw| match key {
        "format" => format = json::string(raw),
        "source" => state.source = json::plain(raw).into_owned(),
        "at" => state.at = json::string(raw).and_then(|at| Timestamp::parse(&at)),
        "learned" => {
            let learned: Vec<_> = json::elements(raw).into_iter().filter_map(json::string).collect();
            state.learned = KINDS.into_iter().filter(|kind| learned.iter().any(|learned| learned == kind)).collect();
        }
        "objects" => count = raw.parse::<usize>().ok(),
        _ => {}
    })
    .map_err(|fault| format!("line 1: {fault}"))?;
    if format.as_deref() != Some(FORMAT) {
        return Err("not the state of a stream".to_owned());
    }
    let mut found = 0;
    for (number, line) in lines.enumerate() {
        let (mut uri, mut seen) = (None, Seen::default());
        json::object(line, |key, raw| match key {
            "uri" => uri = json::string(raw),
            "state" => seen.state = json::string(raw).map(|state| state.into_owned()),
            "parents" => {
                seen.parents = json::elements(raw).into_iter().filter_map(json::string).map(Into::into).collect()
            }
            _ => {}
        })
        .map_err(|fault| format!("line {}: {fault}", number + 2))?;
        let uri = uri.as_deref().and_then(super::known::key);
        state.known.learn(&uri.ok_or_else(|| format!("line {}: no path of an object", number + 2))?, seen);
        found += 1;
    }
    match count {
        Some(count) if count == found => Ok(state),
        Some(count) => Err(format!("{found} objects instead of {count}")),
        None => Err("line 1: no number of objects".to_owned()),
    }
}

/// The file, which only one run may keep at a time.
pub struct StateFile {
    path: PathBuf,
    /// Held for as long as the run lasts.
    _lock: Option<File>,
}

impl StateFile {
    /// Takes the file for this run.
    ///
    /// # Errors
    /// Another run holds it: failed. It could not be written, which nobody should find out when it is too late: wrong usage.
    pub fn take(path: &Path) -> Result<StateFile, Failure> {
        let lock = beside(path, ".lock");
        let named = |error: &std::io::Error| Failure::usage(format!("--state: {}: {error}", lock.display()));
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(|error| named(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Failure::failed(format!("--state: {}: in use by another run", path.display())));
            }
            Err(fs::TryLockError::Error(error)) => return Err(named(&error)),
        }
        Ok(StateFile { path: path.to_owned(), _lock: Some(file) })
    }

    /// The file as it is, for a look.
    pub fn look(path: &Path) -> StateFile {
        StateFile { path: path.to_owned(), _lock: None }
    }

    /// What the run before left; `None` if there was none.
    ///
    /// # Errors
    /// It is there and of no use.
    pub fn load(&self) -> Result<Option<State>, Unusable> {
        match fs::read(&self.path) {
            Ok(bytes) => read(&bytes).map(Some).map_err(Unusable::Damaged),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unusable::Unreadable(error.to_string())),
        }
    }

    /// Puts the file out of the way, and says where.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn set_aside(&self, now: Timestamp) -> Result<PathBuf, String> {
        let aside = beside(&self.path, &format!(".damaged-{}", now.millis()));
        fs::rename(&self.path, &aside).map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok(aside)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Replaces the file as a whole: whoever reads it, even after a power cut, finds the old or the new one.
///
/// # Errors
/// The cause, with the file's name.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let temporary = beside(path, ".new");
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

/// A file beside `path` whose name goes on with `suffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State {
            source: "wss://h/v1/events".to_owned(),
            at: Timestamp::parse("2025-03-04T05:06:07.890Z"),
            learned: BTreeSet::from(["service", "node"]),
            known: Known::default(),
        };
        let parents = vec!["/api/v1/stack/t1/".to_owned()];
        state.known.learn("/api/v1/service/s1/", Seen { state: Some("Not \"running\"".to_owned()), parents });
        state.known.learn("/api/v1/action/a1/", Seen::default());
        state
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = String::from_utf8(write(&state())).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"format":"tutum-stream state 1","source":"wss://h/v1/events","at":"2025-03-04T05:06:07.890Z","learned":["node","service"],"objects":2}"#,
                "\n",
                r#"{"uri":"/api/v1/service/s1/","state":"Not \"running\"","parents":["/api/v1/stack/t1/"]}"#,
                "\n",
                r#"{"uri":"/api/v1/action/a1/","parents":[]}"#,
                "\n",
            )
        );
        assert_eq!(write(&read(text.as_bytes()).unwrap()), text.as_bytes());
    }

    #[test]
    fn no_prefix_of_it_is_taken_for_the_whole() {
        let bytes = write(&state());
        for end in 0..bytes.len() - 1 {
            assert!(read(&bytes[..end]).is_err(), "{end}");
        }
        for garbage in [&b"\xff"[..], b"{}", b"[]\n", b"{\"format\":\"tutum-stream state 2\",\"objects\":0}"] {
            assert!(read(garbage).is_err());
        }
    }

    #[test]
    fn the_file_is_replaced_held_and_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let file = StateFile::take(&path).unwrap();
        assert!(StateFile::take(&path).err().unwrap().message.contains("in use by another run"));
        assert!(file.load().unwrap().is_none());
        replace(&path, &write(&state())).unwrap();
        assert_eq!(file.load().unwrap().unwrap().known.all().count(), 2);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(file.load(), Err(Unusable::Damaged(_))));
        let aside = file.set_aside(Timestamp::from_millis(7).unwrap()).unwrap();
        assert_eq!((aside, file.load().unwrap().is_none()), (directory.path().join("state.damaged-7"), true));
        assert!(replace(&directory.path().join("no/such"), b"").unwrap_err().contains("no/such"));
    }
}
