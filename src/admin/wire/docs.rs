//! The documentation of the admin API, generated from its types: the tables of docs/admin.md and
//! docs/spec/admin.schema.json.
//!
//! After a change of the types, `SIDEGATE_WRITE_DOCS=1 cargo test --lib admin::wire` writes both.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::*;

/// Answers of every kind, which the tests of the commands read, too.
pub const SAMPLES: &str = include_str!("samples.json");

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// JSON whose members keep their order. Numbers and the like are of no interest.
/// The parameters of `POST /v1/reload`, in the order of its table.
const RELOAD_PARAMETERS: [&str; 4] =
    ["wait", "accept_shrink", "accept_revocations", "accept_widening"];

#[derive(Debug)]
enum OrderedJson {
    Object(Vec<(String, OrderedJson)>),
    Array(Vec<OrderedJson>),
    Other,
}

impl OrderedJson {
    fn get(&self, name: &str) -> &OrderedJson {
        let OrderedJson::Object(members) = self else { panic!("no object around {name}") };
        &members.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no {name}")).1
    }
}

impl<'de> Deserialize<'de> for OrderedJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrderedVisitor;
        macro_rules! other {
            ($($name:ident: $type:ty),*) => {
                $(fn $name<E>(self, _: $type) -> Result<OrderedJson, E> { Ok(OrderedJson::Other) })*
            };
        }
        impl<'de> Visitor<'de> for OrderedVisitor {
            type Value = OrderedJson;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            other!(visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64, visit_str: &str);
            fn visit_unit<E>(self) -> Result<OrderedJson, E> {
                Ok(OrderedJson::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OrderedJson, A::Error> {
                let mut found = Vec::new();
                while let Some(item) = items.next_element()? {
                    found.push(item);
                }
                Ok(OrderedJson::Array(found))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<OrderedJson, A::Error> {
                let mut found = Vec::new();
                while let Some(member) = members.next_entry()? {
                    found.push(member);
                }
                Ok(OrderedJson::Object(found))
            }
        }
        deserializer.deserialize_any(OrderedVisitor)
    }
}

/// The schemas of all answers, with those of their parts.
struct Schemas {
    /// The answers by name.
    answers: Map<String, Value>,
    /// What they refer to.
    parts: Map<String, Value>,
}

impl Schemas {
    fn new() -> Schemas {
        let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let mut answers = Map::new();
        let mut add = |name: &str, mut schema: Schema| {
            if let Some(object) = schema.as_object_mut() {
                object.remove("$schema");
                object.remove("title");
            }
            answers.insert(name.to_owned(), schema.to_value());
        };
        macro_rules! add {
            ($($type:ident),*) => {
                $(add(stringify!($type), <$type as JsonSchema>::json_schema(&mut generator));)*
            };
        }
        add!(
            StatusAnswer,
            OverviewAnswer,
            ConfigAnswer,
            TunnelsAnswer,
            DecisionsAnswer,
            RefusedAnswer,
            CloseAnswer,
            LapsingAnswer,
            ReloadAnswer,
            ExplainAnswer,
            DiffAnswer,
            DrainAnswer,
            LogLevelAnswer,
            UpgradeAnswer,
            PauseAnswer,
            BanAnswer,
            UnbanAnswer,
            BansAnswer,
            CrowdsecAnswer,
            ErrorAnswer,
            LivezAnswer,
            ReadyzAnswer,
            OverviewRequest,
            TunnelsRequest,
            DecisionsRequest,
            RefusalsRequest,
            CloseRequest,
            LapsingRequest,
            ReloadRequest,
            ExplainRequest,
            DiffRequest,
            LogLevelRequest,
            UpgradeRequest,
            BanRequest,
            UnbanRequest,
            CrowdsecRequest
        );
        Schemas { answers, parts: generator.take_definitions(true) }
    }

    /// What `schema` refers to, or itself.
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(name) => &self.parts[name.trim_start_matches("#/$defs/")],
            None => schema,
        }
    }

    /// The alternatives of an enum, or nothing.
    fn alternatives<'s>(&'s self, schema: &'s Value) -> &'s [Value] {
        let schema = self.resolved(schema);
        let found = schema.get("oneOf").or_else(|| schema.get("anyOf"));
        found.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The file for programs: every answer with its schema number.
    fn file(&self) -> String {
        let mut definitions = self.parts.clone();
        let mut any = Vec::new();
        for (name, schema) in self.answers.iter().filter(|(name, _)| name.ends_with("Answer")) {
            let mut schema = schema.clone();
            let alternatives = schema.get_mut("oneOf").and_then(Value::as_array_mut);
            match alternatives {
                Some(alternatives) => alternatives.iter_mut().for_each(number),
                None => number(&mut schema),
            }
            any.push(json!({ "$ref": format!("#/$defs/{name}") }));
            definitions.insert(name.clone(), schema);
        }
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "The answers of Sidegate's admin API",
            "description": "docs/admin.md says which request has which. Fields may be added.",
            "anyOf": any,
            "$defs": definitions,
        });
        format!("{whole:#}\n")
    }

    /// A table of the fields of `sample`, which answers of the type `name` have.
    fn table(&self, name: &str, samples: &[&OrderedJson]) -> String {
        let schema = &self.answers[name];
        let mut rows = vec![["name", "type", "meaning"].join(" | "), "---|---|---".to_owned()];
        let outcomes = self.alternatives(schema);
        if !outcomes.is_empty() {
            let words = outcomes.iter().filter_map(|one| {
                let word = one["properties"]["outcome"].get("const")?.as_str()?;
                Some(format!("`{word}`: {}", text(one)))
            });
            rows.push(format!("`outcome` | word | {}", words.collect::<Vec<_>>().join(" ")));
        }
        let mut seen = Vec::new();
        for sample in samples {
            self.rows(&[schema], sample, 0, &mut seen, &mut rows);
        }
        rows.iter()
            .map(|row| format!("| {row} |\n"))
            .collect::<String>()
            .replace("| ---|---|--- |", "|---|---|---|")
    }

    fn rows(
        &self,
        around: &[&Value],
        sample: &OrderedJson,
        depth: usize,
        seen: &mut Vec<String>,
        rows: &mut Vec<String>,
    ) {
        let OrderedJson::Object(members) = sample else { return };
        for (name, inner) in members {
            if depth == 0 && (["schema", "outcome"].contains(&name.as_str()) || seen.contains(name))
            {
                continue;
            }
            if depth == 0 {
                seen.push(name.clone());
            }
            let (field, only) = self.field(around, name);
            let dashes = "– ".repeat(depth);
            // A parameter is left out, and never `null`.
            let kind = self.kind(field);
            let is_parameter =
                matches!(inner, OrderedJson::Other) && depth == 0 && self.is_request(around);
            let kind = if is_parameter { kind.trim_end_matches(" or `null`") } else { &*kind };
            rows.push(format!("{dashes}`{name}` | {kind} | {}{only}", self.meaning(field)));
            let inside = match inner {
                OrderedJson::Array(items) => items.first().map(|item| (item, self.items(field))),
                inner => Some((inner, self.present(field))),
            };
            if let Some((inner, schema)) = inside {
                // Values of configuration files have schemas of their own.
                if schema.get("properties").is_some() {
                    self.rows(&[schema], inner, depth + 1, seen, rows);
                }
            }
        }
    }

    /// The schema of the field `name` of one of `around`, and which outcomes alone have it.
    fn field<'s>(&'s self, around: &[&'s Value], name: &str) -> (&'s Value, String) {
        let (mut found, mut with, mut all) = (None, Vec::new(), 0);
        for schema in around {
            let schema = self.resolved(schema);
            found = found.or_else(|| schema["properties"].get(name));
            for outcome in self.alternatives(schema) {
                let word = outcome["properties"]["outcome"]["const"].as_str().unwrap_or_default();
                let refers = outcome.get("$ref").map(|_| self.resolved(outcome));
                let own = outcome["properties"].get(name);
                let own = own.or_else(|| refers.and_then(|schema| schema["properties"].get(name)));
                all += 1;
                if let Some(own) = own {
                    found = found.or(Some(own));
                    with.push(format!("`{word}`"));
                }
            }
        }
        let found = found.unwrap_or_else(|| panic!("no field {name}"));
        let only =
            if with.len() < all { format!(" Of {}.", with.join(", ")) } else { String::new() };
        (found, only)
    }

    /// Whether `around` is the schema of a request alone.
    fn is_request(&self, around: &[&Value]) -> bool {
        let requests = self.answers.iter().filter(|(name, _)| name.ends_with("Request"));
        requests.into_iter().any(|(_, schema)| around == [schema])
    }

    /// The schema of a field that is not `null`.
    fn present<'s>(&'s self, field: &'s Value) -> &'s Value {
        let present = field.get("anyOf").and_then(Value::as_array).and_then(|alternatives| {
            alternatives.iter().find(|one| one.get("type").is_none_or(|kind| kind != "null"))
        });
        self.resolved(present.unwrap_or(field))
    }

    fn items<'s>(&'s self, field: &'s Value) -> &'s Value {
        self.resolved(self.present(field).get("items").unwrap_or(&Value::Null))
    }

    /// The type of a field, in a word or three.
    fn kind(&self, field: &Value) -> String {
        let nullable = field
            .get("anyOf")
            .is_some_and(|all| all.as_array().unwrap().contains(&json!({ "type": "null" })))
            || field
                .get("type")
                .and_then(Value::as_array)
                .is_some_and(|all| all.contains(&json!("null")));
        let present = self.present(field);
        let kind = match present.get("type") {
            Some(Value::Array(kinds)) => {
                kinds.iter().find(|kind| *kind != "null").and_then(Value::as_str)
            }
            Some(kind) => kind.as_str(),
            None => None,
        };
        let kind = match kind {
            _ if !self.words(present).is_empty() => "word".to_owned(),
            Some("string") if present["format"] == "date-time" => "time".into(),
            Some("array") => match self.items(field).get("type").and_then(Value::as_str) {
                Some(of @ ("string" | "integer")) => format!("list of {of}s"),
                _ => "list".into(),
            },
            Some(kind) => kind.to_owned(),
            None => "any".into(),
        };
        if nullable { format!("{kind} or `null`") } else { kind }
    }

    /// What a field means, with the words that it may have.
    fn meaning(&self, field: &Value) -> String {
        let words = self.words(self.present(field)).join(" ");
        let text = text(field).replace("`None` means", "Left out:");
        if words.is_empty() { text } else { format!("{text} {words}") }
    }

    /// The words of an enum, each with its meaning.
    fn words(&self, schema: &Value) -> Vec<String> {
        let alternatives = self.alternatives(schema).iter();
        let words = alternatives.filter_map(|one| Some((one.get("const")?.as_str()?, text(one))));
        words.map(|(word, meaning)| format!("`{word}`: {meaning}")).collect()
    }
}

/// Adds the schema number to the schema of an answer.
fn number(answer: &mut Value) {
    answer["properties"]["schema"] = json!({
        "const": SCHEMA,
        "description": "The version of this API's form.",
        "type": "integer",
    });
    if let Some(required) = answer["required"].as_array_mut() {
        required.push("schema".into());
    } else {
        answer["required"] = json!(["schema"]);
    }
}

/// The description of a schema, on one line.
fn text(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// That the file at `path` says `made`; writes it where that is asked for.
fn check(path: &str, made: &str) {
    let written = fs::read_to_string(root(path)).unwrap_or_default();
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(root(path), made).unwrap();
    }
    let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(
        written == made,
        "{path}: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --lib admin::wire"
    );
}

#[test]
fn json_schema_file_matches_the_types() {
    let file = Schemas::new().file();
    check("docs/spec/admin.schema.json", &file);
    let schema: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(schema["anyOf"].as_array().map(Vec::len), Some(22), "every answer is in it");
}

#[test]
fn admin_page_tables_match_the_types() {
    let (schemas, samples) =
        (Schemas::new(), serde_json::from_str::<OrderedJson>(SAMPLES).unwrap());
    let sample = |name: &str| samples.get(name).get("answer");
    let answer = |name: &str, all: &[&str]| {
        schemas.table(name, &all.iter().map(|one| sample(one)).collect::<Vec<_>>())
    };
    let request = |name: &str, fields: &[&str]| {
        let order = fields.iter().map(|field| ((*field).to_owned(), OrderedJson::Other)).collect();
        schemas.table(name, &[&OrderedJson::Object(order)])
    };
    let selected = |own: &[&'static str]| -> Vec<&'static str> {
        let shared = ["route", "client", "identity", "policy", "older", "bytes", "kind"];
        shared.iter().chain(own).copied().collect()
    };
    let reload = ["reload_published", "reload_unchanged", "reload_rejected", "reload_asked"];
    let tables = [
        ("status", answer("StatusAnswer", &["status"])),
        ("overview", answer("OverviewAnswer", &["overview"])),
        ("config", answer("ConfigAnswer", &["config"])),
        ("tunnels", answer("TunnelsAnswer", &["tunnels"])),
        ("decisions", answer("DecisionsAnswer", &["decisions"])),
        ("refused", answer("RefusedAnswer", &["refused"])),
        ("close", answer("CloseAnswer", &["close"])),
        ("lapsing", answer("LapsingAnswer", &["lapsing"])),
        ("reload", answer("ReloadAnswer", &reload)),
        ("explain", answer("ExplainAnswer", &["explain_refused"])),
        ("diff", answer("DiffAnswer", &["diff_changed", "diff_rejected"])),
        ("drain", answer("DrainAnswer", &["drain"])),
        ("log_level", answer("LogLevelAnswer", &["log_level"])),
        ("upgrade", answer("UpgradeAnswer", &["upgraded", "upgrade_tried"])),
        ("ban", answer("BanAnswer", &["ban_banned", "ban_refused"])),
        ("pause", answer("PauseAnswer", &["pause"])),
        ("unban", answer("UnbanAnswer", &["unban_unbanned", "unban_not_banned"])),
        ("bans", answer("BansAnswer", &["bans"])),
        ("crowdsec", answer("CrowdsecAnswer", &["crowdsec"])),
        ("livez", answer("LivezAnswer", &["livez"])),
        ("readyz", answer("ReadyzAnswer", &["readyz"])),
        ("overview parameters", request("OverviewRequest", &["rows", "short"])),
        ("tunnels parameters", request("TunnelsRequest", &selected(&["sort", "limit", "after"]))),
        (
            "close parameters",
            request("CloseRequest", &selected(&["all", "code", "reason", "dry_run"])),
        ),
        ("lapsing parameters", request("LapsingRequest", &["within"])),
        ("decisions parameters", request("DecisionsRequest", &["request"])),
        ("refused parameters", request("RefusalsRequest", &["last", "top"])),
        ("reload parameters", request("ReloadRequest", &RELOAD_PARAMETERS)),
        (
            "explain parameters",
            request(
                "ExplainRequest",
                &[
                    "client",
                    "forwarded_for",
                    "listener",
                    "url",
                    "origin",
                    "subprotocol",
                    "identity",
                    "at",
                ],
            ),
        ),
        ("diff parameters", request("DiffRequest", &["promote", "staged", "override"])),
        ("log_level parameters", request("LogLevelRequest", &["filter", "lasting"])),
        ("upgrade parameters", request("UpgradeRequest", &["binary", "seconds", "dry_run"])),
        (
            "ban parameters",
            request(
                "BanRequest",
                &["client", "identity", "for", "forever", "why", "override", "origin"],
            ),
        ),
        ("crowdsec parameters", request("CrowdsecRequest", &["accept_held"])),
        ("unban parameters", request("UnbanRequest", &["client", "identity", "all", "origin"])),
    ];
    let page = fs::read_to_string(root("docs/admin.md")).unwrap();
    let made = tables.iter().fold(page, |page, (name, table)| {
        let opening = format!("<!-- table {name} -->\n");
        let (before, rest) = page.split_once(&opening).unwrap_or_else(|| panic!("no {opening}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("an end of each table");
        format!("{before}{opening}{table}<!-- end -->{after}")
    });
    check("docs/admin.md", &made);
}

/// That the samples have every field of `name`, and no other.
fn check_complete(schemas: &Schemas, name: &str, answers: &[&Value]) {
    let schema = &schemas.answers[name];
    let alternatives = schemas.alternatives(schema);
    let forms: Vec<&Value> =
        if alternatives.is_empty() { vec![schema] } else { alternatives.iter().collect() };
    for form in forms {
        let word = form["properties"].get("outcome").and_then(|outcome| outcome.get("const"));
        let answer =
            answers.iter().find(|answer| word.is_none_or(|word| answer["outcome"] == *word));
        let answer = answer
            .unwrap_or_else(|| panic!("no sample of {name} with {word:?}"))
            .as_object()
            .unwrap();
        let inner =
            form.get("$ref").map(|_| schemas.resolved(form)["properties"].as_object().unwrap());
        let fields = form["properties"].as_object().into_iter().chain(inner).flatten();
        fields.for_each(|(field, _)| {
            assert!(answer.contains_key(field), "{name} {word:?}: no {field}");
        });
    }
}

#[test]
fn samples_have_every_field() {
    let schemas = Schemas::new();
    let samples: Map<String, Value> = serde_json::from_str(SAMPLES).unwrap();
    let answers = |prefix: &str| -> Vec<&Value> {
        samples
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, one)| &one["answer"])
            .collect()
    };
    for (name, prefix) in [
        ("StatusAnswer", "status"),
        ("OverviewAnswer", "overview"),
        ("ConfigAnswer", "config"),
        ("TunnelsAnswer", "tunnels"),
        ("DecisionsAnswer", "decisions"),
        ("RefusedAnswer", "refused"),
        ("CloseAnswer", "close"),
        ("LapsingAnswer", "lapsing"),
        ("ReloadAnswer", "reload"),
        ("ExplainAnswer", "explain"),
        ("DiffAnswer", "diff"),
        ("DrainAnswer", "drain"),
        ("LogLevelAnswer", "log_level"),
        ("UpgradeAnswer", "upgrade"),
        ("PauseAnswer", "pause"),
        ("BanAnswer", "ban_"),
        ("UnbanAnswer", "unban_"),
        ("BansAnswer", "bans"),
        ("CrowdsecAnswer", "crowdsec"),
        ("ErrorAnswer", "error"),
        ("LivezAnswer", "livez"),
        ("ReadyzAnswer", "readyz"),
    ] {
        check_complete(&schemas, name, &answers(prefix));
    }
    let _: IgnoredAny = serde_json::from_str(SAMPLES).unwrap();
}
