// What users of the JavaScript client do, one function each: client.mjs CASE NAMESPACE
//
// KUBECONFIG names the server. Every wait has an end.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { once } from 'node:events';
import net from 'node:net';
import { PassThrough } from 'node:stream';

const k8s = await import(createRequire(`${process.env.CLIENTS}/`).resolve('@kubernetes/client-node'));
const PATIENCE = 30_000;
const kubeconfig = new k8s.KubeConfig();
kubeconfig.loadFromDefault();
const core = kubeconfig.makeApiClient(k8s.CoreV1Api);
const apps = kubeconfig.makeApiClient(k8s.AppsV1Api);

async function eventually(what, ask) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert(Date.now() < end, `not in time: ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

async function refused(code, reason, promise) {
  try {
    await promise;
  } catch (refusal) {
    assert.equal(refusal.code, code, refusal);
    assert(String(refusal.body).includes(`"reason":"${reason}"`), refusal);
    return;
  }
  assert.fail(`no refusal with ${code}`);
}

const map = (name, data = {}, labels = {}) => ({ metadata: { name, labels }, data });

// Typed requests with their errors, every patch, and apply.
async function typed(namespace) {
  const made = await core.createNamespacedConfigMap({ namespace, body: map('one', { a: '1' }) });
  assert(made.metadata.creationTimestamp instanceof Date);
  await refused(409, 'AlreadyExists', core.createNamespacedConfigMap({ namespace, body: map('one') }));
  await refused(404, 'NotFound', core.readNamespacedConfigMap({ namespace, name: 'none' }));
  await refused(422, 'Invalid', core.createNamespacedConfigMap({ namespace, body: map('No Name') }));
  const patched = await core.patchNamespacedConfigMap(
    { namespace, name: 'one', body: [{ op: 'replace', path: '/data/a', value: '2' }] });
  assert.equal(patched.data.a, '2');
  const merged = await core.patchNamespacedConfigMap(
    { namespace, name: 'one', body: { data: { b: '3' } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  assert.deepEqual(merged.data, { a: '2', b: '3' });
  await apps.createNamespacedDeployment({ namespace, body: deployment('web') });
  const web = await apps.patchNamespacedDeployment(
    { namespace, name: 'web', body: { spec: { template: { spec: { containers: [{ name: 'side', image: 'sample:2' }] } } } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.StrategicMergePatch));
  assert.deepEqual(web.spec.template.spec.containers.map((c) => c.name), ['side', 'main']);
  const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'web' });
  scale.spec.replicas = 4;
  // Controllers write the object as well, and nothing here depends on what they wrote.
  delete scale.metadata.resourceVersion;
  await apps.replaceNamespacedDeploymentScale({ namespace, name: 'web', body: scale });
  assert.equal((await apps.readNamespacedDeployment({ namespace, name: 'web' })).spec.replicas, 4);
  const list = await core.listNamespacedConfigMap({ namespace, limit: 1 });
  assert.equal(list.items.length, 1);
  const rest = await core.listNamespacedConfigMap({ namespace, _continue: list.metadata._continue });
  assert(rest.items.length >= 1 && !rest.metadata._continue);
  await core.deleteNamespacedConfigMap({ namespace, name: 'one' });
  await refused(404, 'NotFound', core.readNamespacedConfigMap({ namespace, name: 'one' }));
}

function deployment(name) {
  return {
    apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name },
    spec: {
      replicas: 2, selector: { matchLabels: { app: name } },
      template: { metadata: { labels: { app: name } }, spec: { containers: [{ name: 'main', image: 'sample:1' }] } },
    },
  };
}

// Objects of kinds that the client does not know: apply with owners and conflicts.
async function objects(namespace) {
  const api = k8s.KubernetesObjectApi.makeApiClient(kubeconfig);
  const widget = (colour, spec = {}) => ({
    apiVersion: 'clients.example.com/v1', kind: 'Widget', metadata: { name: 'one', namespace }, spec: { colour, ...spec },
  });
  const apply = (object, manager, force) =>
    api.patch(object, undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
  const first = await apply(widget('red', { parts: [{ name: 'wheel', count: 4 }] }), 'first', false);
  assert.equal(first.spec.size, 3);
  await refused(409, 'Conflict', apply(widget('green'), 'second', false));
  const second = await apply(widget('green', { parts: [{ name: 'bell' }] }), 'second', true);
  assert.equal(second.spec.colour, 'green');
  assert.deepEqual(second.spec.parts.map((p) => p.name).sort(), ['bell', 'wheel']);
  const managers = second.metadata.managedFields.map((m) => `${m.manager} ${m.operation}`);
  assert.deepEqual(managers.sort(), ['first Apply', 'second Apply']);
  // What the first no longer applies goes, because nobody else owns it.
  const less = await apply(widget('green'), 'first', true);
  assert.deepEqual(less.spec.parts.map((p) => p.name), ['bell']);
  await refused(422, 'Invalid', apply(widget('pink'), 'second', true));
  const read = await api.read(widget('green'));
  read.spec.colour = 'blue';
  assert.equal((await api.replace(read)).spec.colour, 'blue');
  const all = await api.list('clients.example.com/v1', 'Widget', namespace);
  assert.equal(all.items.length, 1);
  await api.delete(widget('blue'));
  await refused(404, 'NotFound', api.read(widget('blue')));
}

// An informer's cache follows, over the end of its watch, and what it tells is complete.
async function informer(namespace) {
  await core.createNamespacedConfigMap({ namespace, body: map('before', {}, { kept: '1' }) });
  const told = { add: [], update: [], delete: [] };
  const follow = k8s.makeInformer(
    kubeconfig, `/api/v1/namespaces/${namespace}/configmaps`,
    () => core.listNamespacedConfigMap({ namespace, labelSelector: 'kept=1' }), 'kept=1');
  for (const verb of Object.keys(told)) follow.on(verb, (o) => told[verb].push(o.metadata.name));
  follow.on('error', (error) => assert.fail(error));
  await follow.start();
  for (let n = 0; n < 10; n++) {
    await core.createNamespacedConfigMap({ namespace, body: map(`i${n}`, {}, { kept: '1' }) });
  }
  await core.patchNamespacedConfigMap({ namespace, name: 'i0', body: [{ op: 'add', path: '/data', value: { a: '1' } }] });
  await core.patchNamespacedConfigMap({ namespace, name: 'i1', body: [{ op: 'remove', path: '/metadata/labels/kept' }] });
  await core.deleteNamespacedConfigMap({ namespace, name: 'i2' });
  await eventually('the deletions', () => told.delete.length === 2);
  assert.deepEqual(told.add, ['before', ...Array.from({ length: 10 }, (_, n) => `i${n}`)]);
  assert.deepEqual(told.delete, ['i1', 'i2']);
  assert(told.update.includes('i0'));
  assert.equal(follow.get('i0', namespace).data.a, '1');
  assert.equal(follow.list(namespace).length, 9);
  await follow.stop();
}

// A watch by hand, from a revision, to its end.
async function watch(namespace) {
  const start = (await core.listNamespacedConfigMap({ namespace })).metadata.resourceVersion;
  await core.createNamespacedConfigMap({ namespace, body: map('seen') });
  const seen = [];
  await new Promise((resolve, reject) => {
    new k8s.Watch(kubeconfig).watch(
      `/api/v1/namespaces/${namespace}/configmaps`,
      { resourceVersion: start, timeoutSeconds: 2, allowWatchBookmarks: true },
      (type, object) => seen.push([type, object.metadata.name]),
      (error) => (error ? reject(error) : resolve()));
  });
  assert.deepEqual(seen.filter(([type]) => type !== 'BOOKMARK'), [['ADDED', 'seen']]);
}

// Exec with input and the exit code, a forwarded port, the log.
async function streams(namespace) {
  await core.createNamespacedPod({
    namespace,
    body: { metadata: { name: 'pod' }, spec: { terminationGracePeriodSeconds: 1, containers: [{ name: 'main', image: 'fairlead/testserver:1' }] } },
  });
  await eventually('the pod', async () => {
    const pod = await core.readNamespacedPod({ namespace, name: 'pod' });
    return (pod.status.conditions ?? []).some((c) => c.type === 'Ready' && c.status === 'True');
  });
  const exec = async (...command) => {
    const [out, err] = [new PassThrough(), new PassThrough()];
    let text = '';
    out.on('data', (chunk) => (text += chunk));
    const status = await new Promise((resolve, reject) => {
      new k8s.Exec(kubeconfig).exec(namespace, 'pod', 'main', command, out, err, null, false, resolve).catch(reject);
    });
    return { text, status };
  };
  const said = await exec('/testserver', 'get', 'http://127.0.0.1:8080/hostname');
  assert.equal(said.status.status, 'Success', said.status);
  await eventually('the output', () => said.text.trim() === 'pod' || exec);
  const failed = await exec('/testserver', 'no-such-command');
  assert.equal(failed.status.status, 'Failure');
  assert.equal(failed.status.reason, 'NonZeroExitCode');
  const forward = new k8s.PortForward(kubeconfig);
  const server = net.createServer((socket) => forward.portForward(namespace, 'pod', [8080], socket, null, socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/hostname`, { headers: { connection: 'close' } });
  assert.equal((await answer.text()).trim(), 'pod');
  server.close();
  const lines = new PassThrough();
  const log = await new k8s.Log(kubeconfig).log(namespace, 'pod', 'main', lines, { follow: true });
  const [line] = await once(lines, 'data');
  assert(String(line).length > 0);
  log.abort();
}

const cases = { typed, objects, informer, watch, streams };
const [name, namespace] = process.argv.slice(2);
const limit = setTimeout(() => { console.error(`${name}: no end`); process.exit(3); }, 3 * PATIENCE);
await cases[name](namespace);
clearTimeout(limit);
console.log(`${name}: ok`);
process.exit(0);
