//! What a tool takes and gives, as JSON Schema.

use serde_json::{Map, Value, json};

/// Where the arguments of a script stand in a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Beside the choice of hosts: the properties of the sidecar, one by one.
    Beside,
    /// In a member of their own, since the sidecar's schema says more than which properties there are.
    Nested,
    /// The script has no schema: a list of strings.
    List,
}

/// The input of one tool.
#[derive(Clone, Debug)]
pub struct Input {
    /// The whole schema, as clients see it.
    pub schema: Map<String, Value>,
    /// Member with names of hosts.
    pub hosts: String,
    /// Member with tags.
    pub tags: String,
    /// Where arguments stand.
    pub place: Place,
}

/// Members of a sidecar's schema that may stand beside ours without meaning anything else there.
const PLAIN: [&str; 11] = [
    "$comment",
    "$defs",
    "$schema",
    "additionalProperties",
    "definitions",
    "description",
    "examples",
    "properties",
    "required",
    "title",
    "type",
];

/// The member that holds arguments which cannot stand beside ours.
pub const NESTED: &str = "arguments";

/// The member that holds the arguments of a script without a schema.
pub const LIST: &str = "args";

/// Makes the input of a script with `arguments` of its sidecar, which `hosts` have.
pub fn input(arguments: Option<&Map<String, Value>>, hosts: &[String]) -> Input {
    let plain = |schema: &Map<String, Value>| {
        let object = schema.get("type").is_none_or(|t| t == "object");
        object && schema.keys().all(|key| PLAIN.contains(&key.as_str()))
    };
    let place = match arguments {
        None => Place::List,
        Some(schema) if plain(schema) => Place::Beside,
        Some(_) => Place::Nested,
    };
    let mut schema = match (&place, arguments) {
        (Place::Beside, Some(arguments)) => arguments.clone(),
        _ => Map::new(),
    };
    schema.insert("type".to_owned(), json!("object"));
    let mut properties = match schema.get("properties") {
        Some(Value::Object(properties)) => properties.clone(),
        _ => Map::new(),
    };
    match (&place, arguments) {
        (Place::Nested, Some(arguments)) => {
            let mut nested = arguments.clone();
            // References inside it are relative to itself.
            nested
                .entry("$id")
                .or_insert_with(|| json!("urn:ctrl-exec:arguments"));
            properties.insert(NESTED.to_owned(), Value::Object(nested));
            schema.insert("required".to_owned(), json!([NESTED]));
        }
        (Place::List, _) => {
            let args = json!({"type": "array", "items": {"type": "string"}, "description": "Arguments of the script, in order."});
            properties.insert(LIST.to_owned(), args);
        }
        _ => {}
    }
    // A script may have arguments of these names, or require what it does not declare.
    let taken: Vec<String> = properties
        .keys()
        .cloned()
        .chain(
            schema
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned)),
        )
        .collect();
    let free = |name: &str| {
        let mut name = name.to_owned();
        while taken.contains(&name) {
            name = format!("ctrl_exec_{name}");
        }
        name
    };
    let (hosts_name, tags_name) = (free("hosts"), free("tags"));
    properties.insert(
        hosts_name.clone(),
        json!({"type": "array", "items": {"type": "string", "enum": hosts}, "minItems": 1, "uniqueItems": true,
               "description": "Hosts to run on; every host that has the script, unless given."}),
    );
    properties.insert(
        tags_name.clone(),
        json!({"type": "array", "items": {"type": "string"}, "minItems": 1,
               "description": "Only hosts with all these tags, each as key=value or key."}),
    );
    schema.insert("properties".to_owned(), Value::Object(properties));
    if place != Place::Beside {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    Input {
        schema,
        hosts: hosts_name,
        tags: tags_name,
        place,
    }
}

/// Checks `values` against the sidecar's `arguments`.
///
/// # Errors
/// One line for each fault, at most ten, with the place of each.
pub fn check(
    arguments: &Map<String, Value>,
    values: &Map<String, Value>,
) -> Result<(), Vec<String>> {
    let mut schema = arguments.clone();
    schema.entry("type").or_insert_with(|| json!("object"));
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .build(&Value::Object(schema))
        .map_err(|error| vec![format!("the script's schema cannot be used: {error}")])?;
    let values = Value::Object(values.clone());
    let faults: Vec<String> = validator
        .iter_errors(&values)
        .take(10)
        .map(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() {
                "arguments".to_owned()
            } else {
                place
            };
            crate::text::harmless(&format!("{place}: {error}"))
        })
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// What every run of a script gives.
pub fn output() -> Map<String, Value> {
    let host = json!({
        "type": "object",
        "properties": {
            "outcome": {"type": "string", "description": "done, refused, unreached, unknown or running; what the API says"},
            "exit": {"type": "integer", "description": "exit status of the script; -1 where it did not run or is not known"},
            "stdout": {"type": "string"}, "stderr": {"type": "string"},
            "error": {"type": "string"},
            "cut": {"type": "boolean", "description": "output was left out"},
        },
        "required": ["outcome"],
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "reqid": {"type": "string", "description": "id of the run, for run_status"},
            "complete": {"type": "boolean", "description": "nothing runs any more"},
            "error": {"type": "string"},
            "hosts": {"type": "object", "additionalProperties": host},
        },
        "required": ["complete", "hosts"],
    });
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn plain_arguments_stand_beside_ours_with_all_that_was_said() {
        let arguments = map(
            json!({"type": "object", "$defs": {"n": {"type": "integer"}}, "additionalProperties": false,
            "properties": {"level": {"$ref": "#/$defs/n"}}, "required": ["level"]}),
        );
        let input = input(Some(&arguments), &["r1".into()]);
        assert_eq!(input.place, Place::Beside);
        assert_eq!(input.schema["$defs"], arguments["$defs"]);
        assert_eq!(input.schema["additionalProperties"], json!(false));
        assert_eq!(input.schema["required"], json!(["level"]));
        assert_eq!(
            input.schema["properties"]["hosts"]["items"]["enum"],
            json!(["r1"])
        );
    }

    #[test]
    fn names_of_ours_never_collide() {
        let arguments = map(
            json!({"properties": {"hosts": {"type": "string"}, "ctrl_exec_hosts": {}, "tags": {}}}),
        );
        let input = input(Some(&arguments), &[]);
        assert_eq!(
            (input.hosts.as_str(), input.tags.as_str()),
            ("ctrl_exec_ctrl_exec_hosts", "ctrl_exec_tags")
        );
        assert_eq!(
            input.schema["properties"]["hosts"],
            json!({"type": "string"})
        );
    }

    #[test]
    fn what_says_more_than_properties_is_nested() {
        for more in [
            json!({"oneOf": [{"required": ["a"]}]}),
            json!({"minProperties": 1}),
            json!({"$ref": "#/$defs/x"}),
            json!({"not": {}}),
            json!({"type": "array"}),
        ] {
            let input = input(Some(&map(more.clone())), &[]);
            assert_eq!(input.place, Place::Nested, "{more}");
            assert_eq!(input.schema["required"], json!(["arguments"]));
        }
        assert_eq!(super::input(None, &[]).place, Place::List);
    }

    #[test]
    fn arguments_are_checked() {
        let arguments = map(
            json!({"properties": {"n": {"type": "integer", "minimum": 1}, "w": {"oneOf": [{"const": "a"}, {"const": "b"}]}},
            "required": ["n"], "additionalProperties": false}),
        );
        assert!(check(&arguments, &map(json!({"n": 1, "w": "a"}))).is_ok());
        for (values, place) in [
            (json!({}), "arguments"),
            (json!({"n": 0}), "/n"),
            (json!({"n": "1"}), "/n"),
            (json!({"n": 1, "w": "c"}), "/w"),
            (json!({"n": 1, "x": 1}), "arguments"),
        ] {
            let faults = check(&arguments, &map(values.clone())).unwrap_err();
            assert!(faults[0].starts_with(place), "{values} {faults:?}");
        }
        let faults =
            check(&map(json!({"properties": {"a": {"type": 7}}})), &Map::new()).unwrap_err();
        assert!(faults[0].contains("schema cannot be used"), "{faults:?}");
        let remote = map(json!({"$ref": "http://127.0.0.1:1/x.json"}));
        assert!(check(&remote, &Map::new()).is_err(), "nothing is fetched");
    }

    #[test]
    fn the_output_schema_is_a_schema() {
        assert!(jsonschema::meta::is_valid(&Value::Object(output())));
    }
}
