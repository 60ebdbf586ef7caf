# fleet as a Nix flake: the package, a shell to work on it, and NixOS modules for both sides.
#
# What was tried: every .nix file parses, and the outputs and both modules evaluate against a small
# stand-in for nixpkgs (test/e2e/flake.test.ts), with Nix 2.8. What was not, for want of a network: nothing
# here has been built, and no NixOS system with these modules has been evaluated or booted. There is no
# flake.lock yet for the same reason: `nix flake lock` writes it.
{
  description = "Keeps NixOS machines up to date wherever they are";

  # Any nixpkgs that has nodejs_24 will do (25.05 and later): inputs.fleet.inputs.nixpkgs.follows.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      perSystem =
        make:
        nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system: make nixpkgs.legacyPackages.${system} system
        );
    in
    {
      packages = perSystem (
        pkgs: system: {
          default = pkgs.callPackage ./nix/package.nix { src = self; };
        }
      );

      apps = perSystem (
        pkgs: system: {
          default = {
            type = "app";
            program = "${self.packages.${system}.default}/bin/fleet";
          };
        }
      );

      devShells = perSystem (
        pkgs: system: {
          default = pkgs.mkShell {
            packages = [
              pkgs.nodejs_24
              pkgs.nix
              pkgs.git
            ];
          };
        }
      );

      nixosModules = {
        server = import ./nix/server.nix self;
        agent = import ./nix/agent.nix self;
      };
    };
}
