//! Text that prints as `<redacted>`: tokens, passwords, webhook addresses.

use std::fmt;

/// A secret: neither `Debug` nor `Display` shows it; [`Secret::expose`] is the only way to its text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` as a secret; the white space around it (a file's last newline) is not part of it.
    pub fn new(text: &str) -> Secret {
        Secret(text.trim().to_owned())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text` with every appearance of the secret replaced, for words that came from a server.
    pub fn redact(&self, text: &str) -> String {
        // A very short secret would blank out ordinary words and still be guessable from what is left.
        if self.0.len() < 4 {
            return text.to_owned();
        }
        text.replace(&self.0, "<redacted>")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_redacted_and_loses_the_newline_of_its_file() {
        let secret = Secret::new("hunter22\n");
        assert_eq!(format!("{secret} {secret:?}"), "<redacted> <redacted>");
        assert_eq!(secret.expose(), "hunter22");
    }

    #[test]
    fn is_cut_out_of_a_servers_words() {
        assert_eq!(Secret::new("hunter22").redact("no user hunter22!"), "no user <redacted>!");
    }
}
