//! Sizes: how far a rollout may go over and under, and how a change of scale is shared.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sets::{DESIRED_REPLICAS, MAX_REPLICAS, Set, Sets, spec};

/// Rounds a fraction of a percentage up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// A number, or a percentage of a total; None if it is neither.
pub(crate) fn resolve(value: &IntOrString, total: i32, round: Round) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(i64::from(total))?;
            let share = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(share).ok()
        }
    }
}

/// The bounds of a rollout in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub wanted: i32,
    pub surge: i32,
    pub unavailable: i32,
    pub recreate: bool,
}

impl Bounds {
    /// Surge rounds up, unavailable rounds down; if both are nothing, one pod may be missing,
    /// or the rollout would never move.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = spec(deployment);
        let wanted = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.unwrap_or_default();
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        if recreate {
            return Self {
                wanted,
                surge: 0,
                unavailable: wanted,
                recreate,
            };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.max_surge.as_ref().unwrap_or(&quarter);
        let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&quarter);
        let surge = resolve(surge, wanted, Round::Up).unwrap_or(0).max(0);
        let mut unavailable = resolve(unavailable, wanted, Round::Down)
            .unwrap_or(0)
            .max(0);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            wanted,
            surge,
            unavailable: unavailable.min(wanted),
            recreate,
        }
    }

    pub(crate) fn min_available(self) -> i32 {
        self.wanted - self.unavailable
    }

    /// The most pods that there may be; what a ReplicaSet's annotation remembers.
    pub(crate) fn max_replicas(self) -> i32 {
        self.wanted + self.surge
    }

    /// How large the new set may be now.
    pub(crate) fn new_size(self, sets: &Sets) -> i32 {
        let own = sets.new.as_ref().map_or(0, |set| set.replicas);
        if self.recreate {
            return self.wanted;
        }
        let room = self.max_replicas() - sets.replicas();
        if room <= 0 {
            return own;
        }
        own + room.min(self.wanted - own)
    }
}

/// The next steps of a rolling update: the new set up if there is room, else old sets down
/// as far as enough pods stay available. Returns the sizes that change.
pub(crate) fn roll(bounds: Bounds, sets: &Sets) -> Vec<(Set, i32)> {
    let Some(new) = &sets.new else {
        return Vec::new();
    };
    let size = if new.replicas > bounds.wanted {
        bounds.wanted
    } else {
        bounds.new_size(sets)
    };
    if size != new.replicas {
        return vec![(new.clone(), size)];
    }
    shrink_old(bounds, sets)
}

fn shrink_old(bounds: Bounds, sets: &Sets) -> Vec<(Set, i32)> {
    let new_unavailable = sets
        .new
        .as_ref()
        .map_or(0, |new| (new.replicas - new.available()).max(0));
    let mut may_go = sets.replicas() - bounds.min_available() - new_unavailable;
    if may_go <= 0 {
        return Vec::new();
    }
    let mut old = sets.old.clone();
    // Pods that are not available are nobody's loss: they go first, whichever set is older.
    for set in &mut old {
        let sick = (set.replicas - set.available()).clamp(0, may_go.max(0));
        set.replicas -= sick;
        may_go -= sick;
    }
    let mut spare = sets.available() - bounds.min_available();
    for set in &mut old {
        let fewer = set.replicas.min(spare.max(0));
        set.replicas -= fewer;
        spare -= fewer;
    }
    let changed = sets
        .old
        .iter()
        .zip(old)
        .filter(|(before, after)| before.replicas != after.replicas);
    changed
        .map(|(before, after)| (before.clone(), after.replicas))
        .collect()
}

/// Whether the Deployment was given another size since its sets were last sized.
pub(crate) fn is_scaling(bounds: Bounds, sets: &Sets) -> bool {
    sets.active().any(|set| {
        set.number(DESIRED_REPLICAS)
            .is_some_and(|known| known != bounds.wanted)
    })
}

/// The sizes of all sets after a change of the Deployment's size: one set gets all of it,
/// several share it by their sizes, the largest gets the rest.
pub(crate) fn scale(bounds: Bounds, sets: &Sets, status_replicas: i32) -> Vec<(Set, i32)> {
    let active: Vec<&Set> = sets.active().collect();
    let latest = sets.new.as_ref().or(sets.old.last());
    let only = match active.as_slice() {
        [] => latest,
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        return vec![(set.clone(), bounds.wanted)];
    }
    if active.is_empty() {
        return Vec::new();
    }
    if sets
        .new
        .as_ref()
        .is_some_and(|new| is_saturated(bounds, new))
    {
        let old = sets.old.iter().filter(|set| set.replicas > 0);
        return old.map(|set| (set.clone(), 0)).collect();
    }
    if bounds.recreate {
        return Vec::new();
    }
    share(bounds, active, status_replicas)
}

fn is_saturated(bounds: Bounds, new: &Set) -> bool {
    new.replicas == bounds.wanted
        && new.number(DESIRED_REPLICAS) == Some(bounds.wanted)
        && new.available() == bounds.wanted
}

fn share(bounds: Bounds, active: Vec<&Set>, status_replicas: i32) -> Vec<(Set, i32)> {
    let allowed = if bounds.wanted > 0 {
        bounds.max_replicas()
    } else {
        0
    };
    let to_add = allowed - active.iter().map(|set| set.replicas).sum::<i32>();
    // Oldest first by construction: growth prefers the newer of equal sets, shrinking the older.
    let mut order: Vec<&Set> = active;
    if to_add > 0 {
        order.reverse();
    }
    order.sort_by_key(|set| std::cmp::Reverse(set.replicas));
    let mut added = 0;
    let mut sizes: Vec<(Set, i32)> = order
        .into_iter()
        .map(|set| {
            let part = proportion(bounds, set, to_add, added, status_replicas);
            added += part;
            (set.clone(), set.replicas + part)
        })
        .collect();
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

fn proportion(bounds: Bounds, set: &Set, to_add: i32, added: i32, status_replicas: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(bounds, set, status_replicas);
    let rest = to_add - added;
    if to_add > 0 {
        fraction.min(rest)
    } else {
        fraction.max(rest)
    }
}

fn fraction(bounds: Bounds, set: &Set, status_replicas: i32) -> i32 {
    if bounds.wanted == 0 {
        return -set.replicas;
    }
    let before = set
        .number(MAX_REPLICAS)
        .filter(|max| *max > 0)
        .unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    let size = f64::from(set.replicas) * f64::from(bounds.max_replicas()) / f64::from(before);
    #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    let size = size.round() as i32;
    size - set.replicas
}
