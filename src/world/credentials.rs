//! Secrets: a file, then systemd's credentials directory, then the environment. They come from here and nowhere else.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::cli::table::{Flag, Set, store};
use crate::model::address::percent_encode;
use crate::model::json::{self, Pointer};
use crate::model::secret::Secret;
use crate::world::tls::RsaKey;

/// Where one secret is looked for. It is read again each time, so that a rotated secret is found.
#[derive(Clone, Debug)]
pub struct SecretSource {
    file: Option<PathBuf>,
    variable: &'static str,
}

impl SecretSource {
    /// A secret in `file` if one is named, else in `$CREDENTIALS_DIRECTORY` or the environment under the variable's name.
    ///
    /// In the directory the file may be called `SLACK_URL`, `slack_url` or `slack-url`.
    pub fn new(file: Option<PathBuf>, variable: &'static str) -> SecretSource {
        SecretSource { file, variable }
    }

    /// Reads it; `None` if it is nowhere.
    ///
    /// # Errors
    /// A file that is named cannot be read or is empty.
    pub fn read(&self) -> Result<Option<Secret>, String> {
        if let Some(file) = &self.file {
            return read_file(file).map(Some);
        }
        Ok(in_credentials_directory(self.variable)?.or_else(|| variable(self.variable).map(|text| Secret::new(&text))))
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => format!("{}: not UTF-8", path.display()),
        _ => format!("{}: {error}", path.display()),
    })?;
    let secret = Secret::new(&text);
    match secret.expose() {
        "" => Err(format!("{}: empty", path.display())),
        text if text.chars().any(char::is_control) => Err(format!("{}: more than one line", path.display())),
        _ => Ok(secret),
    }
}

fn in_credentials_directory(variable_name: &str) -> Result<Option<Secret>, String> {
    let Some(directory) = variable("CREDENTIALS_DIRECTORY").map(PathBuf::from) else { return Ok(None) };
    let lower = variable_name.to_ascii_lowercase();
    let names = [variable_name.to_owned(), lower.replace('_', "-"), lower];
    let found = names.iter().map(|name| directory.join(name)).find(|path| path.exists());
    found.map(|path| read_file(&path)).transpose()
}

/// A variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What a user can say about Tutum's credentials.
#[derive(Clone, Debug, Default)]
pub struct TutumAuthArgs {
    /// The user's name.
    pub user: Option<String>,
    /// A file with the API key.
    pub token_file: Option<PathBuf>,
}

/// The rows of every program that logs in to Tutum.
pub const fn tutum_flags<A: AsMut<TutumAuthArgs>>() -> [Flag<A>; 2] {
    [
        Flag {
            spec: "--user NAME",
            help: "the user's name, else TUTUM_USER or TUTUM_USERNAME",
            set: Set::Value(|a, v| store(&mut a.as_mut().user, v)),
        },
        Flag {
            spec: "--token-file FILE",
            help: "a file with the API key, else TUTUM_TOKEN in $CREDENTIALS_DIRECTORY, else the variables below",
            set: Set::Value(|a, v| store(&mut a.as_mut().token_file, v)),
        },
    ]
}

/// Whose credentials are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Account {
    /// Tutum's.
    #[default]
    Tutum,
    /// Those of Docker Cloud, what Tutum became.
    DockerCloud,
}

/// The variables of one generation.
struct Names {
    auth: &'static str,
    users: &'static [&'static str],
    keys: &'static [&'static str],
    pairs: &'static [(&'static str, &'static str)],
}

const TUTUM: Names = Names {
    auth: "TUTUM_AUTH",
    users: &["TUTUM_USER", "TUTUM_USERNAME"],
    keys: &["TUTUM_APIKEY", "TUTUM_TOKEN", "TUTUM_PASS"],
    pairs: &[("TUTUM_USER", "TUTUM_APIKEY"), ("TUTUM_USERNAME", "TUTUM_TOKEN"), ("TUTUM_USER", "TUTUM_PASS")],
};

const DOCKER_CLOUD: Names = Names {
    auth: "DOCKERCLOUD_AUTH",
    users: &["DOCKERCLOUD_USER"],
    keys: &["DOCKERCLOUD_APIKEY", "DOCKERCLOUD_PASS"],
    pairs: &[("DOCKERCLOUD_USER", "DOCKERCLOUD_APIKEY"), ("DOCKERCLOUD_USER", "DOCKERCLOUD_PASS")],
};

/// The environment of every program that logs in to Docker Cloud, for its help.
pub const DOCKER_CLOUD_ENVIRONMENT: [(&str, &str); 2] = [
    ("DOCKERCLOUD_AUTH", "with --dialect dockercloud, in place of TUTUM_AUTH"),
    (
        "DOCKERCLOUD_USER, DOCKERCLOUD_APIKEY or DOCKERCLOUD_PASS",
        "with --dialect dockercloud, in place of the others; last comes the auths entry of https://index.docker.io/v1/ in ~/.docker/config.json. A credsStore or credHelpers program is never started",
    ),
];

/// The environment of every program that logs in to Tutum, for its help.
pub const TUTUM_ENVIRONMENT: [(&str, &str); 5] = [
    ("TUTUM_AUTH", "a complete Authorization header, e.g. \"Basic ...\" or \"ApiKey user:key\"; wins over the others"),
    ("TUTUM_USER, TUTUM_APIKEY", "user name and API key"),
    ("TUTUM_USERNAME, TUTUM_TOKEN", "the same under the tutorial's names"),
    ("TUTUM_USER, TUTUM_PASS", "user name and password"),
    ("HOME", "~/.tutum may hold [auth] with user and apikey, or basic_auth"),
];

/// Proof of who we are, in the forms Tutum takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// A user's name and API key or password.
    User { name: String, key: Secret },
    /// A complete value of the `Authorization` header.
    Header(Secret),
}

impl Authorization {
    /// The value of the `Authorization` header.
    pub fn header(&self) -> Secret {
        match self {
            Authorization::User { name, key } => basic(name, key.expose()),
            Authorization::Header(value) => value.clone(),
        }
    }

    /// The query of the tutorial's client, properly escaped.
    pub fn query(&self) -> String {
        match self {
            Authorization::User { name, key } => {
                format!("token={}&user={}", percent_encode(key.expose()), percent_encode(name))
            }
            Authorization::Header(value) => format!("auth={}", percent_encode(value.expose())),
        }
    }

    /// Tells it from others within this run, without giving it away.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.header().expose().hash(&mut hasher);
        hasher.finish()
    }

    /// `text` without the secret in any of its spellings, for words that came from a server.
    pub fn redact(&self, text: &str) -> String {
        let header = self.header();
        let mut spellings = vec![header.expose().to_owned()];
        // A server may echo the credential without its scheme, or the decoded key.
        if let Some((_, credential)) = header.expose().split_once(' ') {
            spellings.push(credential.to_owned());
            let decoded =
                BASE64_STANDARD.decode(credential.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let plain = decoded.unwrap_or_else(|| credential.to_owned());
            spellings.extend(plain.split_once(':').map(|(_, key)| key.to_owned()));
            spellings.push(plain);
        }
        let encoded: Vec<String> = spellings.iter().map(|spelling| percent_encode(spelling)).collect();
        let all = spellings.into_iter().chain(encoded);
        all.fold(text.to_owned(), |text, spelling| Secret::new(&spelling).redact(&text))
    }
}

/// The value of a header that proves a user by a password (RFC 7617).
pub fn basic(name: &str, password: &str) -> Secret {
    Secret::new(&format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}"))))
}

/// Signs requests with a private key.
#[derive(Clone, Debug)]
pub struct RequestSigner(RsaKey);

impl RequestSigner {
    /// Reads the key, in PEM.
    ///
    /// # Errors
    /// Names the flag, the file and the cause.
    pub fn load(flag: &str, path: &Path) -> Result<RequestSigner, String> {
        RsaKey::load(flag, path).map(RequestSigner)
    }

    /// The signature of `text`, in base64.
    pub fn sign(&self, text: &[u8]) -> String {
        BASE64_STANDARD.encode(self.0.sign(text))
    }
}

/// Looks for Tutum's credentials: flags, `TUTUM_AUTH`, user and API key under both names, user and password, `~/.tutum`.
///
/// # Errors
/// Something is named and cannot be read, or half of a pair is missing.
pub fn tutum(args: &TutumAuthArgs) -> Result<Option<Authorization>, String> {
    find(Account::Tutum, args)
}

/// Looks for the secret of a name in one place.
type Place = fn(&str) -> Result<Option<Secret>, String>;

/// Looks for an account's credentials: flags, a complete header, user and API key, user and password, the command-line client's file.
///
/// # Errors
/// Something is named and cannot be read, or half of a pair is missing.
pub fn find(account: Account, args: &TutumAuthArgs) -> Result<Option<Authorization>, String> {
    let names = match account {
        Account::Tutum => TUTUM,
        Account::DockerCloud => DOCKER_CLOUD,
    };
    let places: [Place; 2] = [in_credentials_directory, |name| Ok(variable(name).map(|text| Secret::new(&text)))];
    let user = || args.user.clone().or_else(|| names.users.iter().find_map(|name| variable(name)));
    if let Some(file) = &args.token_file {
        let key = read_file(file).map_err(|error| format!("--token-file: {error}"))?;
        let missing = || format!("--token-file: no user name: give --user or set {}", names.users[0]);
        return Ok(Some(Authorization::User { name: user().ok_or_else(missing)?, key }));
    }
    if let Some(name) = &args.user {
        for secret in places {
            for variable in names.keys {
                if let Some(key) = secret(variable)? {
                    return Ok(Some(Authorization::User { name: name.clone(), key }));
                }
            }
        }
        return Err(format!("--user: no API key: give --token-file or set {}", names.keys[0]));
    }
    // Whatever the directory holds comes before all of the environment, which a shell's profile may have filled.
    for secret in places {
        if let Some(value) = secret(names.auth)? {
            return Ok(Some(Authorization::Header(value)));
        }
        for (user_variable, key_variable) in names.pairs {
            if let Some(key) = secret(key_variable)? {
                // The names of one generation stand in for those of the other.
                if let Some(name) = variable(user_variable).or_else(user) {
                    return Ok(Some(Authorization::User { name, key }));
                }
            }
        }
    }
    match account {
        Account::Tutum => Ok(home_file(".tutum")?.and_then(|text| parse_tutum_file(&text))),
        Account::DockerCloud => Ok(home_file(".docker/config.json")?.and_then(|text| parse_docker_file(&text))),
    }
}

/// The text of a file in the user's home, if there is one.
fn home_file(name: &str) -> Result<Option<String>, String> {
    let Some(path) = env::home_dir().map(|home| home.join(name)) else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// `~/.docker/config.json`: `auths["https://index.docker.io/v1/"].auth` is base64 of user and secret. Where a credsStore holds them, it is empty:
/// asking that program could open a window or wait for a person, which a service must not do.
fn parse_docker_file(text: &str) -> Option<Authorization> {
    let pointer = Pointer::parse("/auths/https:~1~1index.docker.io~1v1~1/auth").expect("it is a pointer");
    let auth = pointer.find(text).and_then(json::string).filter(|auth| !auth.trim().is_empty())?;
    Some(Authorization::Header(Secret::new(&format!("Basic {}", auth.trim()))))
}

/// `~/.tutum`: section `[auth]` with `user` and `apikey`, or `basic_auth`; values may stand in double quotes.
fn parse_tutum_file(text: &str) -> Option<Authorization> {
    let mut in_auth = false;
    let (mut name, mut key, mut basic) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            in_auth = section.trim_end_matches(']').trim() == "auth";
        } else if let Some((field, value)) = line.split_once(['=', ':']).filter(|_| in_auth) {
            let value = value.trim().trim_matches('"').trim();
            match field.trim() {
                _ if value.is_empty() => {}
                "user" => name = Some(value.to_owned()),
                "apikey" => key = Some(Secret::new(value)),
                "basic_auth" => basic = Some(Secret::new(&format!("Basic {value}"))),
                _ => {}
            }
        }
    }
    match (name, key) {
        (Some(name), Some(key)) => Some(Authorization::User { name, key }),
        _ => basic.map(Authorization::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, key: &str) -> Authorization {
        Authorization::User { name: name.to_owned(), key: Secret::new(key) }
    }

    #[test]
    fn the_forms_on_the_wire() {
        let authorization = user("jo", "k+e/y=");
        assert_eq!(authorization.header().expose(), "Basic am86aytlL3k9");
        assert_eq!(authorization.query(), "token=k%2Be%2Fy%3D&user=jo");
        let header = Authorization::Header(Secret::new("ApiKey jo:key"));
        assert_eq!((header.header().expose(), header.query().as_str()), ("ApiKey jo:key", "auth=ApiKey%20jo%3Akey"));
    }

    #[test]
    fn an_echoed_credential_is_cut_out_in_every_spelling() {
        let authorization = user("jo", "hunter/22");
        let echo = "bad Basic am86aHVudGVyLzIy, am86aHVudGVyLzIy, hunter/22, hunter%2F22!";
        assert_eq!(authorization.redact(echo), "bad <redacted>, <redacted>, <redacted>, <redacted>!");
        let header = Authorization::Header(Secret::new("Basic am86aHVudGVyLzIy"));
        assert_eq!(header.redact("no hunter/22"), "no <redacted>");
    }

    #[test]
    fn the_old_command_line_tools_file() {
        let file = "[other]\nuser = x\n[auth]\nuser = \"jo\"\napikey = \"key1\"\n";
        assert_eq!(parse_tutum_file(file), Some(user("jo", "key1")));
        let basic = parse_tutum_file("[auth]\nbasic_auth = am86a2V5\n").unwrap();
        assert_eq!(basic.header().expose(), "Basic am86a2V5");
        assert_eq!(parse_tutum_file("nothing"), None);
    }

    #[test]
    fn the_docker_clients_file() {
        let file = r#"{"auths":{"other":{"auth":"x"},"https://index.docker.io/v1/":{"auth":"am86a2V5","email":"e"}}}"#;
        assert_eq!(parse_docker_file(file).unwrap().header().expose(), "Basic am86a2V5");
        for other in [
            "",
            "{}",
            r#"{"auths":{"https://index.docker.io/v1/":{}},"credsStore":"desktop"}"#,
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":""}}}"#,
        ] {
            assert_eq!(parse_docker_file(other), None, "{other}");
        }
    }

    #[test]
    fn a_fingerprint_tells_credentials_apart() {
        assert_eq!(user("jo", "key").fingerprint(), user("jo", "key").fingerprint());
        assert_ne!(user("jo", "key").fingerprint(), user("jo", "kez").fingerprint());
    }
}
