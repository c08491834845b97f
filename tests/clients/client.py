"""What users of the Python client do, one function each: client.py CASE

The case's own namespace has its name. KUBECONFIG names the server. Every wait has an end.
"""
import os
import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.informer import ADDED, DELETED, ERROR, MODIFIED, SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

PATIENCE = 30
IMAGE = "fairlead/testserver:1"


def eventually(what, ask):
    end = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)


def refused(status, reason, call, *args, **kwargs):
    """The call is refused with this code and this reason in its Status."""
    try:
        call(*args, **kwargs)
    except ApiException as refusal:
        assert refusal.status == status, refusal
        body = refusal.body if isinstance(refusal.body, str) else refusal.body.decode()
        assert f'"reason":"{reason}"' in body.replace('": "', '":"'), refusal
        return body
    raise AssertionError(f"{call.__name__} was not refused")


def config_map(name, labels=None, **data):
    return client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def deployment(name, replicas=2):
    container = client.V1Container(name="main", image="sample:1", env=[
        client.V1EnvVar(name="A", value="b")])
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": name}),
        spec=client.V1PodSpec(containers=[container]))
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1DeploymentSpec(
            replicas=replicas, template=template,
            selector=client.V1LabelSelector(match_labels={"app": name})))


def typed(ns):
    """Create, read, replace, patch in each way, list, delete, with the errors on the way."""
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    made = core.create_namespaced_config_map(ns, config_map("one", a="1"))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    refused(409, "AlreadyExists", core.create_namespaced_config_map, ns, config_map("one"))
    refused(404, "NotFound", core.read_namespaced_config_map, "none", ns)
    refused(422, "Invalid", core.create_namespaced_config_map, ns, config_map("No Name"))
    stale = core.read_namespaced_config_map("one", ns)
    made.data["a"] = "2"
    assert core.replace_namespaced_config_map("one", ns, made).data == {"a": "2"}
    stale.data["a"] = "3"
    refused(409, "Conflict", core.replace_namespaced_config_map, "one", ns, stale)

    apps.create_namespaced_deployment(ns, deployment("web"))
    more = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "sample:2"}]}}}}
    patched = apps.patch_namespaced_deployment("web", ns, more)
    assert [c.name for c in patched.spec.template.spec.containers] == ["side", "main"], patched
    operations = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    assert apps.patch_namespaced_deployment("web", ns, operations).spec.replicas == 5
    scale = apps.read_namespaced_deployment_scale("web", ns)
    assert scale.spec.replicas == 5 and scale.status.selector == "app=web", scale
    scale.spec.replicas = 1
    # Controllers write the object as well, and nothing here depends on what they wrote.
    scale.metadata.resource_version = None
    apps.replace_namespaced_deployment_scale("web", ns, scale)
    status = {"status": {"conditions": [
        {"type": "Sampled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
    seen = apps.patch_namespaced_deployment_status("web", ns, status)
    assert "Sampled" in [c.type for c in seen.status.conditions]
    assert seen.spec.replicas == 1

    for number in range(7):
        core.create_namespaced_config_map(ns, config_map(f"n{number}", labels={"odd": str(number % 2)}))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(ns, limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count > 0
    assert names == sorted(names) and len(set(names)) == len(names) >= 8, names
    odd = core.list_namespaced_config_map(ns, label_selector="odd in (1),odd")
    assert len(odd.items) == 3, odd
    one = core.list_namespaced_config_map(ns, field_selector="metadata.name=one")
    assert [item.metadata.name for item in one.items] == ["one"]
    core.delete_collection_namespaced_config_map(ns, label_selector="odd=1")
    assert not core.list_namespaced_config_map(ns, label_selector="odd=1").items
    dry = core.create_namespaced_config_map(ns, config_map("dry"), dry_run="All")
    assert dry.metadata.uid
    refused(404, "NotFound", core.read_namespaced_config_map, "dry", ns)
    gone = apps.delete_namespaced_deployment("web", ns, propagation_policy="Foreground")
    assert gone.status in ("Success", None) or gone.metadata, gone
    review = client.AuthorizationV1Api().create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": ns}}})
    assert review.status.allowed
    token = core.create_namespaced_service_account_token(
        "default", ns, {"spec": {"audiences": None, "expirationSeconds": 600}})
    checked = client.AuthenticationV1Api().create_token_review(
        {"spec": {"token": token.status.token}})
    assert checked.status.user.username == f"system:serviceaccount:{ns}:default", checked
    assert client.VersionApi().get_code().major == "1"


def manifests(ns):
    """utils.create_from_yaml, of objects of several kinds in one text."""
    import yaml
    text = open(os.environ["OBJECTS"], encoding="utf-8").read().replace("NAMESPACE", ns)
    wanted = {"Deployment", "Service", "Ingress", "CronJob", "NetworkPolicy", "Role", "RoleBinding",
              "StatefulSet", "DaemonSet", "Secret", "PodDisruptionBudget", "PersistentVolumeClaim"}
    objects = [o for o in yaml.safe_load_all(text) if o["kind"] in wanted]
    assert len(objects) == len(wanted)
    made = utils.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=ns)
    assert len(made) == len(objects), made
    try:
        utils.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=ns)
    except utils.FailToCreateError as failure:
        assert {e.status for e in failure.api_exceptions} == {409}, failure
        assert len(failure.api_exceptions) == len(objects)
    else:
        raise AssertionError("created twice")


def watches(ns):
    """A watch from a list's revision sees every change once and in order, and goes on where it
    ended; a selector turns changes into additions and deletions."""
    core = client.CoreV1Api()
    start = core.list_namespaced_config_map(ns).metadata.resource_version
    for number in range(5):
        core.create_namespaced_config_map(ns, config_map(f"w{number}", labels={"on": "1"}))
    core.patch_namespaced_config_map("w0", ns, {"data": {"a": "1"}})
    core.patch_namespaced_config_map("w1", ns, {"metadata": {"labels": {"on": None}}})
    core.delete_namespaced_config_map("w2", ns)

    def events(**options):
        seen = []
        for event in watch.Watch().stream(
                core.list_namespaced_config_map, ns, timeout_seconds=2, **options):
            seen.append((event["type"], event["object"].metadata.name))
        return seen

    added = [("ADDED", f"w{number}") for number in range(5)]
    everything = added + [("MODIFIED", "w0"), ("MODIFIED", "w1"), ("DELETED", "w2")]
    seen = events(resource_version=start)
    assert seen == everything, seen
    seen = events(resource_version=start, label_selector="on=1")
    assert seen == added + [("MODIFIED", "w0"), ("DELETED", "w1"), ("DELETED", "w2")], seen
    seen = events(resource_version=start, field_selector="metadata.name=w2")
    assert seen == [("ADDED", "w2"), ("DELETED", "w2")], seen
    # Without a revision it begins with what there is.
    seen = events(label_selector="on=1")
    assert sorted(seen) == [("ADDED", "w0"), ("ADDED", "w3"), ("ADDED", "w4")], seen

    # A client that stops in the middle goes on from the last revision that it saw.
    first = watch.Watch()
    for event in first.stream(core.list_namespaced_config_map, ns, resource_version=start,
                              timeout_seconds=5):
        if event["object"].metadata.name == "w3":
            last = event["object"].metadata.resource_version
            first.stop()
    assert events(resource_version=last) == everything[4:]


def informers(ns):
    """A shared informer's cache follows what others change."""
    core = client.CoreV1Api()
    core.create_namespaced_config_map(ns, config_map("before", labels={"kept": "1"}))
    counts, lock = {}, threading.Lock()

    def count(kind):
        def note(_):
            with lock:
                counts[kind] = counts.get(kind, 0) + 1
        return note

    informer = SharedInformer(core.list_namespaced_config_map, namespace=ns, label_selector="kept=1",
                              resync_period=1)
    for kind in (ADDED, MODIFIED, DELETED, ERROR):
        informer.add_event_handler(kind, count(kind))
    informer.start()
    eventually("the first list", lambda: informer.cache.get_by_key(f"{ns}/before"))
    for number in range(20):
        core.create_namespaced_config_map(ns, config_map(f"i{number}", labels={"kept": "1"}))
    for number in range(0, 20, 2):
        core.delete_namespaced_config_map(f"i{number}", ns)
    core.patch_namespaced_config_map("i1", ns, {"data": {"a": "1"}})
    wanted = sorted([f"{ns}/before"] + [f"{ns}/i{n}" for n in range(1, 20, 2)])
    eventually("the cache to be right", lambda: sorted(informer.cache.list_keys()) == wanted)
    eventually("the change", lambda: informer.cache.get_by_key(f"{ns}/i1").data == {"a": "1"})
    # Over a few ends of watches and lists anew.
    listed = counts.get(MODIFIED, 0)
    eventually("two lists anew", lambda: counts.get(MODIFIED, 0) >= listed + 2 * len(wanted))
    assert sorted(informer.cache.list_keys()) == wanted
    # What ends a watch by force when it stops is no error of the server's.
    assert ERROR not in counts, counts
    informer.stop()
    assert counts[ADDED] == 21 and counts[DELETED] == 10, counts


def dynamic_client(ns):
    """Discovery, custom resources, apply, watch, through nothing but what the server tells."""
    api = dynamic.DynamicClient(client.ApiClient())
    assert api.resources.get(api_version="apps/v1", kind="Deployment").namespaced
    widgets = api.resources.get(api_version="clients.example.com/v1", kind="Widget")
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    assert widgets.name == "widgets" and "scale" in widgets.subresources

    def widget(colour, **spec):
        return {"apiVersion": "clients.example.com/v1", "kind": "Widget",
                "metadata": {"name": "one", "namespace": ns}, "spec": {"colour": colour, **spec}}

    made = api.create(widgets, widget("red", port="http"), namespace=ns)
    assert made.spec.size == 3, "the default of the schema"
    for broken in (widget("pink"), widget("red", size=60), widget("red", size=0)):
        broken["metadata"]["name"] = "broken"
        try:
            api.create(widgets, broken, namespace=ns)
        except dynamic.exceptions.UnprocessibleEntityError as refusal:
            assert "spec" in str(refusal.body), refusal
        else:
            raise AssertionError(f"created: {broken}")
    first = api.server_side_apply(widgets, widget("green"), name="one", namespace=ns,
                                  field_manager="first", force_conflicts=True)
    assert first.spec.colour == "green"
    try:
        api.server_side_apply(widgets, widget("blue"), name="one", namespace=ns,
                              field_manager="second")
    except dynamic.exceptions.ConflictError as conflict:
        assert "spec.colour" in str(conflict.body)
    else:
        raise AssertionError("no conflict")
    api.patch(widgets, {"status": {"replicas": 2, "selector": "a=b"}}, name="one", namespace=ns,
              subresource=None, content_type="application/merge-patch+json")
    assert not api.get(widgets, name="one", namespace=ns).status, "status is its own subresource"
    status = widgets.subresources["status"]
    api.patch(status, {"status": {"replicas": 2, "selector": "a=b"}}, name="one", namespace=ns,
              content_type="application/merge-patch+json")
    scale = api.get(widgets.subresources["scale"], name="one", namespace=ns)
    assert scale.status.replicas == 2 and scale.status.selector == "a=b", scale
    found = api.get(widgets, namespace=ns, field_selector="spec.colour=green")
    assert [w.metadata.name for w in found.items] == ["one"]
    start = api.get(maps, namespace=ns).metadata.resourceVersion
    api.create(maps, {"metadata": {"name": "m"}, "apiVersion": "v1", "kind": "ConfigMap"}, namespace=ns)
    for event in api.watch(maps, namespace=ns, resource_version=start, timeout=5):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "m")
        break
    api.delete(widgets, name="one", namespace=ns)
    try:
        api.get(widgets, name="one", namespace=ns)
    except dynamic.exceptions.NotFoundError:
        return
    raise AssertionError("still there")


def leader_election(ns):
    """Of two candidates one leads; the other follows when it is gone."""
    core = client.CoreV1Api()
    led = []

    def candidate(name, lead):
        lock = ConfigMapLock("lock", ns, name)
        settings = electionconfig.Config(lock, lease_duration=3, renew_deadline=2, retry_period=1,
                                         onstarted_leading=lead, onstopped_leading=lambda: None)
        return threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True)

    def holder():
        held = core.read_namespaced_config_map("lock", ns).metadata.annotations
        return held["control-plane.alpha.kubernetes.io/leader"]

    candidate("first", lambda: led.append("first")).start()
    eventually("the first leader", lambda: led == ["first"])
    assert '"first"' in holder()
    candidate("second", lambda: led.append("second")).start()
    before = core.read_namespaced_config_map("lock", ns).metadata.resource_version
    eventually("a renewal", lambda: core.read_namespaced_config_map(
        "lock", ns).metadata.resource_version != before)
    assert led == ["first"]


def streams(ns):
    """Exec with output, errors, input and the exit code; a forwarded port; the log, followed."""
    core = client.CoreV1Api()
    container = {"name": "main", "image": IMAGE}
    core.create_namespaced_pod(ns, {"metadata": {"name": "pod"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [container]}})

    def ready():
        status = core.read_namespaced_pod_status("pod", ns).status
        return any(c.type == "Ready" and c.status == "True" for c in status.conditions or [])
    eventually("the pod", ready)
    command = ["/testserver", "get", "http://127.0.0.1:8080/hostname"]
    said = stream(core.connect_get_namespaced_pod_exec, "pod", ns, command=command,
                  stderr=True, stdin=False, stdout=True, tty=False)
    assert said.strip() == "pod", said
    running = stream(core.connect_get_namespaced_pod_exec, "pod", ns, stderr=True, stdin=True,
                     stdout=True, tty=False, _preload_content=False,
                     command=["/testserver", "no-such-command"])
    running.run_forever(timeout=PATIENCE)
    assert running.returncode not in (0, None), running.returncode
    assert running.read_stderr(), "nothing on standard error"
    forward = portforward(core.connect_get_namespaced_pod_portforward, "pod", ns, ports="8080")
    http = forward.socket(8080)
    http.setblocking(True)
    http.sendall(b"GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    answer = b""
    while chunk := http.recv(4096):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 200") and answer.rstrip().endswith(b"pod"), answer
    assert forward.error(8080) is None
    assert "serves HTTP" in core.read_namespaced_pod_log("pod", ns)
    for line in watch.Watch().stream(core.read_namespaced_pod_log, "pod", ns, follow=True):
        assert "serves HTTP" in line or line
        break


CASES = {case.__name__: case for case in (
    typed, manifests, watches, informers, dynamic_client, leader_election, streams)}

if __name__ == "__main__":
    config.load_kube_config()
    name = sys.argv[1]
    CASES[name](sys.argv[2])
    print(f"{name}: ok")
