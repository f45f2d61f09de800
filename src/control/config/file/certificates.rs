//! `[[certificate]]`: each chain with its key, and whether any client can get it.

use std::sync::Arc;

use crate::control::config::certificate;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::{self as keys, certificate as pair};
use crate::control::config::load_context::LoadContext;
use crate::control::config::off_host;
use crate::control::config::source_text::{Finding, error};
use crate::snapshot::certificate::{Certificate, Certificates, NeverServed};

/// Reads all `[[certificate]]` tables, and returns whether there are any. `None` means that an
/// error was reported.
pub fn all(
    load: &mut LoadContext<'_>,
    root: &mut TomlTable<'_>,
) -> (Option<Vec<Arc<Certificate>>>, bool) {
    let pairs = root.tables(&keys::CERTIFICATE);
    // A misspelt header counts, so that no listener is said to lack a certificate as well.
    let certified = !pairs.is_empty() || root.misspells("certificate");
    // Collected twice: a pair behind a faulty one is read, and reported, too.
    let read: Vec<_> = pairs.into_iter().filter_map(|table| read(load, table)).collect();
    let Some((chains, all)) = read.into_iter().collect::<Option<(Vec<_>, Vec<_>)>>() else {
        return (None, certified);
    };
    let all = Certificates::new(all);
    for (index, why) in all.never_served() {
        chains[index].report(never_served(&all, index, &why, &chains));
    }
    (Some(all.iter().cloned().collect()), certified)
}

/// Reads one table. The outer `None` means that its chain is left out; the inner `None` means that
/// an error was reported.
fn read<'d>(
    load: &mut LoadContext<'_>,
    mut table: TomlTable<'d>,
) -> Option<Option<(TomlValue<'d>, Arc<Certificate>)>> {
    let chain = table.require(&pair::CHAIN, "chain = \"certs/ws.example.com.pem\"");
    let key = table.require(
        &pair::KEY,
        "key = \"certs/ws.example.com.key\"; it may be the same file as the chain",
    );
    table.finish();
    if chain.is_some_and(|chain| off_host::is_left_out(load, chain)) {
        load.lacks_chain = true;
        return None;
    }
    let certificate = chain
        .zip(key)
        .and_then(|(chain, key)| Some((chain, Arc::new(certificate::read(load, chain, key)?))));
    Some(certificate)
}

/// Says why the certificate `index` is never served, and what to do.
fn never_served(
    all: &Certificates,
    index: usize,
    why: &NeverServed,
    chains: &[TomlValue<'_>],
) -> Finding {
    let label = |index: usize| chains[index].as_str().unwrap_or_default();
    let own = label(index);
    let earlier = match why {
        NeverServed::Nameless => {
            let default = label(0);
            let finding =
                format!("{own} is never served: it has no DNS name, and {default} is the default");
            return error(finding)
                .with_remedy("put it first, which makes it the default, or remove it");
        }
        NeverServed::Superseded(earlier) => earlier,
    };
    let key_type = all.key_type(index);
    let others: Vec<_> = earlier.iter().map(|earlier| label(*earlier)).collect();
    let (others, verb) = (others.join(" and "), if earlier.len() > 1 { "have" } else { "has" });
    let finding = error(format!(
        "{own} is never served: {others} {verb} its names and type of key ({key_type})"
    ));
    let finding = finding.with_remedy(
        "remove one of them; several for one name need keys of several types, as ECDSA and RSA",
    );
    match earlier.first() {
        Some(first) => finding.with_related(chains[*first].place(), "served instead"),
        None => finding,
    }
}
