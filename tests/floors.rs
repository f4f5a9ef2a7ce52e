//! The folders of `src` are floors: imports point down, the wings keep apart, and each foreign crate is named in one place.

use std::fs;
use std::path::{Path, PathBuf};

/// What each floor may use of the package.
const FLOORS: [(&str, &[&str]); 8] = [
    ("model", &["model"]),
    ("world", &["world", "model", "cli"]),
    ("cli", &["cli", "world", "model"]),
    ("flow", &["flow", "cli", "world", "model"]),
    ("source", &["source", "flow", "cli", "world", "model"]),
    ("filter", &["filter", "flow", "cli", "world", "model"]),
    ("sink", &["sink", "flow", "cli", "world", "model"]),
    ("bin", &["source", "filter", "sink", "flow", "cli", "world", "model"]),
];

/// Where each foreign crate is named: a file, or a folder of files that are one module.
const CRATES: [(&str, &str); 16] = [
    ("base64", "src/world/credentials.rs"),
    ("crc32fast", "src/world/spool/frame.rs"),
    ("fastrand", "src/world/clock.rs"),
    ("flate2", "src/world/http.rs"),
    ("httparse", "src/world/websocket/"),
    ("jiff", "src/model/time.rs"),
    ("lexopt", "src/cli/parse.rs"),
    ("minijinja", "src/model/template.rs"),
    ("ring", "src/model/digest.rs"),
    ("rustix", "src/world/unix.rs"),
    ("rustls", "src/world/tls.rs"),
    ("rustls_native_certs", "src/world/tls.rs"),
    ("signal_hook", "src/world/signals.rs"),
    ("tungstenite", "src/world/websocket/"),
    ("ureq", "src/world/http.rs"),
    ("wildmatch", "src/model/predicate.rs"),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file, without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source is text");
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first segment of every path in `text` that begins with `prefix`.
fn paths<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    let words = text
        .match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
    words
        .map(|(at, _)| {
            text[at + prefix.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
        })
        .collect()
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (floor, allowed) in FLOORS {
        for file in sources(&root.join(floor)) {
            let code = code(&file);
            let used = if floor == "bin" { paths(&code, "tutum::") } else { paths(&code, "crate::") };
            for used in used {
                if !allowed.contains(&used) {
                    wrong.push(format!("{}: uses {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_foreign_crate_is_named_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for file in sources(&root.join("src")) {
        let relative = file.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
        let code = code(&file);
        for (name, home) in CRATES {
            if !relative.starts_with(home) && !paths(&code, &format!("{name}::")).is_empty() {
                wrong.push(format!("{relative}: names {name}, which belongs to {home}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
