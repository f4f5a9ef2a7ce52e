//! How the suite's records are indexed: which keys are words, dates and numbers, and what no event may add.

use serde_json::{Map, Value, json};

/// How the suite's records are indexed.
///
/// Words are keywords, for filters and sums. What may have any number of keys, or of any shape, is kept with the document and indexed only as far as
/// its keys are known, so that no event can fill the mapping and none is refused because another was different: an APIC's `attributes`, and
/// the objects tutum-enrich attaches. Numbers and dates that are none are left out of the index instead of refusing the document.
pub fn mappings() -> Value {
    let keyword = json!({"type": "keyword", "ignore_above": 1024});
    let words = json!({"type": "text", "fields": {"keyword": keyword}});
    let date = json!({"type": "date", "ignore_malformed": true});
    let whole = json!({"type": "long", "ignore_malformed": true});
    let known = |keywords: &[&str], others: &[(&str, &Value)]| {
        let keywords = keywords.iter().map(|name| ((*name).to_owned(), keyword.clone()));
        let others = others.iter().map(|(name, mapping)| ((*name).to_owned(), (*mapping).clone()));
        keywords.chain(others).collect::<Map<String, Value>>()
    };
    let closed = |properties: Map<String, Value>| json!({"type": "object", "dynamic": false, "properties": properties});
    let object = closed(known(
        &[
            "uuid",
            "name",
            "nickname",
            "state",
            "resource_uri",
            "image_name",
            "image_tag",
            "action",
            "object",
            "service",
            "stack",
            "node",
            "public_dns",
            "external_fqdn",
            "private_ip",
            "public_ip",
        ],
        &[
            ("exit_code", &whole),
            ("exit_code_msg", &words),
            ("current_num_containers", &whole),
            ("target_num_containers", &whole),
        ],
    ));
    let parents: Map<String, Value> = ["service", "stack", "node", "nodecluster", "container"]
        .into_iter()
        .map(|kind| (kind.to_owned(), object.clone()))
        .collect();
    // Of an APIC's thousands: what faults, records of changes and interfaces have.
    let attributes = closed(known(
        &[
            "dn",
            "name",
            "nameAlias",
            "status",
            "severity",
            "origSeverity",
            "code",
            "cause",
            "lc",
            "type",
            "subject",
            "domain",
            "rule",
            "ack",
            "affected",
            "user",
            "trig",
            "operSt",
            "operStQual",
            "adminSt",
            "role",
            "id",
        ],
        &[("descr", &words), ("modTs", &date), ("created", &date), ("lastTransition", &date), ("occur", &whole)],
    ));
    // Each key of these would be a field, and their values may be secret.
    let opaque = ["link_variables", "container_envvars", "labels", "Labels", "annotations", "Attributes"].map(|name| {
        json!({name: {"match": name, "match_mapping_type": "object", "mapping": {"type": "object", "enabled": false}}})
    });
    let mut templates = opaque.to_vec();
    templates.push(json!({"words": {"match_mapping_type": "string", "mapping": keyword}}));
    let mut properties = known(
        &[
            "type",
            "action",
            "state",
            "resource_uri",
            "parents",
            "source",
            "origin",
            "uuid",
            "name",
            "dn",
            "image",
            "health",
            "update_state",
            "level",
        ],
        &[
            ("received_at", &date),
            ("datetime", &date),
            ("from", &date),
            ("to", &date),
            ("reason", &words),
            ("message", &words),
            ("exit_code", &whole),
            ("count", &whole),
            ("code", &whole),
            ("attempts", &whole),
            ("dropped", &whole),
            ("suppressed", &whole),
            ("seconds", &json!({"type": "double", "ignore_malformed": true})),
            ("resource", &object),
            ("parent", &closed(parents)),
            ("attributes", &attributes),
        ],
    );
    // A data stream allows nothing more to be said of this one.
    properties.insert("@timestamp".to_owned(), json!({"type": "date"}));
    json!({"dynamic_templates": templates, "date_detection": false, "numeric_detection": false, "properties": properties})
}
