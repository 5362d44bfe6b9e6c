//! Arguments of a script from named values, by the sidecar's `argv` template.

use serde_json::{Map, Value};

/// The command line for `values`, by `template` where the sidecar has one; otherwise the values in
/// the order in which `properties` declares them.
///
/// # Errors
/// One line that names the element of the template, or the value that cannot be an argument.
pub fn render(
    template: Option<&Value>,
    properties: Option<&Map<String, Value>>,
    values: &Map<String, Value>,
) -> Result<Vec<String>, String> {
    let empty = Map::new();
    let properties = properties.unwrap_or(&empty);
    let value = |name: &str| {
        values
            .get(name)
            .or_else(|| properties.get(name)?.get("default"))
    };
    let mut argv = Vec::new();
    let Some(template) = template else {
        // Declared values in their order, then what the schema lets through without declaring it.
        let undeclared = values.keys().filter(|name| !properties.contains_key(*name));
        for name in properties.keys().chain(undeclared) {
            match value(name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(items)) => {
                    for item in items {
                        argv.push(word(name, item)?);
                    }
                }
                Some(one) => argv.push(word(name, one)?),
            }
        }
        return Ok(argv);
    };
    let Value::Array(elements) = template else {
        return Err("the sidecar's argv is no array".to_owned());
    };
    for (n, element) in elements.iter().enumerate() {
        let fault = |what: &str| format!("element {} of the sidecar's argv {what}", n + 1);
        let object = match element {
            Value::String(literal) => {
                argv.push(literal.clone());
                continue;
            }
            Value::Object(object) => object,
            _ => return Err(fault("is neither a string nor an object")),
        };
        let name = object
            .get("arg")
            .and_then(Value::as_str)
            .ok_or_else(|| fault("names no arg"))?;
        let flag = match object.get("flag") {
            None => None,
            Some(Value::String(flag)) => Some(flag),
            Some(_) => return Err(fault("has a flag that is no string")),
        };
        let repeat = object.get("repeat") == Some(&Value::Bool(true));
        match (value(name), flag) {
            (None | Some(Value::Null), _) => {}
            (Some(Value::Bool(on)), Some(flag)) => argv.extend(on.then(|| flag.clone())),
            (Some(Value::Array(items)), flag) if repeat => {
                for item in items {
                    argv.extend(flag.cloned());
                    argv.push(word(name, item)?);
                }
            }
            (Some(one), flag) => {
                argv.extend(flag.cloned());
                argv.push(word(name, one)?);
            }
        }
    }
    Ok(argv)
}

/// One argument: strings as they are, everything else as JSON writes it.
fn word(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.contains('\0') => Err(format!(
            "{name}: an argument of a program cannot hold a NUL character"
        )),
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn templates() {
        let properties = map(json!({"level": {"default": 3}, "on": {}, "names": {}, "deep": {}}));
        let cases = [
            (json!(["a", "b c"]), json!({}), vec!["a", "b c"]),
            (json!([{"arg": "level"}]), json!({}), vec!["3"]),
            (json!([{"arg": "level"}]), json!({"level": 7}), vec!["7"]),
            (
                json!([{"arg": "level", "flag": "-l"}]),
                json!({"level": 7}),
                vec!["-l", "7"],
            ),
            (
                json!([{"arg": "absent", "flag": "-l"}, "end"]),
                json!({}),
                vec!["end"],
            ),
            (
                json!([{"arg": "on", "flag": "--on"}]),
                json!({"on": true}),
                vec!["--on"],
            ),
            (
                json!([{"arg": "on", "flag": "--on"}]),
                json!({"on": false}),
                vec![],
            ),
            (json!([{"arg": "on"}]), json!({"on": false}), vec!["false"]),
            (
                json!([{"arg": "names", "repeat": true}]),
                json!({"names": ["x", 2]}),
                vec!["x", "2"],
            ),
            (
                json!([{"arg": "names", "repeat": true, "flag": "-n"}]),
                json!({"names": ["x", "y"]}),
                vec!["-n", "x", "-n", "y"],
            ),
            (
                json!([{"arg": "deep"}]),
                json!({"deep": {"a": [1]}}),
                vec!["{\"a\":[1]}"],
            ),
            (
                json!([{"arg": "on", "flag": "-o"}]),
                json!({"on": null}),
                vec![],
            ),
            (
                json!([{"arg": "deep"}]),
                json!({"deep": "-rf $(x) 'q'"}),
                vec!["-rf $(x) 'q'"],
            ),
        ];
        for (template, values, expected) in cases {
            let argv = render(Some(&template), Some(&properties), &map(values.clone()));
            assert_eq!(argv.unwrap(), expected, "{template} {values}");
        }
    }

    #[test]
    fn without_a_template_values_follow_their_declaration() {
        let properties = map(json!({"z": {}, "a": {"default": "d"}, "m": {}}));
        let argv = render(
            None,
            Some(&properties),
            &map(json!({"m": [1, 2], "z": true, "more": "x"})),
        );
        assert_eq!(argv.unwrap(), ["true", "d", "1", "2", "x"]);
    }

    #[test]
    fn faults_name_their_place() {
        for (template, values, expected) in [
            (json!({}), json!({}), "the sidecar's argv is no array"),
            (
                json!(["a", 5]),
                json!({}),
                "element 2 of the sidecar's argv is neither",
            ),
            (
                json!([{"flag": "-x"}]),
                json!({}),
                "element 1 of the sidecar's argv names no arg",
            ),
            (
                json!([{"arg": "a", "flag": 1}]),
                json!({"a": 1}),
                "element 1 of the sidecar's argv has a flag",
            ),
            (
                json!([{"arg": "a"}]),
                json!({"a": "x\0y"}),
                "a: an argument",
            ),
        ] {
            let error = render(Some(&template), None, &map(values)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
