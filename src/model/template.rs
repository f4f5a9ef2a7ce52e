//! Message text over a record: `{{ type }}`, `{{ resource.name }}`, Jinja syntax. Hides minijinja.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

/// How the values of a record are written into the text; the template's own words are never touched.
pub type Escape = fn(&str) -> String;

/// A compiled template.
pub struct Template {
    environment: Environment<'static>,
}

const NAME: &str = "text";

impl Template {
    /// Compiles `source`; every value it prints goes through `escape` unless the template says `|safe`.
    ///
    /// # Errors
    /// Says where the syntax is wrong or which filter does not exist.
    pub fn new(source: &str, escape: Escape) -> Result<Template, String> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // Every key of an event is optional: what is not there prints as nothing, and the message still goes out.
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_formatter(move |output: &mut Output, _: &mut State, value: &Value| {
            if value.is_undefined() || value.is_none() {
                return Ok(());
            }
            let text = value.to_string();
            let text = if value.is_safe() { text } else { escape(&text) };
            output.write_str(&text).map_err(|_| Error::new(ErrorKind::WriteFailure, "out of memory"))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| explain(&error))?;
        Ok(Template { environment })
    }

    /// The text for a record.
    ///
    /// # Errors
    /// Says why the record cannot be rendered, without its content.
    pub fn render(&self, record: &str) -> Result<String, String> {
        let record: serde_json::Value = serde_json::from_str(record).map_err(|error| error.to_string())?;
        let template = self.environment.get_template(NAME).map_err(|error| explain(&error))?;
        template.render(Serde(&record)).map_err(|error| explain(&error))
    }
}

/// The kind and place of an error; its detail may quote data, so only a syntax error's is shown, which quotes the template.
fn explain(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownFunction | ErrorKind::UnknownTest => {
            format!("{}{line}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
        }
        kind => format!("{kind}{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let shout = |text: &str| text.replace('<', "&lt;");
        Template::new(source, shout)
            .unwrap()
            .render(
                r#"{"type":"a<b","n":18446744073709551615,"resource":{"name":"web"},"received_at":"2025-03-04T05"}"#,
            )
            .unwrap()
    }

    #[test]
    fn values_are_escaped_and_the_templates_own_words_are_not() {
        assert_eq!(render("<x> {{ type }} {{ type|safe }}"), "<x> a&lt;b a<b");
        assert_eq!(render("{{ n }} {{ resource.name }} {{ received_at[:10] }}"), "18446744073709551615 web 2025-03-04");
    }

    #[test]
    fn what_is_not_there_prints_as_nothing() {
        assert_eq!(render("[{{ state }}{{ parent.stack.name }}{{ state|default('?') }}]"), "[?]");
    }

    #[test]
    fn a_wrong_template_is_refused_when_it_is_compiled() {
        let error = |source: &str| Template::new(source, str::to_owned).err().unwrap();
        assert!(error("a\n{{ type").contains("in line 2"), "{}", error("a\n{{ type"));
        assert!(error("{% if %}").contains("in line 1"));
    }
}
