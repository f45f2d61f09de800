//! Facts that every route is read against.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::RootCertStore;

use crate::control::config::file::common::Common;
use crate::control::config::pass::Reading;
use crate::snapshot::certificate::Certificates;

/// What a route stands on: the rest of the configuration.
pub struct Ground<'g, 'f> {
    /// Where its paths begin.
    pub reading: &'g mut Reading<'f>,
    /// The policies that there are.
    pub policies: &'g BTreeSet<Arc<str>>,
    /// The certificates that have to cover its host; `None`: there is no TLS listener, or they could not be read.
    pub certificates: Option<&'g Certificates>,
    /// What it doesn't set for itself.
    pub defaults: &'g Common,
    /// The authorities that this system trusts, once they were asked for.
    pub system: Option<Arc<RootCertStore>>,
}
