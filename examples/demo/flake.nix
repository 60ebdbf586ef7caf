# Three hosts in the shape of NixOS systems, without nixpkgs and without any program in a build: every
# derivation is `builtin:buildenv`, which is inside of Nix itself, over source trees and texts of this
# flake. So any Nix builds it offline, in a second, with its sandbox off or on.
{
  description = "Three make-believe NixOS hosts to try fleet with";

  outputs =
    { self }:
    let
      system = import ./system.nix;
      makeHost = import ./nix/host.nix { inherit system; };
    in
    {
      # What fleet reads of a real flake: config.system.build.toplevel, and the settings where there are any.
      nixosConfigurations = {
        lantern = makeHost "lantern" (import ./hosts/lantern);
        gateway = makeHost "gateway" (import ./hosts/gateway);
        archive = makeHost "archive" (import ./hosts/archive);
      };
    };
}
