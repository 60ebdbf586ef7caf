# { system, hostname } → a toplevel in the shape of NixOS's.
{ corpus, units }:
let
  inherit (corpus) node;
  source = path: builtins.path {
    inherit path;
    name = builtins.baseNameOf path;
  };
  install = source ./install.ts;
  links = source ./links.ts;

  make =
    name: variables:
    derivation (
      {
        inherit name;
        inherit (corpus) system;
        PATH = "/bin:/usr/bin";
        preferLocalBuild = true;
        allowSubstitutes = false;
      }
      // variables
    );
  shell =
    name: variables: script:
    make name (
      variables
      // {
        builder = "/bin/sh";
        args = [
          "-ec"
          script
        ];
      }
    );
  run =
    name: script: variables:
    make name (
      variables
      // {
        builder = node;
        args = [ script ];
      }
    );

  switch = ''
    #!/bin/sh
    top=''${0%/bin/*}
    case $1 in
      check | dry-activate) ;;
      test) ln -sfn "$top" /run/current-system ;;
      boot) echo "$top" >/run/boot-entry ;;
      *) exit 1 ;;
    esac
  '';

  toplevel =
    { etc, sw }:
    shell "nixos-system-bench-26.05" { inherit etc sw switch; } ''
      mkdir -p $out/bin
      ln -s $etc/etc $out/etc
      ln -s $sw $out/sw
      printf %s "$switch" >$out/bin/switch-to-configuration
      chmod 555 $out/bin/switch-to-configuration
    '';

  etcOf =
    hostname: systemUnits:
    shell "etc" { inherit hostname systemUnits; } ''
      mkdir -p $out/etc/systemd
      echo "$hostname" >$out/etc/hostname
      ln -s $systemUnits $out/etc/systemd/system
    '';

  # age: package name → "old" or "new".
  ordinary =
    age: hostname:
    let
      packages = builtins.foldl' (
        done: package:
        let
          build = package.${age package.name};
        in
        done
        // {
          ${package.name} = run "${package.name}-${build.upstream}" install {
            # A plain string: Nix reads the tree where it lies.
            src = build.tree;
            self = package.name;
            needs = builtins.toJSON (
              builtins.listToAttrs (
                map (name: {
                  inherit name;
                  value = done.${name};
                }) package.needs
              )
            );
          };
        }
      ) { } corpus.packages;
      names = builtins.attrNames packages;
      packageMarks = map (name: "@${name}@") names;
      packagePaths = map (name: "${packages.${name}}") names;

      made = builtins.foldl' (
        done: unit:
        done
        // {
          ${unit.name} = shell "unit-${unit.name}" {
            file = unit.name;
            text = builtins.replaceStrings (packageMarks ++ map (name: "@${name}@") unit.after) (
              packagePaths ++ map (name: "${done.${name}}") unit.after
            ) unit.text;
          } ''mkdir $out; printf %s "$text" >$out/$file'';
        }
      ) { } units;
    in
    toplevel {
      sw = run "system-path" links {
        from = builtins.toJSON packagePaths;
        places = builtins.toJSON [
          "bin"
          "sbin"
          "share/man"
        ];
      };
      etc = etcOf hostname (
        run "system-units" links {
          from = builtins.toJSON (map (unit: "${made.${unit.name}}") units);
          places = builtins.toJSON [ "" ];
        }
      );
    };

  large =
    file: hostname:
    toplevel {
      sw = shell "large-1.0" { src = file; } ''mkdir -p $out/share; cp "$src" $out/share/large'';
      etc = etcOf hostname "/none";
    };

  systems = {
    old = ordinary (_: "old");
    glibc = ordinary (name: if name == "glibc" then "new" else "old");
    new = ordinary (_: "new");
    large-old = large corpus.large.old;
    large-new = large corpus.large.new;
  };
in
{
  system,
  hostname ? "bench",
}:
systems.${system} hostname
