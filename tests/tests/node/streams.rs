//! Logs, commands and connections, as clients without kubectl ask for them.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use cluster_tests::cluster::wait_for;

use crate::site::{IDLE, PATIENCE, Site, idle, job, restarts};

pub(crate) fn logs_are_cut_as_asked(site: &Site) -> anyhow::Result<()> {
    let space = site.space("log-options")?;
    let line = format!(
        "for n in 1 2 3 4 5; do echo line $n; done; sleep 3; echo late; echo wrong >&2; {IDLE}"
    );
    space.start(&job("talker", &line))?;
    let all = space
        .log_with("talker", "", "late\nwrong\n")
        .or_else(|_| space.log("talker", ""))?;
    ensure!(all.lines().count() == 7, "{all}");
    let tail = space.log("talker", "tailLines=1")?;
    ensure!(tail.lines().count() == 1, "{tail}");
    ensure!(space.log("talker", "tailLines=0")?.is_empty());
    let bytes = space.log("talker", "limitBytes=1")?;
    ensure!(bytes == "l", "{bytes}");
    let stamped = space.log("talker", "tailLines=1&timestamps=true")?;
    let stamp = stamped.split(' ').next().unwrap_or_default();
    let stamp: jiff::Timestamp = stamp.parse().with_context(|| stamped.clone())?;
    let since = stamp - jiff::SignedDuration::from_millis(1500);
    let late = space.log("talker", &format!("sinceTime={since}"))?;
    ensure!(late.contains("late") && !late.contains("line 1"), "{late}");
    std::thread::sleep(Duration::from_secs(2));
    let recent = space.log("talker", "sinceSeconds=1")?;
    ensure!(recent.is_empty(), "{recent}");
    ensure!(space.log("talker", "sinceSeconds=86400")?.lines().count() == 7);
    ensure!(
        space
            .log("talker", "sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z")
            .is_err()
    );
    ensure!(space.log("talker", "container=none").is_err());
    Ok(())
}

pub(crate) fn the_log_of_the_container_before_is_kept(site: &Site) -> anyhow::Result<()> {
    let space = site.space("log-previous")?;
    let line = "echo run >> /own/n; n=$(wc -l < /own/n); echo this is run $n; [ $n -ge 2 ] && sleep 3600; exit 1";
    let mut pod = job("twice", line);
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "own", "mountPath": "/own"}]);
    space.pod(&pod)?;
    space.until("pods/twice", "restarted", |pod| {
        restarts(pod, "main") == 1 && pod["status"]["containerStatuses"][0]["ready"] == true
    })?;
    let now = space.log_with("twice", "", "this is run")?;
    ensure!(now == "this is run 2\n", "{now}");
    let before = space.log("twice", "previous=true")?;
    ensure!(before == "this is run 1\n", "{before}");
    space.start(&idle("once"))?;
    let refusal = space.log("once", "previous=true");
    let message = format!("{:#}", refusal.err().context("there was a log")?);
    ensure!(
        message.contains("previous terminated container \"main\" in pod \"once\" not found"),
        "{message}"
    );
    Ok(())
}

/// A log that grows beyond its size is turned over, and followers see it all.
pub(crate) fn followers_see_what_is_written_to_the_end(site: &Site) -> anyhow::Result<()> {
    let space = site.space("log-follow")?;
    let line =
        "sleep 2; n=0; while [ $n -lt 3000 ]; do echo line number $n; n=$((n+1)); done; echo end";
    space.start(&job("counter", line))?;
    let log = space.log("counter", "follow=true")?;
    let kept = space.log("counter", "")?;
    ensure!(
        log == kept,
        "{} lines of {}",
        log.lines().count(),
        kept.lines().count()
    );
    ensure!(
        log.ends_with("line number 2999\nend\n"),
        "the end is missing"
    );
    Ok(())
}

pub(crate) fn large_logs_are_turned_over(site: &Site) -> anyhow::Result<()> {
    let space = site.space("log-rotation")?;
    let line = format!(
        "yes 'a line of a log that is not short, so that it does not take long' | head -c 25000000; {IDLE}"
    );
    let pod = space.start(&job("talker", &line))?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let list = ["sh", "-c", "ls /var/log/pods/log-rotation_talker_*/main"];
    wait_for("a log that was turned over", PATIENCE, || {
        let files = site.cluster.exec(node, &list)?.success()?;
        let old = files.lines().any(|file| file.starts_with("0.log."));
        Ok(old && files.lines().any(|file| file == "0.log"))
    })?;
    // What is written then is in the new file, and is read from there.
    wait_for("the new log", PATIENCE, || {
        let tell = "echo after > /proc/1/fd/1";
        space.exec("talker", "main", tell)?.success()?;
        Ok(space.log("talker", "tailLines=1")? == "after\n")
    })
}

pub(crate) fn commands_run_over_a_web_socket(site: &Site) -> anyhow::Result<()> {
    let space = site.space("ws-exec")?;
    space.start(&idle("shell"))?;
    let path = space.path(
        "pods/shell/exec?stderr=1&stdout=1&container=main&command=echo&command=remote%20execution%20test",
    );
    let (mut channel, mut text, mut status) = (0, String::new(), String::new());
    for message in site.web_socket(&path, "v4.channel.k8s.io")? {
        match message.split_first() {
            Some((3, rest)) => status = String::from_utf8_lossy(rest).into_owned(),
            Some((number, rest)) if !rest.is_empty() => {
                channel = *number;
                text.push_str(&String::from_utf8_lossy(rest));
            }
            _ => {}
        }
    }
    ensure!(
        channel == 1 && text == "remote execution test\n",
        "channel {channel}: {text:?}"
    );
    ensure!(status.contains("\"status\":\"Success\""), "{status}");
    Ok(())
}

pub(crate) fn logs_come_over_a_web_socket(site: &Site) -> anyhow::Result<()> {
    let space = site.space("ws-log")?;
    space.start(&job("talker", &format!("echo container is alive; {IDLE}")))?;
    let path = space.path("pods/talker/log?container=main");
    let messages = site.web_socket(&path, "binary.k8s.io")?;
    let text = String::from_utf8(messages.concat())?;
    ensure!(text == "container is alive\n", "{text:?}");
    Ok(())
}

pub(crate) fn attach_and_port_forward_join_a_running_container(site: &Site) -> anyhow::Result<()> {
    let space = site.space("ws-attach")?;
    let mut reader = job("reader", "read line; echo got $line; sleep 1");
    reader["spec"]["containers"][0]["stdin"] = json!(true);
    reader["spec"]["containers"][0]["stdinOnce"] = json!(true);
    space.start(&reader)?;
    let name = space.name.clone();
    let text = site.block_on(|client| {
        Box::pin(async move {
            let pods = Api::<Pod>::namespaced(client, &name);
            let wanted = AttachParams::default().stdin(true).stderr(false);
            let mut attached = pods.attach("reader", &wanted).await?;
            let mut input = attached.stdin().context("no input")?;
            let mut output = attached.stdout().context("no output")?;
            input.write_all(b"hello\n").await?;
            let mut text = String::new();
            output.read_to_string(&mut text).await?;
            Ok(text)
        })
    })?;
    ensure!(text.contains("got hello"), "{text:?}");

    let mut server = job("server", "");
    server["spec"]["containers"][0] = json!({"name": "main", "image": "fairlead/testserver:1"});
    space.start(&server)?;
    let name = space.name.clone();
    let text = site.block_on(|client| {
        Box::pin(async move {
            let pods = Api::<Pod>::namespaced(client, &name);
            let mut forwarder = pods.portforward("server", &[8080]).await?;
            let mut stream = forwarder.take_stream(8080).context("no stream")?;
            let request = b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        })
    })?;
    ensure!(
        text.contains("200 OK") && text.ends_with("server"),
        "{text:?}"
    );
    Ok(())
}
