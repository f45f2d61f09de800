# The checks of CI: `just ci` runs .ci/run.

# Format and lints
check:
    cargo fmt --all --check
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Licences, sources and duplicates of crates; advisories where their database is present
deny:
    .ci/deny

# Figures of the source, against their limits: `just house cycle` for the places
house *figures:
    tests/house {{ figures }}

test:
    cargo test --locked

# Cost of decisions, large lists and the parts of an echo (docs/performance.md): `just bench decision` for some of it
bench *only:
    cargo bench --locked --package sidegate-benches --bench memory
    cargo bench --locked --package sidegate-benches --bench costs -- {{ only }}

# Writes every generated document anew (CONTRIBUTING.md, "Generated documents")
docs:
    SIDEGATE_WRITE_DOCS=1 cargo test --locked --lib admin::wire
    SIDEGATE_WRITE_DOCS=1 cargo test --locked --lib schema_files
    SIDEGATE_WRITE_DOCS=1 cargo test --locked --bin sidegate manual_pages
    SIDEGATE_WRITE_DOCS=1 cargo test --locked --test it -- cases operations cookbook import reference

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# The parsers and TLS under libFuzzer: `just fuzz 600 frame` for ten minutes of one target
fuzz seconds="60" *targets:
    fuzz/run {{ seconds }} {{ targets }}

# Real clients, a browser and nginx against the binary of packages: `just system reload` for one suite
system *only:
    tests/system/run {{ if only == "" { "" } else { "--only " + only } }}

# Sidegate beside nginx, HAProxy, Envoy, Caddy and Sōzu (docs/performance.md): `just peers --only nginx,sidegate --figures echo`
peers *args:
    benches/peers/run {{ args }}

# The binary of packages, stripped, and its debug information beside it, in target/dist/package
dist:
    .ci/dist

# What a newcomer waits for: both commands of the README in a fresh clone, with their times
newcomer:
    .ci/newcomer

ci:
    .ci/run
