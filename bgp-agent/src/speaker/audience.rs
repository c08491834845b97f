//! Peers that are told the same, told once.

use std::collections::HashMap;
use std::ops::Range;

use super::export::{filtered, forget_metric, may_export, next_hop, outgoing};
use super::*;
use crate::rib::{Entry, Learnt, Path};
use crate::wire::update::{Encoded, encode_reachable, encode_withdrawn};
use crate::wire::{Attributes, NextHop, Nlri};

/// How much peers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// What they do not know yet.
    News,
    Everything,
}

/// Peers to which every route reads the same, but for those that came from one of them. Routes are
/// looked at and messages are written once for all; each is sent its parts of the same bytes.
pub(super) struct Audience<'a> {
    /// One of them, in the place of all.
    like: &'a PeerState,
    negotiated: &'a Negotiated,
    members: Vec<Member>,
    by_content: HashMap<Content, usize>,
    /// The prefixes of each content.
    prefixes: Vec<Vec<Nlri>>,
    /// The contents of paths that came together, so that their prefixes leave together; `None`:
    /// nobody is told of them.
    by_origin: HashMap<*const Learnt, Option<usize>>,
    /// The last of them: prefixes that came together mostly follow one another.
    last: Option<(*const Learnt, Option<usize>)>,
}

struct Member {
    address: IpAddr,
    connection: ConnectionId,
    id: PeerId,
    withdrawn: Vec<Nlri>,
}

/// What prefixes have in common that leave together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    /// The one who is not told: it came from him.
    source: PeerId,
    family: Family,
    next_hop: NextHop,
    attributes: Encoded,
}

/// What one peer is sent.
pub(super) struct Parcel {
    pub(super) address: IpAddr,
    pub(super) connection: ConnectionId,
    pub(super) messages: u64,
    pub(super) pieces: Vec<Bytes>,
}

/// The messages about routes of one peer, within those of all.
struct Part {
    source: PeerId,
    place: Range<usize>,
    messages: u64,
}

impl<'a> Audience<'a> {
    /// Adds a peer whose session is up to those that are told the same.
    pub(super) fn admit(all: &mut Vec<Self>, address: IpAddr, peer: &'a PeerState) {
        let (Some(connection), Some(negotiated)) = (peer.connection, peer.negotiated.as_ref())
        else {
            return;
        };
        let member = Member {
            address,
            connection,
            id: peer.id,
            withdrawn: Vec::new(),
        };
        match all.iter_mut().find(|own| own.is_like(peer, negotiated)) {
            Some(own) => own.members.push(member),
            None => all.push(Self {
                like: peer,
                negotiated,
                members: vec![member],
                by_content: HashMap::new(),
                prefixes: Vec::new(),
                by_origin: HashMap::new(),
                last: None,
            }),
        }
    }

    /// Everything that [`super::export`] looks at has to be here.
    fn is_like(&self, peer: &PeerState, negotiated: &Negotiated) -> bool {
        let settings = |own: &PeerState| {
            let (source, config) = (&own.source, &own.config);
            (
                source.internal,
                source.client,
                config.next_hop,
                config.local_as,
            )
        };
        let agreed = |own: &Negotiated| (own.extended_next_hop, own.knows_long_lived);
        settings(self.like) == settings(peer)
            && agreed(self.negotiated) == agreed(negotiated)
            && self.negotiated.context == negotiated.context
            && self.negotiated.families == negotiated.families
            && self.like.config.export == peer.config.export
    }

    /// Internal routes are not for internal peers that are not served by reflection.
    pub(super) fn hears_only_external(&self) -> bool {
        hears_only_external(self.like)
    }

    pub(super) fn put(
        &mut self,
        config: &Config,
        prefix: &IpNetwork,
        entry: &mut Entry,
        telling: Telling,
    ) {
        let family = Family::of(prefix);
        if !self.negotiated.families.contains(&family) {
            return;
        }
        if self.negotiated.context.add_path_send.contains(&family) {
            return self.put_several(config, prefix, entry, telling);
        }
        if telling == Telling::News && !entry.has_news() {
            return;
        }
        let best = entry.best();
        let source = best.map_or(LOCAL, |path| path.peer);
        let content = best.and_then(|path| self.content(config, prefix, path));
        if let Some(content) = content
            && self.members.iter().any(|member| member.id != source)
        {
            self.prefixes[content].push(Nlri::new(*prefix));
        }
        for member in &mut self.members {
            let hears = content.is_some() && member.id != source;
            if !hears && entry.told().has(member.id) {
                member.withdrawn.push(Nlri::new(*prefix));
            }
            entry.told().set(member.id, hears);
        }
    }

    /// All paths, each with our number (RFC 7911).
    fn put_several(
        &mut self,
        config: &Config,
        prefix: &IpNetwork,
        entry: &mut Entry,
        telling: Telling,
    ) {
        let members = self.members.iter();
        let known: Vec<BTreeSet<u32>> = members
            .map(|member| entry.told().several(member.id))
            .collect();
        let mut now: Vec<(u32, PeerId)> = Vec::new();
        for path in entry.paths().iter().filter(|path| path.reachable) {
            let Some(content) = self.content(config, prefix, path) else {
                continue;
            };
            let (path_id, source) = (path.local_id, path.peer);
            now.push((path_id, source));
            let anew = telling == Telling::Everything || path.changed;
            let mut hearing = self.members.iter().zip(&known);
            let is_news = hearing
                .any(|(member, known)| member.id != source && (anew || !known.contains(&path_id)));
            if is_news {
                let prefix = *prefix;
                self.prefixes[content].push(Nlri { path_id, prefix });
            }
        }
        for (member, known) in self.members.iter_mut().zip(known) {
            let others = now.iter().filter(|(_, source)| *source != member.id);
            let heard: BTreeSet<u32> = others.map(|(path_id, _)| *path_id).collect();
            for path_id in known.difference(&heard) {
                member.withdrawn.push(Nlri {
                    path_id: *path_id,
                    prefix: *prefix,
                });
            }
            if heard != known {
                entry.told().set_several(member.id, &heard);
            }
        }
    }

    /// What the path's prefix leaves with; `None`: nobody is told of it.
    fn content(&mut self, config: &Config, prefix: &IpNetwork, path: &Path) -> Option<usize> {
        let peer = self.like;
        if !peer.config.export.is_open() {
            let next_hop = next_hop(config, peer, prefix, path)?;
            let attributes = may_export(peer, path).then(|| filtered(config, peer, prefix, path));
            return self.content_of(prefix, path, attributes.flatten()?, next_hop);
        }
        let origin = Arc::as_ptr(&path.learnt);
        if let Some((last, content)) = self.last
            && last == origin
        {
            return content;
        }
        let content = match self.by_origin.get(&origin) {
            Some(content) => *content,
            None => {
                let next_hop = next_hop(config, peer, prefix, path);
                let content = next_hop
                    .filter(|_| may_export(peer, path))
                    .and_then(|next_hop| {
                        let mut given = (*path.attributes).clone();
                        forget_metric(peer, path, &mut given);
                        let given = outgoing(config, peer, path, given);
                        self.content_of(prefix, path, given, next_hop)
                    });
                self.by_origin.insert(origin, content);
                content
            }
        };
        self.last = Some((origin, content));
        content
    }

    /// What says the same leaves together. `None` where the attributes are too long for the peers.
    fn content_of(
        &mut self,
        prefix: &IpNetwork,
        path: &Path,
        attributes: Attributes,
        next_hop: NextHop,
    ) -> Option<usize> {
        let attributes = Encoded::of(&attributes, &self.negotiated.context);
        if !attributes.fits(&self.negotiated.context) {
            tracing::warn!(%prefix, "the attributes are too long for peers with short messages");
            return None;
        }
        let content = Content {
            source: path.peer,
            family: Family::of(prefix),
            next_hop,
            attributes,
        };
        let next = self.prefixes.len();
        let index = *self.by_content.entry(content).or_insert(next);
        if index == next {
            self.prefixes.push(Vec::new());
        }
        Some(index)
    }

    /// The messages, withdrawals first.
    pub(super) fn close(mut self) -> Vec<Parcel> {
        let context = &self.negotiated.context;
        let mut contents: Vec<(Content, usize)> = self.by_content.drain().collect();
        contents.sort_unstable_by_key(|(content, index)| (content.source, *index));
        let (mut bytes, mut parts) = (BytesMut::new(), Vec::<Part>::new());
        for (content, index) in contents {
            let start = bytes.len();
            let messages = encode_reachable(
                &self.prefixes[index],
                content.family,
                content.next_hop,
                &content.attributes,
                context,
                &mut bytes,
            );
            match parts.last_mut().filter(|own| own.source == content.source) {
                Some(own) => (own.place.end, own.messages) = (bytes.len(), own.messages + messages),
                None => parts.push(Part {
                    source: content.source,
                    place: start..bytes.len(),
                    messages,
                }),
            }
        }
        let bytes = bytes.freeze();
        let members = self.members.iter();
        members
            .map(|member| member.parcel(context, &bytes, &parts))
            .collect()
    }
}

impl Member {
    fn parcel(&self, context: &Context, bytes: &Bytes, parts: &[Part]) -> Parcel {
        let mut withdrawals = BytesMut::new();
        let mut messages = 0;
        for family in Family::ALL {
            let of_family = |nlri: &&Nlri| nlri.family() == family;
            let prefixes: Vec<Nlri> = self.withdrawn.iter().filter(of_family).copied().collect();
            messages += encode_withdrawn(&prefixes, family, context, &mut withdrawals);
        }
        let for_us = parts.iter().filter(|part| part.source != self.id);
        messages += for_us.map(|part| part.messages).sum::<u64>();
        // Parts are in order of their sources: one's own is in one place.
        let own = parts.iter().find(|part| part.source == self.id);
        let own = own.map_or(bytes.len()..bytes.len(), |part| part.place.clone());
        let pieces = [
            withdrawals.freeze(),
            bytes.slice(..own.start),
            bytes.slice(own.end..),
        ];
        Parcel {
            address: self.address,
            connection: self.connection,
            messages,
            pieces: pieces.into_iter().filter(|own| !own.is_empty()).collect(),
        }
    }
}

/// Internal routes are not for an internal peer that is not served by reflection.
pub(super) fn hears_only_external(peer: &PeerState) -> bool {
    peer.source.internal && !peer.source.client
}
