//! What a user can say about the APIC, and what follows from it: where it is and who we are.

use std::path::PathBuf;
use std::time::Duration;

use super::session::Account;
use super::target::{Query, Reach, Target};
use crate::cli::table::words;
use crate::model::address::Address;
use crate::model::exit::Failure;
use crate::world::credentials::{RequestSigner, SecretSource, variable};

/// What a user can say about the APIC.
#[derive(Clone, Debug, Default)]
pub struct AciArgs {
    /// The APICs of one fabric.
    pub urls: Vec<String>,
    /// The user's name.
    pub user: Option<String>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// The login domain.
    pub domain: Option<String>,
    /// The private key that signs requests, in place of a password.
    pub signing_key: Option<PathBuf>,
    /// The name of the certificate that the APIC knows the key by.
    pub signing_cert: Option<String>,
    /// What to subscribe to.
    pub targets: Vec<Target>,
    /// With which options.
    pub query: Query,
    /// Tell what changed during a gap.
    pub resync: bool,
    /// Tell what there is at the start.
    pub snapshot: bool,
    /// Leave the APIC's bytes alone.
    pub raw: bool,
}

impl AciArgs {
    /// Looks for values that make no sense.
    ///
    /// # Errors
    /// Wrong usage; names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        if self.targets.is_empty() {
            return Err(Failure::usage(
                "nothing to subscribe to: name classes (fvTenant) or managed objects (uni/tn-common)",
            ));
        }
        if self.targets.len() > usize::from(u16::MAX) {
            return Err(Failure::usage("too many classes and managed objects"));
        }
        if self.query.life.is_some_and(|life| life < Duration::from_secs(3)) {
            return Err(Failure::usage("--subscription-life: must be at least 3s"));
        }
        if !self.query.classes.is_empty() && self.query.reach == Reach::Itself {
            return Err(Failure::usage("--subtree-class: needs --query-target children or subtree"));
        }
        if self.raw && (self.resync || self.snapshot) {
            return Err(Failure::usage("--raw: what --resync and --snapshot print is not what the APIC sent"));
        }
        match (&self.signing_key, &self.signing_cert) {
            (Some(_), None) => Err(Failure::usage("--signing-key: needs --signing-cert")),
            (None, Some(_)) => Err(Failure::usage("--signing-cert: needs --signing-key")),
            (Some(_), Some(_)) if self.password_file.is_some() => {
                Err(Failure::usage("--signing-key: takes the place of --password-file"))
            }
            _ => Ok(()),
        }
    }

    /// The APICs: `--url`, else `APIC_URL`.
    ///
    /// # Errors
    /// None is given, or one is no such address: wrong usage.
    pub fn bases(&self) -> Result<Vec<Address>, Failure> {
        let (flag, urls) = if self.urls.is_empty() {
            let text =
                variable("APIC_URL").ok_or_else(|| Failure::usage("no APIC is named: give --url or set APIC_URL"))?;
            ("APIC_URL", words(&text).map_err(|reason| Failure::usage(format!("APIC_URL: {reason}")))?)
        } else {
            ("--url", self.urls.clone())
        };
        urls.iter().map(|url| base(url).map_err(|reason| Failure::usage(format!("{flag}: {reason}")))).collect()
    }

    /// Who we are, by the credentials that are found now.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub fn account(&self) -> Result<Account, String> {
        let user = self.user.clone().or_else(|| variable("APIC_USER")).or_else(|| variable("APIC_LOGIN"));
        let user = user.ok_or("no user: give --user or set APIC_USER")?;
        if let (Some(key), Some(certificate)) = (&self.signing_key, &self.signing_cert) {
            let signer = RequestSigner::load("--signing-key", key)?;
            // A whole name is taken as it is, as those of the app center's certificates are.
            let certificate = if certificate.starts_with("uni/") {
                certificate.clone()
            } else {
                format!("uni/userext/user-{user}/usercert-{certificate}")
            };
            return Ok(Account::Signature { certificate, signer });
        }
        let password = SecretSource::new(self.password_file.clone(), "APIC_PASSWORD").read();
        let password = password.map_err(|error| format!("--password-file: {error}"))?;
        let password = password.ok_or("no password: give --password-file or set APIC_PASSWORD")?;
        let name = match &self.domain {
            Some(domain) => format!("apic:{domain}\\{user}"),
            None => user,
        };
        Ok(Account::Password { name, password })
    }
}

fn base(url: &str) -> Result<Address, String> {
    let address = Address::parse(url, &["https", "http"])?;
    if address.path != "/" || address.query.is_some() {
        return Err("expected scheme and host, e.g. https://apic.example.org".to_owned());
    }
    Ok(address)
}
