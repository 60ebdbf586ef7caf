# A host → what `nixosSystem` returns of it, as far as fleet looks. The toplevel has the files of a real
# one: nixos-version, system, kernel, initrd, kernel-modules, etc, sw, activate and
# bin/switch-to-configuration.
{ system }:
let
  env = import ./env.nix { inherit system; };
  tree = name: path: builtins.path { inherit name path; };

  release = builtins.toFile "release" (builtins.readFile ../release/nixos-version);
  package = import ./package.nix { inherit release; };
in
name: host:
let
  documents = import ./documents.nix { inherit release; } (host.documents or { });

  packages = map (each: package each (if each == "library" then documents else [ ])) host.packages;

  sw = env "system-path" {
    paths = map (each: each.programs) packages;
    about = builtins.toFile "system-units.txt" (
      builtins.concatStringsSep "\n" (map (each: each.unit) packages)
    );
  };

  etc = env "etc" {
    paths = [
      (tree "etc-common" ../common)
      (tree "etc-${name}" (../hosts + "/${name}/tree"))
    ];
    about = builtins.toFile "etc.txt" "Files of /etc of ${name}.\n";
  };

  toplevel = env "nixos-system-${name}" {
    paths = [
      (tree "nixos-version" ../release)
      (tree "system-${system}" (../systems + "/${system}"))
      (tree "linux-6.12.0-demo" ../boot)
      (tree "switch-to-configuration" ../switch)
      etc
      sw
    ];
    about = builtins.toFile "nixos-system-${name}.txt" "${name}, release ${release}\n";
  };
in
{
  config = {
    system.build = { inherit toplevel; };
    services.fleet.agent.settings = host.settings or { };
  };
}
