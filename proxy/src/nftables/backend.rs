//! Sends transactions, and watches over the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::nftables::{Connection, Element, Error, Monitor, Notice, Transaction};

use super::content::{Content, content};
use super::layout::{Layout, Translation};
use super::plan::{self, Held};
use super::verify;
use crate::backend::{Backend, BackendError, Desired, Outcome, Pictures};
use crate::config::Config;
use crate::model::{Family, ServiceKey, ServicePicture};
use crate::picture::Changes;

/// The nftables backend, for both families.
pub(crate) struct NftablesBackend {
    connection: Connection,
    monitor: Monitor,
    /// Generations of the ruleset that this process made and whose notices are to come.
    own: BTreeSet<u32>,
    /// Somebody else changed our table.
    broken: bool,
    /// Whoever asked knows that.
    told: bool,
    /// Addresses of the node that are not virtual, with IPVS.
    pub(crate) own_addresses: BTreeSet<IpAddr>,
    /// With IPVS: back ends whose pairs the next rewrite keeps, until [`Self::finish`].
    pub(crate) leaving: BTreeSet<IpAddr>,
    config: Config,
    families: Vec<State>,
}

struct State {
    layout: Layout,
    held: Held,
    /// What the kernel holds.
    committed: Pictures,
}

/// A Service with its new picture, or `None` where it is to go.
type Part<'a> = (&'a ServiceKey, &'a Option<Arc<ServicePicture>>);

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
            own: BTreeSet::new(),
            broken: false,
            told: false,
            own_addresses: BTreeSet::new(),
            leaving: BTreeSet::new(),
            config: config.clone(),
            families,
        })
    }

    /// Commits, and remembers that it was us.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let generation = self.connection.apply_generation(transaction)?;
        self.own.extend(generation);
        Ok(())
    }

    fn apply_to(&mut self, index: usize, part: &[Part<'_>]) -> Result<(), Error> {
        let state = &mut self.families[index];
        let mut held = state.held.clone();
        let pairs: Vec<(Content, Content)> = part
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
        self.commit(&transaction)?;
        let state = &mut self.families[index];
        state.held = held;
        state.remember(part);
        Ok(())
    }

    /// Writes a family anew, in one transaction. Refusals are held back afterwards.
    fn resync_family(&mut self, index: usize, services: &Pictures) -> Result<(), Error> {
        let clients = self.clients(index)?;
        self.hold_refusals(index)?;
        let state = &self.families[index];
        let (mut transaction, mut held) = state.whole(services, &clients);
        let leaving = self.leaving.iter().copied();
        let of_family = leaving.filter(|address| Family::of(*address) == state.layout.family);
        plan::keep(of_family, &mut held, &state.layout, &mut transaction);
        state.layout.hold_refusals(&mut transaction);
        self.commit(&transaction)?;
        let state = &mut self.families[index];
        state.held = held;
        state.committed.clone_from(services);
        Ok(())
    }

    /// Holds refusals back in the table that is there, if one is.
    fn hold_refusals(&mut self, index: usize) -> Result<(), Error> {
        let mut transaction = Transaction::new();
        self.families[index].layout.hold_refusals(&mut transaction);
        match self.commit(&transaction) {
            // There is no table, or none that is whole.
            Err(Error::Rejected(_)) => Ok(()),
            other => other,
        }
    }

    /// Refuses again what nobody serves, when no packet is between the old rules and the new.
    fn give_refusals(&mut self) -> Result<(), Error> {
        kernel::flight::wait_for_packets_in_flight();
        let mut transaction = Transaction::new();
        for state in &self.families {
            state.layout.give_refusals(&mut transaction);
        }
        self.commit(&transaction)
    }

    /// Removes what was kept until IPVS knew of the changes.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        let mut transaction = Transaction::new();
        for state in &mut self.families {
            plan::finish(&mut state.held, &state.layout, &mut transaction);
        }
        self.leaving.clear();
        if !transaction.is_empty() {
            self.commit(&transaction)?;
            self.read_notices()?;
        }
        Ok(())
    }

    /// The clients that back ends have, by the name of their set: they survive a rewrite.
    fn clients(&mut self, index: usize) -> Result<Clients, Error> {
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

    /// Writes what the kernel takes, and finds out which Services it does not: first what it
    /// took the last time, then the rest in parts.
    fn resync_in_parts(
        &mut self,
        index: usize,
        desired: &Desired,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let taken = std::mem::take(&mut self.families[index].committed);
        match self.resync_family(index, &taken) {
            Err(Error::Rejected(_)) => self.resync_family(index, &Pictures::new())?,
            other => other?,
        }
        let committed = &self.families[index].committed;
        let gone = committed
            .keys()
            .filter(|key| !desired.services.contains_key(*key));
        let gone = gone.map(|key| (key.clone(), None));
        let wanted = desired
            .services
            .iter()
            .filter(|(key, new)| committed.get(*key) != Some(*new))
            .map(|(key, new)| (key.clone(), Some(new.clone())));
        let changes: Changes = gone.chain(wanted).collect();
        self.apply_in_parts(index, &changes.iter().collect::<Vec<_>>(), outcome)
    }

    /// Applies changes together; where the kernel refuses, each half by itself.
    fn apply_in_parts(
        &mut self,
        index: usize,
        part: &[Part<'_>],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let result = self.apply_to(index, part);
        if let Err(Error::Rejected(_)) = &result {
            self.read_notices()?;
            if self.broken {
                // Nobody is to blame but who changed our table: it is written anew.
                return Ok(());
            }
        }
        match (result, part) {
            (Ok(()), _) | (Err(Error::Rejected(_)), []) => Ok(()),
            (Err(error @ Error::Rejected(_)), [(key, _)]) => {
                outcome.failed.insert((*key).clone(), error.to_string());
                Ok(())
            }
            (Err(Error::Rejected(_)), _) => {
                let (first, second) = part.split_at(part.len() / 2);
                self.apply_in_parts(index, first, outcome)?;
                self.apply_in_parts(index, second, outcome)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Whether somebody changed our table and nobody knows it yet; from now on somebody does.
    fn tell(&mut self) -> bool {
        let news = self.broken && !self.told;
        self.told = self.broken;
        news
    }

    fn touches_us(&self, tables: &[kernel::nftables::Table]) -> bool {
        let mut ours = self.families.iter().map(|state| &state.layout.table);
        ours.any(|table| tables.contains(table))
    }

    /// Looks through the notices of what was committed: ours are told by their generation, and
    /// changes of other tables are none of our business. Where notices got lost (as with very
    /// large writes of our own), the table itself is looked at.
    fn read_notices(&mut self) -> Result<(), Error> {
        let mut lost = false;
        for Notice {
            generation, tables, ..
        } in self.monitor.changes()?
        {
            let ours = self.own.remove(&generation);
            match tables {
                Some(tables) => self.broken |= !ours && self.touches_us(&tables),
                None => lost |= !ours,
            }
        }
        if lost && !self.broken {
            self.own.clear();
            self.broken = !self.is_whole()?;
        }
        Ok(())
    }

    /// Whether the tables hold as many things as were written.
    fn is_whole(&mut self) -> Result<bool, Error> {
        for state in &self.families {
            let (transaction, _) = state.whole(&state.committed, &Clients::new());
            let expected = verify::expected(&transaction, state.held.shared.iter());
            let found = verify::observe(&mut self.connection, &state.layout.table, &expected)?;
            if found != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn change_layouts(&mut self) {
        for state in &mut self.families {
            let (family, translation) = (state.layout.family, state.layout.translation);
            let mut layout = Layout::new(&self.config, family, translation);
            layout.own_addresses.clone_from(&self.own_addresses);
            state.layout = layout;
        }
    }
}

/// Clients of back ends by the name of their set.
type Clients = BTreeMap<String, Vec<Element>>;

impl State {
    fn new(config: &Config, family: Family, translation: Translation) -> Self {
        Self {
            layout: Layout::new(config, family, translation),
            held: Held::default(),
            committed: BTreeMap::new(),
        }
    }

    /// Everything anew.
    fn whole(&self, services: &Pictures, clients: &Clients) -> (Transaction, Held) {
        let mut transaction = Transaction::new();
        self.layout.create(&mut transaction);
        let mut held = Held::default();
        let pairs: Vec<(Content, Content)> = services
            .values()
            .map(|picture| (Content::default(), content(picture, &self.layout)))
            .collect();
        plan::changes(&pairs, &mut held, &self.layout, &mut transaction);
        for set in pairs.iter().flat_map(|(_, new)| new.sets.values()) {
            if let Some(elements) = clients.get(&*set.name) {
                transaction.add_elements(set, elements.clone());
            }
        }
        (transaction, held)
    }

    fn remember(&mut self, part: &[Part<'_>]) {
        for (key, new) in part {
            match new {
                Some(picture) => self.committed.insert((*key).clone(), picture.clone()),
                None => self.committed.remove(*key),
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
        self.read_notices()?;
        outcome.foreign = self.tell();
        (self.broken, self.told) = (false, false);
        self.own.clear();
        self.change_layouts();
        for index in 0..self.families.len() {
            match self.resync_family(index, &desired.services) {
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
        let given = self.give_refusals();
        self.read_notices()?;
        match given {
            // Somebody removed the table that was just written; the next look tells.
            Err(Error::Rejected(_)) if self.broken => {}
            other => other?,
        }
        Ok(outcome)
    }

    fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        let mut outcome = Outcome::default();
        let part: Vec<Part<'_>> = changes.iter().collect();
        self.read_notices()?;
        for index in 0..self.families.len() {
            if !self.broken {
                self.apply_in_parts(index, &part, &mut outcome)?;
            }
        }
        self.read_notices()?;
        outcome.foreign = self.tell();
        if self.broken {
            outcome.failed.clear();
        }
        Ok(outcome)
    }

    fn intact(&mut self) -> Result<bool, BackendError> {
        self.read_notices()?;
        self.told = self.broken;
        Ok(!self.broken)
    }

    fn cleanup(&mut self) -> Result<(), BackendError> {
        // The kernel removes one chain after the other. What another backend serves by now must
        // not be refused because it was not translated here: its sender tries again.
        for index in 0..self.families.len() {
            self.hold_refusals(index)?;
        }
        let mut transaction = Transaction::new();
        for state in &mut self.families {
            transaction.remove_table(&state.layout.table);
            state.held = Held::default();
            state.committed.clear();
        }
        self.commit(&transaction)?;
        self.read_notices()?;
        Ok(())
    }
}
