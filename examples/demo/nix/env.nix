# A derivation whose output is a tree of links to `paths` (directories), as buildEnv of nixpkgs makes one
# and `nix-env` each generation of a profile. `about` is a text in the store; the link to it (Nix
# insists on one, manifest.nix) makes it, and what it names, a reference of the output.
#
# builtin:buildenv reads two variables (libstore/builtins/buildenv.cc, the same from Nix 2.3 to 2.36):
# `manifest`, and `derivations`, a list of: active, priority, number of outputs, outputs.
{ system }:
name:
{ paths, about }:
derivation {
  inherit name system;
  builder = "builtin:buildenv";
  manifest = about;
  derivations = builtins.concatMap (path: [
    "true"
    5
    1
    path
  ]) paths;
  # There is nothing to fetch that could be quicker than making links.
  preferLocalBuild = true;
  allowSubstitutes = false;
}
