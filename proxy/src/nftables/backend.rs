//! Sends transactions, and watches over the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::nftables::{Connection, Element, Error, Monitor, Notice, Transaction};

use super::content::{Content, content};
use super::layout::{Layout, Translation};
use super::plan::{self, Held};
use crate::backend::{Backend, BackendError, Desired, Outcome};
use crate::config::Config;
use crate::model::{Family, ServiceKey, ServicePicture};
use crate::picture::Changes;

/// The nftables backend, for both families.
pub(crate) struct NftablesBackend {
    connection: Connection,
    monitor: Monitor,
    /// Transactions of ours whose notices were not read yet.
    commits: usize,
    /// Somebody else changed our table.
    broken: bool,
    /// Addresses of the node that are not virtual, with IPVS.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
    config: Config,
    families: Vec<State>,
}

struct State {
    layout: Layout,
    held: Held,
    /// What the kernel holds.
    committed: BTreeMap<ServiceKey, Arc<ServicePicture>>,
}

impl NftablesBackend {
    pub(crate) fn new(config: &Config, translation: Translation) -> Result<Self, BackendError> {
        let families = Family::ALL
            .into_iter()
            .map(|family| State::new(config, family, translation))
            .collect();
        let mut connection = Connection::open()?;
        // A kernel without nf_tables says so here.
        connection.tables()?;
        let monitor = Monitor::open()?;
        Ok(Self {
            connection,
            monitor,
            commits: 0,
            broken: false,
            own_addresses: BTreeSet::new(),
            config: config.clone(),
            families,
        })
    }

    fn apply_to(&mut self, index: usize, changes: &Changes) -> Result<(), Error> {
        let state = &mut self.families[index];
        let mut held = state.held.clone();
        let pairs: Vec<(Content, Content)> = changes
            .iter()
            .map(|(key, new)| {
                let of = |picture: Option<&Arc<ServicePicture>>| {
                    picture.map_or_else(Content::default, |p| content(p, &state.layout))
                };
                (of(state.committed.get(key)), of(new.as_ref()))
            })
            .collect();
        let mut transaction = Transaction::new();
        plan::changes(&pairs, &mut held, &state.layout, &mut transaction);
        self.connection.apply(&transaction)?;
        self.commits += usize::from(!transaction.is_empty());
        state.held = held;
        state.remember(changes);
        Ok(())
    }

    /// Writes a family anew, in one transaction.
    fn resync_family(&mut self, index: usize, desired: &Desired) -> Result<(), Error> {
        let clients = self.clients(index)?;
        let state = &mut self.families[index];
        let mut transaction = Transaction::new();
        state.layout.create(&mut transaction);
        let mut held = Held::default();
        let pairs: Vec<(Content, Content)> = desired
            .services
            .values()
            .map(|picture| (Content::default(), content(picture, &state.layout)))
            .collect();
        plan::changes(&pairs, &mut held, &state.layout, &mut transaction);
        for set in pairs.iter().flat_map(|(_, new)| new.sets.values()) {
            if let Some(elements) = clients.get(&*set.name) {
                transaction.add_elements(set, elements.clone());
            }
        }
        drop(pairs);
        self.connection.apply(&transaction)?;
        self.commits += 1;
        state.held = held;
        state.committed.clone_from(&desired.services);
        Ok(())
    }

    /// The clients that back ends have, by the name of their set: they survive a rewrite.
    fn clients(&mut self, index: usize) -> Result<BTreeMap<String, Vec<Element>>, Error> {
        let table = self.families[index].layout.table.clone();
        let mut clients = BTreeMap::new();
        let sets = match self.connection.sets(&table) {
            Ok(sets) => sets,
            Err(error) if error.is_not_found() => return Ok(clients),
            Err(error) => return Err(error),
        };
        for set in sets
            .into_iter()
            .filter(|set| set.name.starts_with("clients-"))
        {
            let Some(types) = set.key else { continue };
            let listed = self.connection.elements(&table, &set.name)?;
            let kept = listed.iter().filter_map(|element| {
                let key = element.decode(&types)?;
                let left = element.expires.filter(|left| !left.is_zero())?;
                Some(Element::new(key.0.first()?.clone()).timeout(left))
            });
            clients.insert(set.name, kept.collect());
        }
        Ok(clients)
    }

    /// Writes what the kernel takes, and finds out which Services it does not.
    fn resync_in_parts(
        &mut self,
        index: usize,
        desired: &Desired,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let empty = Desired {
            services: BTreeMap::new(),
            ..desired.clone()
        };
        self.resync_family(index, &empty)?;
        let all: Vec<_> = desired.services.iter().collect();
        self.add_part(index, &all, outcome)
    }

    /// Adds Services together; where the kernel refuses, each half by itself.
    fn add_part(
        &mut self,
        index: usize,
        part: &[(&ServiceKey, &Arc<ServicePicture>)],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let changes: Changes = part
            .iter()
            .map(|(key, new)| ((*key).clone(), Some((*new).clone())))
            .collect();
        match (self.apply_to(index, &changes), part) {
            (Ok(()), _) | (Err(Error::Rejected(_)), []) => Ok(()),
            (Err(error @ Error::Rejected(_)), [(key, _)]) => {
                outcome.failed.insert((*key).clone(), error.to_string());
                Ok(())
            }
            (Err(Error::Rejected(_)), _) => {
                let (first, second) = part.split_at(part.len() / 2);
                self.add_part(index, first, outcome)?;
                self.add_part(index, second, outcome)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn touches_us(&self, notice: &Notice) -> bool {
        notice.tables.as_ref().is_none_or(|tables| {
            tables
                .iter()
                .any(|t| self.families.iter().any(|state| state.layout.table == *t))
        })
    }

    /// Takes the notices of our own writes away: each transaction makes one. If there are more,
    /// somebody else wrote too. Notices of very large writes get lost; those are ours.
    fn read_notices(&mut self) -> Result<(), Error> {
        let notices = self.monitor.changes()?;
        let lost = notices.iter().any(|notice| notice.tables.is_none());
        let ours = notices
            .iter()
            .filter(|notice| self.touches_us(notice))
            .count();
        if !lost && ours > self.commits {
            self.broken = true;
        }
        self.commits = 0;
        Ok(())
    }
}

impl State {
    fn new(config: &Config, family: Family, translation: Translation) -> Self {
        Self {
            layout: Layout::new(config, family, translation),
            held: Held::default(),
            committed: BTreeMap::new(),
        }
    }

    fn remember(&mut self, changes: &Changes) {
        for (key, new) in changes {
            match new {
                Some(picture) => self.committed.insert(key.clone(), picture.clone()),
                None => self.committed.remove(key),
            };
        }
    }
}

impl Backend for NftablesBackend {
    fn resync(&mut self, desired: &Desired) -> Result<Outcome, BackendError> {
        if self.config.localhost_nodeports {
            kernel::sysctl::ensure("net/ipv4/conf/all/route_localnet", "1")?;
        }
        self.config.service_cidrs.clone_from(&desired.service_cidrs);
        let mut outcome = Outcome::default();
        // Notices from before this write are of no interest: everything is written anew.
        self.monitor.changes()?;
        self.commits = 0;
        for index in 0..self.families.len() {
            let family = self.families[index].layout.family;
            let translation = self.families[index].layout.translation;
            let mut layout = Layout::new(&self.config, family, translation);
            layout.own_addresses.clone_from(&self.own_addresses);
            self.families[index].layout = layout;
            match self.resync_family(index, desired) {
                Err(Error::Rejected(failures)) => {
                    let first = failures
                        .first()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    tracing::error!(%first, "the rules were refused, they are written in parts");
                    self.resync_in_parts(index, desired, &mut outcome)?;
                }
                other => other?,
            }
        }
        self.broken = false;
        self.read_notices()?;
        Ok(outcome)
    }

    fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        for index in 0..self.families.len() {
            self.apply_to(index, changes)?;
        }
        self.read_notices()?;
        Ok(Outcome::default())
    }

    fn intact(&mut self) -> Result<bool, BackendError> {
        self.read_notices()?;
        Ok(!self.broken)
    }

    fn cleanup(&mut self) -> Result<(), BackendError> {
        let mut transaction = Transaction::new();
        for state in &mut self.families {
            transaction.remove_table(&state.layout.table);
            state.held = Held::default();
            state.committed.clear();
        }
        self.connection.apply(&transaction)?;
        self.read_notices()?;
        Ok(())
    }
}
