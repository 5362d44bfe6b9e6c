//! The tools, as clients see them.

use crate::catalogue::Entry;
use crate::{schema, text};
use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The tool of one script.
pub fn tool(entry: &Entry) -> Tool {
    let hints = ToolAnnotations::new()
        .read_only(entry.read_only())
        .destructive(entry.destructive())
        .idempotent(entry.idempotent())
        .open_world(false);
    let title = match &entry.version {
        Some(version) => format!("{} ({})", entry.script, text::harmless(version)),
        None => entry.script.clone(),
    };
    Tool::new(
        entry.name.clone(),
        entry.description(),
        Arc::new(entry.input.schema.clone()),
    )
    .with_title(title)
    .with_raw_output_schema(Arc::new(schema::output()))
    .with_annotations(hints)
}

/// The tool that tells how a run stands.
pub fn status_tool() -> Tool {
    let input = json!({"type": "object", "properties": {"reqid": {"type": "string", "pattern": "^[0-9a-f]{1,64}$", "description": "Id of the run."}}, "required": ["reqid"], "additionalProperties": false});
    Tool::new("run_status", "Tells how a run stands, and what it printed. The id of a run stands in the first line of its result.", object(input))
        .with_raw_output_schema(Arc::new(schema::output()))
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false))
}

/// The tools that stand for all scripts of a large fleet.
pub fn general_tools() -> Vec<Tool> {
    let list = json!({"type": "object", "properties": {
        "query": {"type": "string", "description": "Only scripts whose name or description holds this."},
        "from": {"type": "integer", "minimum": 0, "description": "Number of the first script to show; next of the answer before."},
    }, "additionalProperties": false});
    let strings = |description: &str| json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "description": description});
    let run = json!({"type": "object", "properties": {
        "script": {"type": "string", "description": "Name from list_scripts."},
        "hosts": strings("Hosts to run on; every host that has the script, unless given."),
        "tags": strings("Only hosts with all these tags, each as key=value or key."),
        "arguments": {"type": "object", "description": "Arguments by name, as the script's inputSchema says, without hosts and tags."},
        "args": {"type": "array", "items": {"type": "string"}, "description": "Arguments of a script without a schema."},
    }, "required": ["script"], "additionalProperties": false});
    vec![
        Tool::new(
            "list_scripts",
            "Lists the scripts that can be run on the fleet, with what each takes.",
            object(list),
        )
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false)),
        Tool::new(
            "run_script",
            "Runs a script from list_scripts on hosts of the fleet.",
            object(run),
        )
        .with_raw_output_schema(Arc::new(schema::output()))
        .with_annotations(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .open_world(false),
        ),
    ]
}

fn object(value: Value) -> Arc<Map<String, Value>> {
    Arc::new(match value {
        Value::Object(object) => object,
        _ => Map::new(),
    })
}
