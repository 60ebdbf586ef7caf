// flake.nix and the NixOS modules as far as they can be tried without nixpkgs: every file parses, and all
// evaluates against test/fixtures/nixpkgs-stand-in.nix, which says what that does not prove.
import assert from 'node:assert/strict';
import { globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { parseHostSettings } from '../../src/manifest/activation.ts';
import { nix } from '../helpers/nix-scratch.ts';

async function evaluate(expression: string): Promise<unknown> {
  const whole = `let
      standIn = import ${resolve('test/fixtures/nixpkgs-stand-in.nix')};
      self = flake // { outPath = ${JSON.stringify(resolve('.'))}; };
      flake = (import ${resolve('flake.nix')}).outputs { inherit self; nixpkgs = standIn; };
    in ${expression}`;
  const args = ['nix-instantiate', '--eval', '--strict', '--json', '--expr', whole];
  return JSON.parse(await nix(args));
}

type Units = {
  readonly serviceConfig: Readonly<Record<string, unknown>>;
  readonly unitConfig: Readonly<Record<string, unknown>>;
  readonly restartIfChanged?: boolean;
};

test('every .nix file parses', async () => {
  const files = globSync(['flake.nix', 'nix/**/*.nix', 'examples/**/*.nix', 'test/**/*.nix']);
  assert.ok(files.length > 10, files.join());
  for (const file of files) await nix(['nix-instantiate', '--parse', file]);
});

test('the outputs are there for both systems', async () => {
  const found = await evaluate(`{
      packages = builtins.mapAttrs (_: each: each.default.pname) flake.packages;
      apps = builtins.mapAttrs (_: each: each.default) flake.apps;
      shells = builtins.mapAttrs (_: each: builtins.length each.default.packages) flake.devShells;
      modules = builtins.attrNames flake.nixosModules;
    }`);
  const app = { type: 'app', program: '/stand-in/fleet/bin/fleet' };
  assert.deepEqual(found, {
    packages: { 'aarch64-linux': 'fleet', 'x86_64-linux': 'fleet' },
    apps: { 'aarch64-linux': app, 'x86_64-linux': app },
    shells: { 'aarch64-linux': 3, 'x86_64-linux': 3 },
    modules: ['agent', 'server'],
  });
});

test('the package is that of package.json, with an archive for each dependency of the platform', async () => {
  type Lock = {
    readonly package: object;
    readonly packageLock: { readonly packages: Record<string, { readonly integrity?: string }> };
    readonly packageSourceOverrides: Record<string, { buildCommand: string; outputHash: string }>;
  };
  for (const [system, cpu, other] of [
    ['x86_64-linux', 'x64', 'arm64'],
    ['aarch64-linux', 'arm64', 'x64'],
  ] as const) {
    const found = (await evaluate(`{
        inherit (flake.packages.${system}.default) version npmDeps postInstall;
      }`)) as {
      version: string;
      npmDeps: Lock;
      postInstall: string;
    };
    const own = JSON.parse(await readFile('package.json', 'utf8'));
    assert.equal(found.version, own.version);
    assert.match(
      found.postInstall,
      /makeWrapper \/stand-in\/nodejs_24\/bin\/node \$out\/bin\/fleet/,
    );
    assert.match(found.postInstall, /dist\/cli\/fleet\.js/);
    const { packageLock, packageSourceOverrides } = found.npmDeps;
    assert.doesNotMatch(JSON.stringify(found.npmDeps), /node-linux-/);
    const sources = new Map(Object.entries(packageSourceOverrides));
    const source = (name: string) => sources.get(`node_modules/${name}`);
    const noble = own.dependencies['@noble/ed25519'];
    assert.ok(source('@noble/ed25519')?.buildCommand.includes(`'@noble/ed25519@${noble}'`));
    assert.ok(source(`@typescript/typescript-linux-${cpu}`));
    assert.equal(source(`@typescript/typescript-linux-${other}`), undefined);
    for (const name of Object.keys({ ...own.dependencies, ...own.devDependencies })) {
      const { integrity } = packageLock.packages[`node_modules/${name}`] ?? {};
      assert.ok(integrity, `${name} has no hash`);
      assert.equal(source(name)?.outputHash, integrity, `${name} has no archive of that hash`);
    }
  }
});

test('the server module: nothing unless enabled, then a service of its own user', async () => {
  assert.deepEqual(await evaluate(`(standIn.evalModule flake.nixosModules.server { }).result`), {});
  const found = (await evaluate(`(standIn.evalModule flake.nixosModules.server {
      services.fleet.server = { enable = true; host = "0.0.0.0"; openFirewall = true; };
    }).result`)) as {
    systemd: { services: { 'fleet-server': Units }; tmpfiles: { rules: string[] } };
    networking: { firewall: { allowedTCPPorts: number[] } };
  };
  const unit = found.systemd.services['fleet-server'];
  assert.equal(
    unit.serviceConfig['ExecStart'],
    '/stand-in/fleet/bin/fleet serve --state /var/lib/fleet --listen 0.0.0.0:8080',
  );
  assert.equal(unit.serviceConfig['User'], 'fleet');
  assert.deepEqual(unit.serviceConfig['ReadWritePaths'], ['/var/lib/fleet']);
  assert.equal(unit.unitConfig['AssertPathExists'], '/var/lib/fleet/fleet.json');
  assert.deepEqual(found.systemd.tmpfiles.rules, ['d /var/lib/fleet 0750 fleet fleet -']);
  assert.deepEqual(found.networking.firewall.allowedTCPPorts, [8080]);
});

test('the agent module: a service that stays, and that its own switch leaves alone', async () => {
  assert.deepEqual(await evaluate(`(standIn.evalModule flake.nixosModules.agent { }).result`), {});
  const found = (await evaluate(`(standIn.evalModule flake.nixosModules.agent {
      services.fleet.agent.enable = true;
    }).result`)) as {
    users: { groups: Record<string, object> };
    systemd: {
      services: { 'fleet-agent': Units & { wantedBy: string[] } };
      user: { services: Record<string, object> };
      timers: Record<string, object>;
      paths: { 'fleet-agent': { pathConfig: object } };
    };
  };
  assert.deepEqual(found.systemd.paths['fleet-agent'].pathConfig, {
    PathChanged: '/var/lib/fleet-agent/agent.json',
  });
  const unit = found.systemd.services['fleet-agent'];
  assert.equal(
    unit.serviceConfig['ExecStart'],
    '/stand-in/fleet/bin/fleet agent run --state /var/lib/fleet-agent --unit /etc/systemd/system/fleet-agent.service --group fleet-local',
  );
  const { Type, NotifyAccess, KillMode, Restart } = unit.serviceConfig;
  assert.deepEqual([Type, NotifyAccess, KillMode, Restart], ['notify', 'all', 'process', 'always']);
  assert.deepEqual(unit.wantedBy, ['multi-user.target']);
  assert.equal(unit.restartIfChanged, false);
  assert.deepEqual(found.systemd.timers['fleet-agent'], {});
  // The group is there, and has no members; nobody is shown anything yet.
  assert.deepEqual(found.users.groups, { 'fleet-local': {} });
  assert.deepEqual(found.systemd.user.services['fleet-notify'], {});
});

test('the agent module: news on the screens of the local group, where that is wanted', async () => {
  const found = (await evaluate(`(standIn.evalModule flake.nixosModules.agent {
      services.fleet.agent = { enable = true; notify = true; localGroup = "people"; };
    }).result`)) as { systemd: { user: { services: { 'fleet-notify': Units } } } };
  const { unitConfig, serviceConfig } = found.systemd.user.services['fleet-notify'];
  assert.equal(unitConfig['ConditionGroup'], 'people');
  assert.equal(serviceConfig['ExecStart'], '/stand-in/fleet/bin/fleet agent notify');
});

test('the agent module with a timer: a service that its own switch leaves alone', async () => {
  const found = (await evaluate(`(standIn.evalModule flake.nixosModules.agent {
      services.fleet.agent = { enable = true; continuous = false; interval = "1h"; rootFile = "/3.root.json"; };
    }).result`)) as {
    environment: { etc: Record<string, unknown> };
    systemd: {
      services: { 'fleet-agent': Units };
      timers: { 'fleet-agent': { timerConfig: Record<string, string> } };
    };
  };
  const unit = found.systemd.services['fleet-agent'];
  assert.equal(
    unit.serviceConfig['ExecStart'],
    '/stand-in/fleet/bin/fleet agent once --state /var/lib/fleet-agent --unit /etc/systemd/system/fleet-agent.service',
  );
  assert.equal(unit.serviceConfig['Type'], 'exec');
  assert.equal(unit.restartIfChanged, false);
  assert.equal(unit.unitConfig['X-StopOnRemoval'], false);
  assert.deepEqual(found.environment.etc, { 'fleet/root.json': { source: '/3.root.json' } });
  assert.equal(found.systemd.timers['fleet-agent'].timerConfig['OnUnitInactiveSec'], '1h');
});

test('settings of the agent module are settings that fleet takes', async () => {
  const settings = (user: string) =>
    evaluate(`(standIn.evalModule flake.nixosModules.agent {
      services.fleet.agent = { enable = true; settings = ${user}; };
    }).config.services.fleet.agent.settings`);
  const defaults = await settings('{ }');
  assert.deepEqual(defaults, { activation: {}, tags: [] });
  assert.deepEqual(parseHostSettings(defaults), parseHostSettings(undefined));
  const own = await settings('{ tags = [ "kiosk" ]; activation.confirmSeconds = 300; }');
  const { tags, activation } = parseHostSettings(own);
  assert.deepEqual(tags, ['kiosk']);
  assert.equal(activation.confirmSeconds, 300);
});
