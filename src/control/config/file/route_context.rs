//! Facts that reading a route depends on.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::RootCertStore;

use crate::control::config::file::common::SharedValues;
use crate::control::config::load_context::LoadContext;
use crate::snapshot::certificate::Certificates;

/// The rest of the configuration, as far as routes depend on it.
pub struct RouteContext<'g, 'f> {
    /// The pass, for files and the folder of relative paths.
    pub load: &'g mut LoadContext<'f>,
    /// Names of the existing policies.
    pub policies: &'g BTreeSet<Arc<str>>,
    /// Certificates that must cover the hosts of routes. `None` means that there is no TLS
    /// listener, or that the certificates could not be read.
    pub certificates: Option<&'g Certificates>,
    /// Values that a route does not set for itself.
    pub defaults: &'g SharedValues,
    /// Authorities that the system trusts. `None` means not yet loaded.
    pub system: Option<Arc<RootCertStore>>,
}
