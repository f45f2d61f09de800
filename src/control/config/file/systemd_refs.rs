//! `"systemd:NAME"`: references to sockets that systemd binds and passes by name.
//!
//! An agent knows which sockets it was passed. A name without a socket is thus an error of the
//! file, at the start and at each reload. Never touches a socket.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::name::UniqueKeys;
use crate::control::config::source_text::{Finding, error};
use crate::control::systemd::sockets::{PassedSockets, SocketKind};

/// Prefix of a reference to a socket from systemd.
pub const SYSTEMD_PREFIX: &str = "systemd:";

/// The kinds of sockets that a user of one can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketUse {
    /// TCP, or Unix with a file, for a listener.
    Clients,
    /// Unix only, for the admin socket, which must not be open to the network.
    Unix,
    /// TCP or Unix, for metrics.
    Both,
}

/// Sockets that the file refers to, compared with the passed ones.
pub struct SystemdRefs<'s> {
    passed: Option<&'s PassedSockets>,
    taken: UniqueKeys<Arc<str>>,
    known: Vec<Arc<str>>,
}

impl<'s> SystemdRefs<'s> {
    /// Compares with `passed`. `None` means not known, and every socket is assumed to exist.
    pub fn new(passed: Option<&'s PassedSockets>) -> Self {
        SystemdRefs { passed, taken: UniqueKeys::new(), known: Vec::new() }
    }

    /// Registers that `who` uses the socket `name`, written at `value`.
    ///
    /// # Errors
    /// The socket was not passed, is of the wrong kind, or has another user already.
    pub fn register(
        &mut self,
        value: &TomlValue<'_>,
        name: &str,
        who: &str,
        wants: SocketUse,
    ) -> Result<Arc<str>, Finding> {
        // The rules of systemd for FileDescriptorName=.
        if name.is_empty()
            || name.len() > 255
            || name.chars().any(|c| c.is_ascii_control() || c == ':')
        {
            let finding =
                error(format!("\"{SYSTEMD_PREFIX}{name}\" cannot be the name of a socket"));
            return Err(finding.with_remedy(
                "like \"systemd:public\", with FileDescriptorName=public in the .socket unit",
            ));
        }
        let name: Arc<str> = name.into();
        self.known.push(Arc::clone(&name));
        if let Err((first, place)) = self.taken.insert(Arc::clone(&name), &who.into(), value) {
            return Err(error(format!("the socket `{name}` is that of {first}"))
                .with_related(place, "first here"));
        }
        let Some(passed) = self.passed else { return Ok(name) };
        if passed.kinds(&name).next().is_none() {
            return Err(missing(&name, who, passed));
        }
        let what = passed.kinds(&name).find_map(|kind| wrong_kind(kind, wants));
        match what {
            Some(what) => Err(error(format!(
                "the socket `{name}` is {what}, and {who} needs {}",
                needed(wants)
            ))
            .with_remedy(format!(
                "{} and Accept=no in {}; then restart",
                match wants {
                    SocketUse::Unix => "ListenStream=/PATH",
                    SocketUse::Clients => "ListenStream=PORT, ADDRESS:PORT or /PATH",
                    SocketUse::Both => "ListenStream=PORT or ADDRESS:PORT",
                },
                unit(&name)
            ))),
            None => Ok(name),
        }
    }

    /// TCP addresses of the sockets passed under `name`.
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let kinds = self.passed.into_iter().flat_map(|passed| passed.kinds(name));
        kinds
            .filter_map(
                |kind| if let SocketKind::Tcp(address) = kind { Some(*address) } else { None },
            )
            .collect()
    }

    /// Reports passed sockets that the file does not refer to.
    pub fn finish(self, root: &TomlTable<'_>) {
        for name in self.passed.map(PassedSockets::names).unwrap_or_default() {
            if self.known.contains(name) || root.document().has_syntax_errors() {
                continue;
            }
            let knows = match &self.known[..] {
                [] => "this file names none".to_owned(),
                known => format!("this file names {}", list(known)),
            };
            let finding = error(format!("systemd passed the socket `{name}`: {knows}"));
            let unit = unit(name);
            root.report(finding.with_remedy(format!(
                "listen = \"{SYSTEMD_PREFIX}{name}\", or another FileDescriptorName= in {unit}, \
                 or stop that unit; then restart"
            )));
        }
    }
}

fn missing(name: &str, who: &str, passed: &PassedSockets) -> Finding {
    let names: Vec<_> = passed.names().into_iter().cloned().collect();
    let Some(first) = names.first() else {
        return error(format!("{who} wants the socket `{name}` from systemd, which passed none")).with_remedy(format!(
            "start {} before this service, and let it name the service (Service=), or the service \
             name it (Sockets=)",
            unit(name)
        ));
    };
    let finding = error(format!(
        "{who} wants the socket `{name}` from systemd, which passed {}",
        list(&names)
    ));
    finding.with_remedy(format!(
        "FileDescriptorName={name} in the .socket unit and a restart, or \
         \"{SYSTEMD_PREFIX}{first}\" here"
    ))
}

/// The kind of a socket in words, if it is not a wanted one.
fn wrong_kind(kind: &SocketKind, wants: SocketUse) -> Option<&'static str> {
    match (kind, wants) {
        (SocketKind::Tcp(_), SocketUse::Clients | SocketUse::Both)
        | (SocketKind::Unix(_), SocketUse::Unix | SocketUse::Both)
        | (SocketKind::Unix(Some(_)), SocketUse::Clients) => None,
        (SocketKind::Tcp(_), SocketUse::Unix) => Some("a TCP socket, open to the network"),
        (SocketKind::Unix(None), SocketUse::Clients) => {
            Some("an abstract Unix socket, which has no permissions")
        }
        (SocketKind::Other(what), _) => Some(what),
    }
}

fn needed(wants: SocketUse) -> &'static str {
    match wants {
        SocketUse::Clients => "a listening TCP socket, or a Unix socket with a path",
        SocketUse::Unix => "a listening Unix socket",
        SocketUse::Both => "a listening TCP or Unix socket",
    }
}

/// The unit to edit. By default, a socket has the name of its unit.
fn unit(name: &str) -> String {
    if name.ends_with(".socket") {
        name.to_owned()
    } else {
        format!("the .socket unit with FileDescriptorName={name}")
    }
}

fn list(names: &[Arc<str>]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
