//! What the API's answer means for a lookup, and where a redirect may lead.

use std::sync::Arc;

use super::object::Fitting;
use crate::model::address::Address;
use crate::world::http::{Response, TransportError};

/// The longest object that is attached, in bytes.
pub const LONGEST_BODY: u64 = 4 << 20;

/// So many redirects are followed (protocol page of the API, section 7).
pub const MOST_REDIRECTS: usize = 5;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object.
    Found(Arc<str>),
    /// The API works, and there is no such object or none that can be attached: asking again is of no use.
    Nothing(String),
    /// The API is in trouble; ask again later.
    Trouble {
        /// What went wrong.
        reason: String,
        /// `Retry-After`, as sent.
        retry_after: Option<String>,
    },
    /// The API cannot be believed: asking again is of no use until someone mends it.
    Hopeless(String),
    /// The credential is refused.
    Refused(String),
    /// The credential was refused and there is a newer one: ask again at once.
    AskAgain,
}

/// What an answer means.
pub fn judge(answer: Result<Response, TransportError>, fitting: &Fitting<'_>) -> Outcome {
    let response = match answer {
        Ok(response) => response,
        Err(TransportError::Certificate(reason)) => return Outcome::Hopeless(reason),
        Err(TransportError::Unreachable(reason)) => return Outcome::Trouble { reason, retry_after: None },
    };
    let status = response.status;
    match status {
        200..=299 if response.truncated => Outcome::Nothing(format!("too large: more than {} MiB", LONGEST_BODY >> 20)),
        200..=299 => match fitting.fit(&response.body) {
            Ok(object) => Outcome::Found(object.into()),
            Err(reason) => Outcome::Nothing(reason.to_owned()),
        },
        401 => Outcome::Refused(words(status)),
        408 | 425 | 429 | 500..=599 => Outcome::Trouble { reason: words(status), retry_after: response.retry_after },
        _ => Outcome::Nothing(words(status)),
    }
}

/// A status in the words of `enrich_error`. The server's own phrase may say anything, so it is not used.
fn words(status: u16) -> String {
    let phrase = match status {
        400 => " bad request",
        401 => " unauthorized",
        402 => " payment required",
        403 => " forbidden",
        404 => " not found",
        405 => " method not allowed",
        408 => " request timeout",
        409 => " conflict",
        410 => " gone",
        429 => " too many requests",
        500 => " internal server error",
        501 => " not implemented",
        502 => " bad gateway",
        503 => " service unavailable",
        504 => " gateway timeout",
        _ => "",
    };
    format!("{status}{phrase}")
}

/// Whether the answer sends us elsewhere.
pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads, if it stays with the origin: the credential is for nobody else.
///
/// # Errors
/// In the words of `enrich_error`.
pub fn follow(from: &Address, location: Option<&str>) -> Result<Address, String> {
    let location = location.map(str::trim).filter(|location| !location.is_empty());
    let location = location.ok_or("redirected to nowhere")?;
    let absolute = match location {
        _ if location.starts_with("//") => format!("{}:{location}", from.scheme),
        _ if location.starts_with('/') => format!("{}{location}", from.origin()),
        _ => location.to_owned(),
    };
    let schemes = ["https", "http"];
    let to = Address::parse(&absolute, &schemes).map_err(|_| "redirected to something that is not understood")?;
    let origin = |address: &Address| (address.scheme.clone(), address.host.to_ascii_lowercase(), address.port());
    if origin(&to) != origin(from) {
        return Err(format!("redirected to another origin: {}", to.origin()));
    }
    // Written as we write it, so that nothing but path and query comes from the server.
    Ok(Address { query: to.query, ..from.with_path(&to.path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_judged() {
        let fitting = Fitting { with_secrets: false, redact: &str::to_owned };
        let verdict =
            |status| match judge(Ok(Response { status, body: b"{}".to_vec(), ..Response::default() }), &fitting) {
                Outcome::Found(_) => "found",
                Outcome::Nothing(_) => "nothing",
                Outcome::Trouble { .. } => "trouble",
                Outcome::Refused(_) => "refused",
                Outcome::Hopeless(_) | Outcome::AskAgain => "else",
            };
        for status in 100..600 {
            let expected = match status {
                200..=299 => "found",
                401 => "refused",
                408 | 425 | 429 | 500.. => "trouble",
                _ => "nothing",
            };
            assert_eq!(verdict(status), expected, "{status}");
        }
        let judged = |response| judge(Ok(response), &fitting);
        assert_eq!(
            judged(Response { status: 404, body: b"hunter22".to_vec(), ..Response::default() }),
            Outcome::Nothing("404 not found".to_owned())
        );
        assert_eq!(
            judged(Response { status: 200, truncated: true, ..Response::default() }),
            Outcome::Nothing("too large: more than 4 MiB".to_owned())
        );
        assert_eq!(
            judged(Response { status: 200, body: b"<html>".to_vec(), ..Response::default() }),
            Outcome::Nothing("the answer is not a JSON object".to_owned())
        );
        let retry_after = Some("7".to_owned());
        assert_eq!(
            judged(Response { status: 429, retry_after: retry_after.clone(), ..Response::default() }),
            Outcome::Trouble { reason: "429 too many requests".to_owned(), retry_after }
        );
    }

    #[test]
    fn no_answer_is_trouble_and_a_false_certificate_is_hopeless() {
        let fitting = Fitting { with_secrets: false, redact: &str::to_owned };
        let reset = TransportError::Unreachable("reset".to_owned());
        assert_eq!(judge(Err(reset), &fitting), Outcome::Trouble { reason: "reset".to_owned(), retry_after: None });
        let forged = TransportError::Certificate("forged".to_owned());
        assert_eq!(judge(Err(forged), &fitting), Outcome::Hopeless("forged".to_owned()));
    }

    #[test]
    fn a_redirect_stays_with_its_origin() {
        let from = Address::parse("https://api.example:8443/api/v1/service/1/", &["https"]).unwrap();
        let leads = |location| follow(&from, location).map(|address| address.expose());
        for (location, url) in [
            ("/api/v2/service/1/?a=b", "https://api.example:8443/api/v2/service/1/?a=b"),
            ("https://API.example:8443/x", "https://api.example:8443/x"),
            ("//api.example:8443/x", "https://api.example:8443/x"),
            ("/\\evil.example/", "https://api.example:8443/\\evil.example/"),
        ] {
            assert_eq!(leads(Some(location)).as_deref(), Ok(url));
        }
        for (location, reason) in [
            (None, "redirected to nowhere"),
            (Some(" "), "redirected to nowhere"),
            (Some("https://evil.example/"), "redirected to another origin: https://evil.example"),
            (Some("//evil.example/x?y"), "redirected to another origin: https://evil.example"),
            (Some("https://api.example/"), "redirected to another origin: https://api.example"),
            (Some("http://api.example:8443/"), "redirected to another origin: http://api.example:8443"),
            (Some("https://api.example:8443@evil.example/"), "redirected to something that is not understood"),
            (Some("ftp://api.example/"), "redirected to something that is not understood"),
            (Some("next/"), "redirected to something that is not understood"),
        ] {
            assert_eq!(leads(location), Err(reason.to_owned()));
        }
    }
}
