# A "package": the programs of packages/NAME, and a text that stands for its unit file. The text names
# the release, as every program of a real system names its C library: a new release changes each
# unit and all that holds it, while their contents stay much the same.
{ release }:
name: documents: {
  programs = builtins.path {
    inherit name;
    path = ../packages + "/${name}";
  };
  unit = builtins.toFile "${name}.service" ''
    [Unit]
    Description=${name} of the fleet demo
    X-Release=${release}
    ${builtins.concatStringsSep "\n" (map (each: "Documentation=file:${each}") documents)}
  '';
}
