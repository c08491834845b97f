//! Applies plans with `iptables-restore`, and watches over the result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::iptables::{Error, Iptables, Variant, Watch};

use super::plan::{self, Delta, Input, Observed};
use super::rules::Settings;
use crate::backend::{Backend, BackendError, Desired, Outcome, Pictures};
use crate::config::Config;
use crate::model::{Family, ServiceKey, ServicePicture};
use crate::picture::Changes;

/// How many refused Services a batch is tried again without.
const MOST_REFUSALS: usize = 50;
/// How many chains the nft variant is given at once.
const SECTION: usize = 300;
/// From so many endpoints on, rules carry no comments.
const COMMENTS_LIMIT: usize = 20_000;

/// How long after a write the rules are at rest.
const REST: Duration = Duration::from_millis(400);
/// Looking at the rules after writes may take this share of the time.
const LOOK_SHARE: u32 = 50;

/// The iptables backend, for the families that the machine has.
pub(crate) struct IptablesBackend {
    config: Config,
    families: Vec<FamilyState>,
    /// Whoever asked knows that somebody changed the rules.
    told: bool,
}

struct FamilyState {
    tables: Iptables,
    settings: Settings,
    watch: Watch,
    guard: Guard,
    /// What the kernel holds.
    committed: BTreeMap<ServiceKey, Arc<ServicePicture>>,
}

impl IptablesBackend {
    /// Finds the variant that the machine uses. A machine without `ip6tables` has no IPv6 Services.
    pub(crate) fn new(config: &Config) -> Result<Self, BackendError> {
        let mut families = Vec::new();
        for family in Family::ALL {
            let tables = match config.iptables_variant {
                Some(variant) => Ok(Iptables::named(family.is_v6(), variant)),
                None => Iptables::detect(family.is_v6()),
            };
            // The first listing also tells whether the programs work at all.
            let tables = tables.and_then(|tables| tables.save(Some("nat")).map(|_| tables));
            let tables = match tables {
                Ok(tables) => tables,
                Err(error) if family == Family::V6 => {
                    tracing::warn!(%error, "IPv6 Services are not served");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            tracing::info!(?family, variant = ?tables.variant(), "iptables is there");
            families.push(FamilyState {
                watch: Watch::new(&tables)?,
                guard: Guard::new(),
                settings: Settings {
                    section: (tables.variant() == Variant::Nft).then_some(SECTION),
                    ..Settings::new(config, family)
                },
                committed: BTreeMap::new(),
                tables,
            });
        }
        Ok(Self {
            config: config.clone(),
            families,
            told: false,
        })
    }
}

impl Backend for IptablesBackend {
    fn resync(&mut self, desired: &Desired) -> Result<Outcome, BackendError> {
        self.config.service_cidrs.clone_from(&desired.service_cidrs);
        if self.config.localhost_nodeports {
            kernel::sysctl::ensure("net/ipv4/conf/all/route_localnet", "1")?;
        }
        let mut outcome = Outcome::default();
        for state in &mut self.families {
            state.resync(&desired.services, &self.config, &mut outcome)?;
        }
        outcome.foreign &= !std::mem::take(&mut self.told);
        Ok(outcome)
    }

    fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        for state in &mut self.families {
            state.apply(changes)?;
        }
        Ok(Outcome::default())
    }

    fn intact(&mut self) -> Result<bool, BackendError> {
        for state in &mut self.families {
            if !state.intact(&self.config)? {
                self.told = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn cleanup(&mut self) -> Result<(), BackendError> {
        for state in &mut self.families {
            let observed = Observed::parse(&state.tables.save(None)?);
            let input = plan::cleanup(&observed, &self.config, &state.settings);
            if !input.is_empty() {
                state.tables.restore(&input.text)?;
            }
            state.committed.clear();
        }
        Ok(())
    }
}

impl FamilyState {
    fn resync(
        &mut self,
        pictures: &Pictures,
        config: &Config,
        outcome: &mut Outcome,
    ) -> Result<(), BackendError> {
        let saved = self.tables.save(None)?;
        let observed = Observed::parse(&saved);
        outcome.foreign |= self.was_changed(&saved, &observed, config);
        let endpoints: usize = pictures
            .values()
            .flat_map(|p| &p.ports)
            .map(|port| port.cluster.len())
            .sum();
        self.settings.comments = endpoints <= COMMENTS_LIMIT;
        let mut wanted = pictures.clone();
        loop {
            let input = plan::full(&wanted, &observed, config, &self.settings);
            let Err(error) = self.tables.restore(&input.text) else {
                break;
            };
            let Some(key) = culprit(&input, &error) else {
                return Err(error.into());
            };
            if outcome.failed.len() >= MOST_REFUSALS {
                return Err(error.into());
            }
            wanted.remove(&key);
            outcome.failed.insert(key, error.to_string());
        }
        self.committed = wanted;
        self.watch.mark();
        self.guard.written(false);
        Ok(())
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        let deltas: Vec<Delta<'_>> = changes
            .iter()
            .map(|(key, new)| Delta {
                key,
                old: self.committed.get(key).map(Arc::as_ref),
                new: new.as_deref(),
            })
            .collect();
        let input = plan::incremental(&deltas, &self.settings);
        if !input.is_empty() {
            let disturbed = self.watch.changed();
            self.tables.restore(&input.text)?;
            self.watch.mark();
            self.guard.written(disturbed);
        }
        for (key, new) in changes {
            match new {
                Some(picture) => self.committed.insert(key.clone(), picture.clone()),
                None => self.committed.remove(key),
            };
        }
        Ok(())
    }

    /// Looks at the rules themselves only where there is a sign that somebody changed them,
    /// and once after a write, to know what they look like.
    fn intact(&mut self, config: &Config) -> Result<bool, BackendError> {
        let disturbed = self.watch.changed() || self.guard.disturbed;
        if !disturbed && !self.guard.wants_to_learn(Instant::now()) {
            return Ok(true);
        }
        let start = Instant::now();
        if disturbed {
            // Before the look: what changes during it is noticed the next time.
            self.watch.mark();
        }
        let saved = self.tables.save(None)?;
        let sizes = plan::sizes(&self.committed, config, &self.settings);
        let complete = plan::intact(&Observed::parse(&saved), &sizes, config, &self.settings);
        let intact = complete && self.guard.same(&saved);
        self.guard.looked(start);
        Ok(intact)
    }

    /// Whether somebody changed what was written, as these rules show.
    fn was_changed(&mut self, saved: &str, observed: &Observed, config: &Config) -> bool {
        let disturbed = self.watch.changed() || self.guard.disturbed;
        if !self.guard.has_written || !disturbed {
            return false;
        }
        let sizes = plan::sizes(&self.committed, config, &self.settings);
        !(plan::intact(observed, &sizes, config, &self.settings) && self.guard.same(saved))
    }
}

/// What our rules look like in the kernel's own spelling, which is not ours: a digest, taken
/// when they are at rest.
struct Guard {
    digest: Option<u64>,
    /// A foreign change was noticed at a write; the rules were not looked at since then.
    disturbed: bool,
    /// Nothing that is there is ours before the first write.
    has_written: bool,
    at_rest: Instant,
    next_look: Instant,
}

impl Guard {
    fn new() -> Self {
        Self {
            digest: None,
            disturbed: false,
            has_written: false,
            at_rest: Instant::now(),
            next_look: Instant::now(),
        }
    }

    fn written(&mut self, disturbed: bool) {
        self.digest = None;
        self.has_written = true;
        self.disturbed |= disturbed;
        self.at_rest = Instant::now() + REST;
    }

    fn wants_to_learn(&self, now: Instant) -> bool {
        self.digest.is_none() && now >= self.at_rest && now >= self.next_look
    }

    /// Whether they look as they did; the first look is taken for right.
    fn same(&mut self, saved: &str) -> bool {
        let digest = plan::digest(saved);
        *self.digest.get_or_insert(digest) == digest
    }

    fn looked(&mut self, start: Instant) {
        self.disturbed = false;
        self.next_look = Instant::now() + start.elapsed() * LOOK_SHARE;
    }
}

fn culprit(input: &Input, error: &Error) -> Option<ServiceKey> {
    match error {
        Error::Refused {
            line: Some(line), ..
        } => input.owner(*line).cloned(),
        _ => None,
    }
}
