//! What an APIC says: the envelope that answers and pushed events share, and the event that becomes of an object in it.

use std::borrow::Cow;

use super::dn;
use crate::model::exit::Fault;
use crate::model::json::{self, quote};

/// An answer or a pushed event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'t> {
    /// The subscriptions it belongs to: one text in an answer, a list in an event.
    pub subscriptions: Vec<Cow<'t, str>>,
    /// How many objects the query has, whatever part of them is here.
    pub total: Option<u64>,
    /// The objects.
    pub objects: Vec<Object<'t>>,
    /// What the APIC says is wrong: its own number and its words.
    pub error: Option<(String, String)>,
}

/// An object, or what of it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'t> {
    /// Its class.
    pub class: &'t str,
    /// The object under the class's name, as it came.
    pub raw: &'t str,
    /// Its attributes, as they came.
    pub attributes: &'t str,
    /// The objects below it, as they came, if there are any.
    pub children: Option<&'t str>,
}

impl<'t> Envelope<'t> {
    /// Reads one.
    ///
    /// # Errors
    /// It is none, and why.
    pub fn read(text: &'t str) -> Result<Envelope<'t>, Fault> {
        if text.trim_start().starts_with('<') {
            return Err(Fault::new("XML, not JSON"));
        }
        let mut envelope = Envelope::default();
        let mut imdata = None;
        json::object(text, |key, raw| match key {
            "subscriptionId" => {
                envelope.subscriptions = if raw.starts_with('[') {
                    json::elements(raw).into_iter().map(json::plain).collect()
                } else {
                    vec![json::plain(raw)]
                };
            }
            "totalCount" => envelope.total = json::plain(raw).parse().ok(),
            "imdata" => imdata = Some(raw),
            _ => {}
        })?;
        let imdata = imdata.filter(|raw| raw.starts_with('[')).ok_or_else(|| Fault::new("no list \"imdata\""))?;
        for element in json::elements(imdata) {
            let mut members = Vec::new();
            json::object(element, |key, raw| members.push((key.to_owned(), raw)))
                .map_err(|_| Fault::new("an element of \"imdata\" is not an object"))?;
            for (class, raw) in members {
                envelope.take(element, &class, raw)?;
            }
        }
        envelope.subscriptions.retain(|id| !id.is_empty());
        Ok(envelope)
    }

    fn take(&mut self, element: &'t str, class: &str, raw: &'t str) -> Result<(), Fault> {
        let (mut attributes, mut children) = ("{}", None);
        json::object(raw, |key, raw| match key {
            "attributes" => attributes = raw,
            "children" => children = Some(raw),
            _ => {}
        })
        .map_err(|_| Fault::new(format!("{class}: not an object")))?;
        if class == "error" {
            let (mut code, mut text) = (String::new(), String::new());
            // An error that says nothing is still one.
            let _ = json::object(attributes, |key, raw| match key {
                "code" => code = json::plain(raw).into_owned(),
                "text" => text = json::plain(raw).into_owned(),
                _ => {}
            });
            self.error = Some((code, text));
            return Ok(());
        }
        // The name as it stands in the text, so that nothing is copied.
        let class = element.find(class).map(|at| &element[at..at + class.len()]).unwrap_or_default();
        let children = children.filter(|raw| !json::elements(raw).is_empty());
        self.objects.push(Object { class, raw, attributes, children });
        Ok(())
    }
}

/// What the suite needs to know of an object's attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits<'t> {
    /// Its distinguished name.
    pub dn: Option<Cow<'t, str>>,
    /// What happened to it: `created`, `modified`, `deleted`.
    pub status: Option<Cow<'t, str>>,
    /// The state it is in, as far as its class has one.
    pub state: Option<&'t str>,
}

impl<'t> Traits<'t> {
    /// Looks at raw attributes. Those that are no object have no traits.
    pub fn of(attributes: &'t str) -> Traits<'t> {
        let mut traits = Traits::default();
        let mut states = [None; STATES.len()];
        let _ = json::select(
            attributes,
            |key| matches!(key, "dn" | "status") || STATES.contains(&key),
            |key, raw| match key {
                "dn" => traits.dn = json::string(raw).filter(|dn| !dn.is_empty()),
                "status" => traits.status = json::string(raw),
                _ => {
                    let place = STATES.iter().position(|state| *state == key);
                    if let Some(place) = place.filter(|_| raw != "\"\"") {
                        states[place] = Some(raw);
                    }
                }
            },
        );
        traits.state = states.into_iter().flatten().next();
        traits
    }

    /// The suite's word for what happened. A status that is missing or unknown is a modification.
    pub fn action(&self) -> &'static str {
        match self.status.as_deref() {
            Some("created") => "create",
            Some("deleted") => "delete",
            _ => "update",
        }
    }
}

/// The attributes that say which state an object is in; the first that is there counts.
const STATES: [&str; 3] = ["operSt", "lc", "severity"];

/// The event, without `received_at`: `more` is further members, each with a comma before it.
pub fn event(object: &Object<'_>, traits: &Traits<'_>, action: &str, more: &str) -> String {
    let state = traits.state.map(|state| format!(r#","state":{state}"#)).unwrap_or_default();
    let place = traits.dn.as_deref().map(|name| {
        let parents: Vec<String> = dn::parents(name).into_iter().map(|parent| quote(&dn::uri(parent))).collect();
        format!(
            r#","resource_uri":{},"parents":[{}]{state},"dn":{}"#,
            quote(&dn::uri(name)),
            parents.join(","),
            quote(name)
        )
    });
    let place = place.unwrap_or(state);
    let children = object.children.map(|raw| format!(r#","children":{}"#, json::one_line(raw))).unwrap_or_default();
    format!(
        r#"{{"type":{},"action":"{action}"{place},"attributes":{}{children}{more}}}"#,
        quote(object.class),
        json::one_line(object.attributes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_of(text: &str) -> String {
        let envelope = Envelope::read(text).unwrap();
        let object = envelope.objects[0];
        let traits = Traits::of(object.attributes);
        event(&object, &traits, traits.action(), "")
    }

    #[test]
    fn an_event_has_the_suites_shape_and_its_attributes_as_they_came() {
        assert_eq!(
            event_of(
                r#"{"subscriptionId":["72057611234574337"],"imdata":[{"fvTenant":{"attributes":{"childAction":"","dn":"uni/tn-X","status":"created","uid" : "15374"}}}]}"#
            ),
            r#"{"type":"fvTenant","action":"create","resource_uri":"/api/mo/uni/tn-X.json","parents":["/api/mo/uni.json"],"dn":"uni/tn-X","attributes":{"childAction":"","dn":"uni/tn-X","status":"created","uid" : "15374"}}"#
        );
        assert_eq!(
            event_of(
                "{\"imdata\":[{\"faultInst\":{\"attributes\":{\n\"dn\":\"a/b-[c/d]/e\",\"severity\":\"major\",\"lc\":\"raised\",\"operSt\":\"\"},\"children\":[]}}]}"
            ),
            r#"{"type":"faultInst","action":"update","resource_uri":"/api/mo/a/b-[c/d]/e.json","parents":["/api/mo/a/b-[c/d].json","/api/mo/a.json"],"state":"raised","dn":"a/b-[c/d]/e","attributes":{"dn":"a/b-[c/d]/e","severity":"major","lc":"raised","operSt":""}}"#
        );
        assert_eq!(
            event_of(r#"{"imdata":[{"fvAp":{"attributes":{"status":"deleted"},"children":[{"x":{}}]}}]}"#),
            r#"{"type":"fvAp","action":"delete","attributes":{"status":"deleted"},"children":[{"x":{}}]}"#
        );
    }

    #[test]
    fn ids_come_as_text_or_list_and_are_never_numbers() {
        let ids = |text| Envelope::read(text).unwrap().subscriptions.join(" ");
        assert_eq!(ids(r#"{"subscriptionId":"72057611234574337","imdata":[]}"#), "72057611234574337");
        assert_eq!(ids(r#"{"subscriptionId":["72057611234574337","2"],"imdata":[]}"#), "72057611234574337 2");
        assert_eq!(ids(r#"{"subscriptionId":72057611234574337,"imdata":[]}"#), "72057611234574337");
        assert_eq!(ids(r#"{"subscriptionId":"","imdata":[]}"#), "");
    }

    #[test]
    fn errors_are_told_with_the_apics_words_and_garbage_is_a_fault() {
        let text =
            r#"{"totalCount":"1","imdata":[{"error":{"attributes":{"code":"403","text":"Token was invalid"}}}]}"#;
        let envelope = Envelope::read(text).unwrap();
        assert_eq!(envelope.error, Some(("403".to_owned(), "Token was invalid".to_owned())));
        assert_eq!(envelope.total, Some(1));
        for text in ["", "<imdata/>", "[]", "{}", r#"{"imdata":{}}"#, r#"{"imdata":[1]}"#, r#"{"imdata":[{"fvAp":1}]}"#]
        {
            assert!(Envelope::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_prefix_of_an_event_is_an_event_or_a_fault() {
        let text = r#"{"subscriptionId":["1"],"imdata":[{"fvAp":{"attributes":{"dn":"uni/tn-X/ap-\u00e9","status":"modified"}}}]}"#;
        for end in 0..text.len() {
            if let Ok(envelope) = Envelope::read(&text[..end]) {
                panic!("{end}: {envelope:?}");
            }
        }
    }
}
