//! `[tracing]`: the authorities of a collector.

use super::{SIDEGATE, load};
use crate::control::config::effective;

#[test]
fn authorities_of_a_collector_are_read_with_the_files() {
    let authority = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
    let pem = params.self_signed(&authority).unwrap().pem();
    let read = |file: &str, otlp: &str| {
        let text = format!("{SIDEGATE}\n[tracing]\notlp_ca = '{file}'\notlp = '{otlp}'\n");
        load(&[("sidegate.toml", &text), ("ca.pem", &pem), ("empty.pem", "no certificate\n")])
    };
    for (file, says) in [("missing.pem", "missing.pem"), ("empty.pem", "holds no certificate")] {
        let (loaded, found) = read(file, "off");
        assert!(loaded.is_err() && found.contains(says), "{file}: {found}");
    }
    let (loaded, found) = read("ca.pem", "off");
    let settings = loaded.unwrap().settings;
    assert!(found.contains("`otlp_ca` does nothing: `otlp` is not https://"), "{found}");
    assert!(settings.traces.collector_roots.is_some());
    assert_eq!(effective::settings(&settings)["tracing"]["otlp_ca"], "ca.pem");
    if cfg!(feature = "otlp") {
        let (loaded, found) = read("ca.pem", "https://collector.internal:4318");
        assert!(loaded.is_ok() && !found.contains("does nothing"), "{found}");
    }
}
