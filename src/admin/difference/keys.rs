//! Compares two trees of TOML keys.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::admin::wire::KeyChange;

/// Adds to `found` every key of `file` whose values in `from` and `to` differ. Tables of an array
/// are matched by name, not by position.
pub fn compare(file: &str, from: &Value, to: &Value, found: &mut Vec<KeyChange>) {
    walk(file, &mut Vec::new(), Some(from), Some(to), found);
}

fn walk(
    file: &str,
    path: &mut Vec<String>,
    from: Option<&Value>,
    to: Option<&Value>,
    found: &mut Vec<KeyChange>,
) {
    let nothing = Value::Null;
    // An absent key and a null mean the same: not set.
    if from.unwrap_or(&nothing) == to.unwrap_or(&nothing) {
        return;
    }
    let children = match (from, to) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let keys: BTreeSet<_> = one.keys().chain(other.keys()).cloned().collect();
            keys.into_iter().map(|key| (one.get(&key), other.get(&key), key)).collect()
        }
        (Some(Value::Array(one)), Some(Value::Array(other)))
            // Matched by name, a table that only moved is no difference.
            if one.iter().chain(other).all(|item| name(item).is_some()) =>
        {
            let find =
                |all: &'_ [Value], key: &str| all.iter().position(|item| name(item) == Some(key));
            let keys: BTreeSet<_> =
                one.iter().chain(other).filter_map(name).map(str::to_owned).collect();
            let pair = |key: String| {
                (find(one, &key).map(|at| &one[at]), find(other, &key).map(|at| &other[at]), key)
            };
            keys.into_iter().map(pair).collect::<Vec<_>>()
        }
        _ => {
            // Everything else, arrays without names included, is reported as a whole. Null means
            // absent.
            let said = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
            found.push(KeyChange {
                file: file.into(),
                key: path.join("."),
                from: said(from),
                to: said(to),
            });
            return;
        }
    };
    for (from, to, key) in children {
        path.push(key);
        walk(file, path, from, to, found);
        path.pop();
    }
}

/// The key that identifies a table within its array: `name`, or `chain` of a certificate.
fn name(item: &Value) -> Option<&str> {
    item.get("name").or_else(|| item.get("chain"))?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `key: from → to` of every difference.
    fn check(from: Value, to: Value, expected: &[&str]) {
        let mut found = Vec::new();
        compare("file", &from, &to, &mut found);
        let shown = |value: &Option<Value>| value.as_ref().map_or("-".into(), Value::to_string);
        let told: Vec<_> = found
            .iter()
            .map(|one| format!("{}: {} → {}", one.key, shown(&one.from), shown(&one.to)))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn equal_keys_are_not_reported() {
        check(json!({ "a": [1, { "b": null }] }), json!({ "a": [1, { "b": null }] }), &[]);
        check(json!({ "a": null }), json!({}), &[]);
    }

    #[test]
    fn changed_key_is_reported_by_its_path() {
        check(
            json!({ "a": { "b": 1, "c": 2 } }),
            json!({ "a": { "b": 3, "c": 2, "d": [] } }),
            &["a.b: 1 → 3", "a.d: - → []"],
        );
        check(json!({ "a": [1, 2] }), json!({ "a": [2, 1] }), &["a: [1,2] → [2,1]"]);
    }

    #[test]
    fn tables_are_matched_by_name_in_any_order() {
        let from =
            json!({ "route": [{ "name": "a", "policy": "x" }, { "name": "b", "policy": "x" }] });
        let to =
            json!({ "route": [{ "name": "b", "policy": "y" }, { "name": "a", "policy": "x" }] });
        check(from.clone(), to, &["route.b.policy: \"x\" → \"y\""]);
        let gone = json!({ "route": [{ "name": "a", "policy": "x" }] });
        check(from, gone, &[r#"route.b: {"name":"b","policy":"x"} → -"#]);
    }
}
