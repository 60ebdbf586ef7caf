# The package: `npm run build`, then a wrapper that starts dist/cli/fleet.js with nixpkgs' Node (the
# published package brings its own, which needs a file system that NixOS does not have).
# Not tried yet: see flake.nix.
{
  lib,
  stdenv,
  stdenvNoCC,
  buildNpmPackage,
  cacert,
  importNpmLock,
  nodejs_24,
  makeWrapper,
  nix,
  gitMinimal,
  util-linux,
  src,
}:
let
  lock = import ./npm-lock.nix {
    inherit lib;
    cpu = if stdenv.hostPlatform.isAarch64 then "arm64" else "x64";
    package = lib.importJSON "${src}/package.json";
    packageLock = lib.importJSON "${src}/package-lock.json";
    fetchPackage =
      {
        name,
        version,
        integrity,
      }:
      stdenvNoCC.mkDerivation {
        name = "${lib.replaceStrings [ "@" "/" ] [ "" "-" ] name}-${version}.tgz";
        nativeBuildInputs = [
          nodejs_24
          cacert
        ];
        buildCommand = ''
          HOME=$TMPDIR npm pack --silent --ignore-scripts ${lib.escapeShellArg "${name}@${version}"}
          mv -- *.tgz "$out"
        '';
        outputHashMode = "flat";
        outputHash = integrity;
      };
  };
in
buildNpmPackage {
  pname = "fleet";
  inherit (lock.package) version;
  inherit src;
  nodejs = nodejs_24;

  # By the hashes that package-lock.json has anyway, so that there is none to forget here.
  npmDeps = importNpmLock {
    npmRoot = src;
    inherit (lock) package packageLock;
    packageSourceOverrides = lock.sources;
  };
  inherit (importNpmLock) npmConfigHook;

  nativeBuildInputs = [ makeWrapper ];

  # npm's own link would start the shell script bin/fleet as JavaScript. What is in PATH comes first:
  # the machine's Nix has to fit its store and its daemon.
  postInstall = ''
    rm -f $out/bin/fleet
    makeWrapper ${nodejs_24}/bin/node $out/bin/fleet \
      --add-flags $out/lib/node_modules/fleet/dist/cli/fleet.js \
      --suffix PATH : ${
        lib.makeBinPath [
          nix
          gitMinimal
          util-linux
        ]
      }
  '';

  meta = {
    description = "Keeps NixOS machines up to date wherever they are";
    mainProgram = "fleet";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
