//! How fast the number of replicas may change: stabilization and scaling policies. Pure.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};

/// A number that was wanted at some time, or a change that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub at: Instant,
    pub number: i32,
}

/// What an autoscaler remembers between its looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub wanted: Vec<Event>,
    pub ups: Vec<Event>,
    pub downs: Vec<Event>,
}

const LONGEST: Duration = Duration::from_secs(3600);

impl Memory {
    /// Notes a number that the metrics asked for.
    pub(crate) fn recommend(&mut self, number: i32, at: Instant) {
        self.wanted.push(Event { at, number });
        for list in [&mut self.wanted, &mut self.ups, &mut self.downs] {
            list.retain(|event| at.saturating_duration_since(event.at) <= LONGEST);
        }
    }

    /// Notes a change that was made.
    pub(crate) fn scaled(&mut self, from: i32, to: i32, at: Instant) {
        let (list, number) = if to > from {
            (&mut self.ups, to - from)
        } else {
            (&mut self.downs, from - to)
        };
        list.push(Event { at, number });
    }
}

/// The rules of one autoscaler, with defaults where it has none.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub up: HPAScalingRules,
    pub down: HPAScalingRules,
    pub min: i32,
    pub max: i32,
}

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: kind.to_owned(),
        value,
        period_seconds: 15,
    }
}

impl Rules {
    pub(crate) fn of(
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        min: i32,
        max: i32,
    ) -> Self {
        let behavior = behavior.cloned().unwrap_or_default();
        let mut up = behavior.scale_up.unwrap_or_default();
        up.policies
            .get_or_insert_with(|| vec![policy("Pods", 4), policy("Percent", 100)]);
        up.stabilization_window_seconds.get_or_insert(0);
        let mut down = behavior.scale_down.unwrap_or_default();
        down.policies
            .get_or_insert_with(|| vec![policy("Percent", 100)]);
        down.stabilization_window_seconds.get_or_insert(300);
        Self { up, down, min, max }
    }
}

/// A number of replicas, and what kept it from being another, as the condition says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounded {
    pub replicas: i32,
    pub limit: Option<(&'static str, &'static str)>,
    pub stabilized: Option<(&'static str, &'static str)>,
}

fn window(rules: &HPAScalingRules) -> Duration {
    let seconds = rules.stabilization_window_seconds.unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn within(events: &[Event], window: Duration, now: Instant) -> impl Iterator<Item = i32> {
    let recent = move |event: &&Event| now.saturating_duration_since(event.at) < window;
    events.iter().filter(recent).map(|event| event.number)
}

/// The wanted number, held against its own history and the rules.
pub(crate) fn bounded(
    current: i32,
    wanted: i32,
    memory: &Memory,
    rules: &Rules,
    now: Instant,
) -> Bounded {
    let (steady, stabilized) = stabilized(current, wanted, memory, rules, now);
    let (replicas, limit) = limited(current, steady, memory, rules, now);
    Bounded {
        replicas,
        limit,
        stabilized,
    }
}

type Why = Option<(&'static str, &'static str)>;

/// Upwards the lowest recent wish counts, downwards the highest.
fn stabilized(
    current: i32,
    wanted: i32,
    memory: &Memory,
    rules: &Rules,
    now: Instant,
) -> (i32, Why) {
    let up = within(&memory.wanted, window(&rules.up), now).fold(wanted, i32::min);
    let down = within(&memory.wanted, window(&rules.down), now).fold(wanted, i32::max);
    let steady = current.max(up).min(down.max(up));
    let why = match steady.cmp(&wanted) {
        Ordering::Equal => None,
        Ordering::Greater => Some((
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )),
        Ordering::Less => Some((
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )),
    };
    (steady, why)
}

fn limited(current: i32, wanted: i32, memory: &Memory, rules: &Rules, now: Instant) -> (i32, Why) {
    if wanted > current {
        let limit = up_limit(current, memory, &rules.up, now).max(current);
        let most = limit.min(rules.max);
        if wanted <= most {
            return (wanted, None);
        }
        let why = if limit < rules.max {
            (
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            )
        } else {
            (
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            )
        };
        return (most, Some(why));
    }
    if wanted < current {
        let limit = down_limit(current, memory, &rules.down, now).min(current);
        let fewest = limit.max(rules.min);
        if wanted >= fewest {
            return (wanted, None);
        }
        let why = if limit > rules.min {
            (
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            )
        } else {
            (
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            )
        };
        return (fewest, Some(why));
    }
    (wanted, None)
}

fn changed(events: &[Event], policy: &HPAScalingPolicy, now: Instant) -> i32 {
    let seconds = u64::try_from(policy.period_seconds).unwrap_or(0);
    within(events, Duration::from_secs(seconds), now).fold(0, i32::saturating_add)
}

fn limits<'a>(
    rules: &'a HPAScalingRules,
    of: impl Fn(&HPAScalingPolicy) -> i32 + 'a,
) -> impl Iterator<Item = i32> + 'a {
    rules.policies.iter().flatten().map(of)
}

fn up_limit(current: i32, memory: &Memory, rules: &HPAScalingRules, now: Instant) -> i32 {
    let of = |policy: &HPAScalingPolicy| {
        let start =
            current - changed(&memory.ups, policy, now) + changed(&memory.downs, policy, now);
        if policy.type_ == "Pods" {
            start.saturating_add(policy.value)
        } else {
            (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32
        }
    };
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits(rules, of).min().unwrap_or(current),
        _ => limits(rules, of).max().unwrap_or(current),
    }
}

fn down_limit(current: i32, memory: &Memory, rules: &HPAScalingRules, now: Instant) -> i32 {
    let of = |policy: &HPAScalingPolicy| {
        let start =
            current + changed(&memory.downs, policy, now) - changed(&memory.ups, policy, now);
        if policy.type_ == "Pods" {
            start.saturating_sub(policy.value)
        } else {
            (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32
        }
    };
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => limits(rules, of).max().unwrap_or(current),
        _ => limits(rules, of).min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(behavior: Value) -> Rules {
        let behavior = serde_json::from_value(behavior).expect("a behavior");
        Rules::of(Some(&behavior), 1, 100)
    }

    fn at(now: Instant, ago: u64, number: i32) -> Event {
        Event {
            at: now - Duration::from_secs(ago),
            number,
        }
    }

    #[track_caller]
    fn check(
        behavior: Value,
        memory: &Memory,
        now: Instant,
        from: i32,
        to: i32,
        expect: (i32, &str),
    ) {
        let answer = bounded(from, to, memory, &rules(behavior), now);
        let why = answer
            .limit
            .or(answer.stabilized)
            .map_or("", |(reason, _)| reason);
        assert_eq!((answer.replicas, why), expect);
    }

    #[test]
    fn without_rules_it_doubles_or_adds_four_at_a_time() {
        let now = Instant::now() + LONGEST;
        let memory = Memory::default();
        check(json!({}), &memory, now, 1, 50, (5, "ScaleUpLimit"));
        check(json!({}), &memory, now, 10, 50, (20, "ScaleUpLimit"));
        check(json!({}), &memory, now, 60, 150, (100, "TooManyReplicas"));
        check(json!({}), &memory, now, 10, 0, (1, "TooFewReplicas"));
        let grown = Memory {
            ups: vec![at(now, 5, 10)],
            ..Memory::default()
        };
        check(json!({}), &grown, now, 20, 50, (20, "ScaleUpLimit"));
    }

    #[test]
    fn the_highest_recent_wish_holds_a_shrinking_back() {
        let now = Instant::now() + LONGEST;
        let memory = Memory {
            wanted: vec![at(now, 400, 9), at(now, 200, 6), at(now, 100, 4)],
            ..Memory::default()
        };
        check(json!({}), &memory, now, 8, 2, (6, "ScaleDownStabilized"));
        let at_once = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        check(at_once, &memory, now, 8, 2, (2, ""));
        let slow = json!({"scaleUp": {"stabilizationWindowSeconds": 300}});
        check(slow, &memory, now, 3, 8, (4, "ScaleUpStabilized"));
    }

    #[test]
    fn policies_limit_the_change_of_a_period() {
        let now = Instant::now() + LONGEST;
        let memory = Memory::default();
        let policies = |select: &str| {
            json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": select,
                "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60},
                    {"type": "Percent", "value": 50, "periodSeconds": 60}]}})
        };
        check(policies("Max"), &memory, now, 10, 1, (5, "ScaleDownLimit"));
        check(policies("Min"), &memory, now, 10, 1, (8, "ScaleDownLimit"));
        check(
            policies("Disabled"),
            &memory,
            now,
            10,
            1,
            (10, "ScaleDownLimit"),
        );
    }
}
