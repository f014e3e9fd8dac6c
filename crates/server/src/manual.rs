//! The page for people, of the OpenAPI document: everything on one page, without a script, and with nothing from elsewhere.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::document::document;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, h3 { font-family: ui-monospace, monospace; }
h3 { margin-top: 2.5rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8886; }
";

/// The page, when somebody asks for it.
static PAGE: LazyLock<String> = LazyLock::new(|| page(&serde_json::to_value(document()).unwrap_or_default()));
/// Nothing may be fetched, sent or executed, and no page may have this one in it; its own style alone is taken.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
});

/// Answers with the page.
pub(crate) async fn read() -> Response {
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (head, PAGE.as_str()).into_response()
}

/// An operation, and where it is.
struct Operation<'a> {
    method: String,
    path: &'a str,
    id: &'a str,
    tag: &'a str,
    told: &'a Value,
}

fn page(document: &Value) -> String {
    let operations = operations(document);
    let mut tags: Vec<&str> = Vec::new();
    for operation in &operations {
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag);
        }
    }
    let title = format!("{} {}", escaped(text(&document["info"]["title"])), escaped(text(&document["info"]["version"])));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}<p>Programs read <a \
         href=\"/openapi.json\">openapi.json</a>, of which this page is made. What is below <code>/v1</code> needs \
         <code>Authorization: Bearer TOKEN</code>.</p>\n<nav>\n<ul>\n",
        prose(text(&document["info"]["description"]))
    );
    for tag in &tags {
        let _ = writeln!(page, "<li><a href=\"#tag-{0}\">{0}</a></li>", escaped(tag));
    }
    page.push_str("<li><a href=\"#types\">types</a></li>\n</ul>\n</nav>\n");
    for tag in &tags {
        let _ = writeln!(page, "<h2 id=\"tag-{0}\">{0}</h2>", escaped(tag));
        operations.iter().filter(|operation| operation.tag == *tag).for_each(|operation| operation.write(&mut page));
    }
    page.push_str("<h2 id=\"types\">Types</h2>\n");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        let _ = writeln!(page, "<h3 id=\"type-{0}\">{0}</h3>\n{1}", escaped(name), prose(text(&schema["description"])));
        write_type(&mut page, schema);
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (path, methods) in fields(&document["paths"]) {
        for (method, told) in fields(methods) {
            let (id, tag) = (text(&told["operationId"]), text(&told["tags"][0]));
            found.push(Operation { method: method.to_uppercase(), path, id, tag, told });
        }
    }
    found
}

impl Operation<'_> {
    fn write(&self, page: &mut String) {
        let Self { method, path, id, told, .. } = self;
        let _ = writeln!(page, "<h3 id=\"{id}\">{method} {}</h3>", escaped(path));
        let _ = writeln!(page, "<p><code>{id}</code>: {}</p>\n{}", words(text(&told["summary"])), prose(text(&told["description"])));
        let parameters = told["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = parameters.iter().map(|parameter| {
            let need = if parameter["required"] == true { "" } else { "; may be left out" };
            let place = format!("{}{need}", text(&parameter["in"]));
            [
                format!("<code>{}</code>", escaped(text(&parameter["name"]))),
                place,
                kind(&parameter["schema"]),
                words(text(&parameter["description"])),
            ]
        });
        table(page, ["parameter", "where", "type", ""], rows);
        let body = fields(&told["requestBody"]["content"]);
        table(
            page,
            ["body", "", "type", ""],
            body.map(|(media, body)| [escaped(media), String::new(), kind(&body["schema"]), String::new()]),
        );
        let answers = fields(&told["responses"]).map(|(status, answer)| {
            let content = fields(&answer["content"]).next();
            let (media, schema) = content.map_or_else(Default::default, |(media, content)| (escaped(media), kind(&content["schema"])));
            [escaped(status), media, schema, words(text(&answer["description"]))]
        });
        table(page, ["answer", "", "type", ""], answers);
    }
}

/// What a type is made of.
fn write_type(page: &mut String, schema: &Value) {
    let parts: Vec<&Value> = match ["allOf", "oneOf", "anyOf"].iter().find_map(|how| schema[*how].as_array()) {
        Some(parts) => parts.iter().collect(),
        None => vec![schema],
    };
    for part in parts {
        let required = |name: &str| part["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name));
        let mut rows = fields(&part["properties"]).peekable();
        if rows.peek().is_none() {
            let _ = writeln!(page, "<p>{}</p>", kind(part));
        }
        let rows = rows.map(|(name, field)| {
            let need = if required(name) { "" } else { "may be left out" };
            [format!("<code>{}</code>", escaped(name)), need.to_owned(), kind(field), words(text(&field["description"]))]
        });
        table(page, ["field", "", "type", ""], rows);
    }
}

fn table(page: &mut String, head: [&str; 4], rows: impl Iterator<Item = [String; 4]>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let line = |tag: &str, cells: &[String]| cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>")).collect::<String>();
    let _ = writeln!(page, "<table>\n<tr>{}</tr>", line("th", &head.map(str::to_owned)));
    for row in rows {
        let _ = writeln!(page, "<tr>{}</tr>", line("td", &row));
    }
    page.push_str("</table>\n");
}

/// A type, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#type-{0}\">{0}</a>", escaped(name));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("<code>{}</code>", escaped(&value.to_string()))).collect::<Vec<_>>().join(" or ");
    }
    if let Some(parts) = ["oneOf", "anyOf"].iter().find_map(|how| schema[*how].as_array()) {
        return parts.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let name = |name: &Value| match text(name) {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => format!("map to {}", kind(&schema["additionalProperties"])),
        name => escaped(name),
    };
    match &schema["type"] {
        Value::Array(names) => names.iter().map(name).collect::<Vec<_>>().join(" or "),
        Value::String(_) => name(&schema["type"]),
        _ => String::new(),
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NOTHING).iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Paragraphs, and lists whose items begin with a dash.
fn prose(text: &str) -> String {
    text.split("\n\n").filter(|part| !part.is_empty()).map(paragraph).collect()
}

fn paragraph(text: &str) -> String {
    let Some(items) = text.strip_prefix("- ") else { return format!("<p>{}</p>\n", words(text)) };
    let items: String = items.split("\n- ").map(|item| format!("<li>{}</li>\n", words(item))).collect();
    format!("<ul>\n{items}</ul>\n")
}

/// A line, in which what stands between backticks is code.
fn words(text: &str) -> String {
    text.split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_told_once() {
        let targets: Vec<&str> = PAGE.split("id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for reference in PAGE.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert_eq!(targets.iter().filter(|target| **target == reference).count(), 1, "{reference}");
        }
        assert!(!PAGE.contains("<script") && !PAGE.contains("http://") && !PAGE.contains("src="));
    }

    #[test]
    fn what_a_description_says_is_text() {
        assert_eq!(words("a `b<c>` & \"d\""), "a <code>b&lt;c&gt;</code> &amp; &quot;d&quot;");
        assert_eq!(prose("a\n\nb"), "<p>a</p>\n<p>b</p>\n");
        assert_eq!(
            prose("a:\n\n- `<b>`: c - d\n  e\n- f\n\ng"),
            "<p>a:</p>\n<ul>\n<li><code>&lt;b&gt;</code>: c - d\n  e</li>\n<li>f</li>\n</ul>\n<p>g</p>\n"
        );
    }
}
