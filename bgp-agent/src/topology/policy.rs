//! Filters and communities of what is advertised.

use super::*;

use crate::config::{
    Change, Community, Filter, FilterRule, Match, PeerKind, PrefixMatch, Relation, Verdict,
};
use crate::resources::{Action, MatchOperator, Operation, PeerType, Rule};

/// Import and export rules of the filters, in order.
pub(super) fn filters(
    inputs: &Inputs,
    names: &[String],
    problems: &mut Problems,
) -> Result<(Vec<FilterRule>, Vec<FilterRule>), String> {
    let (mut import, mut export) = (Vec::new(), Vec::new());
    for name in names {
        let Some(spec) = inputs.filters.get(name) else {
            return Err(format!("filters: there is no BGPFilter {name:?}"));
        };
        let rules = |rules: &[Rule], ipv4: bool| -> Result<Vec<FilterRule>, String> {
            rules.iter().map(|own| rule(own, ipv4)).collect()
        };
        let mut read = || -> Result<(), String> {
            import.extend(rules(&spec.import_v4, true)?);
            import.extend(rules(&spec.import_v6, false)?);
            export.extend(rules(&spec.export_v4, true)?);
            export.extend(rules(&spec.export_v6, false)?);
            Ok(())
        };
        if let Err(what) = read() {
            problems.insert((Kind::Filter, name.clone()), what.clone());
            return Err(format!("the BGPFilter {name:?}: {what}"));
        }
    }
    Ok((import, export))
}

pub(super) fn with_rest(rules: Vec<FilterRule>, rest: Verdict) -> Filter {
    Filter { rules, rest }
}

fn rule(rule: &Rule, ipv4: bool) -> Result<FilterRule, String> {
    let everything = if ipv4 { "0.0.0.0/0" } else { "::/0" };
    let text = rule.cidr.as_deref().unwrap_or(everything);
    let network: IpNetwork = text
        .parse()
        .map_err(|_| format!("cidr: {text:?} is no network such as 10.0.0.0/8"))?;
    if network.is_ipv4() != ipv4 {
        return Err(format!("cidr: {text} is of the other IP family"));
    }
    let length = rule.prefix_length.unwrap_or_default();
    let prefix = PrefixMatch {
        network,
        relation: match rule.match_operator {
            Some(MatchOperator::Equal) => Relation::Equal,
            Some(MatchOperator::NotEqual) => Relation::NotEqual,
            Some(MatchOperator::NotIn) => Relation::NotIn,
            Some(MatchOperator::In) | None => Relation::In,
        },
        shortest: length.min.unwrap_or(0),
        longest: length.max.unwrap_or(128),
    };
    let next_hop = rule.next_hop.as_deref().map(|text| {
        text.parse()
            .map_err(|_| format!("nextHop: {text:?} is no address or network"))
    });
    let values = rule.communities.iter().flat_map(|own| &own.values);
    let matches = Match {
        prefix: Some(prefix),
        communities: values
            .map(|text| community(text))
            .collect::<Result<_, _>>()?,
        as_path_prefix: rule.as_path_prefix.clone(),
        as_path_contains: rule.as_path_contains,
        longest_as_path: rule.max_as_path_length.map(|longest| longest as usize),
        next_hop: next_hop.transpose()?,
        peer: rule.peer_type.map(|kind| match kind {
            PeerType::External => PeerKind::External,
            PeerType::Internal => PeerKind::Internal,
        }),
        learnt: rule.source.is_some(),
    };
    let changes = rule.operations.iter().map(changes);
    Ok(FilterRule {
        matches,
        verdict: match rule.action {
            Action::Accept => Verdict::Accept,
            Action::Reject => Verdict::Reject,
        },
        changes: changes.collect::<Result<Vec<_>, _>>()?.concat(),
    })
}

fn community(text: &str) -> Result<Community, String> {
    text.parse()
        .map_err(|error: crate::config::NotACommunity| error.to_string())
}

fn changes(operation: &Operation) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    if let Some(own) = &operation.add_community {
        changes.push(Change::AddCommunity(community(&own.value)?));
    }
    if let Some(own) = &operation.remove_community {
        changes.push(Change::RemoveCommunity(community(&own.value)?));
    }
    if let Some(own) = &operation.prepend_as_path {
        changes.push(Change::Prepend(own.prefix.clone()));
    }
    if let Some(own) = &operation.set_local_preference {
        changes.push(Change::SetLocalPref(own.value));
    }
    if let Some(own) = &operation.set_med {
        changes.push(Change::SetMed(own.value));
    }
    match changes.is_empty() {
        true => Err(
            "an operation says nothing: give one of addCommunity, removeCommunity, \
                     prependASPath, setLocalPreference, setMED"
                .to_owned(),
        ),
        false => Ok(changes),
    }
}

/// Gives what the node advertises the communities that the configuration wants.
pub(super) fn tag(inputs: &Inputs, config: &mut Config, problems: &mut Problems) {
    let spec = &inputs.configuration;
    let named: BTreeMap<&str, &str> = spec
        .communities
        .iter()
        .map(|own| (own.name.as_str(), own.value.as_str()))
        .collect();
    for advertisement in &spec.prefix_advertisements {
        let result = (|| -> Result<(), String> {
            let cidr = network(&advertisement.cidr, "prefixAdvertisements")?;
            let texts = advertisement.communities.iter().map(String::as_str);
            let values = texts.map(|text| community(named.get(text).copied().unwrap_or(text)));
            let values: Vec<Community> = values.collect::<Result<_, _>>()?;
            let within = config.originate.iter_mut();
            for (_, own) in within.filter(|(range, _)| contains(&cidr, range)) {
                for value in &values {
                    if !own.communities.contains(value) {
                        own.communities.push(*value);
                    }
                }
            }
            Ok(())
        })();
        if let Err(what) = result {
            let name = crate::resources::DEFAULT.to_owned();
            problems.insert((Kind::Configuration, name), what);
        }
    }
}

pub(super) fn network(text: &str, field: &str) -> Result<IpNetwork, String> {
    let parsed = text.parse::<IpNetwork>();
    let parsed = parsed.and_then(|own| IpNetwork::new(own.network(), own.prefix()));
    parsed.map_err(|_| format!("{field}: {text:?} is no network such as 10.0.0.0/8"))
}
