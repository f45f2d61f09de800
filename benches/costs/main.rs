//! Costs of decisions, of large lists and of the parts of an echo. Run with `just bench`;
//! docs/performance.md has the results.

#![allow(missing_docs, reason = "criterion's macros write functions without")]

#[path = "../feed/mod.rs"]
mod feed;
mod lists;
mod measure;
mod parts;

use criterion::{Criterion, criterion_group, criterion_main};

use self::measure::CpuTime;

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = lists::decision, lists::judgement, lists::loading, parts::reading, parts::charging, parts::scanning, parts::counting
}
criterion_main!(benches);
