// Small flakes without inputs, built by the real Nix: hosts whose toplevel is a text that refers to
// source files, so that closures have real references and any number of paths.
import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { currentSystem } from '../../src/nix/command.ts';

export type FlakeSpec = {
  /** Host → how many files of its own it refers to. */
  readonly hosts: ReadonlyMap<string, number>;
  /** Bytes of each file; they are random, so every call makes new store paths. */
  readonly fileBytes: number;
  /** Hosts that fail to evaluate, and hosts that fail to build. */
  readonly evalFails?: readonly string[];
  readonly buildFails?: readonly string[];
};

/** Writes `dir`/flake.nix and its data, replacing what was there. Returns the flake's reference. */
export async function writeFlake(dir: string, spec: FlakeSpec): Promise<string> {
  await rm(dir, { recursive: true, force: true });
  await mkdir(join(dir, 'data'), { recursive: true });
  const hosts: string[] = [];
  for (const [host, files] of spec.hosts) {
    for (let i = 0; i < files; i++) {
      await writeFile(join(dir, 'data', `${host}-${i}`), randomBytes(spec.fileBytes));
    }
    const command = spec.buildFails?.includes(host)
      ? 'echo working on it; echo this is the reason >&2; exit 7'
      : 'echo "$files" > $out';
    const toplevel = spec.evalFails?.includes(host)
      ? 'throw "this host is broken on purpose"'
      : `derivation {
          name = "system-${host}";
          system = "${currentSystem()}";
          builder = "/bin/sh";
          args = [ "-c" ${JSON.stringify(command).replaceAll('$', '\\$')} ];
          files = builtins.genList (i: builtins.path {
            path = ./data + "/${host}-\${toString i}";
            name = "file-\${toString i}";
          }) ${files};
        }`;
    hosts.push(`${host}.config.system.build.toplevel = ${toplevel};`);
  }
  const text = `{ outputs = { self }: { nixosConfigurations = {\n${hosts.join('\n')}\n}; }; }\n`;
  await writeFile(join(dir, 'flake.nix'), text);
  return `path:${dir}`;
}
