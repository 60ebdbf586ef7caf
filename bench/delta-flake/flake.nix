# Hosts of the delta benchmark: corpus.json says what the packages are built from, units.json what the units say, and
# hosts.json which system each host has ("old", "glibc", "new", "large-old", "large-new") and its name, if it has one.
# Builds run programs of the machine: Nix's sandbox must be off.
{
  outputs =
    { self }:
    let
      readJson = path: builtins.fromJSON (builtins.readFile path);
      systems = import ./system.nix {
        corpus = readJson ./corpus.json;
        units = readJson ./units.json;
      };
    in
    {
      nixosConfigurations = builtins.mapAttrs (_: host: {
        config.system.build.toplevel = systems host;
      }) (readJson ./hosts.json);
    };
}
