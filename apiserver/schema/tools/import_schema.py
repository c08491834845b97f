#!/usr/bin/env python3
"""Writes the fact tables of this crate (`data/*.txt` but `more-types.txt`) from what an
API server publishes.

    import_schema.py --documents DIR --numbers DIR

DIR of --documents holds the answers of a Kubernetes API server as JSON files
`{"path": ..., "body": ...}`: `openapi/` (every `/openapi/v3/...` document),
`discovery/` and `tables.json`. --numbers is the source directory of a crate with
prost messages of the same API (`k8s-pb`): only field numbers are read from it.
Numbers that the crate does not know yet stand in `numbers.txt` beside this file,
Go facts that no published document tells (pointer or value, names of string
types) in `go-facts.txt`.

Only facts are taken: names, types, numbers, defaults, list types. Descriptions
are never copied.
"""
import argparse
import glob
import gzip
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, '..', 'data')
META = 'io.k8s.apimachinery.pkg.apis.meta.v1.'
SCALARS = {
    META + 'Time': 'time',
    META + 'MicroTime': 'microtime',
    META + 'FieldsV1': 'fields',
    META + 'Patch': 'patch',
    'io.k8s.apimachinery.pkg.api.resource.Quantity': 'quantity',
    'io.k8s.apimachinery.pkg.runtime.RawExtension': 'raw',
    'io.k8s.apimachinery.pkg.util.intstr.IntOrString': 'intstr',
}
CRD = 'io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.'
SCALARS.update({CRD + n: k for n, k in (
    ('JSON', 'json'), ('JSONSchemaPropsOrArray', 'schema-or-array'),
    ('JSONSchemaPropsOrBool', 'schema-or-bool'),
    ('JSONSchemaPropsOrStringArray', 'schema-or-strings'))})


def load(path):
    with (gzip.open(path) if path.endswith('.gz') else open(path)) as f:
        return json.load(f)


def flat(name):
    """Rust and JSON spell a name with other cases and underscores."""
    return re.sub(r'[^a-z0-9]', '', name.lower().replace('r#', ''))


class Numbers:
    """Protobuf messages: (package, message) -> {flat field name: (number, message)}."""

    def __init__(self, directory):
        self.messages = {}
        for path in glob.glob(os.path.join(directory, 'src', '**', 'mod.rs'), recursive=True):
            package = os.path.relpath(os.path.dirname(path), os.path.join(directory, 'src')).replace('/', '.')
            self.read(package.replace('_', ''), open(path).read())
        extra = os.path.join(HERE, 'numbers.txt')
        for line in open(extra) if os.path.exists(extra) else ():
            if line.strip() and not line.startswith('#'):
                message, field, number = line.split()[:3]
                package, short = message.rsplit('.', 1)
                key = (package.replace('io.k8s.', '').replace('-', '').replace('_', ''), flat(short))
                self.messages.setdefault(key, {})[flat(field)] = (int(number), '')

    def read(self, package, text):
        message, tag = None, None
        # rustfmt wraps long types: one declaration per line is easier to read.
        text = re.sub(r'(pub [\w#]+:)\s*\n\s*', r'\1 ', text)
        text = re.sub(r'<\n\s*', '<', text)
        text = re.sub(r',\n\s*>', '>', text)
        text = re.sub(r',\n\s*(::prost|[A-Za-z:]+>)', r', \1', text)
        for line in text.splitlines():
            line = line.strip()
            if m := re.match(r'pub struct (\w+) \{', line):
                message = self.messages.setdefault((package, flat(m[1])), {})
            elif m := re.match(r'#\[prost\(.*tag = "(\d+)"', line):
                tag = int(m[1])
            elif (m := re.match(r'pub ([\w#]+): (.*),$', line)) and message is not None and tag:
                name = re.sub(r'::core::option::Option<(.*)>$', r'\1', m[2])
                message[flat(m[1])] = (tag, flat(name.split('::')[-1]))
                tag = None

    def path(self, type_name, field, depth=0):
        package, short = type_name.rsplit('.', 1)
        package = package.replace('io.k8s.', '').replace('-', '').replace('_', '')
        return self.find(package, flat(short), field, 0)

    def find(self, package, message, field, depth):
        fields = self.messages.get((package, message), {})
        if not fields:
            # A version that graduated keeps the numbers of the one before it.
            for older in ('v1beta1', 'v1alpha1'):
                fields = fields or self.messages.get((re.sub(r'\.v1$', '.' + older, package), message), {})
        if flat(field) in fields:
            number, target = fields[flat(field)]
            # A list that is a message of its own has its items in field 1.
            return [number, 1] if target in LISTS else [number]
        if depth > 2:
            return []
        for inner, (number, target) in fields.items():
            # Inlined in JSON: the message's own name or the target's does not show there.
            if target and (package, target) in self.messages and inner in INLINE:
                if rest := self.find(package, target, field, depth + 1):
                    return [number] + rest
        return []


INLINE = {flat(n) for n in (
    'volumeSource', 'handler', 'persistentVolumeSource', 'localObjectReference',
    'ephemeralContainerCommon', 'ruleWithOperations', 'rule', 'volumeStatus',
    'ingressRuleValue', 'deviceConfiguration')}
LISTS = {'verbs'}


class Importer:
    def __init__(self, schemas, numbers, facts):
        self.schemas, self.numbers, self.facts = schemas, numbers, facts
        self.unnumbered = []

    def kind_of(self, schema, package):
        """The type expression of a property."""
        ref = schema.get('$ref') or next((a['$ref'] for a in schema.get('allOf', ()) if '$ref' in a), None)
        if ref:
            name = ref.rsplit('/', 1)[1]
            if name in SCALARS:
                return SCALARS[name]
            return '@' + (name[len(package) + 1:] if name.rpartition('.')[0] == package else name)
        kind, form = schema.get('type'), schema.get('format')
        if kind == 'array':
            return '[' + self.kind_of(schema['items'], package) + ']'
        if kind == 'object':
            if 'additionalProperties' in schema:
                return '{' + self.kind_of(schema['additionalProperties'], package) + '}'
            return 'object'
        return {('string', None): 'string', ('string', 'byte'): 'bytes', ('string', 'date-time'): 'time',
                ('integer', 'int32'): 'int32', ('integer', 'int64'): 'int64', ('integer', None): 'integer',
                ('number', 'double'): 'double', ('number', None): 'number', ('boolean', None): 'bool',
                (None, None): 'any'}[(kind, form)]

    def presence(self, type_name, field, schema, kind):
        """p(ointer), v(alue, left out when empty), a(lways written), s(truct value)."""
        own = self.facts.get((type_name, field), {}).get('presence')
        if kind.startswith('@'):
            return own or ('s' if schema.get('default') == {} else 'p')
        if kind[0] in '[{':
            return own or ''
        if not own and 'default' in schema and schema['default'] in ('', 0, False):
            return 'a'
        return own or 'v'

    def field(self, name, schema, field, required):
        package = name.rpartition('.')[0]
        kind = self.kind_of(schema, package)
        number = self.numbers.path(name, field)
        if not number:
            self.unnumbered.append(name + ' ' + field)
        words = [field, '.'.join(map(str, number)) or '-', kind]
        words.append((self.presence(name, field, schema, kind) + ('r' if required else '')) or '-')
        if (kind_of_list := schema.get('x-kubernetes-list-type')):
            keys = schema.get('x-kubernetes-list-map-keys')
            words.append('list=' + kind_of_list + (':' + ','.join(keys) if keys else ''))
        if schema.get('x-kubernetes-map-type'):
            words.append('map=' + schema['x-kubernetes-map-type'])
        if schema.get('x-kubernetes-patch-strategy'):
            words.append('patch=' + schema['x-kubernetes-patch-strategy'])
        if schema.get('x-kubernetes-patch-merge-key'):
            words.append('key=' + schema['x-kubernetes-patch-merge-key'])
        if schema.get('enum'):
            words.append('enum=' + ','.join(schema['enum']).replace(' ', '~'))
        items = schema.get('items', schema.get('additionalProperties', {}))
        if items.get('enum'):
            words.append('items-enum=' + ','.join(items['enum']).replace(' ', '~'))
        if 'default' in items:
            words.append('items-default=' + json.dumps(items['default'], separators=(',', ':')))
        if 'go' in self.facts.get((name, field), {}):
            words.append('go=' + self.facts[(name, field)]['go'])
        if 'default' in schema:
            words.append('default=' + json.dumps(schema['default'], separators=(',', ':')))
        unknown = set(schema) - {'description', 'type', 'format', 'items', 'allOf', '$ref', 'default', 'enum',
                                 'additionalProperties', 'x-kubernetes-list-type', 'x-kubernetes-list-map-keys',
                                 'x-kubernetes-map-type', 'x-kubernetes-patch-strategy', 'x-kubernetes-patch-merge-key'}
        if unknown:
            sys.exit(f'{name}.{field}: not understood: {unknown}')
        return ' '.join(words)

    def types(self, unions):
        for name, schema in sorted(self.schemas.items()):
            head = ['=' + name]
            if name in SCALARS:
                head.append('scalar=' + SCALARS[name])
            for gvk in schema.get('x-kubernetes-group-version-kind', ()):
                if name not in (META + 'DeleteOptions', META + 'WatchEvent', META + 'APIGroup', META + 'APIGroupList',
                                META + 'APIResourceList', META + 'APIVersions', META + 'Status') or gvk['group'] == '':
                    head.append('gvk={group}/{version}/{kind}'.format(**gvk))
            if schema.get('x-kubernetes-map-type'):
                head.append('map=' + schema['x-kubernetes-map-type'])
            if name in unions:
                head.append('unions=' + json.dumps(unions[name], separators=(',', ':')))
            if schema.get('required'):
                head.append('required=' + ','.join(schema['required']))
            yield ' '.join(head)
            required = schema.get('required', ())
            for field, sub in schema.get('properties', {}).items():
                yield self.field(name, sub, field, field in required)


PRESENCE = {'pointer': 'p', 'always': 'a', 'omitted': 'v', 'nil': 'n'}


def read_facts():
    """go-facts.txt as {(type, field): {'presence': 'p', 'go': name}}."""
    facts = {}
    for line in open(os.path.join(HERE, 'go-facts.txt')):
        words = line.split()
        if not words or line.startswith('#'):
            continue
        for w in words[2:]:
            field, _, name = w.partition('=')
            own = facts.setdefault(('io.k8s.' + words[0], field), {})
            own.update({'go': name} if words[1] == 'go' else {'presence': PRESENCE[words[1]]})
    return facts


def resources(directory):
    """Groups in order of priority, each with its versions and resources."""
    aggregated = []
    for name in ('aggregated-api', 'aggregated-apis'):
        aggregated += load(os.path.join(directory, 'discovery', name + '.json'))['body']['items']
    hashes = {}
    for path in glob.glob(os.path.join(directory, 'discovery', 'api*-v*.json')):
        body = load(path)['body']
        for r in body.get('resources', ()):
            hashes[(body['groupVersion'], r['name'])] = r.get('storageVersionHash', '')
    for group in aggregated:
        g = group['metadata'].get('name', '')
        for version in group['versions']:
            v = version['version']
            yield f'group {g or "-"} {v}'
            for r in version['resources']:
                gv = f'{g}/{v}' if g else v
                yield ' '.join(['resource', r['resource'], r['responseKind']['kind'], r['singularResource'],
                                r['scope'], ','.join(r['verbs']), ','.join(r.get('shortNames', ())) or '-',
                                ','.join(r.get('categories', ())) or '-', hashes.get((gv, r['resource'])) or '-'])
                for s in r.get('subresources', ()):
                    k = s['responseKind']
                    foreign = f"{k['group']}/{k['version']}" if k['version'] else '-'
                    yield ' '.join(['sub', s['subresource'], k['kind'], foreign, ','.join(s['verbs'])])


def columns(directory):
    for table in load(os.path.join(directory, 'tables.json'))['tables']:
        words = table['path'].strip('/').split('/')
        gv, plural = ('v1', words[2]) if words[0] == 'api' else ('/'.join(words[1:3]), words[3])
        yield f'table {gv} {plural}'
        for c in table['columnDefinitions']:
            yield '\t'.join([c['name'], c['type'], c['format'], str(c['priority'])])


def parameters(directory):
    """Keys of the parameters that the v2 document shares, by the options they belong to."""
    body = load(os.path.join(directory, 'openapi', 'v2.json.gz'))['body']
    places = {}
    for path, item in body['paths'].items():
        for method, op in item.items():
            for p in op if method == 'parameters' else op.get('parameters', ()):
                if '$ref' in p:
                    places.setdefault(p['$ref'].rsplit('/', 1)[1], []).append((path, method))
    for key, p in sorted(body['parameters'].items()):
        path, method = places[key][0]
        context = '-'
        if p['name'] == 'fieldManager' and method == 'patch':
            context = 'patch'
        elif len([q for q in body['parameters'].values() if (q['name'], q['in']) == (p['name'], p['in'])]) > 1 and \
                p['name'] not in ('fieldManager', 'body'):
            context = re.sub(r'/\{path\}$', '', path).rsplit('/', 1)[1]
            if context == 'proxy':
                context += '-' + path.split('/{name}')[0].rsplit('/', 1)[1]
        name = p['schema']['$ref'].rsplit('.', 1)[1] if p['name'] == 'body' else p['name']
        yield f"{key} {p['in']} {name} {context}"


def group_versions(directory):
    """Every group and version of which DeleteOptions is a kind, in the published order."""
    schemas = load(os.path.join(directory, 'openapi', 'v2.json.gz'))['body']['definitions']
    for gvk in schemas[META + 'DeleteOptions']['x-kubernetes-group-version-kind']:
        yield '{group}/{version}'.format(**gvk)


def write(name, lines):
    lines = list(lines)
    with open(os.path.join(DATA, name), 'w') as f:
        f.write('\n'.join(lines) + '\n')
    print(f'{name}: {len(lines)} lines')


def main():
    p = argparse.ArgumentParser(description='Writes the fact tables of this crate from published documents.')
    p.add_argument('--documents', required=True)
    p.add_argument('--numbers', required=True)
    a = p.parse_args()
    schemas, unions = {}, {}
    for path in sorted(glob.glob(os.path.join(a.documents, 'openapi', 'v3-*.json'))):
        for name, schema in load(path)['body'].get('components', {}).get('schemas', {}).items():
            schemas.setdefault(name, schema)
    for name, schema in load(os.path.join(a.documents, 'openapi', 'v2.json.gz'))['body']['definitions'].items():
        if 'x-kubernetes-unions' in schema:
            unions[name] = schema['x-kubernetes-unions']
    importer = Importer(schemas, Numbers(a.numbers), read_facts())
    write('types.txt', importer.types(unions))
    write('resources.txt', resources(a.documents))
    write('columns.txt', columns(a.documents))
    write('parameters.txt', parameters(a.documents))
    write('group-versions.txt', group_versions(a.documents))
    for line in importer.unnumbered:
        if not line.endswith((' apiVersion', ' kind')):
            print('no number:', line)


if __name__ == '__main__':
    main()
