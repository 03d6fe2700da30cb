//! How OpenAI's chat models are told what functions there are: as a TypeScript namespace, which is what is counted.
//!
//! The form is not documented; it is what the models themselves show, and it agrees with recorded counts.

use std::fmt::Write as _;

use super::super::json::Node;

/// Functions of a request (`tools`, or the older `functions`).
pub fn functions(request: &Node) -> Vec<&Node> {
    let tools = request.get("tools").map(Node::items).unwrap_or_default();
    // Responses have the function's members in the tool itself.
    let of_tools =
        tools.iter().map(|tool| tool.get("function").unwrap_or(tool)).filter(|tool| tool.get("name").is_some());
    of_tools.chain(request.get("functions").map(Node::items).unwrap_or_default()).collect()
}

/// The namespace, as text.
pub fn namespace(functions: &[&Node]) -> String {
    let mut text = String::from("namespace functions {\n\n");
    for function in functions {
        comment(&mut text, function);
        let name = function.get("name").and_then(Node::text).unwrap_or_default();
        let parameters = function.get("parameters");
        let has_any =
            parameters.and_then(|schema| schema.get("properties")).is_some_and(|all| all.members().next().is_some());
        // Writing to a string cannot fail.
        let _ = match parameters.filter(|_| has_any) {
            None => write!(text, "type {name} = () => any;\n\n"),
            Some(schema) => {
                let mut members = String::new();
                properties(&mut members, schema, 0);
                write!(text, "type {name} = (_: {{\n{members}}}) => any;\n\n")
            }
        };
    }
    text.push_str("} // namespace functions");
    text
}

fn comment(text: &mut String, node: &Node) {
    if let Some(description) = node.get("description").and_then(Node::text) {
        let _ = writeln!(text, "// {description}");
    }
}

/// Levels of a schema that are written.
const DEPTH: u8 = 8;

fn properties(text: &mut String, schema: &Node, depth: u8) {
    let required = schema.get("required").map(Node::items).unwrap_or_default();
    let Some(all) = schema.get("properties").filter(|_| depth < DEPTH) else { return };
    for (name, property) in all.members() {
        comment(text, property);
        let mark = if required.iter().any(|item| item.text() == Some(name)) { "" } else { "?" };
        let _ = write!(text, "{name}{mark}: ");
        kind(text, property, depth);
        text.push_str(",\n");
    }
}

fn kind(text: &mut String, schema: &Node, depth: u8) {
    if let Some(values) = schema.get("enum").map(Node::items).filter(|values| !values.is_empty()) {
        for (index, value) in values.iter().enumerate() {
            let separator = if index == 0 { "" } else { " | " };
            let _ = write!(text, "{separator}\"{}\"", value.text().or(value.number()).unwrap_or_default());
        }
        return;
    }
    match schema.get("type").and_then(Node::text) {
        Some("integer" | "number") => text.push_str("number"),
        Some("object") => {
            text.push_str("{\n");
            properties(text, schema, depth + 1);
            text.push('}');
        }
        Some("array") => {
            match schema.get("items").filter(|_| depth < DEPTH) {
                Some(items) => kind(text, items, depth + 1),
                None => text.push_str("any"),
            }
            text.push_str("[]");
        }
        Some(name @ ("string" | "boolean" | "null")) => text.push_str(name),
        _ => text.push_str("any"),
    }
}

#[cfg(test)]
mod tests {
    use super::{functions, namespace};
    use crate::meter::json::Skimmer;

    #[test]
    fn functions_are_told_as_a_namespace() {
        let request = br#"{"tools": [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {
            "type": "object", "required": ["place"], "properties": {
                "place": {"type": "string", "description": "City"}, "unit": {"enum": ["c", "f"]}, "days": {"type": "array", "items": {"type": "integer"}}}}}}],
            "functions": [{"name": "now", "parameters": {"type": "object", "properties": {}}}]}"#;
        let (request, _) = Skimmer::read(request, &mut ());
        insta::assert_snapshot!(namespace(&functions(&request)), @r#"
        namespace functions {

        // The weather.
        type get_weather = (_: {
        // City
        place: string,
        unit?: "c" | "f",
        days?: number[],
        }) => any;

        type now = () => any;

        } // namespace functions
        "#);
    }
}
