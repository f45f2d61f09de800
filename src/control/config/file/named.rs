//! `"systemd:NAME"`: references to sockets that systemd binds and passes by name.
//!
//! An agent knows which sockets it was passed. A name without a socket is thus an error of the
//! file, at the start and at each reload. Never touches a socket.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::control::config::document::{Table, Value};
use crate::control::config::name::Taken;
use crate::control::config::page::{Finding, error};
use crate::control::systemd::sockets::{Kind, Sockets};

/// Prefix of a reference to a socket from systemd.
pub const SYSTEMD: &str = "systemd:";

/// The kinds of sockets that a user of one can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// TCP only, for a listener.
    Tcp,
    /// Unix only, for the admin socket, which must not be open to the network.
    Unix,
    /// TCP or Unix, for metrics.
    Both,
}

/// Sockets that the file refers to, compared with the passed ones.
pub struct Named<'s> {
    passed: Option<&'s Sockets>,
    taken: Taken<Arc<str>>,
    known: Vec<Arc<str>>,
}

impl<'s> Named<'s> {
    /// Compares with `passed`. `None` means not known, and every socket is assumed to exist.
    pub fn new(passed: Option<&'s Sockets>) -> Self {
        Named { passed, taken: Taken::new(), known: Vec::new() }
    }

    /// Registers that `who` uses the socket `name`, written at `value`.
    ///
    /// # Errors
    /// The socket was not passed, is of the wrong kind, or has another user already.
    pub fn want(
        &mut self,
        value: &Value<'_>,
        name: &str,
        who: &str,
        wants: Wants,
    ) -> Result<Arc<str>, Finding> {
        // The rules of systemd for FileDescriptorName=.
        if name.is_empty()
            || name.len() > 255
            || name.chars().any(|c| c.is_ascii_control() || c == ':')
        {
            let finding = error(format!("\"{SYSTEMD}{name}\" cannot be the name of a socket"));
            return Err(finding.remedy(
                "like \"systemd:public\", with FileDescriptorName=public in the .socket unit",
            ));
        }
        let name: Arc<str> = name.into();
        self.known.push(Arc::clone(&name));
        if let Err((first, place)) = self.taken.take(Arc::clone(&name), &who.into(), value) {
            return Err(
                error(format!("the socket `{name}` is that of {first}")).and(place, "first here")
            );
        }
        let Some(passed) = self.passed else { return Ok(name) };
        if passed.kinds(&name).next().is_none() {
            return Err(missing(&name, who, passed));
        }
        let what = passed.kinds(&name).find_map(|kind| unfit(kind, wants));
        match what {
            Some(what) => Err(error(format!(
                "the socket `{name}` is {what}, and {who} needs {}",
                needed(wants)
            ))
            .remedy(format!(
                "{} and Accept=no in {}; then restart",
                if wants == Wants::Unix {
                    "ListenStream=/PATH"
                } else {
                    "ListenStream=PORT or ADDRESS:PORT"
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
            .filter_map(|kind| if let Kind::Tcp(address) = kind { Some(*address) } else { None })
            .collect()
    }

    /// Reports passed sockets that the file does not refer to.
    pub fn finish(self, root: &Table<'_>) {
        for name in self.passed.map(Sockets::names).unwrap_or_default() {
            if self.known.contains(name) || root.document().is_torn() {
                continue;
            }
            let knows = match &self.known[..] {
                [] => "this file names none".to_owned(),
                known => format!("this file names {}", list(known)),
            };
            let finding = error(format!("systemd passed the socket `{name}`: {knows}"));
            let unit = unit(name);
            root.report(finding.remedy(format!(
                "listen = \"{SYSTEMD}{name}\", or another FileDescriptorName= in {unit}, or stop that unit; then restart"
            )));
        }
    }
}

fn missing(name: &str, who: &str, passed: &Sockets) -> Finding {
    let names: Vec<_> = passed.names().into_iter().cloned().collect();
    let Some(first) = names.first() else {
        return error(format!("{who} wants the socket `{name}` from systemd, which passed none")).remedy(format!(
            "start {} before this service, and let it name the service (Service=), or the service name it (Sockets=)",
            unit(name)
        ));
    };
    let finding = error(format!(
        "{who} wants the socket `{name}` from systemd, which passed {}",
        list(&names)
    ));
    finding.remedy(format!(
        "FileDescriptorName={name} in the .socket unit and a restart, or \"{SYSTEMD}{first}\" here"
    ))
}

/// The kind of a socket in words, if it is not a wanted one.
fn unfit(kind: &Kind, wants: Wants) -> Option<&'static str> {
    match (kind, wants) {
        (Kind::Tcp(_), Wants::Tcp | Wants::Both) | (Kind::Unix(_), Wants::Unix | Wants::Both) => {
            None
        }
        (Kind::Tcp(_), Wants::Unix) => Some("a TCP socket, open to the network"),
        (Kind::Unix(_), Wants::Tcp) => Some("a Unix socket"),
        (Kind::Other(what), _) => Some(what),
    }
}

fn needed(wants: Wants) -> &'static str {
    match wants {
        Wants::Tcp => "a listening TCP socket",
        Wants::Unix => "a listening Unix socket",
        Wants::Both => "a listening TCP or Unix socket",
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
