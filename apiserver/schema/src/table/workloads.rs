//! `apps`, `batch`, `autoscaling` and `policy`.

use jiff::Timestamp;
use serde_json::Value;

use super::Cells;
use super::duration::human_duration;
use super::text::{
    View, containers, int_or_string, is_true, labels, seconds_between, selector, with_more,
};

pub(super) fn cells(view: View<'_>, kind: &str) -> Option<Cells> {
    let number = |pointer: &str| Value::from(view.number(pointer));
    let [names, images] = containers(view.at("/spec/template/spec"));
    let chosen = Value::from(selector(view.at("/spec/selector")));
    let ready = || {
        Value::from(format!(
            "{}/{}",
            view.number("/status/readyReplicas"),
            view.number("/spec/replicas")
        ))
    };
    let mut own = vec![view.name()];
    match kind {
        "Deployment" => own.extend([
            ready(),
            number("/status/updatedReplicas"),
            number("/status/availableReplicas"),
            view.age(),
            names,
            images,
            chosen,
        ]),
        "ReplicaSet" => own.extend([
            number("/spec/replicas"),
            number("/status/replicas"),
            number("/status/readyReplicas"),
            view.age(),
            names,
            images,
            chosen,
        ]),
        "StatefulSet" => own.extend([ready(), view.age(), names, images]),
        "DaemonSet" => own.extend([
            number("/status/desiredNumberScheduled"),
            number("/status/currentNumberScheduled"),
            number("/status/numberReady"),
            number("/status/updatedNumberScheduled"),
            number("/status/numberAvailable"),
            labels(view.at("/spec/template/spec/nodeSelector")).into(),
            view.age(),
            names,
            images,
            chosen,
        ]),
        "Job" => own.extend([
            job_status(view).into(),
            completions(view).into(),
            duration(view).into(),
            view.age(),
            names,
            images,
            chosen,
        ]),
        "CronJob" => own.extend(cron_job(view)),
        "ControllerRevision" => {
            own.extend([controller(view).into(), number("/revision"), view.age()])
        }
        "HorizontalPodAutoscaler" => own.extend(autoscaler(view)),
        "PodDisruptionBudget" => own.extend([
            int_or_string(view.at("/spec/minAvailable"), "N/A"),
            int_or_string(view.at("/spec/maxUnavailable"), "N/A"),
            number("/status/disruptionsAllowed"),
            view.age(),
        ]),
        "Scale" => own.extend([
            number("/spec/replicas"),
            number("/status/replicas"),
            view.age(),
        ]),
        _ => return None,
    }
    Some(own)
}

fn job_status(view: View<'_>) -> &'static str {
    let conditions = view.at("/status/conditions");
    let first = [("Complete", "Complete"), ("Failed", "Failed")];
    let then = [
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let of = |all: &[(&str, &'static str)]| {
        all.iter()
            .find(|(kind, _)| is_true(conditions, kind))
            .map(|(_, text)| *text)
    };
    of(&first)
        .or(view.terminating().then_some("Terminating"))
        .or(of(&then))
        .unwrap_or("Running")
}

fn completions(view: View<'_>) -> String {
    let succeeded = view.number("/status/succeeded");
    match view.at("/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match view.number("/spec/parallelism") {
            n if n > 1 => format!("{succeeded}/1 of {n}"),
            _ => format!("{succeeded}/1"),
        },
    }
}

fn duration(view: View<'_>) -> String {
    let time = |pointer: &str| view.text(pointer).parse::<Timestamp>().ok();
    let Some(start) = time("/status/startTime") else {
        return String::new();
    };
    human_duration(seconds_between(
        start,
        time("/status/completionTime").unwrap_or(view.now),
    ))
}

fn cron_job(view: View<'_>) -> [Value; 9] {
    let suspend = match view.at("/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match view.at("/status/lastScheduleTime") {
        Value::Null => "<none>".into(),
        _ => view.since("/status/lastScheduleTime"),
    };
    let [names, images] = containers(view.at("/spec/jobTemplate/spec/template/spec"));
    [
        view.text("/spec/schedule").into(),
        view.text_or("/spec/timeZone", "<none>"),
        suspend.into(),
        view.count("/status/active"),
        last.into(),
        view.age(),
        names,
        images,
        selector(view.at("/spec/jobTemplate/spec/selector")).into(),
    ]
}

fn controller(view: View<'_>) -> String {
    let Some(own) = view
        .list("/metadata/ownerReferences")
        .iter()
        .find(|r| r["controller"] == true)
    else {
        return "<none>".into();
    };
    let text = |name: &str| own[name].as_str().unwrap_or_default();
    let kind = match text("apiVersion").rsplit_once('/') {
        Some((group, _)) => format!("{}.{group}", text("kind")),
        None => text("kind").to_owned(),
    };
    format!("{}/{}", kind.to_lowercase(), text("name"))
}

fn autoscaler(view: View<'_>) -> [Value; 6] {
    let target = format!(
        "{}/{}",
        view.text("/spec/scaleTargetRef/kind"),
        view.text("/spec/scaleTargetRef/name")
    );
    let statuses = view.list("/status/currentMetrics");
    let metrics: Vec<String> = view
        .list("/spec/metrics")
        .iter()
        .enumerate()
        .map(|(i, m)| metric(m, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    [
        target.into(),
        with_more(&metrics, 2, ", ", "<none>").into(),
        int_or_string(view.at("/spec/minReplicas"), "<unset>"),
        view.number("/spec/maxReplicas").into(),
        view.number("/status/currentReplicas").into(),
        view.age(),
    ]
}

/// `current/target` of one metric.
fn metric(spec: &Value, status: &Value) -> String {
    let (source, named) = match spec["type"].as_str().unwrap_or_default() {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (target, current) = (&spec[source]["target"], &status[source]["current"]);
    let text = |v: &Value| int_or_string(v, "").as_str().unwrap_or_default().to_owned();
    let shown = |v: &Value| {
        if v.is_null() {
            "<unknown>".to_owned()
        } else {
            text(v)
        }
    };
    if named {
        let name = spec[source]["name"].as_str().unwrap_or_default();
        if !target["averageValue"].is_null() {
            return format!(
                "{name}: {}/{}",
                shown(&current["averageValue"]),
                text(&target["averageValue"])
            );
        }
        let percent = |v: &Value, absent: &str| {
            v.as_i64()
                .map_or_else(|| absent.to_owned(), |n| format!("{n}%"))
        };
        let utilization = "averageUtilization";
        return format!(
            "{name}: {}/{}",
            percent(&current[utilization], "<unknown>"),
            percent(&target[utilization], "<auto>")
        );
    }
    if source == "pods" {
        return format!(
            "{}/{}",
            shown(&current["averageValue"]),
            text(&target["averageValue"])
        );
    }
    if !target["averageValue"].is_null() {
        return format!(
            "{}/{} (avg)",
            shown(&current["averageValue"]),
            text(&target["averageValue"])
        );
    }
    format!("{}/{}", shown(&current["value"]), text(&target["value"]))
}
