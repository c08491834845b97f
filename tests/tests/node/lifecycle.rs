//! From the first container to the last words.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::site::{
    BUSYBOX, IDLE, Site, Space, condition, container, find_condition, idle, job, phase, pod_of,
    restarts, shell,
};

/// A pod that writes every request it gets into its log.
fn listener(space: &Space<'_>) -> anyhow::Result<String> {
    let line = "mkdir /tmp/www; for what in exec http; do for when in start stop; do \
        echo > /tmp/www/$what-$when; done; done; exec httpd -f -vv -p 8080 -h /tmp/www";
    let pod = space.start(&job("listener", line))?;
    Ok(pod["status"]["podIP"]
        .as_str()
        .context("no address")?
        .to_owned())
}

pub(crate) fn hooks_by_exec_and_http_are_run(site: &Site) -> anyhow::Result<()> {
    let space = site.space("hooks")?;
    let address = listener(&space)?;
    let wget = |what: &str| {
        let url = format!("http://{address}:8080/{what}");
        json!({"exec": {"command": ["wget", "-q", "-O", "/dev/null", url]}})
    };
    let get = |what: &str| json!({"httpGet": {"host": address, "port": 8080, "path": format!("/{what}")}});
    let hooked = |name: &str, start: Value, stop: Value| {
        let mut pod = idle(name);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(60);
        pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": start, "preStop": stop});
        pod
    };
    space.pod(&hooked("exec", wget("exec-start"), wget("exec-stop")))?;
    space.pod(&hooked("http", get("http-start"), get("http-stop")))?;
    let sleep = json!({"sleep": {"seconds": 4}});
    space.pod(&hooked("sleeper", json!({"sleep": {"seconds": 1}}), sleep))?;
    for name in ["exec", "http", "sleeper"] {
        space.ready(name)?;
    }
    for what in ["exec-start", "http-start"] {
        space.log_with("listener", "", what)?;
    }
    let start = Instant::now();
    for name in ["exec", "http", "sleeper"] {
        space.delete(&format!("pods/{name}"))?;
    }
    for what in ["exec-stop", "http-stop"] {
        space.log_with("listener", "", what)?;
    }
    space.until_gone("pods/sleeper")?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(4), "the hook slept {took:?}");
    ensure!(took < Duration::from_secs(60), "it took {took:?} to stop");
    // A hook that fails ends its container.
    let mut failing = hooked("failing", json!({"exec": {"command": ["false"]}}), get("x"));
    failing["spec"]["restartPolicy"] = json!("Always");
    space.pod(&failing)?;
    space.event(
        "pods/failing",
        "FailedPostStartHook",
        "PostStartHook failed",
    )?;
    space.until("pods/failing", "restarted", |pod| {
        restarts(pod, "main") >= 1
    })?;
    Ok(())
}

pub(crate) fn last_words_come_from_the_file_or_the_log(site: &Site) -> anyhow::Result<()> {
    let space = site.space("words")?;
    let make = |name: &str, line: &str, policy: &str| {
        let mut pod = job(name, line);
        pod["spec"]["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
        pod["spec"]["containers"][0]["terminationMessagePolicy"] = json!(policy);
        pod
    };
    let mut custom = make(
        "custom",
        "printf DONE > /dev/termination-custom-log",
        "File",
    );
    let own = &mut custom["spec"]["containers"][0];
    own["terminationMessagePath"] = json!("/dev/termination-custom-log");
    own["securityContext"] = json!({"runAsUser": 1000});
    let file = "printf OK > /dev/termination-log";
    let long = "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log; exit 3";
    let cases = [
        (custom, "Succeeded", "DONE".to_owned()),
        (make("file", file, "File"), "Succeeded", "OK".to_owned()),
        (
            make("log", "printf DONE; exit 1", "FallbackToLogsOnError"),
            "Failed",
            "DONE".to_owned(),
        ),
        (
            make("well", "printf DONE", "FallbackToLogsOnError"),
            "Succeeded",
            String::new(),
        ),
        (
            make(
                "first",
                &format!("echo DONE; {file}"),
                "FallbackToLogsOnError",
            ),
            "Succeeded",
            "OK".to_owned(),
        ),
        (make("long", long, "File"), "Failed", "x".repeat(4096)),
    ];
    for (pod, _, _) in &cases {
        space.pod(pod)?;
    }
    for (pod, wanted, words) in cases {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let ended = space.ended(name)?;
        ensure!(phase(&ended) == wanted, "{name}: {}", ended["status"]);
        let end = &container(&ended, "main")["state"]["terminated"];
        let found = end["message"].as_str().unwrap_or_default();
        ensure!(found == words, "{name}: {found:?}");
        let reason = if wanted == "Succeeded" {
            "Completed"
        } else {
            "Error"
        };
        ensure!(end["reason"] == reason, "{name}: {end}");
    }
    Ok(())
}

pub(crate) fn restart_policies_give_the_known_states(site: &Site) -> anyhow::Result<()> {
    let space = site.space("policies-of-restart")?;
    // Fails at first, succeeds then, and stays from the third time on.
    let line = "echo run >> /restart-count/f; n=$(wc -l < /restart-count/f); \
        [ $n = 1 ] && exit 1; [ $n = 2 ] && exit 0; while true; do sleep 1; done";
    let cases = [
        ("Always", "Running", 2, true),
        ("OnFailure", "Succeeded", 1, false),
        ("Never", "Failed", 0, false),
    ];
    for (policy, ..) in cases {
        let mut pod = job(&policy.to_lowercase(), line);
        pod["spec"]["restartPolicy"] = json!(policy);
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/restart-count"}]);
        space.pod(&pod)?;
    }
    for (policy, wanted, count, ready) in cases {
        let name = format!("pods/{}", policy.to_lowercase());
        let pod = space.until(&name, "in its state", |pod| {
            phase(pod) == wanted
                && restarts(pod, "main") == count
                && (condition(pod, "Ready") == "True") == ready
        })?;
        let state = &container(&pod, "main")["state"];
        let kind = if ready { "running" } else { "terminated" };
        ensure!(state[kind].is_object(), "{policy}: {state}");
        space.delete(&name)?;
    }
    for (policy, ..) in cases {
        space.until_gone(&format!("pods/{}", policy.to_lowercase()))?;
    }
    Ok(())
}

pub(crate) fn init_containers_decide_whether_the_pod_starts(site: &Site) -> anyhow::Result<()> {
    let space = site.space("init")?;
    let with = |name: &str, policy: &str, init: [&str; 2], main: &str| {
        let mut pod = job(name, main);
        pod["spec"]["restartPolicy"] = json!(policy);
        pod["spec"]["initContainers"] = json!([shell("init1", init[0]), shell("init2", init[1])]);
        pod
    };
    space.pod(&with("never", "Never", ["true", "true"], "true"))?;
    space.pod(&with("always", "Always", ["true", "true"], IDLE))?;
    space.pod(&with("stuck", "Always", ["false", "true"], IDLE))?;
    space.pod(&with("failed", "Never", ["true", "false"], IDLE))?;

    let done = space.ended("never")?;
    ensure!(phase(&done) == "Succeeded", "{}", done["status"]);
    let always = space.ready("always")?;
    for (pod, initialized) in [(&done, "PodCompleted"), (&always, "")] {
        let found = find_condition(pod, "Initialized");
        ensure!(found["status"] == "True", "{}", pod["status"]);
        ensure!(
            found["reason"].as_str().unwrap_or("") == initialized,
            "{found}"
        );
        for init in ["init1", "init2"] {
            let status = container(pod, init);
            ensure!(status["ready"] == true, "{status}");
            ensure!(status["state"]["terminated"]["exitCode"] == 0, "{status}");
        }
    }
    let failed = space.ended("failed")?;
    ensure!(phase(&failed) == "Failed", "{}", failed["status"]);
    let found = find_condition(&failed, "Initialized");
    ensure!(found["status"] == "False", "{found}");
    ensure!(found["reason"] == "ContainersNotInitialized", "{found}");
    ensure!(
        found["message"] == "containers with incomplete status: [init2]",
        "{found}"
    );
    let main = container(&failed, "main");
    ensure!(
        main["state"]["waiting"]["reason"] == "PodInitializing",
        "{main}"
    );
    ensure!(
        container(&failed, "init2")["state"]["terminated"]["exitCode"] != 0,
        "{failed}"
    );

    let stuck = space.until("pods/stuck", "restarted three times", |pod| {
        restarts(pod, "init1") >= 2
    })?;
    ensure!(phase(&stuck) == "Pending", "{}", stuck["status"]);
    let message = find_condition(&stuck, "Initialized")["message"]
        .as_str()
        .unwrap_or("");
    ensure!(
        message == "containers with incomplete status: [init1 init2]",
        "{message}"
    );
    let second = container(&stuck, "init2");
    ensure!(
        second["state"]["waiting"]["reason"] == "PodInitializing",
        "{second}"
    );
    ensure!(second["restartCount"] == 0, "{second}");
    ensure!(
        container(&stuck, "main")["state"]["waiting"].is_object(),
        "{stuck}"
    );
    Ok(())
}

pub(crate) fn sidecars_start_first_and_stop_last(site: &Site) -> anyhow::Result<()> {
    let space = site.space("sidecars")?;
    let log = json!([{"name": "log", "mountPath": "/log"}]);
    let tell = |who: &str| {
        format!(
            "echo start {who} >> /log/all; trap 'echo end {who} >> /log/all; exit 0' TERM; sleep 3600 & wait"
        )
    };
    let sidecar = |name: &str| {
        let mut side = shell(name, &tell(name));
        side["restartPolicy"] = json!("Always");
        side["volumeMounts"] = log.clone();
        side
    };
    let mut once = shell("once", "echo start once >> /log/all");
    once["volumeMounts"] = log.clone();
    let mut main = shell(
        "main",
        "echo start main >> /log/all; sleep 3; echo end main >> /log/all",
    );
    main["volumeMounts"] = log.clone();
    let mut pod = pod_of("ordered", json!([main]));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
    pod["spec"]["initContainers"] = json!([sidecar("side1"), once, sidecar("side2")]);
    pod["spec"]["volumes"] = json!([{"name": "log", "hostPath": {"path": "/var/lib/sidecars", "type": "DirectoryOrCreate"}}]);
    let made = space.pod(&pod)?;
    ensure!(made["metadata"]["generation"] == 1, "{made}");
    let ended = space.ended("ordered")?;
    ensure!(phase(&ended) == "Succeeded", "{}", ended["status"]);
    let node = ended["spec"]["nodeName"].as_str().unwrap_or_default();
    let all = site
        .cluster
        .exec(node, &["cat", "/var/lib/sidecars/all"])?
        .success()?;
    let order: Vec<&str> = all.lines().collect();
    let wanted = [
        "start side1",
        "start once",
        "start side2",
        "start main",
        "end main",
        "end side2",
        "end side1",
    ];
    ensure!(order == wanted, "{order:?}");
    // A sidecar that ends is started again, whatever the pod's policy.
    let mut pod = idle("again");
    let mut side = shell("side", "sleep 1; exit 3");
    side["restartPolicy"] = json!("Always");
    pod["spec"]["initContainers"] = json!([side]);
    space.pod(&pod)?;
    space.until("pods/again", "with a restarted sidecar", |pod| {
        restarts(pod, "side") >= 2 && restarts(pod, "main") == 0
    })?;
    Ok(())
}

pub(crate) fn ephemeral_containers_are_added_to_running_pods(site: &Site) -> anyhow::Result<()> {
    let space = site.space("ephemeral")?;
    space.start(&idle("target"))?;
    let ephemeral = |name: &str, line: &str| {
        let mut container = shell(name, line);
        container["targetContainerName"] = json!("main");
        container["stdin"] = json!(true);
        container["tty"] = json!(true);
        container
    };
    let add = |container: Value| {
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        space.patch("pods/target/ephemeralcontainers", &patch)
    };
    let patched = add(ephemeral("debugger", "echo polo; ps; sleep 3600"))?;
    ensure!(
        patched["metadata"]["generation"] == 2,
        "{}",
        patched["metadata"]
    );
    let running = |name: &str| {
        space.until("pods/target", "with a running debugger", |pod| {
            container(pod, name)["state"]["running"].is_object()
        })
    };
    running("debugger")?;
    let log = space.log_with("target", "container=debugger", "polo")?;
    // It sees the processes of its target.
    let log = if log.contains("sleep 3600") {
        log
    } else {
        space.log_with("target", "container=debugger", "sleep 3600")?
    };
    ensure!(log.contains("polo"), "{log}");
    // A second one by an update.
    site.change(&space.path("pods/target/ephemeralcontainers"), |pod| {
        if let Some(list) = pod["spec"]["ephemeralContainers"].as_array_mut() {
            list.push(ephemeral("second", "echo second; exit 4"));
        }
    })?;
    let pod = space.until("pods/target", "with an ended debugger", |pod| {
        container(pod, "second")["state"]["terminated"]["exitCode"] == 4
    })?;
    ensure!(condition(&pod, "Ready") == "True", "{}", pod["status"]);
    ensure!(phase(&pod) == "Running", "{}", pod["status"]);
    Ok(())
}

pub(crate) fn commands_and_arguments_override_those_of_the_image(
    site: &Site,
) -> anyhow::Result<()> {
    let space = site.space("commands")?;
    let make = |name: &str, fields: Value| {
        let mut own = json!({"name": "main", "image": "fairlead/testserver:1"});
        for (key, value) in fields.as_object().into_iter().flatten() {
            own[key] = value.clone();
        }
        pod_of(name, json!([own]))
    };
    // The image's entry point is the test server, without arguments.
    let args = space.output(&make("args", json!({"args": ["resolve", "localhost"]})))?;
    ensure!(args.contains("127.0.0.1"), "{args}");
    let both = json!({"command": ["/testserver", "read"], "args": ["/etc/nsswitch.conf"]});
    let both = space.output(&make("both", both))?;
    ensure!(both.contains("hosts: files dns"), "{both}");
    let command = json!({"command": ["/testserver", "read", "/etc/passwd"]});
    let command = space.output(&make("command", command))?;
    ensure!(command.contains("root:x:0:0"), "{command}");
    space.start(&make("defaults", json!({})))?;
    space.log_with("defaults", "", "serves HTTP")?;
    // What is not there is told, and tried again.
    let missing = json!({"command": ["/no/such/program"]});
    space.pod(&make("missing", missing))?;
    space.until("pods/missing", "failed with a reason", |pod| {
        let status = container(pod, "main");
        status["state"]["terminated"]["reason"] == "StartError"
            || status["state"]["waiting"]["reason"] == "RunContainerError"
    })?;
    Ok(())
}

pub(crate) fn a_failing_pod_has_a_reason_and_can_be_deleted(site: &Site) -> anyhow::Result<()> {
    let space = site.space("failing")?;
    let mut pod = job("bin-false", "false");
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["containers"][0] =
        json!({"name": "main", "image": BUSYBOX, "command": ["/bin/false"]});
    space.pod(&pod)?;
    let found = space.until("pods/bin-false", "terminated", |pod| {
        let status = container(pod, "main");
        ["state", "lastState"]
            .iter()
            .any(|state| status[state]["terminated"]["exitCode"] == 1)
    })?;
    let status = container(&found, "main");
    let ended = [
        &status["state"]["terminated"],
        &status["lastState"]["terminated"],
    ];
    let ended = ended
        .iter()
        .find(|ended| ended.is_object())
        .context("no end")?;
    ensure!(ended["reason"] == "Error", "{status}");
    space.delete("pods/bin-false")?;
    space.until_gone("pods/bin-false")
}

pub(crate) fn deletion_keeps_to_the_grace_period(site: &Site) -> anyhow::Result<()> {
    let space = site.space("grace")?;
    let stubborn = "trap 'echo told; sleep 4; exit 0' TERM; while true; do sleep 0.2; done";
    let mut pod = job("polite", stubborn);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    space.start(&pod)?;
    let deaf = "trap '' TERM; while true; do sleep 1; done";
    let mut pod = job("deaf", deaf);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    space.start(&pod)?;
    let start = Instant::now();
    let deleted = space.delete("pods/polite")?;
    ensure!(
        deleted["metadata"]["deletionGracePeriodSeconds"] == 30,
        "{deleted}"
    );
    ensure!(
        deleted["metadata"]["generation"] == 2,
        "{}",
        deleted["metadata"]
    );
    let deleted = space.delete("pods/deaf?gracePeriodSeconds=3")?;
    ensure!(
        deleted["metadata"]["deletionGracePeriodSeconds"] == 3,
        "{deleted}"
    );
    // While it stops, it is what it is: deleted, not ready, and the status follows.
    space.until_gone("pods/deaf")?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(3), "{took:?}");
    space.until_gone("pods/polite")?;
    let took = start.elapsed();
    ensure!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(28),
        "{took:?}"
    );
    Ok(())
}

pub(crate) fn deadlines_end_pods_also_when_they_are_shortened(site: &Site) -> anyhow::Result<()> {
    let space = site.space("deadline")?;
    space.start(&idle("limited"))?;
    space.patch(
        "pods/limited",
        &json!({"spec": {"activeDeadlineSeconds": 3}}),
    )?;
    let ended = space.until("pods/limited", "failed", |pod| phase(pod) == "Failed")?;
    ensure!(
        ended["status"]["reason"] == "DeadlineExceeded",
        "{}",
        ended["status"]
    );
    let message = ended["status"]["message"].as_str().unwrap_or_default();
    ensure!(
        message == "Pod was active on the node longer than the specified deadline",
        "{message}"
    );
    ensure!(
        container(&ended, "main")["state"]["terminated"].is_object(),
        "{}",
        ended["status"]
    );
    Ok(())
}
