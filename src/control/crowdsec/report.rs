//! The state of the bouncer: for answers of the admin socket, and for warnings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::control::crowdsec::hold::HeldBans;
use crate::control::crowdsec::reason::UnappliedReason;
use crate::control::crowdsec::store::UnappliedDecision;

/// The state of the bouncer, for answers and warnings.
#[derive(Debug, Clone, Default)]
pub struct BouncerReport {
    /// The URL of the API. `None` means that `[crowdsec]` is not configured.
    pub url: Option<Box<str>>,
    /// Time of the last answer. `None` means that none has come.
    pub answered: Option<Timestamp>,
    /// Why the last poll failed. `None` means that it did not.
    pub fault: Option<String>,
    /// Age of the last answer from which there are warnings.
    pub max_age: Duration,
    /// Time from which the age counts where no answer has come.
    pub since: Timestamp,
    /// Decisions that are not applied, the first ones.
    pub refused: Arc<Vec<UnappliedDecision>>,
    /// Number of decisions that are not applied, by reason.
    pub counts: BTreeMap<UnappliedReason, usize>,
    /// Bans that wait for an operator. `None` means that none do.
    pub held: Option<Arc<HeldBans>>,
    /// Fault of the state file. `None` means that there is none.
    pub file_fault: Option<String>,
}

impl BouncerReport {
    /// Whether the known decisions are older than `max_age`.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.answered.unwrap_or(self.since));
        self.url.is_some() && Duration::try_from(age).is_ok_and(|age| age > self.max_age)
    }

    /// Sentences about an API that does not answer, about bans that do not hold and about the file.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        if self.url.is_none() {
            return Vec::new();
        }
        let held = self.held.as_ref().map(|held| held.warning());
        let total = self.counts.get(&UnappliedReason::Total).map(|decisions| {
            let decisions = match decisions {
                1 => "1 decision of CrowdSec is".to_owned(),
                number => format!("{number} decisions of CrowdSec are"),
            };
            format!(
                "{decisions} not applied, since all together would ban more addresses than \
                 `total_v4` or `total_v6`: `sidegate bans --refused` lists some"
            )
        });
        let silent = self.silence(now);
        silent.into_iter().chain(held).chain(total).chain(self.file_fault.clone()).collect()
    }

    /// A sentence about polls that fail. `None` means that the last one did not.
    pub fn silence(&self, now: Timestamp) -> Option<String> {
        let url = self.url.as_ref()?;
        if !self.is_stale(now) {
            // A wrong key or URL has to be seen at once, not after `max_age`.
            let fault = self.fault.as_deref()?;
            return Some(format!("the last poll of CrowdSec at {url} failed: {fault}"));
        }
        let fault = self.fault.as_deref().unwrap_or("no poll has ended");
        let since = match self.answered {
            Some(at) => format!("since {at:.0}"),
            None => "yet".to_owned(),
        };
        Some(format!("CrowdSec at {url} has not answered {since}, known bans hold on: {fault}"))
    }
}
