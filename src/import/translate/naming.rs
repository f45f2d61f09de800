//! Names that no other table has.

/// Returns `name`, or `name` with the first free number appended.
pub fn free_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(name) {
        return name.to_owned();
    }
    // Endless, so some name is always free.
    (2..).map(|number| format!("{name}-{number}")).find(|name| !is_taken(name)).unwrap_or_default()
}
